//! Every rule of the filters is needed: a worker that lacks one of them is killed by the kernel
//! when it does its work, or when it fails.
//!
//! The work is done by this test again, in a process of its own that is the supervisor of the
//! spoilt workers. It needs the feature `test-hooks`, for itself and for `belljar`.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use belljar::{Error, Host, Isolation, Policy, Tensor};
use serde_json::{Value, json};
use support::onnx::{
    Dim, FLOAT, Graph, fixed, int_attribute, ints_attribute, node, relu, slow, tensor_f32, value,
};
use support::{belljar, builder, load_under};

/// What the work's process is to do, and where it finds prepared models.
const WORK: &str = "BELLJAR_FILTER_RULES_WORK";
const STORE: &str = "BELLJAR_FILTER_RULES_STORE";

/// As `confine::hooks` reads it.
const HOOKS: &str = "BELLJAR_TEST_HOOKS";

/// How workers may fail, other than by what a model does to them.
const FAULTS: [(&str, &str); 3] =
    [("Panic", "exit status: 1"), ("Abort", "SIGABRT"), ("Crash", "SIGSEGV")];

/// The roles as `confine show` and as the hooks name them.
const ROLES: [(&str, &str); 2] = [("prepare", "Prepare"), ("run", "Run")];

fn ones(shape: &[usize]) -> Tensor {
    Tensor::new(vec![1.0f32; shape.iter().product()], shape).unwrap()
}

/// Squares a column's numbers by way of a matrix of all their products.
fn products(count: i64) -> Graph {
    Graph {
        nodes: vec![
            node("Transpose", &["x"], &["t"], &[]),
            node("MatMul", &["x", "t"], &["m"], &[]),
            node("ReduceMax", &["m"], &["y"], &[int_attribute("keepdims", 0)]),
        ],
        inputs: vec![value("x", FLOAT, &fixed(&[count, 1]))],
        outputs: vec![value("y", FLOAT, &[])],
        ..Graph::default()
    }
}

/// Convolutions over more and more channels, whose scratch memory grows from one to the next.
fn convolutions() -> Graph {
    let channels = [8usize, 32, 64, 96];
    let mut graph = Graph {
        inputs: vec![value("x", FLOAT, &fixed(&[1, 8, 64, 64]))],
        outputs: vec![value("v3", FLOAT, &fixed(&[1, 96, 64, 64]))],
        ..Graph::default()
    };
    for (at, pair) in channels.windows(2).enumerate() {
        let weights = format!("w{at}");
        let from = if at == 0 { "x".to_owned() } else { format!("v{at}") };
        let to = format!("v{}", at + 1);
        let dims = [pair[1] as i64, pair[0] as i64, 3, 3];
        let values = vec![0.01; pair[0] * pair[1] * 9];
        graph.initializers.push(tensor_f32(&weights, &dims, &values));
        let pads = ints_attribute("pads", &[1, 1, 1, 1]);
        graph.nodes.push(node("Conv", &[&from, &weights], &[&to], &[pads]));
    }
    graph
}

fn policy(change: impl FnOnce(&mut Policy)) -> Policy {
    let mut policy = Policy::default();
    change(&mut policy);
    policy
}

/// One thing that workers do: a model, under a policy, and an input of this shape, three times.
struct Step {
    name: &'static str,
    model: Vec<u8>,
    policy: Policy,
    shape: Vec<usize>,
    /// What it must say when nothing is missing.
    expected: &'static str,
}

fn steps() -> Vec<Step> {
    let step = |name, graph: &Graph, policy, shape: &[usize], expected| Step {
        name,
        model: graph.bytes(),
        policy,
        shape: shape.to_vec(),
        expected,
    };
    let deep = "(".repeat(60_000);
    let deep = relu(&[Dim::Symbol(&deep)]);
    vec![
        step("a run", &relu(&fixed(&[2])), Policy::default(), &[2], "answered"),
        step(
            "kernels on four threads",
            &slow(384, 2),
            policy(|policy| policy.compute.threads = 4),
            &[384, 384],
            "answered",
        ),
        step(
            "a run that grows its memory far beyond its image",
            &products(6000),
            Policy::default(),
            &[6000, 1],
            "answered",
        ),
        step(
            "kernels whose scratch memory grows",
            &convolutions(),
            Policy::default(),
            &[1, 8, 64, 64],
            "answered",
        ),
        step(
            "no native kernels",
            &slow(16, 1),
            policy(|policy| policy.compute.deterministic = true),
            &[16, 16],
            "answered",
        ),
        step(
            "growth that is refused",
            &products(6001),
            policy(|policy| policy.limits.memory = 48 << 20),
            &[6001, 1],
            "limits.memory",
        ),
        step("an exhausted stack", &deep, Policy::default(), &[2], "limits.stack"),
        step(
            "the runner's own stack, exhausted",
            &deep,
            policy(|policy| policy.limits.stack = 16 << 20),
            &[2],
            "own stack",
        ),
    ]
}

/// Those of which nothing is stored: they end before a run.
fn ends_early(step: &Step) -> bool {
    step.expected.contains("stack")
}

fn take(host: &Host, step: &Step) -> Result<(), Error> {
    let model = load_under(host, &step.model, &step.policy)?;
    for _ in 0..3 {
        model.run(&[("x", ones(&step.shape))])?.validate()?;
    }
    Ok(())
}

