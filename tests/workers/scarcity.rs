//! Machines that are short of something: memory, processes, users, folders, room on a disk. There
//! is a sentence that says what, or an answer, and never a panic, a process that nobody waits for,
//! or a model in quarantine for what it did not do.

use crate::support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use belljar::Isolation;
use rustix::process::{Resource, Rlimit};
use support::onnx::{Dim, FLOAT, Graph, fixed, node, relu, tensor_i64, value};
use support::users::{User, users};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Checks that a failure is reported by a message of Belljar and is not a panic.
#[track_caller]
fn assert_sentence(output: &Output, about: &str) {
    let text = stderr(output);
    assert!(!text.contains("panicked"), "{about}: {text}");
    let code = output.status.code().unwrap_or_else(|| panic!("{about}: {}", output.status));
    assert!(code == 0 || text.contains("belljar: error: "), "{about}: exit code {code}: {text}");
}

struct Files {
    model: String,
    x: String,
}

fn files(user: &User, test: &str) -> Files {
    Files {
        model: user.file(&format!("{test}/relu.onnx"), relu(&fixed(&[2])).bytes()),
        x: user.file(&format!("{test}/x.json"), "[-1, 2.5]"),
    }
}

impl Files {
    fn run(&self) -> [&str; 4] {
        ["run", &self.model, "--input", &self.x]
    }
}

fn belljar(user: &User) -> Command {
    user.command(support::BELLJAR.as_ref())
}

/// Sets a resource limit for a command.
fn under(mut command: Command, resource: Resource, max: u64) -> Command {
    let limit = Rlimit { current: Some(max), maximum: Some(max) };
    // SAFETY: between fork and exec, the child makes one system call.
    unsafe {
        command.pre_exec(move || Ok(rustix::process::setrlimit(resource, limit)?));
    }
    command
}

/// Whether `unshare` can create these namespaces for an ordinary user.
fn can(arguments: &[&str]) -> bool {
    let unshare =
        Command::new("unshare").args(arguments).arg("true").stderr(Stdio::null()).status();
    let can = unshare.is_ok_and(|status| status.success());
    if !can {
        eprintln!("skipped: `unshare {}` does not work here", arguments.join(" "));
    }
    can
}

#[test]
fn a_process_limit_is_reported_without_a_panic() {
    // This limit does not apply to root.
    for user in users().iter().filter(|user| user.uid.is_some() || !is_root()) {
        let files = files(user, "processes");
        let policy = "version = 1\n[compute]\nthreads = 4\n";
        let policy = user.file("processes/policy.toml", policy);
        let mut answered = 0;
        for max in (0..12).chain([200]) {
            for isolation in ["process", "thread"] {
                for more in [&["--no-store"][..], &[]] {
                    let mut command = under(belljar(user), Resource::Nproc, max);
                    command.args(files.run()).args(more).args(["--isolation", isolation]);
                    let output = command.output().unwrap();
                    let about = format!("{max} processes, {isolation}");
                    assert_sentence(&output, &about);
                    let text = stderr(&output);
                    let named = text.contains("ulimit -u");
                    assert!(output.status.success() || named, "{about}: {text}");
                    answered += usize::from(output.status.success());
                }
            }
            // Kernels on several threads.
            let mut command = under(belljar(user), Resource::Nproc, max);
            command.args(files.run()).args(["--policy", &policy]);
            let output = command.output().unwrap();
            assert_sentence(&output, &format!("four threads, {max} processes"));
            let named = output.status.success() || stderr(&output).contains("ulimit -u");
            assert!(named, "{}", stderr(&output));
            let mut command = under(belljar(user), Resource::Nproc, max);
            command.args(["bench", &files.model, "--input", &files.x, "--concurrency", "8"]);
            assert_sentence(&command.output().unwrap(), &format!("bench, {max} processes"));
        }
        assert!(answered >= 4, "{answered}");
    }
}

