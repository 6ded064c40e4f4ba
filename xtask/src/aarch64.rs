//! Type-checks the host for 64-bit Arm Linux, so that code behind that `cfg` does not rot.
//!
//! It checks and does not link: no Arm machine and no emulator is needed.

use anyhow::{Context, Result};

use crate::Repo;
use crate::guest;
use crate::run::{self, say};
use crate::toolchain::{self, Needs, Route};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const C_COMPILER: &str = "aarch64-linux-gnu-gcc";
const C_PACKAGES: [&str; 2] = ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"];

const NEEDS: Needs<'_> = Needs {
    target: TARGET,
    distribution_programs: &[],
    packages: &["rustc-web", "cargo-web", "rust-web-src"],
};

/// Runs `cargo check` for the target.
pub(crate) fn check(repo: &Repo) -> Result<()> {
    // The host's build script takes the guest in.
    guest::build(repo)?;
    if !run::in_path(C_COMPILER) {
        toolchain::install(&C_PACKAGES, &format!("there is no {C_COMPILER} for the C parts"))?;
    }
    let route = toolchain::choose(&NEEDS)?;
    say(format!("checking the host for {TARGET}, {route} route (3 minutes the first time)"));
    let mut cargo = route.cargo();
    cargo.current_dir(repo.root());
    cargo.args(["check", "-p", "belljar", "--target", TARGET]);
    // Another compiler than the host's may be at work: its files stay apart.
    cargo.arg("--target-dir").arg(repo.target().join("aarch64-check"));
    if route == Route::Distribution {
        cargo.arg("-Zbuild-std");
    }
    cargo.env("CC_aarch64_unknown_linux_gnu", C_COMPILER);
    run::run(&mut cargo).with_context(|| format!("checking for {TARGET}"))
}
