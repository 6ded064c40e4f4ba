//! Converts between tensors of `wasi:nn` and Belljar. Both are little-endian and row-major; each
//! has element types that the other lacks.

use belljar_abi::{DType, TensorView, element_count};
use wasmtime_wasi_nn::Tensor as NnTensor;
use wasmtime_wasi_nn::wit::TensorType;

use super::Refusal;
use belljar_tensor::Tensor;

/// Converts a tensor from a program. A scalar input accepts the shape `[1]`, with which `wasi:nn`
/// represents scalars.
pub(super) fn from_wasi(tensor: &NnTensor, scalar: bool) -> Result<Tensor, Refusal> {
    let dtype = dtype(tensor.ty);
    let mut dims: Vec<u64> = tensor.dimensions.iter().map(|dim| u64::from(*dim)).collect();
    if scalar && dims == [1] {
        dims.clear();
    }
    let len = element_count(&dims)
        .and_then(|count| count.checked_mul(dtype.size().unwrap_or(0) as u64))
        .ok_or_else(|| Refusal::Tensor(format!("the shape {dims:?} overflows")))?;
    if len != tensor.data.len() as u64 {
        return Err(Refusal::Tensor(format!(
            "a tensor of shape {dims:?} and type {} has {len} bytes, not {}",
            dtype.name(),
            tensor.data.len()
        )));
    }
    let view = TensorView { name: "", dtype, dims, data: &tensor.data };
    Tensor::from_view(&view).map_err(|err| Refusal::Tensor(err.to_string()))
}

/// Converts a tensor for a program.
pub(super) fn to_wasi(tensor: &Tensor) -> Result<NnTensor, Refusal> {
    let ty = tensor_type(tensor.dtype())?;
    let dim = |dim: &usize| u32::try_from(*dim);
    let mut dimensions = tensor
        .shape()
        .iter()
        .map(dim)
        .collect::<Result<Vec<u32>, _>>()
        .map_err(|_| Refusal::Tensor("an output is too large for `wasi:nn`".into()))?;
    if dimensions.is_empty() {
        dimensions.push(1);
    }
    Ok(NnTensor::new(dimensions, ty, tensor.to_wire().into_owned()))
}

fn dtype(ty: TensorType) -> DType {
    match ty {
        TensorType::Fp16 => DType::F16,
        TensorType::Fp32 => DType::F32,
        TensorType::Fp64 => DType::F64,
        TensorType::U8 => DType::U8,
        TensorType::I32 => DType::I32,
        TensorType::I64 => DType::I64,
        TensorType::Bf16 => DType::BF16,
    }
}

fn tensor_type(dtype: DType) -> Result<TensorType, Refusal> {
    Ok(match dtype {
        DType::F16 => TensorType::Fp16,
        DType::F32 => TensorType::Fp32,
        DType::F64 => TensorType::Fp64,
        DType::U8 => TensorType::U8,
        DType::I32 => TensorType::I32,
        DType::I64 => TensorType::I64,
        DType::BF16 => TensorType::Bf16,
        other => return Err(Refusal::Type(other.name())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use belljar_tensor::{Data, bf16, f16};

    #[test]
    fn common_element_types_round_trip() {
        for data in [
            Data::from(vec![f16::from_f32(1.5), f16::MAX]),
            Data::from(vec![1.5f32, f32::NAN]),
            Data::from(vec![1.5f64, -0.0]),
            Data::from(vec![0u8, 255]),
            Data::from(vec![i32::MIN, 7]),
            Data::from(vec![i64::MAX, -1]),
            Data::from(vec![bf16::from_f32(1.5), bf16::NAN]),
        ] {
            let tensor = Tensor::new(data, &[1, 2]).unwrap();
            let there = to_wasi(&tensor).unwrap();
            assert_eq!(there.dimensions, [1, 2]);
            let back = from_wasi(&there, false).unwrap();
            assert_eq!((back.shape(), back.dtype()), (tensor.shape(), tensor.dtype()));
            assert_eq!(back.to_wire(), tensor.to_wire());
        }
    }

    #[test]
    fn unsupported_element_types_are_refused_by_name() {
        let tensor = Tensor::new(vec![true], &[1]).unwrap();
        assert_eq!(
            to_wasi(&tensor).unwrap_err().to_string(),
            "tensors of type bool are not supported"
        );
        let small = Tensor::zeros(DType::F8E5M2, &[1]).unwrap();
        assert_eq!(
            to_wasi(&small).unwrap_err().to_string(),
            "tensors of type float8e5m2 are not supported"
        );
    }

    #[test]
    fn scalar_is_a_tensor_of_one_element() {
        let scalar = Tensor::scalar(16_000i64);
        let there = to_wasi(&scalar).unwrap();
        assert_eq!(there.dimensions, [1]);
        assert!(from_wasi(&there, true).unwrap().shape().is_empty());
        assert_eq!(from_wasi(&there, false).unwrap().shape(), [1]);
    }

    #[test]
    fn shape_that_does_not_match_its_bytes_is_refused() {
        for (dimensions, len) in [
            (vec![2], 4),
            (vec![], 8),
            (vec![0], 4),
            (vec![u32::MAX; 4], 0),
            (vec![u32::MAX; 100], 4),
            (vec![1, 1], 3),
        ] {
            let tensor = NnTensor::new(dimensions.clone(), TensorType::Fp32, vec![0; len]);
            assert!(from_wasi(&tensor, false).is_err(), "{dimensions:?} with {len} bytes");
        }
        // An empty tensor is valid.
        assert_eq!(
            from_wasi(&NnTensor::new(vec![0, 7], TensorType::Fp32, vec![]), false).unwrap().len(),
            0
        );
    }
}
