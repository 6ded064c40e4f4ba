//! Machines that are short of something: memory, processes, users, folders, room on a disk. There
//! is a sentence that says what, or an answer, and never a panic, a process that nobody waits for,
//! or a model in quarantine for what it did not do.

mod disk;
mod memory;

use crate::support;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use belljar::Isolation;
use rustix::process::{Resource, Rlimit};
use support::onnx::{fixed, relu};
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
