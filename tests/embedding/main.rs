//! Belljar inside another program, whatever that program does: threads, signal handlers, its own
//! children, few descriptors, a deleted binary. Also the disadvantages of each isolation.
//!
//! The other program is this one, started again for each case. It has its own `main`, as a program
//! that embeds Belljar does, because a worker starts there.

#[path = "../support/mod.rs"]
mod support;

#[path = "../../host/belljar/examples/dims.rs"]
#[allow(dead_code)] // Its `main` is not that of this program.
mod dims_example;
mod isolation;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use belljar::{
    ErrorKind, Host, HostBuilder, Isolation, Limit, Model, ModelBytes, Policy, Tensor,
    WorkerProgram,
};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use support::onnx::{Dim, fixed, relu, slow};

use isolation::{never_strict, thread_filters};

/// The cases, by name, each run in its own process.
const CASES: &[(&str, fn())] = &[
    ("the_hook_at_the_start_of_main_is_enough", hook),
    ("another_program_can_be_the_worker", other_program),
    ("many_threads", many_threads),
    ("signal_handlers_that_interrupt_everything", signal_handlers),
    ("sigchld_ignored", sigchld_ignored),
    ("embedder_waits_for_all_children", somebody_else_waits),
    ("few_descriptors", few_descriptors),
    ("the_programs_file_is_deleted", deleted),
    ("the_programs_file_is_replaced", replaced),
    ("wrong_worker_program_is_reported", wrong_worker_program),
    ("example_of_fixed_dimensions_works", fixed_dimensions),
    ("threads_never_serve_a_strict_policy", never_strict),
    ("thread_has_its_filter_unless_explicitly_disabled", thread_filters),
];

/// A program that cannot become a worker, because it works before it calls the hook.
const WITHOUT_HOOK: (&str, fn()) = ("program_without_the_hook_gets_an_error", without_hook);

const CASE: &str = "BELLJAR_TEST_CASE";

/// The time limit of a case, to stop those that hang.
const LONGEST: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let case = std::env::var(CASE).unwrap_or_default();
    if case == WITHOUT_HOOK.0 {
        WITHOUT_HOOK.1();
        return ExitCode::SUCCESS;
    }
    belljar::become_worker_if_asked();
    if let Some((_, work)) = CASES.iter().find(|(name, _)| *name == case) {
        work();
        return ExitCode::SUCCESS;
    }
    run_all()
}

/// Runs the cases whose names contain the argument, each in its own process.
fn run_all() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted: Vec<&String> = arguments.iter().filter(|each| !each.starts_with('-')).collect();
    let names = CASES.iter().map(|case| case.0).chain([WITHOUT_HOOK.0]);
    let mut failed = false;
    for name in names.filter(|name| wanted.is_empty() || wanted.iter().any(|w| name.contains(*w))) {
        if arguments.iter().any(|argument| argument == "--list") {
            println!("{name}: test");
            continue;
        }
        print!("test {name} ... ");
        let _ = std::io::stdout().flush();
        let result = run_case(name);
        println!("{}", if result.is_ok() { "ok" } else { "FAILED" });
        if let Err(why) = result {
            println!("{why}");
            failed = true;
        }
    }
    ExitCode::from(if failed { 101 } else { 0 })
}

