//! The clock of the profiling variant. `cargo xtask guest` removes this import from the guest that
//! serves requests (`belljar_abi::clock`); there, every reading is zero.
//!
//! This is a separate crate because of the order in which the linker writes imports: those of other
//! crates come after those of the module itself, and the clock must be the last one.

use belljar_abi::clock::Reading;

#[link(wasm_import_module = "belljar")]
unsafe extern "C" {
    /// Writes a reading to an address. Traps if it is outside of this sandbox.
    fn clock(reading: *mut [u8; Reading::LEN]);
}

/// Reads the clock.
// Inlining would move the import into the module itself.
#[inline(never)]
pub fn read() -> Reading {
    let mut bytes = [0; Reading::LEN];
    // SAFETY: the address of live memory of this length, which the host fills or leaves as it is.
    unsafe { clock(&mut bytes) };
    Reading::decode(&bytes)
}
