//! Starts other programs, and reports failures with the command and its exit code.
//!
//! Nothing goes through a shell.

use std::env;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A line of progress on standard error.
pub(crate) fn say(text: impl AsRef<str>) {
    eprintln!("xtask: {}", text.as_ref());
}

/// The command as a person would type it, for messages.
pub(crate) fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// Runs the command with this process's output and fails unless it exits with 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let text = shown(command);
    let status = command.status().with_context(|| format!("could not start `{text}`"))?;
    check(&text, status)
}

/// Runs the command quietly for at most `limit`: what it printed, or `None` if it could not be
/// started, failed, or took too long. For questions where every failure means "not available".
pub(crate) fn ask(command: &mut Command, limit: Duration) -> Option<String> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let mut stdout = child.stdout.take()?;
    let reader = thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).ok().map(|_| text)
    });
    let end = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return reader.join().ok().flatten(),
            Ok(Some(_)) | Err(_) => return None,
            Ok(None) if Instant::now() >= end => {
                // Both may fail only because the child has just ended by itself.
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
            Ok(None) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Runs the command with `input` on its standard input and returns what it printed.
pub(crate) fn with_input(command: &mut Command, input: Vec<u8>) -> Result<Vec<u8>> {
    let text = shown(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start `{text}`"))?;
    let mut stdin = child.stdin.take().context("the child has no standard input")?;
    // A separate thread, so that neither side waits for the other's full pipe.
    let writer = thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().with_context(|| format!("waiting for `{text}`"))?;
    // A child that exits early closes the pipe; its exit code is the better error.
    let _ = writer.join();
    check(&text, output.status)?;
    Ok(output.stdout)
}

fn check(text: &str, status: ExitStatus) -> Result<()> {
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => bail!("`{text}` failed with exit code {code}"),
        None => bail!("`{text}` was ended by a signal ({status})"),
    }
}

/// True if a program of this name is in one of the folders of `PATH`.
pub(crate) fn in_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Cargo variables that configure registries or output, and are kept in every build.
const KEPT: [&str; 8] = [
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTRIES_",
    "CARGO_REGISTRY_",
    "CARGO_SOURCE_",
    "CARGO_TERM_",
    "CARGO_TARGET_DIR",
];

/// Removes the variables set by the cargo that started this program, so that an inner cargo behaves
/// as if started by hand.
pub(crate) fn without_outer_cargo(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let outer =
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY"];
        if text == "CARGO" || outer.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    match library_path() {
        Some(path) if !path.is_empty() => command.env("LD_LIBRARY_PATH", path),
        _ => command.env_remove("LD_LIBRARY_PATH"),
    }
}

/// Removes everything from the environment that could change what a compiler produces.
pub(crate) fn without_build_settings(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let cargo = text.starts_with("CARGO") && !KEPT.iter().any(|kept| text.starts_with(kept));
        let compiler = text.starts_with("RUSTC")
            || text.starts_with("RUSTFLAGS")
            || text.starts_with("RUSTDOC")
            || text.starts_with("RUST_TARGET_PATH");
        if cargo || compiler || text == "CARGO_TARGET_DIR" {
            command.env_remove(&name);
        }
    }
    command.env_remove("LD_LIBRARY_PATH")
}

/// `LD_LIBRARY_PATH` without the folders that `cargo run` puts in front.
fn library_path() -> Option<OsString> {
    let path = env::var_os("LD_LIBRARY_PATH")?;
    let kept: Vec<_> = env::split_paths(&path).filter(|folder| !of_cargo(folder)).collect();
    env::join_paths(kept).ok()
}

fn of_cargo(folder: &Path) -> bool {
    let text = folder.to_string_lossy();
    text.contains("/target/") || text.contains("/.rustup/") || text.contains("/rustlib/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ask_returns_none_for_a_command_that_fails_or_hangs() {
        let second = Duration::from_secs(1);
        assert_eq!(ask(Command::new("echo").arg("yes"), second).as_deref(), Some("yes\n"));
        assert_eq!(ask(&mut Command::new("false"), second), None);
        assert_eq!(ask(&mut Command::new("no-such-program-anywhere"), second), None);
        let begun = Instant::now();
        assert_eq!(ask(Command::new("sleep").arg("30"), Duration::from_millis(100)), None);
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_failure_names_the_command_and_its_code() {
        let error = run(Command::new("sh").args(["-c", "exit 7"])).expect_err("must fail");
        let text = format!("{error}");
        assert!(text.contains("sh -c exit 7") && text.contains("exit code 7"), "{text}");
    }
}
