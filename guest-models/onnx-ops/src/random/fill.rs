//! Tensors of random numbers of one distribution.

use belljar_abi::DType;
use belljar_abi::narrow::Narrow;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::filled;
use crate::framework::element_type::{ElementType, to_f16};
use crate::framework::errors::{bail, ensure};
use crate::framework::randomness::Numbers;
use crate::framework::tensors::Bits;

/// A distribution of numbers, with its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Normal { mean: Bits, scale: Bits },
    Uniform { low: Bits, high: Bits },
}

impl Shape {
    pub(super) fn normal(node: &NodeProto) -> TractResult<Shape> {
        let (mean, scale) = (Bits::of(node, "mean", 0.0)?, Bits::of(node, "scale", 1.0)?);
        ensure!(scale.get() >= 0.0, "scale is {}, expected 0 or more", scale.get());
        Ok(Shape::Normal { mean, scale })
    }

    pub(super) fn uniform(node: &NodeProto) -> TractResult<Shape> {
        let (low, high) = (Bits::of(node, "low", 0.0)?, Bits::of(node, "high", 1.0)?);
        ensure!(low.get() <= high.get(), "low is {}, above high, {}", low.get(), high.get());
        Ok(Shape::Uniform { low, high })
    }

    /// A number of this distribution from a number of the standard one.
    fn of(self, number: f64) -> f64 {
        match self {
            Shape::Normal { mean, scale } => {
                f64::from(mean.get()) + f64::from(scale.get()) * number
            }
            Shape::Uniform { low, high } => {
                let (low, high) = (f64::from(low.get()), f64::from(high.get()));
                low + (high - low) * number
            }
        }
    }

    /// Four numbers. Uniform ones have as many bits as the element type, so that rounding does not
    /// turn a number below 1 into 1.
    fn quarters(self, numbers: Numbers, at: usize, bits: u32) -> [f64; 4] {
        let standard = match self {
            Shape::Normal { .. } => numbers.normal_quarters(at),
            Shape::Uniform { .. } => numbers.quarters(at, bits),
        };
        standard.map(|number| self.of(number))
    }

    fn halves(self, numbers: Numbers, at: usize) -> [f64; 2] {
        let standard = match self {
            Shape::Normal { .. } => numbers.normal_halves(at),
            Shape::Uniform { .. } => numbers.halves(at),
        };
        standard.map(|number| self.of(number))
    }

    /// A tensor of numbers, each computed in 64 bits and rounded once.
    pub(super) fn tensor(
        self,
        numbers: Numbers,
        elements: ElementType,
        dims: &[usize],
    ) -> TractResult<Tensor> {
        let quarters = |at, bits| self.quarters(numbers, at, bits);
        match elements {
            ElementType::Plain(DatumType::F16) => filled(dims, |at| quarters(at, 11).map(to_f16)),
            ElementType::Plain(DatumType::F32) => {
                filled(dims, |at| quarters(at, 24).map(|number| number as f32))
            }
            ElementType::Plain(DatumType::F64) => filled(dims, |at| self.halves(numbers, at)),
            ElementType::Small(DType::BF16) => {
                filled(dims, |at| quarters(at, 8).map(|number| Narrow::Bf16.encode_f64(number)))
            }
            other => bail!("random numbers of the element type {other:?} are not implemented"),
        }
    }
}
