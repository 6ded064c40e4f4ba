//! Chooses the compiler for a target that the host's toolchain may lack.
//!
//! There are two routes: the caller's own toolchain, if its standard library for the target is
//! installed or rustup can add it; and the distribution's compiler, which builds the standard
//! library from source. This module finds or installs one and never builds anything itself.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::run::{self, say};

/// The environment variable that forces a route.
pub(crate) const ROUTE_VARIABLE: &str = "BELLJAR_GUEST_ROUTE";

/// The oldest compiler that builds this repository.
const OLDEST: (u32, u32) = (1, 95);

/// The wasm linker for the distribution's compiler.
pub(crate) const WASM_LINKER: &str = "wasm-ld-22";

/// Timeout of a quick question to a compiler or to rustup.
const QUESTION: Duration = Duration::from_secs(20);

/// Timeout of `rustup target add`: it needs seconds, unless rustup cannot reach its server.
const TARGET_ADD: Duration = Duration::from_secs(180);

/// How a target's code is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// The caller's own toolchain with its standard library for the target.
    Rustup,
    /// `/usr/bin/rustc` and `/usr/bin/cargo` with the standard library's sources.
    Distribution,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Route::Rustup => "rustup",
            Route::Distribution => "distribution",
        })
    }
}

impl Route {
    /// The route of this name.
    pub(crate) fn parse(name: &str) -> Option<Route> {
        [Route::Rustup, Route::Distribution].into_iter().find(|route| route.to_string() == name)
    }

    /// The route that the environment asks for, if any.
    pub(crate) fn forced() -> Result<Option<Route>> {
        let Some(value) = env::var_os(ROUTE_VARIABLE).filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        match value.to_str().and_then(Route::parse) {
            Some(route) => Ok(Some(route)),
            None => bail!("{ROUTE_VARIABLE} is {value:?}: it must be `rustup` or `distribution`"),
        }
    }

    /// `rustc` of this route.
    pub(crate) fn rustc(self) -> Command {
        self.tool("rustc")
    }

    /// `cargo` of this route, without settings from the environment.
    pub(crate) fn cargo(self) -> Command {
        let mut command = self.tool("cargo");
        if self == Route::Distribution {
            // -Zbuild-std is not stable yet; the distribution pins one compiler version.
            command.env("RUSTC", "/usr/bin/rustc").env("CARGO", "/usr/bin/cargo");
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }

    fn tool(self, name: &str) -> Command {
        let mut command = match self {
            Route::Rustup => Command::new(name),
            Route::Distribution => Command::new(format!("/usr/bin/{name}")),
        };
        run::without_build_settings(&mut command);
        if self == Route::Distribution {
            command.env_remove("RUSTUP_TOOLCHAIN");
        }
        command
    }

    /// The output of `rustc -vV`, or `None` if the compiler does not run.
    pub(crate) fn version(self) -> Option<String> {
        run::ask(self.rustc().arg("-vV"), QUESTION).map(|text| text.trim().to_owned())
    }

    /// The folder where this route's compiler looks for the standard library of a target. It need
    /// not exist.
    pub(crate) fn target_libdir(self, target: &str) -> Option<PathBuf> {
        let mut question = self.rustc();
        question.args(["--print", "target-libdir", "--target", target]);
        let text = run::ask(&mut question, QUESTION)?;
        Some(PathBuf::from(text.trim()))
    }

    fn sysroot(self) -> Option<PathBuf> {
        let text = run::ask(self.rustc().args(["--print", "sysroot"]), QUESTION)?;
        Some(PathBuf::from(text.trim()))
    }

    /// The standard library's sources of this route's compiler, if they are installed.
    pub(crate) fn library_sources(self) -> Option<PathBuf> {
        let rust = self.sysroot()?.join("lib/rustlib/src/rust");
        rust.join("library/std/Cargo.toml").is_file().then_some(rust)
    }
}

/// What a build for `target` needs beyond the compiler itself.
pub(crate) struct Needs<'a> {
    /// The target triple.
    pub(crate) target: &'a str,
    /// Programs that the distribution route needs in `PATH`.
    pub(crate) distribution_programs: &'a [&'a str],
    /// Files that the distribution route needs.
    pub(crate) distribution_files: &'a [&'a str],
    /// The distribution's packages that contain all of it.
    pub(crate) packages: &'a [&'a str],
}

