//! Builds the WebAssembly guest that the host embeds: `guest-models/onnx-runner`.
//!
//! The result must depend only on the sources and the compiler: flags come from one committed file,
//! the environment is cleaned, and the module must contain no path of the building machine.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Repo;
use crate::run::{self, say};
use crate::sources_digest::sources_digest;
use crate::toolchain::{self, Needs, Route, WASM_LINKER};
use crate::wrapper;

const TARGET: &str = "wasm32-unknown-unknown";

const NEEDS: Needs<'_> = Needs {
    target: TARGET,
    distribution_programs: &[WASM_LINKER],
    distribution_files: &[],
    packages: &["rustc-web", "cargo-web", "rust-web-src", "lld-22"],
};

/// A guest that was built now or earlier, from the current sources by the current compiler.
pub(crate) struct Guest {
    /// The module's SHA-256 in hex.
    pub(crate) sha256: String,
    /// The route it was built by.
    pub(crate) route: Route,
}

/// Where the host's build script finds the module.
pub(crate) fn module_path(repo: &Repo) -> PathBuf {
    repo.target().join("guest/onnx_runner.wasm")
}

/// Builds the guest unless the existing module came from the same sources and compiler.
pub(crate) fn build(repo: &Repo) -> Result<Guest> {
    let guest_models = repo.root().join("guest-models");
    let (sources, _) = sources_digest(&guest_models).context("reading the guest's sources")?;
    let module = module_path(repo);
    let record = module.with_extension("json");
    if let Some(guest) = up_to_date(&module, &record, &sources)? {
        say(format!("guest: up to date ({} route, sha256 {})", guest.route, guest.sha256));
        return Ok(guest);
    }

    let route = toolchain::choose(&NEEDS)?;
    let version = route.version().context("`rustc -vV` of the chosen compiler failed")?;
    say(format!(
        "guest: building by the {route} route (about 5 minutes on 2 cores the first time)"
    ));
    let begun = Instant::now();
    let wasm = compile(&guest_models, &repo.target().join("guest-build"), route)?;

    let folder = module.parent().context("the module's path has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    fs::write(&module, &wasm).with_context(|| format!("writing {}", module.display()))?;
    let sha256 = hex_sha256(&wasm);
    let text = serde_json::to_string_pretty(&json!({
        "sha256": sha256,
        "bytes": wasm.len(),
        "toolchain": version,
        "route": route.to_string(),
        "sources_sha256": sources,
    }))?;
    fs::write(&record, text + "\n").with_context(|| format!("writing {}", record.display()))?;
    let (bytes, seconds) = (wasm.len(), begun.elapsed().as_secs());
    say(format!("guest: {bytes} bytes by the {route} route, sha256 {sha256}, {seconds} s"));
    Ok(Guest { sha256, route })
}

/// The digest of the existing guest, which must be up to date and built by this route.
pub(crate) fn recorded(repo: &Repo, route: Route) -> Result<String> {
    let (sources, _) =
        sources_digest(&repo.root().join("guest-models")).context("reading the guest's sources")?;
    let module = module_path(repo);
    match up_to_date(&module, &module.with_extension("json"), &sources)? {
        Some(guest) if guest.route == route => Ok(guest.sha256),
        _ => bail!(
            "{} was not built from the current sources by the {route} route",
            module.display()
        ),
    }
}

/// The existing guest, if its record and its bytes show that a build would make the same one.
fn up_to_date(module: &Path, record: &Path, sources: &str) -> Result<Option<Guest>> {
    let Ok(text) = fs::read_to_string(record) else { return Ok(None) };
    let Ok(record) = serde_json::from_str::<Value>(&text) else { return Ok(None) };
    let field = |name: &str| record.get(name).and_then(Value::as_str);
    let Some(route) = field("route").and_then(Route::parse) else { return Ok(None) };
    let other_route = Route::forced()?.is_some_and(|forced| forced != route);
    if other_route || field("sources_sha256") != Some(sources) {
        return Ok(None);
    }
    if field("toolchain").map(str::to_owned) != route.version() {
        return Ok(None);
    }
    let Ok(wasm) = fs::read(module) else { return Ok(None) };
    let sha256 = hex_sha256(&wasm);
    Ok((field("sha256") == Some(&sha256)).then_some(Guest { sha256, route }))
}

/// Compiles the guest found in `guest_models` and returns the module's bytes.
///
/// `target` is the folder for cargo's own files; `release-check` gives another one.
pub(crate) fn compile(guest_models: &Path, target: &Path, route: Route) -> Result<Vec<u8>> {
    let machine = machine_paths(guest_models, target, route)?;
    let mut cargo = cargo(guest_models, route, &machine)?;
    cargo.args(["build", "--release", "--locked", "--target", TARGET]);
    cargo.arg("--target-dir").arg(target);
    run::run(&mut cargo).context("building the guest")?;

    let wasm = built(target, "onnx_runner.wasm")?;
    refuse_machine_paths(&wasm, &machine)?;
    let without = belljar_abi::clock::remove(&wasm);
    without.context("removing the clock from the guest: it must be the last import")
}

/// Compiles the operators with their unit tests, each of which is an export of the module. It uses
/// what the guest's build has compiled, and the same compiler and flags.
pub(crate) fn operator_tests(repo: &Repo) -> Result<()> {
    let guest_models = repo.root().join("guest-models");
    let target = repo.target().join("guest-build");
    let route = build(repo)?.route;
    let machine = machine_paths(&guest_models, &target, route)?;
    say("building the operators' tests for WebAssembly (a minute)");
    let mut cargo = cargo(&guest_models, route, &machine)?;
    cargo.args(["rustc", "--release", "--locked", "--target", TARGET]);
    cargo.arg("--target-dir").arg(&target);
    cargo.args(["--package", "onnx-ops", "--lib", "--crate-type", "cdylib"]);
    cargo.args(["--", "--cfg", "test", "--cfg", "exported_tests"]);
    run::run(&mut cargo).context("building the operators' tests for WebAssembly")?;
    let module = repo.target().join("guest/onnx_ops_tests.wasm");
    fs::write(&module, built(&target, "onnx_ops.wasm")?)
        .with_context(|| format!("writing {}", module.display()))
}

/// Reads a module that cargo has built.
fn built(target: &Path, name: &str) -> Result<Vec<u8>> {
    let built = target.join(TARGET).join("release").join(name);
    fs::read(&built).with_context(|| format!("reading {}", built.display()))
}

/// The cargo that builds the guest, with its flags.
fn cargo(guest_models: &Path, route: Route, machine: &[(PathBuf, String)]) -> Result<Command> {
    let package = guest_models.join("onnx-runner");
    // Crates must be unpacked before their folders can be named in the remapping flags.
    run::run(route.cargo().current_dir(&package).args(["fetch", "--quiet", "--locked"]))?;
    let mut flags = flags_of(&package.join("build-flags.txt"))?;
    for (path, shown) in machine {
        flags.push(format!("--remap-path-prefix={}={shown}", path.display()));
    }
    let mut cargo = route.cargo();
    wrapper::install(&mut cargo)?;
    if route == Route::Distribution {
        flags.push(format!("-Clinker={WASM_LINKER}"));
        cargo.arg("-Zbuild-std=std,panic_abort");
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    cargo.current_dir(&package);
    Ok(cargo)
}

/// Every folder of this machine that a compiler might record, with the name that replaces it. If
/// two match, rustc takes the later one, so the more specific come last.
fn machine_paths(
    guest_models: &Path,
    target: &Path,
    route: Route,
) -> Result<Vec<(PathBuf, String)>> {
    let mut paths: Vec<(PathBuf, String)> = Vec::new();
    if let Some(home) = env::home_dir() {
        paths.push((home, "/home".to_owned()));
    }
    // The parent is the repository, or the copy that release-check made.
    if let Some(repo) = guest_models.parent() {
        paths.push((repo.to_owned(), "/belljar".to_owned()));
    }
    paths.push((guest_models.to_owned(), "/belljar/guest-models".to_owned()));
    paths.push((target.to_owned(), "/belljar/target".to_owned()));
    let cargo_home = cargo_home()?;
    paths.push((cargo_home.clone(), "/cargo".to_owned()));
    // One folder for each registry or mirror; its name contains a hash of the registry's address.
    if let Ok(entries) = fs::read_dir(cargo_home.join("registry/src")) {
        let mut folders: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        folders.sort();
        paths.extend(folders.into_iter().map(|path| (path, "/cargo/registry".to_owned())));
    }
    if let Some(sources) = route.library_sources() {
        // Usually a link into /usr/src: both names occur.
        let real = sources.canonicalize().context("following the library sources' link")?;
        paths.push((sources, "/rust".to_owned()));
        paths.push((real, "/rust".to_owned()));
    }
    // A prefix of `/` alone would rewrite every path.
    paths.retain(|(path, _)| path.components().count() > 1);
    Ok(paths)
}

fn cargo_home() -> Result<PathBuf> {
    match env::var_os("CARGO_HOME").filter(|value| !value.is_empty()) {
        Some(home) => Ok(PathBuf::from(home)),
        None => Ok(env::home_dir().context("neither CARGO_HOME nor HOME is set")?.join(".cargo")),
    }
}

/// The flags in the file: one per line; `#` begins a comment line.
fn flags_of(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let lines = text.lines().map(str::trim);
    Ok(lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect())
}

/// An error if the module contains the name of a folder of this machine.
fn refuse_machine_paths(wasm: &[u8], machine: &[(PathBuf, String)]) -> Result<()> {
    for (path, _) in machine {
        // Short names such as `/root` occur in unrelated text, so a separator must follow.
        let text = format!("{}/", path.display());
        if let Some(at) = find(wasm, text.as_bytes()) {
            let end = wasm.len().min(at.saturating_add(120));
            let excerpt = String::from_utf8_lossy(wasm.get(at..end).unwrap_or_default());
            bail!(
                "the guest contains a path of this machine at byte {at}: {excerpt:?}. Add a \
                 remapping for it in xtask/src/guest.rs"
            );
        }
    }
    Ok(())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len().max(1)).position(|window| window == needle)
}

/// SHA-256 in lower-case hex.
pub(crate) fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_path_in_the_module_is_refused() {
        let machine = vec![(PathBuf::from("/home/ada"), "/home".to_owned())];
        assert!(refuse_machine_paths(b"\0asm /home/adapter", &machine).is_ok());
        let error = refuse_machine_paths(b"\0asm /home/ada/x.rs", &machine).expect_err("refused");
        assert!(error.to_string().contains("byte 5"), "{error}");
    }

    #[test]
    fn sha256_of_empty_input_is_correct() {
        assert!(hex_sha256(b"").starts_with("e3b0c44298fc1c14"));
    }
}
