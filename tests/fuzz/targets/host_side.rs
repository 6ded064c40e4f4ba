//! The host's decoder of a guest's answers.
#![no_main]

use belljar_abi::codes::are_codes;
use belljar_abi::{DType, Reply, decode_reply, element_count, encode_error, encode_tensors};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // An accepted message has only one encoding: encoded again, it is the same.
    match decode_reply(bytes) {
        Ok(Reply::Tensors(views)) => {
            for view in &views {
                let count = element_count(&view.dims).expect("an accepted shape can be counted");
                match view.dtype.size() {
                    Some(size) => assert_eq!(view.data.len() as u64, count * size as u64),
                    None => assert_eq!(view.strings().count() as u64, count),
                }
                assert!(view.dtype != DType::Bool || view.data.iter().all(|byte| *byte <= 1));
                assert!(are_codes(view.dtype, view.data));
            }
            assert_eq!(encode_tensors(&views), bytes);
        }
        Ok(Reply::Error(error)) => assert_eq!(encode_error(error.code, &error.text), bytes),
        Ok(Reply::Description(description)) => {
            let again = description.encode();
            assert!(matches!(decode_reply(&again), Ok(Reply::Description(d)) if d == description));
        }
        Ok(Reply::Prepared(preparation)) => assert_eq!(preparation.encode(), bytes),
        Ok(Reply::Profile(profile)) => assert_eq!(profile.encode(), bytes),
        Ok(_) | Err(_) => {}
    }
});
