//! Operations of a guest program on granted files, in any order, must read and change nothing
//! outside of them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().canonicalize().expect("its path");
    belljar::internals::run_file_operations(bytes, &path);
});
