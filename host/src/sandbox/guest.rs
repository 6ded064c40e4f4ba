//! The embedded `onnx-runner` guest.

use serde::Serialize;

/// The WebAssembly module, as `cargo xtask guest` built it from the sources in this repository.
pub(super) static WASM: &[u8] = include_bytes!(env!("BELLJAR_GUEST_WASM"));

/// Which guest this build embeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct GuestInfo {
    /// SHA-256 of the WebAssembly module, in hexadecimal.
    pub sha256: &'static str,
    /// Size of the module in bytes.
    pub bytes: usize,
    /// The compiler that built it. The same sources and compiler give the same digest.
    pub toolchain: &'static str,
    /// Version of the interface between host and guest.
    pub abi_version: u32,
}

impl GuestInfo {
    /// The guest of this build.
    pub fn embedded() -> GuestInfo {
        GuestInfo {
            sha256: env!("BELLJAR_GUEST_SHA256"),
            bytes: WASM.len(),
            toolchain: env!("BELLJAR_GUEST_TOOLCHAIN"),
            abi_version: belljar_abi::ABI_VERSION,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Engines, Variant};

    #[test]
    fn the_guest_imports_nothing_but_the_log() {
        let engine = Engines::new_engine(Variant::default(), 1 << 20).unwrap();
        let module = wasmtime::Module::validate(&engine, WASM);
        module.expect("the embedded guest is valid under the features that are on");
        let mut imports = Vec::new();
        for payload in wasmparser::Parser::new(0).parse_all(WASM) {
            if let wasmparser::Payload::ImportSection(section) = payload.unwrap() {
                for import in section.into_imports() {
                    let import = import.unwrap();
                    imports.push(format!("{}.{}", import.module, import.name));
                }
            }
        }
        assert_eq!(imports, ["belljar.log"]);
    }

    #[test]
    fn the_recorded_digest_is_that_of_the_bytes() {
        assert_eq!(crate::trust::Digest::of(WASM).to_string(), GuestInfo::embedded().sha256);
    }
}
