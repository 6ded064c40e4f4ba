//! Every rule of the filters is needed: the kernel kills a worker that lacks one of them while it
//! works, or while it fails.
//!
//! The test starts itself again as a child process, which supervises the workers with injected
//! faults. It needs the feature `test-hooks`, for itself and for `belljar`.

use crate::support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use belljar::{Error, Host, Isolation, ModelBytes, Policy, Tensor, Value};
use serde_json::{Value as Json, json};
use support::onnx::{
    FLOAT, Graph, fixed, halved, int_attribute, ints_attribute, node, relu, slow, tensor_f32, value,
};
use support::{belljar, builder, load_under, repository};

/// Set for the child process that does the work: the path of its cache, or empty.
const WORK: &str = "BELLJAR_FILTER_RULES_WORK";

/// The variable that `confine::fault_injection` reads.
const FAULTS_VARIABLE: &str = "BELLJAR_TEST_FAULTS";

/// How workers may fail, and the expected messages. The first process of a PID namespace cannot die
/// by SIGABRT, and crashes instead.
const FAULTS: [(&str, &[&str]); 3] =
    [("Panic", &["exit code 1"]), ("Abort", &["SIGABRT", "SIGSEGV"]), ("Crash", &["SIGSEGV"])];

/// The names of the roles in `confine show` and in `confine::fault_injection`. The rules for grants
/// are not tested, because no program needs all of them.
const ROLES: [(&str, &str); 5] = [
    ("prepare", "Prepare"),
    ("run", "Run"),
    ("compile", "Compile"),
    ("compile-program", "CompileProgram"),
    ("program", "Program"),
];

/// The runs of guest programs: the program, its input, and the expected outcome. The last program
/// has so much code that compiling it uses every kind of memory.
const PROGRAMS: [(&str, &str, &str); 9] = [
    ("misbehaves", "bytes 3", "answered"),
    ("misbehaves", "bytes 100000000", "answered"),
    ("misbehaves", "compute", "answered"),
    ("misbehaves", "trap", "unreachable"),
    ("misbehaves", "recurse", "limits.stack"),
    ("misbehaves", "grow", "limits.memory"),
    ("misbehaves", "loop", "limits.run-time"),
    ("misbehaves", "empty-tensors 1000000", "the limit is 100000"),
    ("labels", "", "is missing"),
];

fn ones(shape: &[usize]) -> Tensor {
    Tensor::new(vec![1.0f32; shape.iter().product()], shape).unwrap()
}

/// Computes the matrix of all products of a column's numbers.
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

/// Convolutions with an increasing number of channels, and so increasing scratch memory.
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

/// A run whose memory depends on the values of its input, so it grows beyond its snapshot.
fn range() -> Graph {
    let scalar = |name, value| tensor_f32(name, &[], &[value]);
    Graph {
        nodes: vec![
            node("ReduceMax", &["x"], &["m"], &[int_attribute("keepdims", 0)]),
            node("Mul", &["m", "many"], &["end"], &[]),
            node("Range", &["zero", "end", "one"], &["r"], &[]),
            node("ReduceMax", &["r"], &["y"], &[int_attribute("keepdims", 0)]),
        ],
        initializers: vec![scalar("zero", 0.0), scalar("one", 1.0), scalar("many", 8e6)],
        inputs: vec![value("x", FLOAT, &fixed(&[2]))],
        outputs: vec![value("y", FLOAT, &[])],
    }
}

fn policy(change: impl FnOnce(&mut Policy)) -> Policy {
    let mut policy = Policy::default();
    change(&mut policy);
    policy
}

