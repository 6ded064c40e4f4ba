//! Control groups in which memory runs out.

use crate::support;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use belljar::Isolation;
use support::onnx::{Dim, FLOAT, Graph, fixed, node, relu, tensor_i64, value};

use super::stderr;

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
