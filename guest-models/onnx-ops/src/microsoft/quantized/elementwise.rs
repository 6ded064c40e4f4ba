//! QLinearAdd and QLinearMul: sums and products of numbers that are quantized, and are quantized
//! again. Both are computed in 64 bits and rounded once.

use tract_onnx::tract_hir::internal::*;

use super::parameters::{bytes, check_one, divisor, range, scale, zero};
use crate::framework::facts::{InputFact, OutputFact, optional, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::quantization::integers::Bytes;
use crate::quantization::shapes::{Broadcast, broadcast_dims};

pub(crate) const OPERATORS: &[Registration] = &[
    own("QLinearAdd", |_, node| built(Arithmetic::Add, node)).of(belljar_operators::MICROSOFT),
    own("QLinearMul", |_, node| built(Arithmetic::Mul, node)).of(belljar_operators::MICROSOFT),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arithmetic {
    Add,
    Mul,
}

impl Operator for Arithmetic {
    fn name(&self) -> &'static str {
        match self {
            Arithmetic::Add => "QLinearAdd",
            Arithmetic::Mul => "QLinearMul",
        }
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (a, b) = (required(inputs, 0)?, required(inputs, 3)?);
        for (at, what) in [(1, "a scale"), (2, "a zero point"), (4, "a scale")] {
            check_one(inputs, at, what)?;
        }
        for (at, what) in [(5, "a zero point"), (6, "a scale"), (7, "a zero point")] {
            check_one(inputs, at, what)?;
        }
        Ok(tvec!((a.dtype, broadcast_dims(&[&a.shape, &b.shape])?)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (a, b) = (*required(inputs, 0)?, *required(inputs, 3)?);
        let operand = |tensor, at: usize| -> TractResult<(Bytes<'_>, i32, f64)> {
            let zero = zero(optional(inputs, at + 2).copied())?;
            Ok((Bytes::of(tensor)?, zero, scale(required(inputs, at + 1)?)?.into()))
        };
        let (left, left_zero, left_scale) = operand(a, 0)?;
        let (right, right_zero, right_scale) = operand(b, 3)?;
        let to = f64::from(divisor(required(inputs, 6)?)?);
        let to_zero = f64::from(zero(optional(inputs, 7).copied())?);
        let dtype = a.datum_type();
        let (min, max) = range(dtype)?;
        let broadcast = Broadcast::of(&[a.shape(), b.shape()])?;
        let mut results = Vec::with_capacity(broadcast.count);
        broadcast.each(|places| {
            let a = f64::from(left.get(places[0]) - left_zero);
            let b = f64::from(right.get(places[1]) - right_zero);
            let result = match self {
                Arithmetic::Add => (a * left_scale + b * right_scale) / to,
                Arithmetic::Mul => a * b * (left_scale * right_scale) / to,
            };
            let result = result.round_ties_even() + to_zero;
            results.push(result.clamp(min.into(), max.into()) as i32);
        });
        Ok(tvec!(bytes(dtype, &broadcast.shape, results.into_iter())?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, microsoft, row, scalar, tensor};

    fn node(name: &str, scale: f32) -> Case {
        let case = match name {
            "QLinearAdd" => microsoft("QLinearAdd"),
            _ => microsoft("QLinearMul"),
        };
        let case = case.input(row(&[0u8, 10, 255])).input(scalar(0.5f32)).input(scalar(10u8));
        let case = case.input(tensor(&[2, 1], &[4u8, 200])).input(scalar(0.25f32)).missing();
        case.input(scalar(scale)).input(scalar(100u8))
    }

    #[test]
    fn q_linear_add_and_mul_broadcast_round_to_even_and_saturate() {
        // [-5, 0, 122.5] and [1, 50]
        let sums = tensor(&[2, 3], &[98u8, 100, 162, 122, 125, 186]);
        node("QLinearAdd", 2.0).gives(sums);
        let products = tensor(&[2, 3], &[98u8, 100, 161, 0, 100, 255]);
        node("QLinearMul", 2.0).gives(products);
        node("QLinearMul", -1.0).fails("-1");
        let node = microsoft("QLinearAdd").input(row(&[0u8; 3])).input(scalar(1f32)).missing();
        node.input(row(&[0u8; 2])).input(scalar(1f32)).missing().input(scalar(1f32)).fails("3");
    }
}
