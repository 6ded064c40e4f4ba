//! Tests of tensor files: what must be read, and what must be refused in every disguise.

mod csv;
mod json;
mod npy;
mod npz;
mod pb;
mod summary;
mod value;

use proptest::prelude::*;

use super::{Coded, DType, Data, Tensor, TensorError, bf16, f16};

/// A limit that is large enough for all tests that are not about limits.
const AMPLE: u64 = 1 << 20;

#[track_caller]
fn assert_malformed<T: std::fmt::Debug>(result: Result<T, TensorError>, says: &str) {
    match result {
        Err(TensorError::Malformed { why, .. }) if why.contains(says) => {}
        other => panic!("expected a refusal that says {says:?}, got {other:?}"),
    }
}

/// Any tensor of up to three dimensions. Its strings can be stored in every format.
fn any_tensor() -> impl Strategy<Value = Tensor> {
    let shape = prop::collection::vec(0usize..4, 0..4);
    (shape, 0..DType::ALL.len()).prop_flat_map(|(shape, dtype)| {
        let count: usize = shape.iter().product();
        any_data(DType::ALL[dtype], count)
            .prop_map(move |data| Tensor::new(data, &shape).expect("count matches"))
    })
}

fn any_data(dtype: DType, count: usize) -> BoxedStrategy<Data> {
    fn many<T: std::fmt::Debug + 'static>(
        element: impl Strategy<Value = T> + 'static,
        count: usize,
    ) -> BoxedStrategy<Data>
    where
        Data: From<Vec<T>>,
    {
        prop::collection::vec(element, count).prop_map(Data::from).boxed()
    }
    match dtype {
        DType::F16 => many(any::<u16>().prop_map(f16::from_bits), count),
        DType::F32 => many(any::<u32>().prop_map(f32::from_bits), count),
        DType::F64 => many(any::<u64>().prop_map(f64::from_bits), count),
        DType::I8 => many(any::<i8>(), count),
        DType::I16 => many(any::<i16>(), count),
        DType::I32 => many(any::<i32>(), count),
        DType::I64 => many(any::<i64>(), count),
        DType::U8 => many(any::<u8>(), count),
        DType::U16 => many(any::<u16>(), count),
        DType::U32 => many(any::<u32>(), count),
        DType::U64 => many(any::<u64>(), count),
        DType::Bool => many(any::<bool>(), count),
        DType::BF16 => many(any::<u16>().prop_map(bf16::from_bits), count),
        DType::String => many("[^\0]{0,6}", count),
        _ => {
            let bits = belljar_abi::codes::bits(dtype).expect("a small type");
            let code = any::<u8>().prop_map(move |code| code >> (8 - bits));
            let codes = prop::collection::vec(code, count);
            codes.prop_map(move |codes| Coded::new(dtype, codes).expect("codes").into()).boxed()
        }
    }
}

/// A tensor with a single NaN pattern: most formats store only one.
fn with_one_nan(tensor: &Tensor) -> Tensor {
    let mut tensor = tensor.clone();
    match &mut tensor.data {
        Data::F16(values) => values.iter_mut().filter(|v| v.is_nan()).for_each(|v| *v = f16::NAN),
        Data::F32(values) => values.iter_mut().filter(|v| v.is_nan()).for_each(|v| *v = f32::NAN),
        Data::F64(values) => values.iter_mut().filter(|v| v.is_nan()).for_each(|v| *v = f64::NAN),
        Data::BF16(values) => {
            values.iter_mut().filter(|v| v.is_nan()).for_each(|v| *v = bf16::NAN);
        }
        Data::Coded(coded) => {
            let mut nan = Coded::new(coded.dtype(), Vec::new()).expect("a small type");
            if nan.push(f64::NAN).is_ok() {
                let places: Vec<bool> = coded.values().map(f64::is_nan).collect();
                let codes = coded.codes_mut().iter_mut().zip(places);
                codes.filter(|(_, nan)| *nan).for_each(|(code, _)| *code = nan.codes()[0]);
            }
        }
        _ => {}
    }
    tensor
}

/// Compares every bit, unlike `==`, for which NaN differs from itself and both zeros are equal.
#[track_caller]
fn assert_same(left: &Tensor, right: &Tensor) {
    assert_eq!(left.shape(), right.shape());
    assert_eq!(left.dtype(), right.dtype());
    assert_eq!(left.to_wire(), right.to_wire());
}

#[test]
fn tensor_must_have_the_elements_its_shape_requires() {
    assert!(matches!(Tensor::new(vec![1u8; 5], &[2, 3]), Err(TensorError::Count { .. })));
    assert!(matches!(Tensor::new(vec![1u8], &[0]), Err(TensorError::Count { .. })));
    assert!(matches!(Tensor::new(vec![1u8], &[1; 33]), Err(TensorError::Shape { .. })));
    let overflowing = Tensor::new(vec![1u8], &[usize::MAX, 2]);
    assert!(matches!(overflowing, Err(TensorError::Shape { .. })));
    assert!(Tensor::new(Vec::<u8>::new(), &[usize::MAX, 2, 0]).is_ok());
    assert_eq!(Tensor::scalar(7i64).shape(), [0usize; 0]);
    assert_eq!(Tensor::scalar(7i64).as_slice::<i64>(), Some([7].as_slice()));
    assert_eq!(Tensor::scalar(7i64).as_slice::<i32>(), None);
}

proptest! {
    #[test]
    fn tensors_round_trip_through_the_wire_format(tensor in any_tensor()) {
        let wire = tensor.to_wire();
        prop_assert_eq!(wire.len() as u64, tensor.byte_len());
        let message = belljar_abi::encode_tensors(&[tensor.view("x", &wire)]);
        let views = belljar_abi::decode_tensors(&message).expect("our own message");
        assert_same(&Tensor::from_view(&views[0]).expect("our own view"), &tensor);
    }
}

#[test]
fn small_types_decode_to_the_value_of_their_code() {
    let coded = Coded::new(DType::F8E5M2, vec![0x3c, 0xfc, 0x7e, 0x80]).unwrap();
    let values: Vec<f64> = coded.values().collect();
    assert!(values[0] == 1.0 && values[1] == f64::NEG_INFINITY && values[2].is_nan());
    assert!(values[3] == 0.0 && values[3].is_sign_negative());
    assert_eq!(
        Coded::new(DType::I4, vec![15, 8]).unwrap().values().collect::<Vec<_>>(),
        [-1., -8.]
    );
    for (dtype, codes) in
        [(DType::U4, vec![16]), (DType::I2, vec![4]), (DType::F32, vec![]), (DType::BF16, vec![])]
    {
        assert!(Coded::new(dtype, codes).is_none(), "{dtype}");
    }
    // Each is the code of the minimum, which hides elements under a rule.
    for (dtype, least) in [
        (DType::I4, 8),
        (DType::U2, 0),
        (DType::F8E4M3FN, 0xfe),
        (DType::F8E5M2, 0xfc),
        (DType::F8E8M0, 0),
        (DType::F4E2M1, 15),
    ] {
        assert_eq!(Coded::new(dtype, Vec::new()).unwrap().least(), least, "{dtype}");
    }
}