/// One step of the work: runs a model three times, under a policy, with an input of this shape.
struct Step {
    name: &'static str,
    model: Vec<u8>,
    policy: Policy,
    shape: Vec<usize>,
    /// A fragment of the outcome if no rule is missing.
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
    let deep = halved(2000);
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
            "a run whose memory grows beyond its snapshot",
            &range(),
            Policy::default(),
            &[2],
            "answered",
        ),
        step(
            "a run that needs much memory",
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

fn take(host: &Host, step: &Step) -> Result<(), Error> {
    let model = load_under(host, &step.model, &step.policy)?;
    for _ in 0..3 {
        model.run(&[("x", ones(&step.shape))])?.validate()?;
    }
    Ok(())
}

/// The child process that supervises workers with injected faults. Otherwise it does nothing.
#[test]
fn the_work() {
    let Some(cache) = std::env::var_os(WORK) else { return };
    // Quarantine also reports the death of a worker that waits.
    let state = support::own_state();
    let host = builder(Isolation::Process).state_dir(state.path()).quarantine_after(Some(1));
    if !cache.is_empty() {
        let host = host.cache_dir(cache).build().unwrap();
        let outcome = host.warm_up(&Policy::default());
        return print_outcome("compiling", outcome);
    }
    let host = host.build().unwrap();
    if std::env::var(FAULTS_VARIABLE).is_ok_and(|faults| faults.contains("Program\"")) {
        return work_of_programs(&host);
    }
    let mut steps = steps();
    if std::env::var(FAULTS_VARIABLE).is_ok_and(|faults| faults.contains("fault")) {
        steps.truncate(1);
    }
    for step in steps {
        print_outcome(step.name, take(&host, &step));
    }
}

fn work_of_programs(host: &Host) {
    let one = std::env::var(FAULTS_VARIABLE).is_ok_and(|faults| faults.contains("fault"));
    let magika = "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c";
    let text = format!(
        "version = 1\n[program]\n[limits]\nrun-time = \"500 ms\"\n[[models]]\nname = \"magika\"\n\
         path = \"magika.onnx\"\nsha256 = \"{magika}\"\n"
    );
    let mut policy = Policy::parse(&text, "test.toml").unwrap();
    policy.resolve_in(&support::models());
    for (name, order, _) in PROGRAMS.into_iter().take(if one { 1 } else { PROGRAMS.len() }) {
        let path = repository().join("target/guest/programs").join(name).with_extension("wasm");
        let bytes = ModelBytes::open(&path, 1 << 30).unwrap();
        let outcome = host
            .load_program(bytes, &policy)
            .and_then(|program| program.run(&[("do", Value::from(order))]).map(drop));
        print_outcome(&format!("{name} {order}"), outcome);
    }
}

fn print_outcome(what: &str, outcome: Result<(), Error>) {
    let outcome = outcome.map_or_else(|err| err.to_string(), |()| "answered".to_owned());
    println!("\noutcome: {what}: {outcome}");
}

/// Does the work while the workers of one role have these faults, and returns the outcomes.
fn work(role: &str, faults: Json) -> Vec<String> {
    let cache = tempfile::tempdir_in(support::cache_dir()).unwrap();
    let mut injection = json!({ "role": role });
    injection.as_object_mut().unwrap().extend(faults.as_object().unwrap().clone());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "filter_rules::the_work", "--nocapture", "--test-threads=1"])
        .env(WORK, if role == "Compile" { cache.path() } else { Path::new("") })
        .env(FAULTS_VARIABLE, injection.to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().filter_map(|line| line.strip_prefix("outcome: ")).map(str::to_owned).collect()
}

fn rules(role: &str) -> Vec<Json> {
    let output = belljar(&["confine", "show", role, "--format", "json"]).output().unwrap();
    let filter: Json = serde_json::from_slice(&output.stdout).unwrap();
    filter["rules"].as_array().unwrap().clone()
}

/// Whether a worker made a call that its filter does not allow.
fn killed(outcomes: &[String]) -> bool {
    outcomes.iter().any(|outcome| outcome.contains("SIGSYS"))
}

/// Checks that the work succeeds with all rules.
fn assert_all_rules_suffice(role: &str) {
    let outcomes = work(role, json!({}));
    let expected: Vec<_> = match role {
        "Compile" => vec![("compiling", "answered")],
        "CompileProgram" | "Program" => {
            PROGRAMS.iter().map(|(name, _, expected)| (*name, *expected)).collect()
        }
        _ => steps().iter().map(|step| (step.name, step.expected)).collect(),
    };
    assert_eq!(outcomes.len(), expected.len(), "{outcomes:#?}");
    for (outcome, (name, expected)) in outcomes.iter().zip(&expected) {
        assert!(outcome.starts_with(name) && outcome.contains(expected), "{outcomes:#?}");
    }
    for (fault, deaths) in FAULTS {
        let outcomes = work(role, json!({ "fault": fault }));
        let died = deaths.iter().any(|death| outcomes[0].contains(death));
        assert!(died && !killed(&outcomes), "{role}, {fault}: {outcomes:?}");
    }
}

/// Whether a worker without the rule is killed.
fn is_needed(role: &str, rule: usize) -> bool {
    let without = |mut faults: Json| {
        faults["without_rule"] = rule.into();
        killed(&work(role, faults))
    };
    FAULTS.iter().any(|(fault, _)| without(json!({ "fault": fault })))
        || (role == "Compile" && without(json!({ "quick": true })))
        || without(json!({}))
}

#[test]
fn every_rule_is_needed() {
    support::host(Isolation::Process).warm_up(&Policy::default()).unwrap();
    for (name, role) in ROLES {
        assert_all_rules_suffice(role);
        let (exempt, rules): (Vec<_>, Vec<_>) = rules(name)
            .into_iter()
            .enumerate()
            .partition(|(_, rule)| rule["sometimes"].is_string());
        println!("{name}: {} rules", rules.len());
        for (_, rule) in &exempt {
            println!("  and {} {}: {}", rule["call"], rule["when"], rule["sometimes"]);
        }
        let (waiting, needless) = (Mutex::new(rules), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    loop {
                        let Some((number, rule)) = waiting.lock().unwrap().pop() else { return };
                        if !is_needed(role, number) {
                            needless.lock().unwrap().push(rule);
                        }
                    }
                });
            }
        });
        let needless = needless.into_inner().unwrap();
        assert!(needless.is_empty(), "{name} has rules that nothing needs: {needless:#?}");
    }
}
