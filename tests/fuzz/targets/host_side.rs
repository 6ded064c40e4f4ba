//! The host's decoder of a guest's answers.
#![no_main]

use belljar_abi::codes::are_codes;
use belljar_abi::{
    DType, Reply, TensorView, ValueType, decode_reply, element_count, encode_error, encode_tensors,
};
use belljar_tensor::{Tensor, Value};
use libfuzzer_sys::fuzz_target;

/// Puts the first tensors together as a value of each type. A value that is accepted crosses as the
/// same value again.
fn values(views: &[TensorView<'_>]) {
    let tensors = views.iter().take(3).map(|view| Tensor::from_view(view).ok());
    let Some(tensors) = tensors.collect::<Option<Vec<Tensor>>>() else { return };
    let Some(first) = tensors.first().map(Tensor::dtype) else { return };
    let second = tensors.get(1).map_or(first, Tensor::dtype);
    for declared in [
        ValueType::Sequence(first),
        ValueType::OptionalTensor(first),
        ValueType::OptionalSequence(first),
        ValueType::Map(first, second),
        ValueType::SequenceOfMaps(first, second),
    ] {
        let Ok(value) = Value::from_parts(declared, tensors.clone()) else { continue };
        let Ok(parts) = value.to_parts(declared) else { continue };
        let parts = parts.into_iter().map(|(_, part)| part.into_owned()).collect();
        if !matches!(declared, ValueType::OptionalTensor(_) | ValueType::OptionalSequence(_)) {
            let again = Value::from_parts(declared, parts).expect("it crossed before");
            // NaN is not equal to itself.
            assert_eq!(format!("{value:?}"), format!("{again:?}"));
        }
    }
}

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
            values(&views);
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