fn run_case(name: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let mut program = std::env::current_exe().unwrap();
    if name.contains("file_is") {
        // A copy, which may be deleted.
        let copy = folder.path().join("embedding");
        std::fs::copy(&program, &copy).unwrap();
        program = copy;
    }
    let log = folder.path().join("log");
    let mut child = Command::new(&program)
        .env(CASE, name)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let how = loop {
        match child.try_wait().unwrap() {
            Some(status) if status.success() => return Ok(()),
            Some(status) => break status.to_string(),
            None if start.elapsed() > LONGEST => {
                let _ = child.kill();
                let _ = child.wait();
                break "it did not end".to_owned();
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    Err(format!("{how}:\n{}", std::fs::read_to_string(log).unwrap_or_default()))
}

/// A host that is its own worker program. Its workers are killed here, which does not count as
/// deaths.
fn builder() -> HostBuilder {
    let builder = support::builder(Isolation::Process).quarantine_after(None);
    builder.worker_program(WorkerProgram::CurrentProgram)
}

fn host() -> Host {
    builder().build().unwrap()
}

fn load(host: &Host) -> Result<Model, belljar::Error> {
    support::load(host, &relu(&fixed(&[2])).bytes())
}

fn try_answer(model: &Model, value: f32) -> Result<(), belljar::Error> {
    let x = Tensor::new(vec![-1.0, value], &[2]).unwrap();
    let outputs = model.run(&[("x", x)])?.validate()?;
    assert_eq!(outputs.tensors()[0].1, Tensor::new(vec![0.0, value], &[2]).unwrap());
    Ok(())
}

/// Asserts that its output is correct.
#[track_caller]
fn answers(model: &Model, value: f32) {
    if let Err(err) = try_answer(model, value) {
        panic!("{err}");
    }
}

fn hook() {
    answers(&load(&host()).unwrap_or_else(|err| panic!("{err}")), 1.0);
}

fn other_program() {
    let program = WorkerProgram::Path(support::BELLJAR.into());
    answers(&load(&builder().worker_program(program).build().unwrap()).unwrap_or_else(stop), 1.0);
}

/// The example, and the lines in the documentation of `Model::with_dims` and docs/embedding.md.
fn fixed_dimensions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.onnx");
    let tokens = [Dim::Symbol("batch"), Dim::Symbol("sequence")];
    std::fs::write(&path, relu(&tokens).bytes()).unwrap();
    let (host, path) = (host(), path.to_str().unwrap());
    let shapes = |dims: &[(&str, u64)]| {
        let dims: Vec<_> = dims.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect();
        dims_example::output_shapes(&host, path, &dims).map_err(|err| err.to_string())
    };
    let found = shapes(&[("batch", 1), ("sequence", 128)]);
    assert_eq!(found, Ok(vec![("y".to_owned(), vec![1, 128])]));
    let missing = shapes(&[("sequence", 128)]).unwrap_err();
    assert!(missing.contains("give a size"), "{missing}");
    let unknown = shapes(&[("length", 128)]).unwrap_err();
    assert!(unknown.contains("the names are \"batch\", \"sequence\""), "{unknown}");

    let run = || -> Result<(), Box<dyn std::error::Error>> {
        let bytes = ModelBytes::open(path.as_ref(), 1 << 20)?;
        let policy = Policy::default();
        let model = host.load(bytes, &policy)?.with_dims(&[("batch", 1), ("sequence", 128)])?;
        let tokens = Tensor::new(vec![0f32; 128], &[1, 128])?;
        let outputs = model.run(&[("x", tokens)])?.validate()?;
        assert_eq!(outputs.tensors()[0].1.shape(), [1, 128]);
        let longer = Tensor::new(vec![0f32; 129], &[1, 129])?;
        let err = model.run(&[("x", longer)]).map(drop).unwrap_err();
        assert!(matches!(err.kind(), ErrorKind::InputDim { found: 129, fixed: 128, .. }), "{err}");
        Ok(())
    };
    run().unwrap();
}

fn stop(err: belljar::Error) -> Model {
    panic!("{err}")
}

fn without_hook() {
    let err = load(&host()).err().expect("this program is not its own worker");
    assert!(err.to_string().contains("become_worker_if_asked"), "{err}");
    // With a program that is a worker, it works.
    other_program();
}

fn many_threads() {
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                while !end.load(Ordering::Relaxed) {
                    // Forks must not see this thread's half-finished work.
                    drop(std::hint::black_box(vec![0u8; 1 << 16]));
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
        let model = load(&host()).unwrap_or_else(stop);
        let askers: Vec<_> = (0..8)
            .map(|number| {
                let model = model.clone();
                scope.spawn(move || (0..10).for_each(|n| answers(&model, (10 * number + n) as f32)))
            })
            .collect();
        let all: Vec<_> = askers.into_iter().map(|asker| asker.join()).collect();
        end.store(true, Ordering::Relaxed);
        assert!(all.iter().all(Result::is_ok));
    });
}

static SIGNALS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

fn handle(signal: libc::c_int, handler: libc::sighandler_t) {
    // SAFETY: the handler only counts, and a zeroed action has no flags and blocks nothing: calls
    // that it interrupts fail with EINTR.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        assert_eq!(libc::sigaction(signal, &raw const action, std::ptr::null_mut()), 0);
    }
}

fn signal_handlers() {
    let counter = count as *const () as libc::sighandler_t;
    for signal in [libc::SIGCHLD, libc::SIGALRM, libc::SIGUSR1, libc::SIGPIPE] {
        handle(signal, counter);
    }
    let every = libc::timeval { tv_sec: 0, tv_usec: 2000 };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: reads the value that the pointer refers to.
    let set = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    for round in 0..5 {
        let model = load(&host()).unwrap_or_else(stop);
        (0..20).for_each(|n| answers(&model, (20 * round + n) as f32));
    }
    too_slow(&host());
    assert!(SIGNALS.load(Ordering::Relaxed) > 10);
}

fn slow_model(host: &Host, run_time: Duration) -> (Model, Tensor) {
    let mut policy = Policy::default();
    policy.limits.run_time = run_time;
    let model = support::load_under(host, &slow(512, 4000).bytes(), &policy);
    let x = Tensor::new(vec![0.0f32; 512 * 512], &[512, 512]).unwrap();
    (model.unwrap_or_else(stop), x)
}

