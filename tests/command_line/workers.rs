//! Worker processes as the system sees them: what they inherit, how they are confined, and when
//! they end.

use crate::support;

use std::fs;
use std::path::{Path, PathBuf};

use belljar::Tensor;
use support::belljar;
use support::scratch::Scratch;

use super::running::run;

#[test]
fn worker_cannot_be_started_from_the_command_line() {
    let output = run(&["__belljar-worker"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
}

/// A `belljar` whose worker is busy long enough to examine both processes.
pub(super) struct Busy {
    pub(super) supervisor: std::process::Child,
    pub(super) worker: u32,
    _scratch: Scratch,
}

impl Busy {
    pub(super) fn start() -> Busy {
        let s = Scratch::new();
        let slow = s.file("slow.onnx", support::onnx::slow(1024, 800).bytes());
        let square =
            s.npy("square.npy", &Tensor::new(vec![0.0f32; 1 << 20], &[1024, 1024]).unwrap());
        let supervisor = belljar(&["run", &slow, "--input", &square]).spawn().unwrap();
        let mut busy = Busy { supervisor, worker: 0, _scratch: s };
        for _ in 0..1000 {
            let found = children(busy.supervisor.id());
            // Before exec, the worker is still a copy of its supervisor.
            let ready = |pid: &u32| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                line.windows(9).any(|window| window == b"__belljar")
            };
            if let Some(worker) = found.into_iter().find(ready) {
                // A busy worker has received its model.
                std::thread::sleep(std::time::Duration::from_millis(300));
                busy.worker = worker;
                return busy;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("no worker was started");
    }

    /// Waits until the worker that runs the model has computed for a while. The one that was seen
    /// first may have prepared it, which takes less time.
    pub(super) fn wait_until_at_work(&mut self) {
        for _ in 0..3000 {
            let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", self.worker)) else {
                self.worker = children(self.supervisor.id()).into_iter().next().unwrap_or(0);
                std::thread::sleep(std::time::Duration::from_millis(10));
                continue;
            };
            let behind_name = stat.rsplit(')').next().unwrap();
            let ticks: u64 = behind_name.split_whitespace().nth(11).unwrap().parse().unwrap();
            if ticks >= 50 {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("worker {} does not work", self.worker);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // A failed test must not leave processes running.
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
    }
}

fn children(parent: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten();
    let lists = tasks
        .filter_map(Result::ok)
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn worker_dies_with_its_supervisor() {
    let mut busy = Busy::start();
    busy.supervisor.kill().unwrap();
    busy.supervisor.wait().unwrap();
    for _ in 0..500 {
        // A killed process is a zombie until its new parent reaps it.
        let status = fs::read_to_string(format!("/proc/{}/status", busy.worker));
        let status = status.unwrap_or_default();
        if status.is_empty() || status.contains("State:\tZ") {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("worker {} lives on", busy.worker);
}

#[test]
fn worker_inherits_no_descriptors_or_environment() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    let inherited = rustix::fs::open(
        secret.path(),
        rustix::fs::OFlags::RDONLY, // Not closed on exec: every child gets it.
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    let busy = Busy::start();
    drop(inherited);
    let open = |pid: u32| -> Vec<PathBuf> {
        let folder = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        folder.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok()).collect()
    };
    assert!(open(busy.supervisor.id()).iter().any(|path| path == secret.path()), "no such secret");
    let links = open(busy.worker);
    for path in &links {
        let text = path.to_string_lossy();
        let known = text.starts_with("socket:")
            || text.starts_with("/memfd:belljar-")
            || text == "/dev/null"
            || text.ends_with("/pagemap");
        assert!(known, "a worker has {text} open, among {links:?}");
    }
    let read = |what: &str| fs::read(format!("/proc/{}/{what}", busy.worker)).unwrap();
    assert!(read("environ").is_empty());
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", busy.worker)).unwrap(), Path::new("/"));
}

#[test]
fn confinement_of_a_worker_is_visible_in_proc() {
    let busy = Busy::start();
    let read = |what: &str| {
        fs::read_to_string(format!("/proc/{}/{what}", busy.worker)).unwrap_or_default()
    };
    let status = read("status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
    };
    assert_eq!(field("Seccomp"), "2");
    assert_eq!(field("Seccomp_filters"), "3");
    assert_eq!(field("NoNewPrivs"), "1");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("Groups"), "");
    // The worker is the first process in its PID namespace.
    assert!(field("NSpid").ends_with("\t1"), "{}", field("NSpid"));
    // Only root can read the rest.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for ids in ["Uid", "Gid"] {
        assert!(field(ids).split_whitespace().all(|id| id != "0"), "{ids}");
    }
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_ne!(of(&busy.worker.to_string()), of("self"), "{kind}");
    }
    // In its own namespace, its user is `nobody`.
    assert_eq!(read("uid_map").split_whitespace().next(), Some("65534"));
    let root = format!("/proc/{}/root", busy.worker);
    assert_eq!(fs::read_dir(root).unwrap().count(), 0, "its root is not empty");
    let maps = read("maps");
    assert!(maps.lines().any(|line| line.contains(" r-xp ")), "{maps}");
    assert!(!maps.lines().any(|line| line.contains(" rwx")), "{maps}");
    let limits = read("limits");
    let limit = |name: &str| limits.lines().find(|line| line.starts_with(name)).unwrap();
    for name in ["Max core file size", "Max locked memory"] {
        assert!(limit(name).split_whitespace().any(|word| word == "0"), "{limits}");
    }
    for name in ["Max data size", "Max cpu time", "Max file size", "Max open files"] {
        assert!(!limit(name).contains("unlimited"), "{limits}");
    }
}
