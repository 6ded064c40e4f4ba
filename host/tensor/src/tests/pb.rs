//! Tests of ONNX tensor files.

use proptest::prelude::*;

use super::super::pb::{begins_as_tensor, read};
use super::{
    AMPLE, Coded, DType, Tensor, TensorError, any_tensor, assert_malformed, assert_same, f16,
};

/// The fields of a `TensorProto`.
#[derive(Clone, Default)]
struct Proto(Vec<u8>);

impl Proto {
    fn varint(mut self, mut value: u64) -> Proto {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    fn int(self, field: u64, value: i64) -> Proto {
        self.varint(field << 3).varint(value.cast_unsigned())
    }

    fn bytes(self, field: u64, value: &[u8]) -> Proto {
        let mut proto = self.varint(field << 3 | 2).varint(value.len() as u64);
        proto.0.extend_from_slice(value);
        proto
    }

    fn ints(self, field: u64, values: &[i64]) -> Proto {
        let list = values.iter().fold(Proto::default(), |list, v| list.varint(v.cast_unsigned()));
        self.bytes(field, &list.0)
    }

    /// A tensor of this type and shape, to which more fields can be added.
    fn new(dtype: DType, shape: &[i64]) -> Proto {
        let proto = shape.iter().fold(Proto::default(), |proto, dim| proto.int(1, *dim));
        proto.int(2, dtype.to_onnx().into())
    }

    fn read(&self) -> Result<Tensor, TensorError> {
        read(self.0.as_slice(), AMPLE).map(|(_, tensor)| tensor)
    }
}

#[test]
fn every_field_of_data_is_read() {
    let tensor = Proto::new(DType::F32, &[2, 1])
        .bytes(8, b"x")
        .bytes(9, &[1f32, -2.5].map(f32::to_le_bytes).concat());
    let (name, found) = read(tensor.0.as_slice(), AMPLE).unwrap();
    assert_eq!(name, "x");
    assert_same(&found, &Tensor::new(vec![1f32, -2.5], &[2, 1]).unwrap());
    for (proto, expected) in [
        (
            Proto::new(DType::F32, &[1]).bytes(4, &1.5f32.to_le_bytes()),
            Tensor::new(vec![1.5f32], &[1]).unwrap(),
        ),
        (Proto::new(DType::F64, &[]).bytes(10, &1.5f64.to_le_bytes()), Tensor::scalar(1.5f64)),
        (
            Proto::new(DType::I64, &[2]).ints(7, &[i64::MIN, -1]),
            Tensor::new(vec![i64::MIN, -1], &[2]).unwrap(),
        ),
        (
            Proto::new(DType::I64, &[2]).int(7, 3).int(7, -4),
            Tensor::new(vec![3i64, -4], &[2]).unwrap(),
        ),
        (Proto::new(DType::U64, &[1]).ints(11, &[-1]), Tensor::new(vec![u64::MAX], &[1]).unwrap()),
        (Proto::new(DType::U32, &[]).int(11, 7), Tensor::scalar(7u32)),
        (
            Proto::new(DType::I8, &[3]).ints(5, &[-128, 0, 127]),
            Tensor::new(vec![-128i8, 0, 127], &[3]).unwrap(),
        ),
        (
            Proto::new(DType::F16, &[1]).ints(5, &[0x3c00]),
            Tensor::new(vec![f16::ONE], &[1]).unwrap(),
        ),
        (
            Proto::new(DType::Bool, &[2]).ints(5, &[1, 0]),
            Tensor::new(vec![true, false], &[2]).unwrap(),
        ),
        (
            Proto::new(DType::String, &[2]).bytes(6, "é".as_bytes()).bytes(6, b""),
            Tensor::new(vec!["é".to_owned(), String::new()], &[2]).unwrap(),
        ),
        // Two elements in a byte, the first in its low bits; the last byte is not full.
        (
            Proto::new(DType::U4, &[3]).bytes(9, &[0x21, 0xf3]),
            Tensor::new(Coded::new(DType::U4, vec![1, 2, 3]).unwrap(), &[3]).unwrap(),
        ),
        (
            Proto::new(DType::I2, &[5]).bytes(9, &[0b11_10_01_00, 0b10]),
            Tensor::new(Coded::new(DType::I2, vec![0, 1, 2, 3, 2]).unwrap(), &[5]).unwrap(),
        ),
        (
            Proto::new(DType::F8E4M3FN, &[1]).ints(5, &[0x38]),
            Tensor::new(Coded::new(DType::F8E4M3FN, vec![0x38]).unwrap(), &[1]).unwrap(),
        ),
        (Proto::new(DType::F32, &[0, 3]), Tensor::new(Vec::<f32>::new(), &[0, 3]).unwrap()),
        (
            Proto::default().ints(1, &[1, 2]).int(2, 7).bytes(12, b"doc").ints(7, &[5, 6]),
            Tensor::new(vec![5i64, 6], &[1, 2]).unwrap(),
        ),
    ] {
        assert!(begins_as_tensor(&proto.0), "{:?}", proto.0);
        assert_same(&proto.read().unwrap(), &expected);
    }
}

#[test]
fn malformed_tensors_are_refused() {
    let f32s = |shape: &[i64]| Proto::new(DType::F32, shape);
    for (proto, says) in [
        (f32s(&[2]).bytes(9, &[0; 4]), "not have the 2 elements"),
        (f32s(&[1]).bytes(9, &[0; 8]), "not have the 1 elements"),
        (f32s(&[1]).bytes(9, &[0; 4]).bytes(9, &[0; 4]), "not have the 1 elements"),
        (f32s(&[1]).bytes(4, &[0; 4]).bytes(4, &[0; 4]), "not have the 1 elements"),
        (f32s(&[1]).bytes(4, &[0; 3]), "ends within a number"),
        (f32s(&[1]), "not have the 1 elements"),
        (f32s(&[-1]), "negative"),
        (f32s(&[1]).int(7, 1), "does not hold elements of f32"),
        (Proto::new(DType::I64, &[1]).bytes(7, &[0x80]), "ends within"),
        (Proto::new(DType::I64, &[1]).bytes(7, &[0xff; 11]), "more than 64 bits"),
        (Proto::new(DType::I8, &[1]).ints(5, &[128]), "128 is out of range of i8"),
        (Proto::new(DType::Bool, &[1]).ints(5, &[2]), "2 is out of range of bool"),
        (Proto::new(DType::Bool, &[1]).bytes(9, &[2]), "not 0 or 1"),
        (Proto::new(DType::String, &[1]).bytes(6, b"\xff"), "not UTF-8"),
        (Proto::new(DType::String, &[1]).bytes(6, b"").bytes(6, b""), "not have the 1 elements"),
        (Proto::default().int(1, 1).bytes(9, &[0; 4]), "before its element type"),
        (Proto::default().int(2, 1).bytes(9, &[0; 4]).int(1, 1), "shape comes after"),
        (Proto::default().int(1, 1), "no element type"),
        (Proto::new(DType::F32, &[1]).bytes(8, &[b'n'; 5000]), "longer than"),
        (Proto(vec![0x08]), "ends within"),
        (Proto(vec![0x0b]), "wire type 3"),
        (Proto(vec![0x00, 0x01]), "number 0"),
    ] {
        assert_malformed(proto.read(), says);
    }
    for proto in [
        Proto::default().int(1, 1).int(2, 14),
        f32s(&[1]).int(14, 1),
        f32s(&[1]).bytes(13, b""),
        f32s(&[1]).bytes(3, b""),
    ] {
        assert!(matches!(proto.read(), Err(TensorError::Unsupported { .. })), "{:?}", proto.0);
    }
    let deep = f32s(&[1; 33]);
    assert!(matches!(deep.read(), Err(TensorError::Shape { .. })));
    let overflowing = f32s(&[i64::MAX, i64::MAX]).bytes(9, &[]);
    assert!(matches!(overflowing.read(), Err(TensorError::Shape { .. })));
}

#[test]
fn memory_does_not_grow_with_declared_lengths() {
    let large = Proto::new(DType::F32, &[1 << 40]).bytes(9, &[]);
    assert!(matches!(large.read(), Err(TensorError::TooLarge { .. })));
    // A length of 4 EiB without data.
    let proto = Proto::new(DType::F32, &[1]).varint(9 << 3 | 2).varint(1 << 62);
    assert!(proto.read().is_err());
    let proto = Proto::new(DType::String, &[1]).varint(6 << 3 | 2).varint(1 << 62);
    assert!(matches!(proto.read(), Err(TensorError::TooLarge { .. })));
    let exact = Proto::new(DType::F32, &[2]).bytes(9, &[0; 8]);
    assert!(read(exact.0.as_slice(), 8).is_ok());
    assert!(matches!(read(exact.0.as_slice(), 7), Err(TensorError::TooLarge { limit: 7, .. })));
    let endless = std::io::Read::chain(exact.0.as_slice(), std::io::repeat(0x60));
    assert!(matches!(read(endless, 100), Err(TensorError::TooLarge { .. })));
}

#[test]
fn text_is_not_mistaken_for_a_tensor() {
    for text in ["[1]", "\n[1]", "\r\n{", "\n\n1", "", "\n", "1,2", "\u{feff}[1]", "\n\t[[1, 2]]"] {
        assert!(!begins_as_tensor(text.as_bytes()), "{text:?}");
    }
}

proptest! {
    #[test]
    fn raw_data_of_every_type_is_read(tensor in any_tensor()) {
        let shape: Vec<i64> = tensor.shape().iter().map(|dim| *dim as i64).collect();
        let bits = belljar_abi::codes::bits(tensor.dtype());
        if tensor.dtype() != DType::String && !matches!(bits, Some(2 | 4)) {
            let proto = Proto::new(tensor.dtype(), &shape).bytes(9, &tensor.to_wire());
            assert_same(&proto.read().expect("our own"), &tensor);
        }
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(
        start in prop::sample::select(vec![
            b"\x08\x02\x10\x01".to_vec(),
            b"\x10\x07".to_vec(),
            b"\x0a\x01\x03\x10\x08".to_vec(),
            Vec::new(),
        ]),
        bytes in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let all = [start, bytes].concat();
        let _ = read(all.as_slice(), 1000);
        let _ = begins_as_tensor(&all);
    }
}
