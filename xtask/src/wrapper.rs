//! The wrapper that cargo calls instead of rustc while the guest is built. It makes one argument
//! the same on every machine.
//!
//! Cargo gives each crate a `-C metadata` value that goes into its symbols and type IDs. For a
//! crate found by path it hashes that path, unless the crate is inside the workspace; the crates
//! that both workspaces share are outside of one of them. Without the wrapper, two clones in
//! different folders would build different guests from the same sources.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

/// Set in the environment of the guest's build, to make this program act as the compiler.
pub(crate) const VARIABLE: &str = "BELLJAR_XTASK_AS_RUSTC";

/// Whether a crate is one of this repository, whose metadata would depend on the repository's path.
fn is_ours(name: &str) -> bool {
    name.starts_with("belljar_") || ["exported_tests", "onnx_ops", "onnx_runner"].contains(&name)
}

/// Makes `cargo` call this program in place of rustc.
pub(crate) fn install(cargo: &mut Command) -> Result<()> {
    let own = std::env::current_exe().context("finding the path of this program")?;
    cargo.env("RUSTC_WRAPPER", own).env(VARIABLE, "1");
    Ok(())
}

/// Runs the compiler named by the first argument with the others, adjusted.
pub(crate) fn run(mut arguments: Vec<OsString>) -> Result<ExitCode> {
    adjust(&mut arguments);
    let (rustc, rest) =
        arguments.split_first().context("the rustc wrapper was called without arguments")?;
    let status = Command::new(rustc)
        .args(rest)
        .env_remove(VARIABLE)
        .status()
        .with_context(|| format!("could not start {}", Path::new(rustc).display()))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn adjust(arguments: &mut [OsString]) {
    let follows = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.to_str()
    };
    let Some(name) = follows("--crate-name").filter(|name| is_ours(name)) else { return };
    let fixed = format!("metadata=belljar-{name}");
    for argument in arguments.iter_mut().filter(|argument| is_metadata(argument)) {
        *argument = OsString::from(&fixed);
    }
}

fn is_metadata(argument: &OsStr) -> bool {
    argument.to_str().is_some_and(|text| text.starts_with("metadata="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adjusted(text: &str) -> String {
        let mut arguments: Vec<OsString> = text.split(' ').map(OsString::from).collect();
        adjust(&mut arguments);
        arguments.join(OsStr::new(" ")).into_string().expect("text")
    }

    #[test]
    fn only_our_crates_are_adjusted() {
        for ours in ["belljar_abi", "belljar_operators", "onnx_ops", "onnx_runner"] {
            assert_eq!(
                adjusted(&format!("rustc --crate-name {ours} -C metadata=7 -C extra-filename=-7")),
                format!(
                    "rustc --crate-name {ours} -C metadata=belljar-{ours} -C extra-filename=-7"
                )
            );
        }
        let other = "rustc --crate-name tract_core -C metadata=77";
        assert_eq!(adjusted(other), other);
        assert_eq!(adjusted("rustc -vV"), "rustc -vV");
    }
}