/// A worker that is killed at its deadline is reported as a timeout.
fn too_slow(host: &Host) {
    let (model, x) = slow_model(host, Duration::from_millis(200));
    let err = model.run(&[("x", x)]).err().expect("it takes minutes");
    assert!(matches!(err.kind(), ErrorKind::Limit(Limit::RunTime { .. })), "{err}");
    assert_eq!(workers(), [0; 0], "the worker lives on");
}

/// Worker processes of this one that have not ended.
fn workers() -> Vec<i32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let lists = tasks.map(|task| {
        std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default()
    });
    let pids = lists.flat_map(|list| {
        list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<i32>>()
    });
    let lives = |pid: &i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        !status.is_empty() && !status.contains("State:\tZ")
    };
    pids.filter(lives).collect()
}

/// A worker that another process kills while it works is reported as ended, in these words.
fn killed_by_somebody(host: &Host, words: &[&str]) {
    let (model, x) = slow_model(host, Duration::from_secs(120));
    model.prepare(&[("x", x.clone())]).unwrap();
    let killer = std::thread::spawn(|| {
        std::thread::sleep(Duration::from_millis(300));
        for worker in workers() {
            let _ = rustix::process::kill_process(Pid::from_raw(worker).unwrap(), Signal::KILL);
        }
    });
    let err = model.run(&[("x", x)]).err().expect("its worker is killed").to_string();
    killer.join().unwrap();
    assert!(err.contains("while it had this request"), "{err}");
    assert!(words.iter().any(|words| err.contains(words)), "{err}");
}

fn sigchld_ignored() {
    handle(libc::SIGCHLD, libc::SIG_IGN);
    let host = host();
    answers(&load(&host).unwrap_or_else(stop), 1.0);
    too_slow(&host);
    killed_by_somebody(&host, &["the system does not say how"]);
    answers(&load(&host).unwrap_or_else(stop), 2.0);
}

fn somebody_else_waits() {
    std::thread::spawn(|| {
        loop {
            // Reaps every child of this process, including those that Belljar started.
            let _ = rustix::process::wait(rustix::process::WaitOptions::empty());
            std::thread::sleep(Duration::from_micros(100));
        }
    });
    let host = host();
    for n in 0..5 {
        answers(&load(&host).unwrap_or_else(stop), n as f32);
        too_slow(&host);
    }
    // Which of the two waits first is undefined.
    killed_by_somebody(&host, &["SIGKILL", "the system does not say how"]);
    answers(&load(&host).unwrap_or_else(stop), 2.0);
}

fn limit_descriptors(most: u64) {
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: Some(most), maximum };
    rustix::process::setrlimit(Resource::Nofile, limit).unwrap();
}

fn few_descriptors() {
    let bytes = relu(&fixed(&[2])).bytes();
    let enough = 40;
    limit_descriptors(enough);
    let answer = |host: &Host| {
        let bytes = ModelBytes::read(&bytes[..], 1 << 20)
            .map_err(|err| err.to_string())?
            .labelled("few.onnx");
        let model = host.load(bytes, &Policy::default()).map_err(|err| err.to_string())?;
        try_answer(&model, 1.0).map_err(|err| err.to_string())
    };
    answer(&host()).unwrap();
    // With too few, it fails in some step with an error, and does not hang.
    let mut failures = 0;
    for most in (3..enough).rev() {
        limit_descriptors(most);
        let host = host();
        if let Err(why) = answer(&host) {
            assert!(
                why.contains("Too many open files") || why.contains("too many"),
                "{most}: {why}"
            );
            failures += 1;
        }
        limit_descriptors(enough);
        answer(&host).unwrap_or_else(|why| panic!("after {most}: {why}"));
    }
    assert!(failures > 3);
    assert_eq!(workers().len(), 0);
}

fn deleted() {
    std::fs::remove_file(std::env::current_exe().unwrap()).unwrap();
    hook();
}

fn replaced() {
    let program = std::env::current_exe().unwrap();
    let other = program.with_extension("new");
    std::fs::copy("/bin/false", &other).unwrap();
    std::fs::rename(&other, &program).unwrap();
    hook();
}

fn wrong_worker_program() {
    let fails = |path: &Path| {
        let program = WorkerProgram::Path(path.to_owned());
        let host = builder().worker_program(program).build().unwrap();
        let err = load(&host).err().expect("the program does not serve as a worker");
        assert_eq!(err.exit_code(), 1, "{err}");
        err.to_string()
    };
    let err = fails(Path::new("/nowhere/belljar"));
    assert!(err.contains("No such file"), "{err}");
    let err = fails(Path::new("/bin/true"));
    assert!(err.contains("exit code 0") && err.contains("same build"), "{err}");
    let folder = tempfile::tempdir().unwrap();
    let plain: PathBuf = folder.path().join("plain");
    std::fs::write(&plain, "text").unwrap();
    std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o644)).unwrap();
    let err = fails(&plain);
    assert!(err.contains("ermission denied"), "{err}");
}
