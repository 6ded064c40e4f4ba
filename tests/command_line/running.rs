//! Runs `belljar`, and checks how it ended.

use std::io::Write;
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::support::belljar;
use crate::support::scratch::Scratch;

impl Scratch {
    pub(super) fn policy(&self, text: &str) -> String {
        self.toml("policy.toml", text)
    }
}

pub(super) fn run(arguments: &[&str]) -> Output {
    belljar(arguments).stdin(Stdio::null()).output().unwrap()
}

pub(super) fn run_with_input(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = belljar(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

pub(super) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(super) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
pub(super) fn assert_exit(output: &Output, code: i32, says: &str) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(says), "{says:?} is not in {text:?}");
    let harmless =
        |c: char| c == '\n' || !(c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c));
    assert!(text.chars().all(harmless), "{text:?}");
}

pub(super) fn answer(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}
