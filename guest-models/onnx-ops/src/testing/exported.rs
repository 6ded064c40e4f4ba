//! Tests in a module for WebAssembly, which has no harness, no output and no randomness.

use std::sync::Mutex;

/// Why the test failed.
static FAILURE: Mutex<String> = Mutex::new(String::new());

/// Runs a test. If it fails, it traps, and the reason can be read.
pub(crate) fn run_exported(test: fn()) {
    std::panic::set_hook(Box::new(|panic| {
        *FAILURE.lock().unwrap() = panic.to_string();
    }));
    test();
}

/// The address of the reason in the lower half, and its length in the upper half.
#[unsafe(no_mangle)]
extern "C" fn failure() -> u64 {
    let failure = FAILURE.lock().unwrap();
    (failure.len() as u64) << 32 | failure.as_ptr() as u64
}

/// tract's random operators, which no model can use, are linked anyway.
#[unsafe(no_mangle)]
unsafe extern "Rust" fn __getrandom_v03_custom(
    _: *mut u8,
    _: usize,
) -> Result<(), getrandom::Error> {
    Err(getrandom::Error::UNSUPPORTED)
}
