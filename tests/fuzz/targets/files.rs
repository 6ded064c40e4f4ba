//! What a guest program may do with granted files, in any order: nothing outside of them is read or
//! changed.
#![no_main]
#![allow(dead_code, unreachable_pub, unused_imports)]

use libfuzzer_sys::fuzz_target;

#[path = "../../../host/src/ownership.rs"]
mod ownership;
#[path = "../../../host/src/policy/mod.rs"]
mod policy;

#[path = "../../../host/src/text.rs"]
mod text;

/// Of tensors only what the rules for values name.
mod tensor {
    pub(crate) use belljar_abi::DType;
}

#[path = "../../../host/src/confine"]
mod confine {
    mod file_size;
    pub(crate) mod layers;
    mod memory;
    /// Of filters only the words in which the ways of opening files are stated.
    mod seccomp {
        mod calls;

        pub(super) use calls::{Condition, Test, Value, long};
    }
    pub(crate) mod ways;
}

#[path = "../../../host/src/program"]
mod program {
    pub(crate) mod wasi;
}

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    program::wasi::sequences::run(bytes, &folder.path().canonicalize().expect("its path"));
});
