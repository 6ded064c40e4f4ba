//! Tests of the filters against attacks, each in a separate process.

mod attacks;
mod numbers;
mod programs;

use std::process::{Command, Output, Stdio};

/// The environment variable with the task of a test's child process.
const TASK: &str = "BELLJAR_SECCOMP_TEST";

/// The task of this process, if it was started by [`process`] for this test.
fn task() -> Option<String> {
    std::env::var(TASK).ok()
}

/// Runs a test of this module again, in a new process, with a task.
fn process(test: &str, task: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("seccomp::tests::{test}")])
        .args(["--nocapture", "--test-threads=1"])
        .env(TASK, task)
        // `confine::heap` sets this in workers, but must do so before the first thread starts.
        .env("MALLOC_ARENA_MAX", "1")
        // Like in a worker, whose environment is empty: panics then open no source files.
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}
