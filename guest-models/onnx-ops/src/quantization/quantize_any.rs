//! QuantizeLinear and DequantizeLinear (ONNX) for element types that tract does not have, per
//! tensor, per axis or in blocks. Each quotient and each product is rounded once to the type that
//! ONNX computes in.

use belljar_abi::{DType, codes};
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::axes::resolve;
use crate::framework::dims::{advance, strides};
use crate::framework::element_type::{ElementType, element_values, encode_elements, to_f16};
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, concrete, optional, required};
use crate::framework::operator::{Operator, built};
use crate::framework::quantized::Quantized;
use crate::framework::registration::{Registration, own};
use crate::framework::synthetic;
use crate::framework::upstream::BuildResult;
use crate::quantization::dequantize;

pub(crate) const OPERATORS: &[Registration] = &[
    own(synthetic::QUANTIZE, |_: &ParsingContext, node| build(node, true)),
    own(synthetic::DEQUANTIZE, |_: &ParsingContext, node| build(node, false)),
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Quantize {
    /// Whether it quantizes, and not dequantizes.
    quantize: bool,
    /// Whether it dequantizes constants of bytes, which cannot fail in a run (undecided.rs of the
    /// guest).
    weights: bool,
    x: ElementType,
    scale: ElementType,
    zero: Option<ElementType>,
    to: ElementType,
    /// The element type of the division or multiplication.
    precision: ElementType,
    axis: i64,
    block: usize,
    saturate: bool,
}

fn build(node: &NodeProto, quantize: bool) -> BuildResult {
    let int = |name: &str, default: i64| -> TractResult<i64> {
        Ok(node.get_attr_opt::<i64>(name)?.unwrap_or(default))
    };
    let scale = ElementType::required(node, "scale")?;
    let to = ElementType::required(node, "to")?;
    let precision = match int("precision", 0)? {
        _ if !quantize => to,
        0 => scale,
        1 => ElementType::Plain(DatumType::F32),
        10 => ElementType::Plain(DatumType::F16),
        16 => ElementType::Small(DType::BF16),
        other => bail!("dividing in the element type {other} is not implemented"),
    };
    ensure!(is_float(precision), "computing in {precision:?} is not implemented");
    let op = Quantize {
        quantize,
        weights: false,
        x: ElementType::required(node, "x")?,
        scale,
        zero: ElementType::of_attribute(node, "zero")?,
        to,
        precision,
        axis: int("axis", 1)?,
        block: usize::try_from(int("block_size", 0)?)?,
        saturate: int("saturate", 1)? != 0,
    };
    built(op, node)
}

impl Quantize {
    /// Dequantizes constants of bytes to float32, with scales of float32 along an axis.
    pub(super) fn of_weights(bytes: DatumType, zero: bool, axis: i64) -> Quantize {
        let (bytes, single) = (ElementType::Plain(bytes), ElementType::Plain(DatumType::F32));
        Quantize {
            quantize: false,
            weights: true,
            x: bytes,
            scale: single,
            zero: zero.then_some(bytes),
            to: single,
            precision: single,
            axis,
            block: 0,
            saturate: true,
        }
    }
}

fn is_float(elements: ElementType) -> bool {
    matches!(
        elements,
        ElementType::Plain(DatumType::F32 | DatumType::F16) | ElementType::Small(DType::BF16)
    )
}

/// A number rounded to an element type.
fn rounded(precision: ElementType, value: f64) -> f64 {
    match precision {
        ElementType::Plain(DatumType::F16) => to_f16(value).to_f64(),
        ElementType::Small(dtype) => {
            codes::decode(dtype, codes::encode(dtype, value, codes::Beyond::Overflow)).into()
        }
        ElementType::Plain(_) => f64::from(value as f32),
    }
}

/// The range of an integer type.
fn range(elements: ElementType) -> Option<(f64, f64)> {
    Some(match elements {
        ElementType::Plain(DatumType::U8) => (0.0, 255.0),
        ElementType::Plain(DatumType::I8) => (-128.0, 127.0),
        ElementType::Plain(DatumType::U16) => (0.0, 65535.0),
        ElementType::Plain(DatumType::I16) => (-32768.0, 32767.0),
        ElementType::Small(DType::U4) => (0.0, 15.0),
        ElementType::Small(DType::I4) => (-8.0, 7.0),
        ElementType::Small(DType::U2) => (0.0, 3.0),
        ElementType::Small(DType::I2) => (-2.0, 1.0),
        _ => return None,
    })
}

/// How scales and zero points map to a tensor: their stride for each dimension, and how many
/// elements along it share one.
pub(super) struct Layout {
    pub(super) steps: TVec<usize>,
    pub(super) block: TVec<usize>,
}

impl Quantize {
    /// The mapping of parameters of this shape.
    fn layout(&self, x: &[usize], scale: &[usize]) -> TractResult<Layout> {
        let rank = x.len();
        let mut layout = Layout { steps: tvec![0; rank], block: tvec![1; rank] };
        if self.block == 0 {
            if scale.len() == 1 && scale[0] != 1 {
                let axis = if rank == 1 { 0 } else { resolve(self.axis, rank)? };
                ensure!(
                    scale[0] == x[axis],
                    "{} scales do not match an axis of {} elements",
                    scale[0],
                    x[axis]
                );
                layout.steps[axis] = 1;
            } else {
                let one = scale.len() <= 1 && scale.iter().all(|dim| *dim == 1);
                ensure!(one, "the scales have the shape {scale:?}, which needs a block size");
            }
            return Ok(layout);
        }
        let axis = resolve(self.axis, rank)?;
        let mut wanted = x.to_vec();
        wanted[axis] = x[axis].div_ceil(self.block);
        ensure!(
            scale == wanted,
            "the scales have the shape {scale:?}, but the blocks need {wanted:?}"
        );
        layout.steps = strides(scale);
        layout.block[axis] = self.block;
        Ok(layout)
    }

    /// Calls a function with the index of each element of `x` and that of its parameters.
    fn each(
        &self,
        shape: &[usize],
        layout: &Layout,
        mut element: impl FnMut(usize, usize) -> TractResult<()>,
    ) -> TractResult<()> {
        let count: usize = shape.iter().product();
        let mut place: TVec<usize> = tvec![0; shape.len()];
        for at in 0..count {
            let steps = layout.steps.iter().zip(&layout.block).zip(&place);
            let parameter = steps.map(|((step, block), place)| place / block * step).sum();
            element(at, parameter)?;
            advance(&mut place, shape);
        }
        Ok(())
    }

    fn quantized(&self, x: f64, scale: f64, zero: f64) -> f64 {
        let quotient = rounded(self.precision, rounded(self.precision, x) / scale);
        match range(self.to) {
            Some((min, max)) => {
                let whole = quotient.round_ties_even() + zero;
                if whole.is_nan() { 0.0 } else { whole.clamp(min, max) }
            }
            None => quotient,
        }
    }

    fn restored(&self, x: f64, scale: f64, zero: f64) -> f64 {
        // The difference of 16-bit integers is exact; a 32-bit integer has no zero point.
        let difference = f64::from((x - zero) as f32);
        rounded(self.precision, difference * scale)
    }
}

impl Operator for Quantize {
    fn name(&self) -> &'static str {
        match (self.quantize, self.weights) {
            (true, _) => "QuantizeSmall",
            (false, true) => "DequantizeWeights",
            (false, false) => "DequantizeSmall",
        }
    }

    fn quantized(&self) -> Option<Quantized> {
        let single = ElementType::Plain(DatumType::F32);
        let (bits, signed) = match self.x {
            ElementType::Plain(DatumType::U8) => (8, false),
            ElementType::Plain(DatumType::I8) => (8, true),
            ElementType::Small(DType::U4) => (4, false),
            ElementType::Small(DType::I4) => (4, true),
            ElementType::Small(DType::U2) => (2, false),
            ElementType::Small(DType::I2) => (2, true),
            _ => return None,
        };
        let restored = !self.quantize && self.to == single && self.scale == single;
        let same = self.zero.is_none_or(|zero| zero == self.x);
        let weights = Quantized::Weights { bits, signed, axis: self.axis, block: self.block };
        (restored && same).then_some(weights)
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (x, scale) = (required(inputs, 0)?, required(inputs, 1)?);
        ensure!(x.dtype == self.x.carrier(), "unexpected input element type {:?}", x.dtype);
        ensure!(
            scale.dtype == self.scale.carrier(),
            "unexpected scale element type {:?}",
            scale.dtype
        );
        if let Some(zero) = optional(inputs, 2) {
            let same = zero.shape == scale.shape
                || [&zero.shape, &scale.shape].iter().all(|s| s.iter().all(|d| d.is_one()));
            ensure!(same, "zero points and scales have different shapes");
            ensure!(
                Some(zero.dtype) == self.zero.map(ElementType::carrier),
                "the zero point has an unexpected element type"
            );
        }
        if let (Some(x), Some(scale)) = (concrete(&x.shape), concrete(&scale.shape)) {
            self.layout(&x, &scale)?;
        }
        let dims = x.shape.iter().cloned().map(Some).collect();
        Ok(tvec![(self.to.carrier(), dims)])
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (x, scale) = (required(inputs, 0)?, required(inputs, 1)?);
        let shape = x.shape();
        let layout = self.layout(shape, scale.shape())?;
        let scales = element_values(self.scale, scale)?;
        let scales: Vec<f64> = match self.quantize {
            true => scales.into_iter().map(|scale| rounded(self.precision, scale)).collect(),
            false => scales,
        };
        let zeros = match (optional(inputs, 2), self.zero) {
            (Some(zero), Some(elements)) => element_values(elements, zero)?,
            _ => vec![0.0; scales.len()],
        };
        ensure!(zeros.len() == scales.len(), "zero points and scales have different lengths");
        let of = if self.quantize { self.to } else { self.x };
        if range(of).is_none() {
            // Implementations disagree on other zero points.
            let none = zeros.iter().all(|zero| *zero == 0.0);
            ensure!(none, "a zero point of floats or int32 must be zero");
        }
        if !self.quantize
            && self.to == ElementType::Plain(DatumType::F32)
            && let Some(made) = dequantize::to_f32(self.x, x, &layout, &scales, &zeros)?
        {
            return Ok(tvec![made]);
        }
        let numbers = element_values(self.x, x)?;
        let mut made = vec![0.0; numbers.len()];
        self.each(shape, &layout, |at, parameter| {
            let (scale, zero) = (scales[parameter], zeros[parameter]);
            made[at] = match self.quantize {
                true => self.quantized(numbers[at], scale, zero),
                false => self.restored(numbers[at], scale, zero),
            };
            Ok(())
        })?;
        Ok(tvec![match self.to {
            ElementType::Small(dtype) => {
                let beyond = self.to.beyond(self.saturate);
                let codes = made.into_iter().map(|value| codes::encode(dtype, value, beyond));
                encode_elements(dtype, shape, codes)?
            }
            ElementType::Plain(dtype) => {
                Tensor::from_shape(shape, &made)?.cast_to_dt(dtype)?.into_owned()
            }
        }])
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, row, scalar, tensor};

    const F32: i64 = 1;
    const I16: i64 = 5;
    const INT4: i64 = 22;
    const E4M3FN: i64 = 17;

    fn quantize(to: i64) -> Case {
        case("BelljarQuantize").int("type_x", F32).int("type_scale", F32).int("type_to", to)
    }

    #[test]
    fn quantizing_to_int4_and_int16_saturates() {
        let numbers = || row(&[2.5f32, 3.5, -100.0, 1e6]);
        quantize(INT4).input(numbers()).input(scalar(1f32)).gives(row(&[2u8, 4, 8, 7]));
        let zero = quantize(I16).int("type_zero", I16).input(numbers()).input(scalar(1f32));
        zero.input(scalar(-1i16)).gives(row(&[1i16, 3, -101, 32767]));
    }

    #[test]
    fn quantizing_to_float8_may_saturate_or_overflow() {
        let node = || quantize(E4M3FN).input(row(&[2f32, 2000.0])).input(scalar(2f32));
        node().gives(row(&[0x38u8, 0x7e]));
        node().int("saturate", 0).gives(row(&[0x38u8, 0x7f]));
    }

    #[test]
    fn blocks_along_an_axis_have_their_own_scales() {
        // The last block has one element.
        let node = |scales: &[usize]| {
            let case = quantize(I16).int("axis", -1).int("block_size", 2);
            case.input(tensor(&[1, 3], &[10f32, 20.0, 30.0])).input(tensor(scales, &[1f32, 10.0]))
        };
        node(&[1, 2]).gives(tensor(&[1, 3], &[10i16, 20, 3]));
        node(&[2, 1]).fails("");
    }

    fn dequantize(from: i64) -> Case {
        case("BelljarDequantize").int("type_x", from).int("type_scale", F32).int("type_to", F32)
    }

    #[test]
    fn dequantizing_subtracts_the_zero_point_before_scaling() {
        let node = dequantize(INT4).int("type_zero", INT4).input(row(&[0xfu8, 7, 8]));
        node.input(scalar(0.5f32)).input(scalar(1u8)).gives(row(&[-1f32, 3.0, -4.5]));
        dequantize(E4M3FN)
            .input(row(&[0x38u8, 0x7f]))
            .input(scalar(3f32))
            .gives(row(&[3f32, f32::NAN]));
    }
}
