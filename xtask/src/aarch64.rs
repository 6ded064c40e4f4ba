//! Checks for 64-bit Arm Linux without such a machine: the host is type-checked for it, so that
//! code behind that `cfg` keeps compiling, and before a release the native kernels' tests run under
//! emulation.

use std::process::Command;

use anyhow::{Context, Result};

use crate::Repo;
use crate::guest;
use crate::run::{self, say};
use crate::toolchain::{self, Needs, Route};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const C_COMPILER: &str = "aarch64-linux-gnu-gcc";
const C_PACKAGES: [&str; 2] = ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"];

const EMULATOR: &str = "qemu-aarch64";
const EMULATOR_PACKAGE: &str = "qemu-user";

const NEEDS: Needs<'_> = Needs {
    target: TARGET,
    distribution_programs: &[],
    distribution_files: &[],
    packages: &["rustc-web", "cargo-web", "rust-web-src"],
};

/// Runs `cargo check` for the target.
pub(crate) fn check(repo: &Repo) -> Result<()> {
    // The host's build script embeds the guest.
    guest::build(repo)?;
    c_compiler()?;
    let route = toolchain::choose(&NEEDS)?;
    say(format!("checking the host for {TARGET}, {route} route (3 minutes the first time)"));
    let mut cargo = cargo(repo, route, &["check", "-p", "belljar-cli"]);
    cargo.current_dir(repo.root());
    cargo.env("CC_aarch64_unknown_linux_gnu", C_COMPILER);
    run::run(&mut cargo).with_context(|| format!("checking for {TARGET}"))?;
    // Their tests run before a release; CI only checks that they compile.
    let mut kernels =
        self::cargo(repo, route, &["check", "--locked", "-p", "belljar-kernels", "--tests"]);
    kernels.current_dir(repo.root());
    run::run(&mut kernels).with_context(|| format!("checking the kernels' tests for {TARGET}"))
}

/// Runs the native kernels' tests under emulation.
pub(crate) fn emulate(repo: &Repo) -> Result<()> {
    c_compiler()?;
    if !run::in_path(EMULATOR) {
        toolchain::install(&[EMULATOR_PACKAGE], &format!("{EMULATOR} is not installed"))?;
    }
    let route = toolchain::choose(&NEEDS)?;
    say(format!("testing the native kernels on an emulated {TARGET} (2 minutes the first time)"));
    // Documentation tests would need that compiler's rustdoc, and there are none.
    let mut cargo =
        cargo(repo, route, &["test", "--release", "--locked", "-p", "belljar-kernels", "--lib"]);
    cargo.current_dir(repo.root());
    cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", C_COMPILER);
    let runner = format!("{EMULATOR} -L /usr/aarch64-linux-gnu");
    cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", runner);
    run::run(&mut cargo).context("testing the native kernels on an emulated machine")
}

fn c_compiler() -> Result<()> {
    if run::in_path(C_COMPILER) {
        return Ok(());
    }
    toolchain::install(
        &C_PACKAGES,
        &format!("{C_COMPILER}, which compiles the C parts, is not installed"),
    )
}

fn cargo(repo: &Repo, route: Route, arguments: &[&str]) -> Command {
    let mut cargo = route.cargo();
    cargo.args(arguments).args(["--target", TARGET]);
    // The compiler may differ from the host's, so its files go to a separate folder.
    cargo.arg("--target-dir").arg(repo.target().join("aarch64-check"));
    if route == Route::Distribution {
        cargo.arg("-Zbuild-std");
    }
    cargo
}
