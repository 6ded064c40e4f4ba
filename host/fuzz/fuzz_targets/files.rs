//! What a guest program may do with granted files, in any order: nothing outside of them is read or
//! changed. `cargo +nightly fuzz run files`, in `host`.
#![no_main]
#![allow(dead_code, unreachable_pub, unused_imports)]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/policy/mod.rs"]
mod policy;

#[path = "../../src/text.rs"]
mod text;

#[path = "../../src/confine"]
mod confine {
    pub(crate) mod layers;
}

#[path = "../../src/program"]
mod program {
    pub(crate) mod wasi;
}

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    program::wasi::sequences::run(bytes, &folder.path().canonicalize().expect("its path"));
});
