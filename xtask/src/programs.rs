//! Builds the guest programs of `guest-models/programs` into `target/guest/programs`.
//!
//! Three kinds: components for `wasm32-unknown-unknown`, which import only what they declare;
//! components with the whole standard library, which is compiled for `wasm32-wasip1` and adapted to
//! WASI 0.2; and core modules for `wasm32-wasip1`, for hosts of the older interfaces.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_component::ComponentEncoder;

use crate::Repo;
use crate::run::{self, say};
use crate::toolchain::{self, Needs, ROUTE_VARIABLE, Route, WASM_LINKER};

const BARE: Needs<'_> = Needs {
    target: "wasm32-unknown-unknown",
    distribution_programs: &[WASM_LINKER],
    distribution_files: &[],
    packages: &["rustc-web", "cargo-web", "rust-web-src", "lld-22"],
};

const WASI: Needs<'_> = Needs {
    target: "wasm32-wasip1",
    distribution_programs: &[WASM_LINKER],
    distribution_files: &[WASI_LIBC, WASI_START],
    packages: &["rustc-web", "cargo-web", "rust-web-src", "lld-22", "wasi-libc"],
};

/// Where the distribution keeps WASI's C library.
const WASI_LIBC_FOLDER: &str = "/usr/lib/wasm32-wasi";
const WASI_LIBC: &str = "/usr/lib/wasm32-wasi/libc.a";

/// The C runtime's start file for a reactor: it exports `_initialize`, which runs the constructors.
/// A `cdylib` gets none from the compiler by itself, whichever route builds it.
const WASI_START: &str = "/usr/lib/wasm32-wasi/crt1-reactor.o";

/// The same file in the folder of rustup's target library.
const RUSTUP_WASI_START: &str = "self-contained/crt1-reactor.o";

/// Programs that become components.
const COMPONENTS: [&str; 4] = ["attacks", "classify", "file-type", "misbehaves"];

/// Programs that become components with the standard library's files, environment and output.
const ADAPTED: [&str; 1] = ["labels"];

/// Programs that stay core modules.
const MODULES: [&str; 1] = ["nn-module"];

/// The folder in which tests and examples find the programs.
pub(crate) fn folder(repo: &Repo) -> PathBuf {
    repo.target().join("guest/programs")
}

/// Builds every program that has changed.
pub(crate) fn build(repo: &Repo) -> Result<()> {
    say("guest programs (about 2 minutes on 2 cores the first time)");
    let folder = folder(repo);
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let kinds: [(&Needs<'_>, &[&str], Make); 3] = [
        (&BARE, &COMPONENTS, component),
        (&WASI, &ADAPTED, adapted),
        (&WASI, &MODULES, |module| Ok(module.to_vec())),
    ];
    for (needs, programs, make) in kinds {
        let built = compile(repo, needs, programs)?;
        for &program in programs {
            let module = built.join(format!("{}.wasm", program.replace('-', "_")));
            let wasm =
                fs::read(&module).with_context(|| format!("reading {}", module.display()))?;
            let wasm = make(&wasm).with_context(|| format!("making the program {program}"))?;
            write(&folder.join(program).with_extension("wasm"), &wasm)?;
        }
    }
    Ok(())
}

/// Compiles these programs, and returns the folder of the modules.
fn compile(repo: &Repo, needs: &Needs<'_>, programs: &[&str]) -> Result<PathBuf> {
    let route = toolchain::choose(needs)?;
    let target = repo.target().join("guest-build/programs");
    let mut cargo = route.cargo();
    cargo.current_dir(repo.root().join("guest-models/programs"));
    let mut flags = vec!["-Ctarget-feature=+simd128,+bulk-memory".to_owned()];
    if route == Route::Distribution {
        cargo.arg("-Zbuild-std=std,panic_abort");
        flags.push(format!("-Clinker={WASM_LINKER}"));
    }
    if needs.target == WASI.target {
        let start = match route {
            Route::Rustup => rustup_start(needs.target)?,
            Route::Distribution => {
                flags.push("-Clink-self-contained=no".to_owned());
                flags.push(format!("-Lnative={WASI_LIBC_FOLDER}"));
                PathBuf::from(WASI_START)
            }
        };
        flags.push(format!("-Clink-arg={}", start.display()));
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    cargo.args(["build", "--quiet", "--release", "--locked", "--target", needs.target]);
    cargo.arg("--target-dir").arg(&target);
    cargo.args(programs.iter().flat_map(|program| ["-p", *program]));
    run::run(&mut cargo).context("building the guest programs")?;
    Ok(target.join(needs.target).join("release"))
}

/// The start file of a reactor that came with rustup's target.
fn rustup_start(target: &str) -> Result<PathBuf> {
    let folder = Route::Rustup
        .target_libdir(target)
        .with_context(|| format!("`rustc --print target-libdir` failed for {target}"))?;
    let start = folder.join(RUSTUP_WASI_START);
    if !start.is_file() {
        bail!(
            "{} is missing, though the target {target} is installed. Run `rustup target remove \
             {target}` and `rustup target add {target}`, or set \
             {ROUTE_VARIABLE}=distribution",
            start.display()
        );
    }
    Ok(start)
}

/// Turns a module into a program.
type Make = fn(&[u8]) -> Result<Vec<u8>>;

/// The component of a module that contains its own component type.
fn component(module: &[u8]) -> Result<Vec<u8>> {
    ComponentEncoder::default().validate(true).module(module)?.encode()
}

/// The same, with the adapter from WASI 0.1 to 0.2.
fn adapted(module: &[u8]) -> Result<Vec<u8>> {
    let (name, adapter) =
        (WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER);
    let encoder = ComponentEncoder::default().validate(true);
    encoder.module(module)?.adapter(name, adapter)?.encode()
}

/// Writes the file unless it has this content, so that its modification time stays.
fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(file).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    fs::write(file, bytes).with_context(|| format!("writing {}", file.display()))
}
