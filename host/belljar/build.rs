//! Finds the guest that `cargo xtask guest` built, and refuses one that is missing or stale: what
//! is embedded must be what the sources say.

use std::path::{Path, PathBuf};
use std::{env, fs};

#[path = "../../guest-models/sources_digest.rs"]
mod sources_digest;

fn main() {
    let root =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo")).join("../..");
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
    let record: serde_json::Value = serde_json::from_str(&text)
        .map_err(|err| format!("cannot parse {}: {err}", record.display()))?;
    let field = |name: &str| {
        record[name].as_str().ok_or_else(|| format!("the guest's record has no `{name}`"))
    };
    let (sources, files) = sources_digest::sources_digest(&root.join("guest-models"))
        .map_err(|err| format!("cannot read the guest's sources: {err}"))?;
    for file in files {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    if field("sources_sha256")? != sources {
        return Err("the guest was built from different sources".into());
    }
    let bytes = fs::read(&wasm).map_err(|err| format!("{}: {err}", wasm.display()))?;
    if field("sha256")? != sha256_hex(&bytes) {
        return Err(format!("the SHA-256 of {} differs from its record", wasm.display()));
    }
    let (code, data) = split(&bytes)?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set; build with cargo")?);
    for (name, bytes) in [("guest_code.wasm", code), ("guest_data.bin", data)] {
        fs::write(out.join(name), bytes).map_err(|err| format!("{name}: {err}"))?;
    }
    println!("cargo::rustc-env=BELLJAR_GUEST_WASM={}", wasm.display());
    println!("cargo::rustc-env=BELLJAR_GUEST_BYTES={}", bytes.len());
    println!("cargo::rustc-env=BELLJAR_GUEST_SHA256={}", field("sha256")?);
    println!(
        "cargo::rustc-env=BELLJAR_GUEST_TOOLCHAIN={}",
        field("toolchain")?.replace('\n', "; ")
    );
    Ok(())
}

/// Takes the active data segments out of the module: what is left is compiled, and the segments
/// are written into memory before the first call only. An instance that starts from the memory of
/// another must not have it overwritten. The segments are packed as address, length (both `u32`,
/// little-endian) and bytes.
fn split(module: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
    const DATA: u8 = 11;
    const DATA_COUNT: u8 = 12;
    const HEADER: usize = 8;
    let mut code = module.get(..HEADER).ok_or("the guest is not a WebAssembly module")?.to_vec();
    let mut data = Vec::new();
    let mut reader = Bytes(module.get(HEADER..).unwrap_or_default());
    while !reader.0.is_empty() {
        let before = reader.0;
        let section = reader.byte()?;
        let len = reader.leb()?;
        let mut body = Bytes(reader.take(len)?);
        if section != DATA && section != DATA_COUNT {
            code.extend_from_slice(&before[..before.len() - reader.0.len()]);
        } else if section == DATA {
            for _ in 0..body.leb()? {
                // Kind 0: active, in memory 0, at the address an `i32.const` gives.
                let (kind, opcode) = (body.leb()?, body.byte()?);
                if (kind, opcode) != (0, 0x41) {
                    return Err(
                        "the guest has a data segment that is not at a fixed address".into()
                    );
                }
                let address = body.leb()?;
                body.byte()?; // The end of the expression.
                let len = body.leb()?;
                data.extend_from_slice(&(address as u32).to_le_bytes());
                data.extend_from_slice(&(len as u32).to_le_bytes());
                data.extend_from_slice(body.take(len)?);
            }
        }
    }
    Ok((code, data))
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (taken, rest) =
            self.0.split_at_checked(len).ok_or("the guest's module ends within a section")?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    /// An unsigned number in LEB128. A signed one is read right too as long as it is not negative
    /// and its last byte says so, which addresses below 2 GiB do.
    fn leb(&mut self) -> Result<usize, String> {
        let mut value = 0;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("the guest's module contains a number of more than 35 bits".into())
    }
}

fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