/// The process that supervises spoilt workers. In any other it does nothing.
#[test]
fn the_work() {
    let Some(work) = std::env::var_os(WORK) else { return };
    let mut host = builder(Isolation::Process);
    if let Some(store) = std::env::var_os(STORE) {
        host = host.cache_dir(store).image_store(true);
    }
    let host = host.build().unwrap();
    for step in steps() {
        let runs_what_is_stored = work == "run" || work == "store";
        if (runs_what_is_stored && ends_early(&step)) || (work == "once" && step.name != "a run") {
            continue;
        }
        let result = match work == "store" {
            // Under the default limits, so that there is something to run under others.
            true => {
                let policy = policy(|policy| policy.compute = step.policy.compute.clone());
                load_under(&host, &step.model, &policy)
                    .and_then(|model| model.prepare(&[("x", ones(&step.shape))]).map(drop))
            }
            false => take(&host, &step),
        };
        let outcome = result.map_or_else(|err| err.to_string(), |()| "answered".to_owned());
        println!("\noutcome: {}: {outcome}", step.name);
    }
    host.image_store().finish();
}

/// Has the work done by workers that are spoilt, and gives what came of it.
fn work(what: &str, store: Option<&Path>, hooks: &Value) -> Vec<String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "the_work", "--nocapture", "--test-threads=1"])
        .env(WORK, what)
        .env(HOOKS, hooks.to_string())
        .stdin(Stdio::null());
    if let Some(store) = store {
        command.env(STORE, store);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().filter_map(|line| line.strip_prefix("outcome: ")).map(str::to_owned).collect()
}

/// A folder with the compiled code that all tests share, and prepared models.
fn store() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    support::host(Isolation::Process).warm_up(&Policy::default()).unwrap();
    let folder = tempfile::tempdir_in(support::cache_dir()).unwrap();
    let code = folder.path().join("code");
    std::fs::create_dir(&code).unwrap();
    std::fs::set_permissions(&code, std::fs::Permissions::from_mode(0o700)).unwrap();
    for entry in std::fs::read_dir(support::cache_dir().join("code")).unwrap() {
        let entry = entry.unwrap();
        std::fs::hard_link(entry.path(), code.join(entry.file_name())).unwrap();
    }
    let outcomes = work("store", Some(folder.path()), &json!({}));
    assert!(outcomes.iter().all(|outcome| outcome.ends_with("answered")), "{outcomes:?}");
    folder
}

fn rules(role: &str) -> Vec<Value> {
    let output = belljar(&["confine", "show", role, "--format", "json"]).output().unwrap();
    let filter: Value = serde_json::from_slice(&output.stdout).unwrap();
    filter["rules"].as_array().unwrap().clone()
}

fn killed(outcomes: &[String]) -> bool {
    outcomes.iter().any(|outcome| outcome.contains("SIGSYS"))
}

/// The work of a role with all of its rules.
fn assert_all_rules_suffice(role: &str, hook: &str, store: Option<&Path>) {
    let outcomes = work(role, store, &json!({ "role": hook }));
    let expected: Vec<_> =
        steps().into_iter().filter(|step| role == "prepare" || !ends_early(step)).collect();
    assert_eq!(outcomes.len(), expected.len(), "{outcomes:#?}");
    for (outcome, step) in outcomes.iter().zip(&expected) {
        assert!(outcome.starts_with(step.name), "{outcomes:#?}");
        assert!(outcome.contains(step.expected), "{outcomes:#?}");
    }
    for (fault, death) in FAULTS {
        let outcomes = work("once", store, &json!({ "role": hook, "fault": fault }));
        assert!(outcomes[0].contains(death), "{fault}: {outcomes:?}");
    }
}

/// How the lack of one rule shows, if it does.
fn shows(role: &str, hook: &str, store: Option<&Path>, rule: usize) -> bool {
    FAULTS.iter().any(|(fault, _)| {
        let hooks = json!({ "role": hook, "without_rule": rule, "fault": fault });
        killed(&work("once", store, &hooks))
    }) || killed(&work(role, store, &json!({ "role": hook, "without_rule": rule })))
}

#[test]
fn every_rule_is_needed() {
    let folder = store();
    for (role, hook) in ROLES {
        let store = (role == "run").then(|| folder.path());
        assert_all_rules_suffice(role, hook, store);
        let rules: Vec<_> = rules(role).into_iter().enumerate().collect();
        let (count, waiting, idle) = (rules.len(), Mutex::new(rules), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    loop {
                        let Some((number, rule)) = waiting.lock().unwrap().pop() else { return };
                        if !shows(role, hook, store, number) {
                            idle.lock().unwrap().push(rule);
                        }
                    }
                });
            }
        });
        let (exempt, needless): (Vec<_>, Vec<_>) =
            idle.into_inner().unwrap().into_iter().partition(|rule| rule["sometimes"].is_string());
        println!("{role}: {} of {count} rules seen to be needed", count - exempt.len());
        for rule in &exempt {
            println!("  not here: {} {}: {}", rule["call"], rule["when"], rule["sometimes"]);
        }
        assert!(needless.is_empty(), "{role} has rules that nothing needs: {needless:#?}");
    }
}
