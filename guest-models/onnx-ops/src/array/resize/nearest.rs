//! Upsample (ONNX, operator sets 7 and 9), and Resize of operator set 10 in the mode `nearest`.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::array::arrange::{flat, picked};
use crate::framework::dims::strides;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, concrete, required, unknown_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::floats;
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] =
    &[own("Upsample", |_, node| built(Nearest { smaller: false }, node))];

/// Resize of version 10 in the mode `nearest`. That version does not say how to round halfway
/// positions; onnxruntime rounds down.
pub(crate) fn resize_10(node: &NodeProto) -> BuildResult {
    built(Nearest { smaller: true }, node)
}

/// Repeats each element by a whole factor, or keeps one of several.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Nearest {
    smaller: bool,
}

/// The whole numbers that each dimension is multiplied and divided by. One of the two is 1.
fn factors(scales: &Tensor, rank: usize, smaller: bool) -> TractResult<Vec<(usize, usize)>> {
    let scales = floats(scales)?;
    ensure!(scales.len() == rank, "{} scales do not match {rank} dimensions", scales.len());
    let whole = |number: f64| {
        ((1.0..=65536.0).contains(&number) && number.fract() == 0.0).then_some(number as usize)
    };
    let factor = |scale: &f64| match (whole(*scale), whole(1.0 / scale)) {
        (Some(by), _) => Ok((by, 1)),
        // Other fractions are not exact in 32 bits.
        (None, Some(by)) if smaller && by.is_power_of_two() => Ok((1, by)),
        _ => bail!("a scale of {scale} is not implemented in the mode \"nearest\""),
    };
    scales.iter().map(factor).collect()
}

fn nearest(data: &Tensor, scales: &Tensor, smaller: bool) -> TractResult<Tensor> {
    let factors = factors(scales, data.rank(), smaller)?;
    let strides = strides(data.shape());
    let to = scaled(data.shape(), &factors)?;
    picked(data, &to, |at| {
        let each = at.iter().zip(&factors);
        let near: Vec<usize> = each.map(|(at, (up, down))| at / up * down).collect();
        Some(flat(&near, &strides))
    })
}

fn scaled(shape: &[usize], factors: &[(usize, usize)]) -> TractResult<Vec<usize>> {
    let to = shape.iter().zip(factors).map(|(size, (up, down))| (size / down).checked_mul(*up));
    to.collect::<Option<_>>().or_user_error("the output is too large")
}

impl Operator for Nearest {
    fn name(&self) -> &'static str {
        if self.smaller { "Resize" } else { "Upsample" }
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let data = required(inputs, 0)?;
        let rank = data.rank();
        Ok(tvec!(match (concrete(&data.shape), &required(inputs, 1)?.value) {
            (Some(shape), Some(scales)) => {
                let dims = scaled(&shape, &factors(scales, rank, self.smaller)?)?;
                (data.dtype, dims.into_iter().map(|dim| Some(dim.to_dim())).collect::<TVec<_>>())
            }
            _ => unknown_dims(data.dtype, rank),
        }))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *required(inputs, 0)?;
        ensure!(
            data.datum_type().is_copy(),
            "element type {:?} is not implemented",
            data.datum_type()
        );
        Ok(tvec!(nearest(data, required(inputs, 1)?, self.smaller)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, counting, row, tensor};

    #[test]
    fn upsample_repeats_elements_and_refuses_other_factors() {
        let node = |scales: &[f32]| {
            let case = case("Upsample").opset(9).input(counting(&[1, 1, 1, 2]));
            case.input(row(scales))
        };
        let expected = tensor(&[1, 1, 2, 4], &[0f32, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
        node(&[1.0, 1.0, 2.0, 2.0]).gives(expected);
        node(&[1.0, 1.0, 1.0, 0.5]).fails("0.5");
    }
}
