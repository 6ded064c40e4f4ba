//! Quantisation from and to any element type that ONNX has for it: in one step, along an axis, or in
//! blocks. Each quotient and each product is rounded once to the type that ONNX computes in.

use belljar_abi::DType;
use belljar_abi::codes;
use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::own::{Known, Own, Said, advance, built, concrete, needed, optional, strides};
use super::small::{Elements, encoded, numbers};
use super::{Built, resolve};
use crate::gate;

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert(gate::QUANTIZE, |_: &ParsingContext, node| build(node, true));
    registry.insert(gate::DEQUANTIZE, |_: &ParsingContext, node| build(node, false));
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Quantize {
    /// Whether it quantises, or takes that back.
    forth: bool,
    x: Elements,
    scale: Elements,
    zero: Option<Elements>,
    to: Elements,
    /// What is divided or multiplied in.
    precision: Elements,
    axis: i64,
    block: usize,
    saturate: bool,
}

fn build(node: &NodeProto, forth: bool) -> Built {
    let int = |name: &str, default: i64| -> TractResult<i64> {
        Ok(node.get_attr_opt::<i64>(name)?.unwrap_or(default))
    };
    let scale = Elements::needed(node, "scale")?;
    let to = Elements::needed(node, "to")?;
    let precision = match int("precision", 0)? {
        _ if !forth => to,
        0 => scale,
        1 => Elements::Plain(DatumType::F32),
        10 => Elements::Plain(DatumType::F16),
        16 => Elements::Small(DType::BF16),
        other => bail!("to divide in the element type {other}"),
    };
    ensure!(is_float(precision), "to compute in {precision:?} is not implemented");
    let op = Quantize {
        forth,
        x: Elements::needed(node, "x")?,
        scale,
        zero: Elements::said(node, "zero")?,
        to,
        precision,
        axis: int("axis", 1)?,
        block: usize::try_from(int("block_size", 0)?)?,
        saturate: int("saturate", 1)? != 0,
    };
    built(op, node)
}

fn is_float(elements: Elements) -> bool {
    matches!(
        elements,
        Elements::Plain(DatumType::F32 | DatumType::F16) | Elements::Small(DType::BF16)
    )
}

/// A number as this type has it.
fn rounded(precision: Elements, value: f64) -> f64 {
    match precision {
        Elements::Plain(DatumType::F16) => f16::from_f64(value).to_f64(),
        Elements::Small(dtype) => {
            codes::decode(dtype, codes::encode(dtype, value, codes::Beyond::Overflow)).into()
        }
        Elements::Plain(_) => f64::from(value as f32),
    }
}

/// The least and the greatest of a type of integers.
fn range(elements: Elements) -> Option<(f64, f64)> {
    Some(match elements {
        Elements::Plain(DatumType::U8) => (0.0, 255.0),
        Elements::Plain(DatumType::I8) => (-128.0, 127.0),
        Elements::Plain(DatumType::U16) => (0.0, 65535.0),
        Elements::Plain(DatumType::I16) => (-32768.0, 32767.0),
        Elements::Small(DType::U4) => (0.0, 15.0),
        Elements::Small(DType::I4) => (-8.0, 7.0),
        Elements::Small(DType::U2) => (0.0, 3.0),
        Elements::Small(DType::I2) => (-2.0, 1.0),
        _ => return None,
    })
}

/// How the parameters lie over a tensor: the steps among them that go with its dimensions, and how
/// many elements along each share one.
struct Layout {
    steps: TVec<usize>,
    block: TVec<usize>,
}

