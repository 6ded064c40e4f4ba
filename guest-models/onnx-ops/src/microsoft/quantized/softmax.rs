//! QLinearSoftmax. Its attribute `opset` says whether it is the Softmax before version 13 of ONNX,
//! which is taken over all dimensions from the axis on, or the later one, over the axis alone.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::parameters::{bytes, check_one, divisor, range, scale, zero};
use crate::framework::axes::resolve;
use crate::framework::facts::{InputFact, OutputFact, like, optional, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;
use crate::quantization::integers::Bytes;

pub(crate) const OPERATORS: &[Registration] =
    &[own("QLinearSoftmax", build).of(belljar_operators::MICROSOFT)];

fn build(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let all_behind = node.get_attr::<i64>("opset")? < 13;
    built(Softmax { axis: node.get_attr_opt("axis")?.unwrap_or(-1), all_behind }, node)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Softmax {
    axis: i64,
    all_behind: bool,
}

impl Operator for Softmax {
    fn name(&self) -> &'static str {
        "QLinearSoftmax"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let x = required(inputs, 0)?;
        resolve(self.axis, x.rank())?;
        for (at, what) in [(1, "a scale"), (2, "a zero point"), (3, "a scale"), (4, "a zero point")]
        {
            check_one(inputs, at, what)?;
        }
        Ok(tvec!(like(x)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let x = *required(inputs, 0)?;
        // The zero point of the input moves all its numbers alike, which makes no difference.
        let from = f64::from(scale(required(inputs, 1)?)?);
        let to = f64::from(divisor(required(inputs, 3)?)?);
        let zero = zero(optional(inputs, 4).copied())?;
        let (min, max) = range(x.datum_type())?;
        let axis = resolve(self.axis, x.rank())?;
        let size = |dims: &[usize]| dims.iter().product::<usize>();
        let (depth, inner) = match self.all_behind {
            true => (size(&x.shape()[axis..]), 1),
            false => (x.shape()[axis], size(&x.shape()[axis + 1..])),
        };
        let outer = size(&x.shape()[..axis]);
        let values = Bytes::of(x)?.to_vec();
        let mut results = vec![0; values.len()];
        if results.is_empty() {
            return Ok(tvec!(bytes(x.datum_type(), x.shape(), results.into_iter())?));
        }
        let powers: Vec<f64> = (0..256).map(|below| (f64::from(-below) * from).exp()).collect();
        for start in (0..outer).flat_map(|at| (0..inner).map(move |i| at * depth * inner + i)) {
            let places = || (0..depth).map(|at| start + at * inner);
            let highest = places().map(|at| values[at]).max().unwrap_or(0);
            let power = |at: usize| powers[(highest - values[at]) as usize];
            let total: f64 = places().map(power).sum();
            for at in places() {
                let result = (power(at) / total / to).round_ties_even() + f64::from(zero);
                results[at] = result.clamp(min.into(), max.into()) as i32;
            }
        }
        Ok(tvec!(bytes(x.datum_type(), x.shape(), results.into_iter())?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, microsoft, scalar, tensor};

    /// Numbers whose powers are in the ratio of 1 to 3.
    fn node(opset: i64) -> Case {
        let case = microsoft("QLinearSoftmax").int("opset", opset);
        let case = case.input(tensor(&[2, 2], &[7u8, 8, 7, 7])).input(scalar(3f32.ln())).missing();
        case.input(scalar(1f32 / 256.0)).input(scalar(0u8))
    }

    #[test]
    fn q_linear_softmax_is_over_one_axis_or_all_from_it_on() {
        node(13).gives(tensor(&[2, 2], &[64u8, 192, 128, 128]));
        node(13).int("axis", 0).gives(tensor(&[2, 2], &[128u8, 192, 128, 64]));
        node(12).int("axis", 1).gives(tensor(&[2, 2], &[64u8, 192, 128, 128]));
        // A sixth and a half, rounded.
        node(12).int("axis", 0).gives(tensor(&[2, 2], &[43u8, 128, 43, 43]));
        node(13).int("axis", 2).fails("2");
    }

    #[test]
    fn q_linear_softmax_saturates() {
        let node = microsoft("QLinearSoftmax").int("opset", 13).input(tensor(&[1, 1], &[5i8]));
        let node = node.input(scalar(1f32)).missing().input(scalar(1f32 / 256.0));
        node.input(scalar(-1i8)).gives(tensor(&[1, 1], &[127i8]));
    }
}
