//! Loads the native code of a program.
//!
//! `unsafe` is needed to treat bytes as compiled code.

use wasmtime::Engine;
use wasmtime::component::Component;

/// Loads a component from native code. Only for a confined process that holds only this program.
pub(super) fn load(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the bytes were made by `Engine::precompile_component`, unless the program compromised
    // the process that compiled it. In that case WebAssembly does not bound what they do: they are
    // native code of the program's author, as after an escape from a sandbox. This process was
    // confined before it received these bytes, and holds no data of other programs. The bytes are
    // this process's own copy, which is not changed.
    unsafe { Component::deserialize(engine, code) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::engine::engine;

    #[test]
    fn code_of_another_engine_or_truncated_code_is_rejected() {
        let ours = engine(1 << 20).unwrap();
        let code = ours.precompile_component(b"\0asm\x0d\0\x01\0").unwrap();
        load(&ours, &code).unwrap();
        // The stack size is not part of compiled code.
        load(&engine(4 << 20).unwrap(), &code).unwrap();
        // Other settings are, and truncated code is rejected.
        assert!(load(&Engine::default(), &code).is_err());
        for len in [0, 1, 64, code.len() / 2] {
            assert!(load(&ours, &code[..len]).is_err(), "{len} bytes");
        }
        assert!(load(&ours, b"\0asm\x0d\0\x01\0").is_err());
    }
}
