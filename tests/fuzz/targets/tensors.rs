//! The parsers of tensor files: .npy, .npz, JSON, CSV and .pb. A tensor that was read can be
//! written, and reads back the same.
#![no_main]

use std::io::Cursor;

use belljar_abi::ValueType;
use belljar_tensor::{
    DType, Tensor, TensorError, Value, arrays_of, csv, json, npy, npz, pb, summary, take_value,
};
use libfuzzer_sys::fuzz_target;

const LIMIT: u64 = 1 << 20;

/// Checks that a message is short.
fn harmless(error: &TensorError) {
    assert!(error.to_string().len() < 10_000);
}

fn sound(tensor: &Tensor) {
    assert!(tensor.byte_len() <= LIMIT + 64);
    let dims: Vec<u64> = tensor.shape().iter().map(|dim| *dim as u64).collect();
    assert_eq!(Some(tensor.len() as u64), belljar_abi::element_count(&dims));
    let _ = summary::Summary::of(tensor, 3);
}

/// Values of all types from JSON, and in the arrays of an archive and back.
fn values(bytes: &[u8], dtype: DType) {
    let key = if bytes.len() % 2 == 0 { DType::I64 } else { DType::String };
    let map = ValueType::map(key, dtype);
    let maps = map.map(|_| ValueType::SequenceOfMaps(key, dtype));
    let sequences = [ValueType::Sequence(dtype), ValueType::OptionalSequence(dtype)];
    for declared in sequences.into_iter().chain(map).chain(maps) {
        let value = match json::read_one_value(bytes, (declared, None), LIMIT) {
            Ok(value) => value,
            Err(error) => {
                harmless(&error);
                continue;
            }
        };
        let arrays = arrays_of("v", &value).into_iter();
        let mut arrays = arrays.map(|(name, tensor)| (name, tensor.into_owned())).collect();
        let again = take_value("v", declared, &mut arrays).expect("it was written so");
        // NaN is not equal to itself.
        assert_eq!(format!("{:?}", again.unwrap_or(Value::Absent)), format!("{value:?}"));
    }
}

fuzz_target!(|bytes: &[u8]| {
    let (Some(which), Some(bytes)) = (bytes.first(), bytes.get(1..)) else { return };
    let dtype = DType::ALL.get(usize::from(which % 128 / 4)).copied();
    match which % 4 {
        0 | 1 => match npy::read_as(bytes, dtype, LIMIT) {
            Ok(tensor) => {
                sound(&tensor);
                let mut written = Vec::new();
                npy::write(&tensor, &mut written).expect("it can be written");
                let again = npy::read_as(&*written, Some(tensor.dtype()), LIMIT);
                let mut twice = Vec::new();
                npy::write(&again.expect("it can be read"), &mut twice).expect("written");
                assert_eq!(written, twice);
            }
            Err(error) => harmless(&error),
        },
        2 if *which >= 128 => match pb::read(bytes, LIMIT) {
            Ok((_, tensor)) => sound(&tensor),
            Err(error) => harmless(&error),
        },
        3 if *which >= 128 => match csv::read_one(bytes, dtype, None, LIMIT) {
            Ok(tensor) => sound(&tensor),
            Err(error) => harmless(&error),
        },
        2 => match npz::read(Cursor::new(bytes), LIMIT) {
            Ok(tensors) => tensors.iter().for_each(|(_, tensor)| sound(tensor)),
            Err(error) => harmless(&error),
        },
        _ => {
            match json::read_one(bytes, dtype, LIMIT) {
                Ok(tensor) => sound(&tensor),
                Err(error) => harmless(&error),
            }
            values(bytes, dtype.unwrap_or(DType::F32));
        }
    }
});