impl Quantize {
    /// Where the parameters of this shape belong.
    fn layout(&self, x: &[usize], scale: &[usize]) -> TractResult<Layout> {
        let rank = x.len();
        let mut layout = Layout { steps: tvec![0; rank], block: tvec![1; rank] };
        if self.block == 0 {
            if scale.len() == 1 && scale[0] != 1 {
                let axis = if rank == 1 { 0 } else { resolve(self.axis, rank)? };
                ensure!(scale[0] == x[axis], "{} scales along {} elements", scale[0], x[axis]);
                layout.steps[axis] = 1;
            } else {
                let one = scale.len() <= 1 && scale.iter().all(|dim| *dim == 1);
                ensure!(one, "scales of the shape {scale:?} without a block size");
            }
            return Ok(layout);
        }
        let axis = resolve(self.axis, rank)?;
        let mut wanted = x.to_vec();
        wanted[axis] = x[axis].div_ceil(self.block);
        ensure!(scale == wanted, "scales of the shape {scale:?} for blocks of {wanted:?}");
        layout.steps = strides(scale);
        layout.block[axis] = self.block;
        Ok(layout)
    }

    /// Calls a function with the place of each element of `x` and that of its parameters.
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
            Some((least, most)) => {
                let whole = quotient.round_ties_even() + zero;
                if whole.is_nan() { 0.0 } else { whole.clamp(least, most) }
            }
            None => quotient,
        }
    }

    fn restored(&self, x: f64, scale: f64, zero: f64) -> f64 {
        // The difference of integers of 16 bits is exact; one of 32 has no zero point.
        let difference = f64::from((x - zero) as f32);
        rounded(self.precision, difference * scale)
    }
}

impl Own for Quantize {
    fn name(&self) -> &'static str {
        if self.forth { "QuantizeSmall" } else { "DequantizeSmall" }
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let (x, scale) = (needed(inputs, 0)?, needed(inputs, 1)?);
        ensure!(x.dtype == self.x.carrier(), "it is given {:?}", x.dtype);
        ensure!(scale.dtype == self.scale.carrier(), "its scales are {:?}", scale.dtype);
        if let Some(zero) = optional(inputs, 2) {
            let same = zero.shape == scale.shape
                || [&zero.shape, &scale.shape].iter().all(|s| s.iter().all(|d| d.is_one()));
            ensure!(same, "its zero points have another shape than its scales");
            ensure!(Some(zero.dtype) == self.zero.map(Elements::carrier), "another zero point");
        }
        if let (Some(x), Some(scale)) = (concrete(&x.shape), concrete(&scale.shape)) {
            self.layout(&x, &scale)?;
        }
        let dims = x.shape.iter().cloned().map(Some).collect();
        Ok(tvec![(self.to.carrier(), dims)])
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (x, scale) = (needed(inputs, 0)?, needed(inputs, 1)?);
        let shape = x.shape();
        let layout = self.layout(shape, scale.shape())?;
        let scales = numbers(self.scale, scale)?;
        let scales: Vec<f64> = match self.forth {
            true => scales.into_iter().map(|scale| rounded(self.precision, scale)).collect(),
            false => scales,
        };
        let zeros = match (optional(inputs, 2), self.zero) {
            (Some(zero), Some(elements)) => numbers(elements, zero)?,
            _ => vec![0.0; scales.len()],
        };
        ensure!(zeros.len() == scales.len(), "as many zero points as scales");
        let of = if self.forth { self.to } else { self.x };
        if range(of).is_none() {
            // Implementations differ in what it would do.
            let none = zeros.iter().all(|zero| *zero == 0.0);
            ensure!(none, "a zero point of floats, or of int32, is not zero");
        }
        let numbers = numbers(self.x, x)?;
        let mut made = vec![0.0; numbers.len()];
        self.each(shape, &layout, |at, parameter| {
            let (scale, zero) = (scales[parameter], zeros[parameter]);
            made[at] = match self.forth {
                true => self.quantized(numbers[at], scale, zero),
                false => self.restored(numbers[at], scale, zero),
            };
            Ok(())
        })?;
        Ok(tvec![match self.to {
            Elements::Small(dtype) => {
                let beyond = self.to.beyond(self.saturate);
                let codes = made.into_iter().map(|value| codes::encode(dtype, value, beyond));
                encoded(dtype, shape, codes)?
            }
            Elements::Plain(dtype) => {
                Tensor::from_shape(shape, &made)?.cast_to_dt(dtype)?.into_owned()
            }
        }])
    }
}
