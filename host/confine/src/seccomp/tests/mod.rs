//! Filters held against attacks, in processes that live for one of them.

mod attacks;
mod numbers;
mod programs;

use std::process::{Command, Output, Stdio};

/// What a process of a test is to do.
const TASK: &str = "BELLJAR_SECCOMP_TEST";

/// The task of this process, if it was started by [`process`] for this test.
fn task() -> Option<String> {
    std::env::var(TASK).ok()
}

/// Runs a test of this module again, in a process of its own, with a task.
fn process(test: &str, task: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("confine::seccomp::tests::{test}")])
        .args(["--nocapture", "--test-threads=1"])
        .env(TASK, task)
        // As `confine::heap` has it, which here comes too late: the test runs on a thread.
        .env("MALLOC_ARENA_MAX", "1")
        // A worker's environment is empty, and its panics look for no sources.
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}
