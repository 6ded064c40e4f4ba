//! The small commands: version, warm, completions and manual pages.

use std::io::{Write, stdout};
use std::path::Path;

use clap::CommandFactory;

use super::args::{Arguments, IsolationArg};
use super::failure::{Failure, shown};
use super::host::{Store, host};
use super::terminal::Terminal;
use belljar::GuestInfo;

/// The version of wasmtime in this build; a test compares it with the lock file.
const WASMTIME: &str = "48.0.8";

pub(super) fn version(verbose: bool) -> Result<(), Failure> {
    let mut text = format!("belljar {}\n", env!("CARGO_PKG_VERSION"));
    if verbose {
        let guest = GuestInfo::embedded();
        let rows = [
            ("guest SHA-256", guest.sha256.to_owned()),
            ("guest size", format!("{} B", guest.bytes)),
            ("guest compiler", guest.toolchain.to_owned()),
            ("guest interface", guest.abi_version.to_string()),
            ("wasmtime", WASMTIME.to_owned()),
            ("target", format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS)),
        ];
        for (name, value) in rows {
            text.push_str(&format!("{name:<16} {value}\n"));
        }
    }
    stdout().write_all(text.as_bytes()).map_err(Failure::output)
}

pub(super) fn warm(terminal: &Terminal) -> Result<(), Failure> {
    let host = host(IsolationArg::Process, Store::Unused, 1, terminal)?;
    let Some(dir) = host.cache_dir() else {
        return Err(Failure::failed("no folder for compiled code is configured").hint(
            "set BELLJAR_CACHE_DIR and BELLJAR_STATE_DIR, or HOME, to folders you can write to",
        ));
    };
    // Checked first: code that cannot be cached would be compiled for nothing.
    belljar::internals::check_cache(&host)?;
    terminal.progress("compiling the sandboxed runner", || host.warm())?;
    let dir = shown(dir);
    writeln!(stdout(), "compiled code is in {dir}").map_err(Failure::output)
}

pub(super) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "belljar", &mut script);
    stdout().write_all(&script).map_err(Failure::output)
}

pub(super) fn man(folder: Option<&Path>) -> Result<(), Failure> {
    match folder {
        Some(folder) => std::fs::create_dir_all(folder)
            .and_then(|()| clap_mangen::generate_to(Arguments::command(), folder))
            .map_err(|err| Failure::write(folder, &err)),
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Arguments::command())
                .render(&mut page)
                .and_then(|()| stdout().write_all(&page))
                .map_err(Failure::output)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wasmtime_version_matches_the_lock_file() {
        let lock = include_str!("../../../Cargo.lock");
        let entry = format!("name = \"wasmtime\"\nversion = \"{WASMTIME}\"");
        assert!(lock.contains(&entry));
    }
}
