//! Conversion between tensors and numbers.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::volume;
use crate::framework::errors::ensure;

/// The integers of a tensor.
pub(crate) fn ints(tensor: &Tensor) -> TractResult<Vec<i64>> {
    let wide = tensor.cast_to::<i64>()?;
    Ok(wide.try_as_plain_ram()?.as_slice::<i64>()?.to_vec())
}

/// The integers of a tensor as dimensions, which may be symbols if it is a constant of dimensions.
pub(crate) fn dims(tensor: &Tensor) -> TractResult<Vec<TDim>> {
    if tensor.datum_type() == TDim::datum_type() {
        return Ok(tensor.try_as_plain_ram()?.as_slice::<TDim>()?.to_vec());
    }
    Ok(ints(tensor)?.into_iter().map(TDim::from).collect())
}

/// The elements of a tensor as 64-bit floats.
pub(crate) fn floats(tensor: &Tensor) -> TractResult<Vec<f64>> {
    let wide = tensor.cast_to::<f64>()?;
    Ok(wide.try_as_plain_ram()?.as_slice::<f64>()?.to_vec())
}

/// A tensor from the bytes of its elements.
pub(crate) fn from_bytes(dtype: DatumType, shape: &[usize], bytes: &[u8]) -> TractResult<Tensor> {
    ensure!(dtype.is_copy(), "element type {dtype:?} is not implemented");
    ensure!(
        bytes.len() == volume(shape)?.saturating_mul(dtype.size_of()),
        "the number of bytes does not match the shape"
    );
    let whole = dtype != DatumType::Bool || bytes.iter().all(|byte| *byte <= 1);
    ensure!(dtype.is_copy() && whole, "the bytes are not valid values of {dtype:?}");
    let mut tensor = Tensor::zero_dt(dtype, shape)?;
    tensor.as_bytes_mut().copy_from_slice(bytes);
    Ok(tensor)
}

/// A tensor of an element type from 64-bit floats.
pub(crate) fn from_floats(
    dtype: DatumType,
    shape: &[usize],
    values: &[f64],
) -> TractResult<Tensor> {
    Ok(Tensor::from_shape(shape, values)?.cast_to_dt(dtype)?.into_owned())
}

/// A tensor of 64-bit integers.
pub(crate) fn from_ints(shape: &[usize], values: &[i64]) -> TractResult<Tensor> {
    Tensor::from_shape(shape, values)
}

/// A 64-bit float, rounded to an element type.
pub(crate) fn rounded(dtype: DatumType, value: f64) -> f64 {
    match dtype {
        DatumType::F16 => f16::from_f64(value).to_f64(),
        DatumType::F32 => f64::from(value as f32),
        _ => value,
    }
}

/// The shapes of all inputs.
pub(crate) fn shapes(inputs: &[Option<&Tensor>]) -> Vec<Option<Vec<usize>>> {
    inputs.iter().map(|input| input.map(|input| input.shape().to_vec())).collect()
}

/// A float attribute, kept as its bits so that operators implement `Eq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bits(u32);

impl Bits {
    pub(crate) fn of(node: &NodeProto, name: &str, default: f32) -> TractResult<Bits> {
        Ok(Bits(node.get_attr_opt::<f32>(name)?.unwrap_or(default).to_bits()))
    }

    pub(crate) fn get(self) -> f32 {
        f32::from_bits(self.0)
    }
}
