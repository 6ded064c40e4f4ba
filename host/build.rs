//! Finds the guest that `cargo xtask guest` built, and refuses one that is missing or stale: what
//! is embedded must be what the sources say.

use std::path::{Path, PathBuf};
use std::{env, fs};

#[path = "../guest-models/sources_digest.rs"]
mod sources_digest;

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo")).join("..");
    let folder = match env::var_os("BELLJAR_GUEST_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => root.join("target/guest"),
    };
    println!("cargo::rerun-if-env-changed=BELLJAR_GUEST_DIR");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", folder.join("onnx_runner.json").display());
    if let Err(why) = embed(&root, &folder) {
        println!("cargo::error={why}; run `cargo xtask guest`");
    }
}

fn embed(root: &Path, folder: &Path) -> Result<(), String> {
    let wasm = folder.join("onnx_runner.wasm");
    let record = folder.join("onnx_runner.json");
    let text = fs::read_to_string(&record)
        .map_err(|err| format!("the guest is not built ({}: {err})", record.display()))?;
    let record: serde_json::Value =
        serde_json::from_str(&text).map_err(|err| format!("the guest's record: {err}"))?;
    let field = |name: &str| {
        record[name].as_str().ok_or_else(|| format!("the guest's record has no `{name}`"))
    };
    let (sources, files) = sources_digest::sources_digest(&root.join("guest-models"))
        .map_err(|err| format!("the guest's sources cannot be read: {err}"))?;
    for file in files {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    if field("sources_sha256")? != sources {
        return Err("the guest was built from other sources than these".into());
    }
    let bytes = fs::read(&wasm).map_err(|err| format!("{}: {err}", wasm.display()))?;
    if field("sha256")? != sha256_hex(&bytes) {
        return Err(format!("{} is not what its record says", wasm.display()));
    }
    println!("cargo::rustc-env=BELLJAR_GUEST_WASM={}", wasm.display());
    println!("cargo::rustc-env=BELLJAR_GUEST_SHA256={}", field("sha256")?);
    println!("cargo::rustc-env=BELLJAR_GUEST_TOOLCHAIN={}", field("toolchain")?.replace('\n', "; "));
    Ok(())
}

fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
