//! The wasmtime engine of guest programs, which accepts components of ordinary toolchains. In
//! addition to the proposals of the sandboxed runner, only the component model and extended
//! constant expressions are enabled.

use wasmtime::{Config, Engine, OptLevel, RegallocAlgorithm, WasmFeatures};

/// The first bytes of a component; a core module has a different version.
const COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";

/// Whether these first bytes of a file are those of a component.
pub fn is_component(start: &[u8]) -> bool {
    start.starts_with(&COMPONENT)
}

/// The features that compilers use for programs by default.
const NEEDED: WasmFeatures = WasmFeatures::WASM1
    .difference(WasmFeatures::GC_TYPES)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::CALL_INDIRECT_OVERLONG)
    // Extended constant expressions: the linker of interpreters needs them.
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::COMPONENT_MODEL);

/// The engine that compiles and runs programs, with `stack` bytes for their code. The stack size is
/// not part of compiled code.
pub(super) fn engine(stack: u64) -> wasmtime::Result<Engine> {
    let stack = usize::try_from(stack)?;
    let mut config = Config::new();
    config.wasm_features(WasmFeatures::all(), false);
    config.wasm_features(NEEDED, true);
    config.shared_memory(false);
    config.cranelift_opt_level(OptLevel::Speed);
    config.cranelift_regalloc_algorithm(RegallocAlgorithm::Backtracking);
    // Lets the epoch end a program that exceeds its time, so that its printed lines are not lost.
    config.epoch_interruption(true);
    // A copy-on-write memory image would be a file, which the confined process cannot create.
    config.memory_init_cow(false);
    config.max_wasm_stack(stack);
    config.async_stack_size(stack + (1 << 20));
    config.wasm_backtrace_max_frames(None);
    config.generate_address_map(false);
    config.native_unwind_info(false);
    Engine::new(&config)
}

#[cfg(test)]
mod tests {
    use wasmtime::component::Component;

    use super::*;

    /// A component around one core module of these sections.
    fn component(sections: &[u8]) -> Vec<u8> {
        let module = [b"\0asm\x01\0\0\0", sections].concat();
        let len = u8::try_from(module.len()).unwrap();
        assert!(len < 128);
        [&COMPONENT[..], &[1, len], &module].concat()
    }

    #[test]
    fn unneeded_webassembly_proposals_are_rejected() {
        let cases: [(&str, &[u8]); 11] = [
            ("an empty module, as a check of this test", &[]),
            (
                "a global that begins as a sum, which programs in Python have",
                &[6, 9, 1, 0x7f, 0, 0x41, 1, 0x41, 2, 0x6a, 0x0b],
            ),
            ("gc: a struct type", &[1, 3, 1, 0x5f, 0]),
            ("exceptions: a tag", &[1, 4, 1, 0x60, 0, 0, 13, 3, 1, 0, 0]),
            ("threads: a shared memory", &[5, 4, 1, 3, 1, 1]),
            ("multi-memory: two memories", &[5, 5, 2, 0, 1, 0, 1]),
            ("memory64: a 64-bit memory", &[5, 3, 1, 4, 1]),
            (
                "function references: a parameter of a typed reference",
                &[1, 9, 2, 0x60, 0, 0, 0x60, 1, 0x64, 0, 0],
            ),
            (
                "tail calls: a function that returns a call of itself",
                &[1, 4, 1, 0x60, 0, 0, 3, 2, 1, 0, 10, 6, 1, 4, 0, 0x12, 0, 0x0b],
            ),
            ("custom page sizes: pages of one byte", &[5, 4, 1, 8, 0, 0]),
            (
                "relaxed SIMD, whose results differ between machines: relaxed_swizzle",
                &[
                    1, 7, 1, 0x60, 2, 0x7b, 0x7b, 1, 0x7b, 3, 2, 1, 0, 10, 11, 1, 9, 0, 0x20, 0,
                    0x20, 1, 0xfd, 0x80, 0x02, 0x0b,
                ],
            ),
        ];
        let engine = engine(1 << 20).unwrap();
        for (number, (what, sections)) in cases.iter().enumerate() {
            let verdict = Component::new(&engine, component(sections)).map(drop);
            assert_eq!(verdict.is_ok(), number < 2, "{what}: {verdict:?}");
        }
    }

    #[test]
    fn components_and_modules_are_distinguished_by_their_first_bytes() {
        assert!(is_component(&component(&[])));
        assert!(!is_component(b"\0asm\x01\0\0\0"));
        assert!(!is_component(b"\0asm\x0d\0"));
    }
}