/// Chooses the route for this target, and installs what is missing if possible.
pub(crate) fn choose(needs: &Needs<'_>) -> Result<Route> {
    match Route::forced()? {
        Some(Route::Rustup) => {
            if !own_toolchain_has(needs.target) && !add_target(needs.target) {
                bail!(
                    "{ROUTE_VARIABLE}=rustup, but this toolchain has no {0} and rustup could not \
                     add it: run `rustup target add {0}`, or unset {ROUTE_VARIABLE}",
                    needs.target
                );
            }
            Ok(Route::Rustup)
        }
        Some(Route::Distribution) => {
            distribution(needs)?;
            Ok(Route::Distribution)
        }
        None if own_toolchain_has(needs.target) => Ok(Route::Rustup),
        // Preferred to a download: it is ready, and the same compiler as last time.
        None if distribution_missing(needs).is_none() => Ok(Route::Distribution),
        None if add_target(needs.target) => Ok(Route::Rustup),
        None => {
            distribution(needs)?;
            Ok(Route::Distribution)
        }
    }
}

/// True if the caller's toolchain has a standard library for the target.
fn own_toolchain_has(target: &str) -> bool {
    let Some(folder) = Route::Rustup.target_libdir(target) else { return false };
    // rustc prints the folder even if it does not exist, and it may exist without a library.
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
}

fn add_target(target: &str) -> bool {
    if !run::in_path("rustup") {
        return false;
    }
    say(format!("asking rustup for the target {target}"));
    let mut command = Command::new("rustup");
    run::without_build_settings(&mut command);
    let added = run::ask(command.args(["target", "add", target]), TARGET_ADD).is_some();
    if !added {
        say("rustup could not add the target");
    }
    added && own_toolchain_has(target)
}

/// A description of what the distribution route lacks, or `None` if it is ready.
fn distribution_missing(needs: &Needs<'_>) -> Option<String> {
    for tool in ["/usr/bin/rustc", "/usr/bin/cargo"] {
        if !Path::new(tool).is_file() {
            return Some(format!("{tool} is not installed"));
        }
    }
    let version = Route::Distribution.version().unwrap_or_default();
    match release(&version) {
        Some(release) if release >= OLDEST => {}
        _ => return Some(format!("/usr/bin/rustc is older than {}.{}", OLDEST.0, OLDEST.1)),
    }
    if Route::Distribution.library_sources().is_none() {
        return Some("the standard library's sources are not installed".to_owned());
    }
    if let Some(name) = needs.distribution_programs.iter().find(|name| !run::in_path(name)) {
        return Some(format!("{name} is not in PATH"));
    }
    let file = needs.distribution_files.iter().find(|file| !Path::new(file).is_file());
    file.map(|file| format!("{file} is not installed"))
}

/// Prepares the distribution route, or fails with the command to run.
fn distribution(needs: &Needs<'_>) -> Result<()> {
    let Some(missing) = distribution_missing(needs) else { return Ok(()) };
    install(needs.packages, &missing)?;
    match distribution_missing(needs) {
        None => Ok(()),
        Some(missing) => bail!(
            "{missing}, although {} were installed. Install rustup and run `rustup target add {}` \
             instead",
            needs.packages.join(" "),
            needs.target
        ),
    }
}

/// Installs packages with apt if run as root, and otherwise fails with the command to run.
pub(crate) fn install(packages: &[&str], why: &str) -> Result<()> {
    let command = format!(
        "apt-get update && apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    );
    if !is_root() || !run::in_path("apt-get") {
        bail!("{why}. Run this once as root, or make `rustup target add` work here:\n  {command}");
    }
    say(format!("{why}: installing {} (a minute or two)", packages.join(" ")));
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
        // Progress belongs on standard error; standard output is for results.
        apt.stdout(std::io::stderr());
        apt
    };
    run::run(apt().arg("update"))?;
    run::run(apt().args(["install", "-y", "--no-install-recommends"]).args(packages))
        .with_context(|| format!("installing packages; try by hand: {command}"))
}

/// True for uid 0; false if `/proc` cannot be read.
fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uid.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

/// Major and minor number from the `release:` line of `rustc -vV`.
fn release(version: &str) -> Option<(u32, u32)> {
    let line = version.lines().find_map(|line| line.strip_prefix("release: "))?;
    let mut numbers = line.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_parsed_from_their_names() {
        for route in [Route::Rustup, Route::Distribution] {
            assert_eq!(Route::parse(&route.to_string()), Some(route));
        }
        assert_eq!(Route::parse("docker"), None);
    }

    #[test]
    fn the_release_line_is_parsed() {
        assert_eq!(release("rustc 1.96.0\nrelease: 1.96.0\n"), Some((1, 96)));
        assert_eq!(release("release: 1.97.0-nightly"), Some((1, 97)));
        assert_eq!(release("rustc 1.96.0"), None);
        assert_eq!(release("release: x.y"), None);
    }
}
