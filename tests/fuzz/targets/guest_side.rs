//! What the guest decodes: input shapes and tensors.
#![no_main]

use belljar_abi::{decode_shapes, decode_tensors, encode_shapes, encode_tensors};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((shapes, fixed)) = decode_shapes(bytes) {
        assert_eq!(encode_shapes(&shapes, &fixed), bytes);
    }
    if let Ok(views) = decode_tensors(bytes) {
        assert_eq!(encode_tensors(&views), bytes);
    }
});
