//! The guest's decoders: input shapes, tensors, and image files with the tensors made from them.
#![no_main]
#![allow(dead_code)]

use belljar_abi::picture::decode_picture;
use belljar_abi::{
    decode_run, decode_shapes, decode_tensors, encode_run, encode_shapes, encode_tensors,
};
use libfuzzer_sys::fuzz_target;

#[path = "../../../guest-models/onnx-runner/src/picture/mod.rs"]
mod picture;

/// Maximum bytes of pixels: enough to reach all code, and few enough for many executions.
const ROOM: u64 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(shapes) = decode_shapes(bytes) {
        assert_eq!(encode_shapes(&shapes.shapes, &shapes.open, &shapes.fixed), bytes);
    }
    if let Ok(views) = decode_tensors(bytes) {
        assert_eq!(encode_tensors(&views), bytes);
    }
    if let Ok(run) = decode_run(bytes) {
        assert_eq!(encode_run(run.seed, &run.inputs), bytes);
    }
    if let Ok((mut options, file)) = decode_picture(bytes) {
        let mut again = options.start_message();
        again.extend_from_slice(file);
        assert_eq!(again, bytes);
        options.room = options.room.min(ROOM);
        let mut message = options.start_message();
        message.extend_from_slice(file);
        if let Ok(answer) = picture::picture(&message) {
            let views = decode_tensors(&answer).expect("the answer is a message");
            assert!(views.len() == 1 && views[0].dtype == options.dtype);
            assert!(views[0].data.len() as u64 <= ROOM);
        }
    }
});