#[test]
fn compiling_works_with_fewer_threads() {
    for user in users().iter().filter(|user| user.uid.is_some() || !is_root()) {
        let files = files(user, "compile");
        let cache = user.path("compile/cache");
        let mut command = under(belljar(user), Resource::Nproc, 6);
        command.env("BELLJAR_CACHE_DIR", &cache).args(files.run());
        let output = command.output().unwrap();
        assert_sentence(&output, "compiling");
        let text = stderr(&output);
        assert!(text.contains("compiling"), "{text}");
        // In any case, the next run succeeds.
        let mut command = belljar(user);
        let output = command.env("BELLJAR_CACHE_DIR", &cache).args(files.run()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The first process of a PID namespace, which is a test here, waits for nobody but those that it
/// has started itself.
const FIRST: &str = "BELLJAR_TEST_FIRST_PROCESS";

#[test]
fn every_started_process_is_reaped() {
    let own = ["--pid", "--fork", "--mount-proc"];
    let flags = if is_root() { own.to_vec() } else { [&["--user", "-r"][..], &own].concat() };
    if !can(&flags) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("relu.onnx"), relu(&fixed(&[2])).bytes()).unwrap();
    fs::write(folder.path().join("x.json"), "[-1, 2.5]").unwrap();
    support::host(Isolation::Process).warm_up(&belljar::Policy::default()).unwrap();
    let mut command = Command::new("unshare");
    command.args(flags).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "scarcity::in_a_namespace", "--nocapture", "--test-threads", "1"]);
    let output = command.env(FIRST, folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", stderr(&output));
}

#[test]
fn in_a_namespace() {
    let Some(folder) = std::env::var_os(FIRST).map(PathBuf::from) else { return };
    assert_eq!(std::process::id(), 1);
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (model, x) = (path("relu.onnx"), path("x.json"));
    let missing = path("missing.json");
    let nonsense = path("nonsense.onnx");
    fs::write(&nonsense, "nonsense").unwrap();
    for arguments in [
        &["run", &*model, "--input", &*x][..],
        &["run", &model, "--input", &x, "--no-store"],
        &["run", &model, "--input", &x, "--isolation", "thread"],
        &["run", &model, "--input", &missing],
        &["run", &nonsense, "--input", &x],
        &["run", &nonsense, "--input", &x, "--no-store"],
        &["inspect", &model],
        &["prepare", &model],
        &["bench", &model, "--input", &x, "--iterations", "2"],
        &["doctor"],
    ] {
        for _ in 0..3 {
            let mut command = support::belljar(arguments);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.status().unwrap();
        }
        let left = processes();
        assert!(left.is_empty(), "{arguments:?} left {left:?}");
    }
}

/// All other processes, with their states.
fn processes() -> Vec<String> {
    let names = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
    let numbers = names.filter_map(|name| name.to_str()?.parse::<u32>().ok());
    let others = numbers.filter(|number| *number != 1);
    others.filter_map(|number| fs::read_to_string(format!("/proc/{number}/stat")).ok()).collect()
}

#[test]
fn root_of_a_user_namespace_with_one_user_is_served() {
    // As root, and as an ordinary user who is uid 0 of a namespace with only that user.
    if !can(&["--user", "-r"]) {
        return;
    }
    for user in users().iter() {
        let files = files(user, "alone");
        let alone = |arguments: &[&str]| {
            let mut command = user.command("unshare".as_ref());
            command.args(["--user", "-r", support::BELLJAR]).args(arguments).output().unwrap()
        };
        let about = user.who();
        for more in [&["--no-store"][..], &[]] {
            let output = alone(&[&files.run()[..], more].concat());
            assert_eq!(output.status.code(), Some(0), "{about}: {}", stderr(&output));
            assert!(String::from_utf8_lossy(&output.stdout).contains("2.5"), "{about}");
            assert_eq!(stderr(&output), "", "{about}");
        }
        // The same with a policy file, whose parent folders belong to users outside of the
        // namespace.
        let policy = user.file("alone/p.toml", "version = 1\nconfinement = \"best-effort\"\n");
        let output = alone(&[&files.run()[..], &["--policy", &policy]].concat());
        assert_eq!(output.status.code(), Some(0), "{about}: {}", stderr(&output));
        let output = alone(&["doctor"]);
        assert_eq!(output.status.code(), Some(0), "{about}: {}", stderr(&output));
    }
}

#[test]
fn a_missing_proc_is_reported() {
    let own = ["--mount"];
    let flags = if is_root() { own.to_vec() } else { [&["--user", "-r"][..], &own].concat() };
    if !can(&flags) {
        return;
    }
    let user = &users()[0];
    let files = files(user, "proc");
    let mut command = user.command("unshare".as_ref());
    let script = "mount -t tmpfs none /proc && exec \"$@\"";
    command.args(&flags).args(["sh", "-c", script, "sh", support::BELLJAR]);
    let output = command.args(files.run()).output().unwrap();
    assert_sentence(&output, "without /proc");
    assert!(!output.status.success());
    assert!(stderr(&output).contains("/proc is not mounted"), "{}", stderr(&output));
}

#[test]
fn a_file_size_limit_is_reported_without_a_crash() {
    for user in users().iter() {
        let files = files(user, "length");
        let mut answered = 0;
        for max in [0, 1, 100, 4 << 10, 1 << 20, 8 << 20, 48 << 20, 100 << 20, 1 << 30] {
            for isolation in ["process", "thread"] {
                for more in [&["--no-store"][..], &[], &["-o", "/dev/null"]] {
                    let mut command = under(belljar(user), Resource::Fsize, max);
                    command.args(files.run()).args(more).args(["--isolation", isolation]);
                    let about = format!("{max} bytes, {isolation}, {more:?}");
                    let output = command.output().unwrap();
                    assert_sentence(&output, &about);
                    answered += usize::from(output.status.success());
                    // The compiled code exists, and fits within this limit.
                    let enough = max >= 100 << 20 && more != ["-o", "/dev/null"];
                    let text = stderr(&output);
                    assert!(!enough || output.status.success(), "{about}: {text}");
                    // Existing files were not considered damaged.
                    assert!(!text.contains("replaced"), "{about}: {text}");
                }
            }
        }
        assert!(answered > 0, "{}", user.who());
    }
}

#[test]
fn a_full_disk_is_reported_and_the_model_still_runs() {
    let own = ["--mount"];
    let flags = if is_root() { own.to_vec() } else { [&["--user", "-r"][..], &own].concat() };
    if !can(&flags) {
        return;
    }
    let user = &users()[0];
    let files = files(user, "full");
    let cache = user.path("full/cache");
    fs::create_dir_all(&cache).unwrap();
    user.own(&cache);
    let script = format!(
        "mount -t tmpfs -o size=1m,mode=700 none '{}' && exec \"$@\"",
        cache.to_str().unwrap()
    );
    let mut command = user.command("unshare".as_ref());
    command.args(&flags).args(["sh", "-c", &script, "sh", support::BELLJAR]).args(files.run());
    let output = command.env("BELLJAR_CACHE_DIR", &cache).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("cannot cache") && text.contains("No space left"), "{text}");
}

