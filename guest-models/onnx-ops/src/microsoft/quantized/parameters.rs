//! Scales and zero points: one for a tensor, or one for each column.

use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::volume;
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, concrete, optional};
use crate::quantization::dynamic::{quantize, range as range_of};
use crate::quantization::integers::{Bytes, Rounding};

/// The scales of a tensor, which are multiplied with.
pub(super) fn scales(tensor: &Tensor) -> TractResult<Vec<f32>> {
    let wide = tensor.cast_to::<f32>()?;
    let scales = wide.try_as_plain_ram()?.as_slice::<f32>()?.to_vec();
    match scales.iter().find(|scale| !scale.is_finite()) {
        Some(scale) => bail!("the scale {scale} is not a finite number"),
        None => Ok(scales),
    }
}

/// The one scale of a tensor.
pub(super) fn scale(tensor: &Tensor) -> TractResult<f32> {
    match *scales(tensor)? {
        [scale] => Ok(scale),
        ref all => bail!("expected one scale, found {}", all.len()),
    }
}

/// The one scale of results, which are divided by it.
pub(super) fn divisor(tensor: &Tensor) -> TractResult<f32> {
    let scale = scale(tensor)?;
    ensure!(
        scale > 0.0,
        "a result cannot be quantized with the scale {scale}; it must be positive"
    );
    Ok(scale)
}

/// The zero points of a tensor. Without one they are zero.
pub(super) fn zeros(tensor: Option<&Tensor>) -> TractResult<Vec<i32>> {
    tensor.map_or(Ok(vec![0]), |tensor| Ok(Bytes::of(tensor)?.to_vec()))
}

/// The one zero point of a tensor.
pub(super) fn zero(tensor: Option<&Tensor>) -> TractResult<i32> {
    match *zeros(tensor)? {
        [zero] => Ok(zero),
        ref all => bail!("expected one zero point, found {}", all.len()),
    }
}

/// Checks that an input, if it is given, is one number.
pub(super) fn check_one(inputs: &[Option<InputFact>], at: usize, what: &str) -> TractResult<()> {
    let shape = optional(inputs, at).and_then(|input| concrete(&input.shape));
    let one = shape.as_ref().is_none_or(|shape| shape.iter().all(|size| *size == 1));
    ensure!(one, "{what} must be one number, but has the shape {:?}", shape.unwrap_or_default());
    Ok(())
}

/// The range of an 8-bit integer type.
pub(super) fn range(dtype: DatumType) -> TractResult<(i32, i32)> {
    match dtype {
        DatumType::U8 => Ok((0, 255)),
        DatumType::I8 => Ok((-128, 127)),
        other => bail!("{other:?} is not an 8-bit integer type"),
    }
}

/// A number rounded to the nearest integer, of two equally near ones to the even one, then moved by
/// the zero point and saturated. NaN gives the zero point.
pub(super) fn quantized(number: f32, zero: i32, (min, max): (i32, i32)) -> i32 {
    let (lowest, highest) = ((min - zero) as f32, (max - zero) as f32);
    zero + number.round_ties_even().clamp(lowest, highest) as i32
}

/// A tensor of an 8-bit integer type.
pub(super) fn bytes(
    dtype: DatumType,
    shape: &[usize],
    values: impl Iterator<Item = i32>,
) -> TractResult<Tensor> {
    volume(shape)?;
    // The values are in the range of the type.
    match dtype {
        DatumType::U8 => Tensor::from_shape(shape, &values.map(|v| v as u8).collect::<Vec<u8>>()),
        DatumType::I8 => Tensor::from_shape(shape, &values.map(|v| v as i8).collect::<Vec<i8>>()),
        other => bail!("{other:?} is not an 8-bit integer type"),
    }
}

/// A tensor of floats, quantized to unsigned bytes over its own range, which includes zero.
pub(super) struct Dynamic {
    pub(super) values: Vec<u8>,
    pub(super) zero: i32,
    pub(super) scale: f32,
}

impl Dynamic {
    pub(super) fn of(values: &[f32]) -> TractResult<Dynamic> {
        let (min, max) = range_of(values);
        let sound = values.iter().all(|value| value.is_finite());
        let scale = if min == max { 1.0 } else { (max - min) / 255.0 };
        ensure!(sound, "cannot quantize values that are not finite numbers");
        ensure!(scale > 0.0 && scale.is_finite(), "cannot quantize the range from {min} to {max}");
        let zero = quantized(-min / scale, 0, (0, 255));
        let values = quantize(values, scale, Rounding { signed: false, zero }, 0);
        Ok(Dynamic { values, zero, scale })
    }
}
