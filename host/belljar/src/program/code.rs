//! Native code of a program, from who compiled it.
//!
//! `unsafe` is here to take bytes for such code.

use wasmtime::Engine;
use wasmtime::component::Component;

/// Makes a component of native code. Only for a confined process that has nothing but this program.
pub(super) fn load(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the bytes are what `Engine::precompile_component` made, unless the process that
    // compiled them was broken into by the program. What they do then is not bounded by WebAssembly:
    // it is native code of the program's author, as of whoever breaks out of a sandbox. The process
    // was confined for that before these bytes came, and has nothing of anybody else's. The bytes are
    // this process's own copy, which nobody changes.
    unsafe { Component::deserialize(engine, code) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::engine::engine;

    #[test]
    fn what_is_no_code_of_this_engine_is_not_loaded() {
        let ours = engine(1 << 20).unwrap();
        let code = ours.precompile_component(b"\0asm\x0d\0\x01\0").unwrap();
        load(&ours, &code).unwrap();
        // The size of the stack is no part of it.
        load(&engine(4 << 20).unwrap(), &code).unwrap();
        // Other settings are, and so is the whole of it.
        assert!(load(&Engine::default(), &code).is_err());
        for len in [0, 1, 64, code.len() / 2] {
            assert!(load(&ours, &code[..len]).is_err(), "{len} bytes");
        }
        assert!(load(&ours, b"\0asm\x0d\0\x01\0").is_err());
    }
}
