//! The embedded `onnx-runner` guest.

use std::borrow::Cow;

use belljar_abi::clock::{self, NotChanged};
use serde::{Deserialize, Serialize};

/// The WebAssembly module without its data segments, as `cargo xtask guest` built it from the
/// sources in this repository. This is what is compiled.
pub(super) static CODE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest_code.wasm"));

/// The data segments, each an address and a length (`u32`, little-endian) and its bytes.
static DATA: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest_data.bin"));

/// The two modules that a worker can have as its guest. They differ in one import.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum GuestKind {
    /// Serves requests. It has no clock.
    Serving,
    /// Has a clock, and accepts only profiled runs.
    Profiling,
}

impl GuestKind {
    /// The module to compile.
    pub(super) fn code(self) -> Result<Cow<'static, [u8]>, NotChanged> {
        match self {
            GuestKind::Serving => Ok(Cow::Borrowed(CODE)),
            GuestKind::Profiling => clock::restore(CODE).map(Cow::Owned),
        }
    }
}

/// The addresses and bytes of the guest's data segments.
pub(super) fn data_segments() -> impl Iterator<Item = (usize, &'static [u8])> {
    let mut rest = DATA;
    std::iter::from_fn(move || {
        let (header, after) = rest.split_at_checked(8)?;
        let number = |at: usize| {
            let bytes = header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, |bytes| u32::from_le_bytes(bytes) as usize)
        };
        let (bytes, after) = after.split_at_checked(number(4))?;
        rest = after;
        Some((number(0), bytes))
    })
}

/// The guest that this build embeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct GuestInfo {
    /// SHA-256 of the WebAssembly module, in hexadecimal.
    pub sha256: &'static str,
    /// Size of the module in bytes.
    pub bytes: usize,
    /// The compiler that built it. The same sources and compiler produce the same digest.
    pub toolchain: &'static str,
    /// Version of the interface between host and guest.
    pub abi_version: u32,
}

impl GuestInfo {
    /// The guest of this build.
    pub fn embedded() -> GuestInfo {
        GuestInfo {
            sha256: env!("BELLJAR_GUEST_SHA256"),
            bytes: env!("BELLJAR_GUEST_BYTES").parse().unwrap_or(0),
            toolchain: env!("BELLJAR_GUEST_TOOLCHAIN"),
            abi_version: belljar_abi::ABI_VERSION,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Engines, Variant};

    static WHOLE: &[u8] = include_bytes!(env!("BELLJAR_GUEST_WASM"));

    fn payloads(module: &[u8]) -> impl Iterator<Item = wasmparser::Payload<'_>> {
        wasmparser::Parser::new(0).parse_all(module).map(Result::unwrap)
    }

    /// In the module's order.
    fn imports(module: &[u8]) -> Vec<String> {
        let mut imports = Vec::new();
        for payload in payloads(module) {
            if let wasmparser::Payload::ImportSection(section) = payload {
                for import in section.into_imports() {
                    let import = import.unwrap();
                    imports.push(format!("{}.{}", import.module, import.name));
                }
            }
        }
        imports
    }

    #[test]
    fn the_guest_imports_only_the_log_and_the_kernels() {
        let engine = Engines::new_engine(Variant::default(), 1 << 20).unwrap();
        for module in [WHOLE, CODE] {
            wasmtime::Module::validate(&engine, module).unwrap();
            let mut imports = imports(module);
            imports.sort();
            assert_eq!(imports, ["belljar.compute", "belljar.log", "belljar.matmul_f32"]);
        }
    }

    #[test]
    fn the_profiling_variant_differs_from_the_guest_only_in_the_clock() {
        let engine = Engines::new_engine(Variant::default(), 1 << 20).unwrap();
        let profiling = GuestKind::Profiling.code().unwrap();
        wasmtime::Module::validate(&engine, &profiling).unwrap();
        let with_clock = [imports(CODE), vec!["belljar.clock".to_owned()]].concat();
        assert_eq!(imports(&profiling), with_clock);
        assert_eq!(clock::remove(&profiling).unwrap(), CODE);
        assert_eq!(GuestKind::Serving.code().unwrap(), CODE);
    }

    #[test]
    fn the_recorded_digest_and_size_match_the_module() {
        let info = GuestInfo::embedded();
        assert_eq!(crate::trust::Digest::of(WHOLE).to_string(), info.sha256);
        assert_eq!(WHOLE.len(), info.bytes);
    }

    #[test]
    fn code_and_data_segments_together_match_the_module() {
        assert!(payloads(CODE).all(|p| !matches!(p, wasmparser::Payload::DataSection(_))));
        let mut expected = Vec::new();
        for payload in payloads(WHOLE) {
            if let wasmparser::Payload::DataSection(section) = payload {
                for data in section {
                    let data = data.unwrap();
                    let wasmparser::DataKind::Active { memory_index: 0, offset_expr } = data.kind
                    else {
                        panic!("the segment is not active")
                    };
                    let mut operators = offset_expr.get_operators_reader();
                    let Ok(wasmparser::Operator::I32Const { value }) = operators.read() else {
                        panic!("the address is not constant")
                    };
                    expected.push((value as usize, data.data));
                }
            }
        }
        assert!(expected.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() > 100_000);
        assert_eq!(data_segments().collect::<Vec<_>>(), expected);
    }
}