/// Sets the home folder of a command, and removes the variables that override it.
fn at_home<'a>(command: &'a mut Command, home: Option<&Path>) -> &'a mut Command {
    for name in ["BELLJAR_CACHE_DIR", "BELLJAR_STATE_DIR", "XDG_CACHE_HOME", "XDG_STATE_HOME"] {
        command.env_remove(name);
    }
    match home {
        Some(home) => command.env("HOME", home),
        None => command.env_remove("HOME"),
    }
}

#[test]
fn without_a_home_models_run_and_a_warning_is_printed() {
    let user = users();
    let user = user.last().unwrap();
    let files = files(user, "homeless");
    let run = |more: &[&str]| {
        let mut command = belljar(user);
        at_home(&mut command, None).args(files.run()).args(more).output().unwrap()
    };
    let output = run(&["--no-store"]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("cannot cache") && text.contains("BELLJAR_CACHE_DIR"), "{text}");
    assert!(!text.contains("cannot store prepared models"), "{text}");

    let output = run(&[]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for says in ["cannot store prepared models", "--no-store", "count the workers that models kill"]
    {
        assert!(text.contains(says), "{says}: {text}");
    }

    let mut command = belljar(user);
    let output = at_home(&mut command, None).arg("doctor").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(text.contains("neither BELLJAR_CACHE_DIR nor HOME is set"), "{text}");
    assert!(text.contains("each run compiles"), "{text}");

    for arguments in [&["warm"][..], &["snapshots", "list"], &["quarantine", "release", "00"]] {
        let mut command = belljar(user);
        let output = at_home(&mut command, None).args(arguments).output().unwrap();
        assert_sentence(&output, &arguments.join(" "));
        assert!(!output.status.success(), "{arguments:?}");
    }
}

#[test]
fn a_read_only_home_is_reported_and_its_files_are_used() {
    // Root can write to any folder.
    for user in users().iter().filter(|user| user.uid.is_some() || !is_root()) {
        let files = files(user, "read-only");
        let home = user.path("read-only/home");
        for (name, from) in
            [(".cache/belljar/code", "cache/code"), (".local/state/belljar", "state")]
        {
            let to = home.join(name);
            fs::create_dir_all(&to).unwrap();
            for entry in fs::read_dir(user.path(from)).unwrap().flatten() {
                if entry.file_type().unwrap().is_file() {
                    let copy = to.join(entry.file_name());
                    fs::copy(entry.path(), &copy).unwrap();
                    user.own(&copy);
                }
            }
            for folder in to.ancestors().take_while(|folder| folder.starts_with(&home)) {
                user.own(folder);
            }
        }
        let folders: Vec<PathBuf> = [
            ".cache/belljar/code",
            ".cache/belljar",
            ".cache",
            ".local/state/belljar",
            ".local",
            ".",
        ]
        .map(|name| home.join(name))
        .into();
        let mode = |mode| {
            for folder in &folders {
                fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
            }
        };
        mode(0o500);
        let run = |more: &[&str]| {
            let mut command = belljar(user);
            at_home(&mut command, Some(&home)).args(files.run()).args(more).output().unwrap()
        };
        let output = run(&["--no-store"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(stderr(&output), "", "the code was there");
        let output = run(&[]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(text.contains("not stored") && text.contains("--no-store"), "{text}");
        assert!(!text.contains("compiling"), "{text}");
        let mut command = belljar(user);
        let output = at_home(&mut command, Some(&home)).arg("doctor").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(text.contains("Permission denied"), "{text}");
        mode(0o700);
    }
}

#[test]
fn cold_starts_at_the_same_time_compile_once() {
    let user = users();
    let user = user.last().unwrap();
    let files = files(user, "cold");
    let cache = user.path("cold/cache");
    let start = || {
        let mut command = belljar(user);
        command.env("BELLJAR_CACHE_DIR", &cache).args(files.run());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let runs: Vec<_> = (0..8).map(|_| start()).collect();
    let (mut compiled, mut waited) = (0, 0);
    for run in runs {
        let output = run.wait_with_output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("2.5"));
        compiled += usize::from(text.contains("note: compiling"));
        waited += usize::from(text.contains("waiting for another process"));
    }
    assert_eq!(compiled, 1);
    assert!(waited > 0);

    // A process that is killed while it compiles does not block others.
    fs::remove_dir_all(&cache).unwrap();
    let mut first = start();
    let lock = cache.join("code");
    while !is_locked(&lock) {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let second = start();
    std::thread::sleep(std::time::Duration::from_millis(300));
    first.kill().unwrap();
    first.wait().unwrap();
    let output = second.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("note: compiling"), "{}", stderr(&output));
}

fn is_locked(folder: &Path) -> bool {
    let Ok(folder) = fs::File::open(folder) else { return false };
    let lock = rustix::fs::FlockOperation::NonBlockingLockShared;
    rustix::fs::flock(&folder, lock) == Err(rustix::io::Errno::WOULDBLOCK)
}

/// A new control group with a memory limit.
struct Group(PathBuf);

impl Group {
    fn new(bytes: u64) -> Option<Group> {
        let name = format!("belljar-test-{}", std::process::id());
        for (folder, limit, swap) in [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max", "memory.swap.max"),
        ] {
            let group = Path::new(folder).join(&name);
            if fs::create_dir(&group).is_err() {
                continue;
            }
            let made = Group(group);
            if fs::write(made.0.join(limit), bytes.to_string()).is_ok() {
                let swap_bytes = if limit == "memory.max" { 0 } else { bytes };
                let _ = fs::write(made.0.join(swap), swap_bytes.to_string());
                return Some(made);
            }
        }
        eprintln!("skipped: cannot create a control group");
        None
    }

    /// Starts a command in the group.
    fn enter(&self, command: &mut Command) {
        let tasks = self.0.join("cgroup.procs");
        // SAFETY: between fork and exec, the child opens a file and writes a few bytes to it; no
        // other thread of the child can hold the allocator's lock.
        unsafe {
            command.pre_exec(move || fs::write(&tasks, "0"));
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// `y = max(cos(expand(x, [n, n])))`, whose memory depends on `n`.
fn hungry(n: i64) -> Vec<u8> {
    Graph {
        nodes: vec![
            node("Expand", &["x", "shape"], &["wide"], &[]),
            node("Cos", &["wide"], &["cos"], &[]),
            node("ReduceMax", &["cos"], &["y"], &[]),
        ],
        initializers: vec![tensor_i64("shape", &[2], &[n, n])],
        inputs: vec![value("x", FLOAT, &[Dim::Fixed(n), Dim::Fixed(1)])],
        outputs: vec![value("y", FLOAT, &fixed(&[1, 1]))],
    }
    .bytes()
}

#[test]
fn out_of_memory_kills_do_not_lead_to_quarantine() {
    let Some(group) = Group::new(400 << 20) else { return };
    let state = support::own_state();
    let path = |name: &str| state.path().join(name).to_str().unwrap().to_owned();
    let (model, small, x) = (path("hungry.onnx"), path("relu.onnx"), path("x.json"));
    // Each tensor has 1 GiB, and the policy allows two of them.
    fs::write(&model, hungry(16 << 10)).unwrap();
    fs::write(&small, relu(&fixed(&[2])).bytes()).unwrap();
    fs::write(path("two.json"), "[-1, 2.5]").unwrap();
    let zeros = vec!["[0]"; 16 << 10].join(",");
    fs::write(&x, format!("[{zeros}]")).unwrap();
    let policy = path("policy.toml");
    fs::write(&policy, "version = 1\n[limits]\nmemory = \"3 GiB\"\n").unwrap();
    support::host(Isolation::Process).warm_up(&belljar::Policy::default()).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = support::belljar(arguments);
        command.env("BELLJAR_STATE_DIR", state.path());
        group.enter(&mut command);
        command.output().unwrap()
    };
    // More deaths than lead to quarantine.
    for time in 0..7 {
        let output =
            run(&["run", "--no-store", &model, "--input", &x, "--policy", &policy, "--quiet"]);
        let text = stderr(&output);
        // The supervisor survives to report it, because workers are killed first.
        assert_eq!(output.status.code(), Some(6), "{time}: {text}");
        for says in
            ["because memory ran out", "limits.memory", "memory.max", "warning: all sandboxes"]
        {
            assert!(text.contains(says), "{time}: {says}: {text}");
        }
        assert!(!text.contains("quarantine"), "{time}: {text}");
    }
    assert!(!state.path().join("quarantine").exists());
    // Another model runs in the same group.
    let output = run(&["run", "--no-store", &small, "--input", &path("two.json")]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let output = run(&["doctor"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.starts_with("memory for sandboxes")).unwrap();
    assert!(line.contains(" no ") && line.contains("400 MiB"), "{line}");
}

#[test]
fn the_kernel_kills_workers_first_when_memory_runs_out() {
    let host = support::host(Isolation::Process);
    let model = support::load(&host, &relu(&fixed(&[2])).bytes()).unwrap();
    let x = belljar::Tensor::new(vec![-1.0f32, 2.5], &[2]).unwrap();
    model.run(&[("x", x)]).unwrap().validate().unwrap();
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let mut workers = 0;
    for pid in children.collect::<String>().split_whitespace() {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.trim() == "belljar" && fs::read_link(format!("/proc/{pid}/exe")).is_ok() {
            let score =
                fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap_or_default();
            // Other tests start programs of the same name that are not workers.
            let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if arguments.contains("__belljar-worker") {
                assert_eq!(score.trim(), "1000");
                workers += 1;
            }
        }
    }
    assert!(workers > 0);
    assert_ne!(fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim(), "1000");
}
