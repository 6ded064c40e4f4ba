//! The clock of the profiling variant. `cargo xtask guest` takes this import out of the guest that
//! answers requests (`belljar_abi::clock`): there, every reading is zero.
//!
//! It is a crate of its own because of the order in which the linker writes imports: those of crates
//! come after those of the module itself, and the clock has to be the last one.

use belljar_abi::clock::Reading;

#[link(wasm_import_module = "belljar")]
unsafe extern "C" {
    /// Writes a reading at an address. Traps if that is not in this sandbox.
    fn clock(reading: *mut [u8; Reading::LEN]);
}

/// What the clock shows now.
// Code that is inlined into the module itself would take the import along.
#[inline(never)]
pub fn read() -> Reading {
    let mut bytes = [0; Reading::LEN];
    // SAFETY: the address of live memory of this length, which the host fills, if it does anything.
    unsafe { clock(&mut bytes) };
    Reading::decode(&bytes)
}
