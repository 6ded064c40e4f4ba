//! QLinearAdd and QLinearMul: sums and products of numbers that are quantized, and are quantized
//! again. Both are computed in 64 bits and rounded once.

use tract_onnx::tract_hir::internal::*;

use super::parameters::{check_one, divisor, range, scale, zero};
use crate::framework::facts::{InputFact, OutputFact, optional, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::quantization::integers::{Bytes, Rounding, of_bytes};
use crate::quantization::shapes::{Broadcast, broadcast_dims};

pub(crate) const OPERATORS: &[Registration] = &[
    own("QLinearAdd", |_, node| built(Arithmetic::Add, node)).of(belljar_operators::MICROSOFT),
    own("QLinearMul", |_, node| built(Arithmetic::Mul, node)).of(belljar_operators::MICROSOFT),
];

/// Results that are computed before they are rounded.
const RUN: usize = 64;

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
        let dtype = a.datum_type();
        let rounding = Rounding {
            signed: dtype == i8::datum_type(),
            zero: zero(optional(inputs, 7).copied())?,
        };
        range(dtype)?;
        let broadcast = Broadcast::of(&[a.shape(), b.shape()])?;
        // The numbers of all bytes: what is added, or the factors.
        let numbers = |bytes: Bytes<'_>, zero: i32, scale: f64| -> Vec<f64> {
            let signed = matches!(bytes, Bytes::Signed(_));
            let value = |byte: u8| if signed { i32::from(byte as i8) } else { byte.into() };
            (0..=u8::MAX).map(|byte| f64::from(value(byte) - zero) * scale).collect()
        };
        let scales = match self {
            Arithmetic::Add => [left_scale, right_scale],
            Arithmetic::Mul => [1.0, 1.0],
        };
        let left = numbers(left, left_zero, scales[0]);
        let right = numbers(right, right_zero, scales[1]);
        let both = left_scale * right_scale;
        let result = |a: f64, b: f64| match self {
            Arithmetic::Add => (a + b) / to,
            Arithmetic::Mul => a * b * both / to,
        };
        let (a, b) = (a.as_bytes(), b.as_bytes());
        let mut results = Vec::with_capacity(broadcast.count);
        broadcast.each_run(|places, count, steps| {
            let [from_a, from_b] = [&a[places[0]..], &b[places[1]..]];
            let number = |numbers: &[f64], byte: u8| numbers[usize::from(byte)];
            match steps {
                [1, 1] => {
                    let each = from_a.iter().zip(from_b).take(count);
                    // In two steps, of which the second one is computed with vectors.
                    let mut some = [0f64; RUN];
                    let mut each = each.map(|(a, b)| (number(&left, *a), number(&right, *b)));
                    let mut rest = count;
                    while rest > 0 {
                        let some = &mut some[..rest.min(RUN)];
                        for (to, (a, b)) in some.iter_mut().zip(&mut each) {
                            *to = result(a, b);
                        }
                        results.extend(some.iter().map(|number| rounding.byte(*number)));
                        rest -= some.len();
                    }
                }
                // One of both is the same for the whole run: a function of the other byte.
                [0, 1] if count > 256 => {
                    let a = number(&left, from_a[0]);
                    let table: Vec<u8> =
                        right.iter().map(|b| rounding.byte(result(a, *b))).collect();
                    results.extend(from_b[..count].iter().map(|b| table[usize::from(*b)]));
                }
                [1, 0] if count > 256 => {
                    let b = number(&right, from_b[0]);
                    let table: Vec<u8> =
                        left.iter().map(|a| rounding.byte(result(*a, b))).collect();
                    results.extend(from_a[..count].iter().map(|a| table[usize::from(*a)]));
                }
                _ => results.extend((0..count).map(|at| {
                    let (a, b) = (from_a[at * steps[0]], from_b[at * steps[1]]);
                    rounding.byte(result(number(&left, a), number(&right, b)))
                })),
            }
        });
        Ok(tvec!(of_bytes(rounding.signed, &broadcast.shape, &results)?))
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
    fn long_runs_of_q_linear_mul_are_those_of_single_elements() {
        let node = |a: &[usize], b: &[usize]| {
            let numbers = |shape: &[usize], step: usize| {
                let count = shape.iter().product::<usize>();
                let bytes: Vec<u8> = (0..count).map(|at| (at * step % 251) as u8).collect();
                (tensor(shape, &bytes), bytes)
            };
            let ((a, a_bytes), (b, b_bytes)) = (numbers(a, 7), numbers(b, 11));
            let case = microsoft("QLinearMul").input(a).input(scalar(0.5f32)).input(scalar(10u8));
            let case = case.input(b).input(scalar(0.03f32)).input(scalar(20u8));
            (case.input(scalar(0.7f32)).input(scalar(100u8)), a_bytes, b_bytes)
        };
        let result = |a: u8, b: u8| {
            let product = (f64::from(a) - 10.0) * (f64::from(b) - 20.0);
            let factor = f64::from(0.5f32) * f64::from(0.03f32);
            let number = product * factor / f64::from(0.7f32);
            (number.round_ties_even() + 100.0).clamp(0.0, 255.0) as u8
        };
        let (case, a, b) = node(&[2, 300], &[2, 300]);
        let all: Vec<u8> = a.iter().zip(&b).map(|(a, b)| result(*a, *b)).collect();
        case.gives(tensor(&[2, 300], &all));
        for (case, turned) in [(node(&[2, 300], &[2, 1]), false), (node(&[2, 1], &[2, 300]), true)]
        {
            let (case, a, b) = case;
            let all: Vec<u8> = (0..600)
                .map(|at| match turned {
                    true => result(a[at / 300], b[at]),
                    false => result(a[at], b[at / 300]),
                })
                .collect();
            case.gives(tensor(&[2, 300], &all));
        }
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
