//! OneHot (ONNX, operator sets 9 and 11) with indices of any numeric type. An index that is out of
//! range gives a row of off values.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::axes::resolve;
use crate::framework::dims::{advance, sizes, volume};
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, concrete, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{floats, from_bytes, ints};
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] = &[
    // Before version 11 negative indices were out of range.
    own("OneHot", |_, node| build_one_hot(node, false)).until(10),
    own("OneHot", |_, node| build_one_hot(node, true)).since(11),
];

fn build_one_hot(node: &NodeProto, wraps: bool) -> BuildResult {
    let axis = node.get_attr_opt("axis")?.unwrap_or(-1);
    built(OneHot { axis, wraps }, node)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct OneHot {
    axis: i64,
    /// Whether negative indices count from the end.
    wraps: bool,
}

/// Integers from numbers that may be floats.
fn whole(tensor: &Tensor) -> TractResult<Vec<i64>> {
    if !tensor.datum_type().is_float() {
        return ints(tensor);
    }
    let whole = |value: f64| {
        ensure!(value.abs() < 9e15, "the index {value} is out of range");
        Ok(value as i64)
    };
    floats(tensor)?.into_iter().map(whole).collect()
}

fn depth(tensor: &Tensor) -> TractResult<usize> {
    let [depth] = *whole(tensor)? else { bail!("expected one depth, found {}", tensor.len()) };
    Ok(sizes(&[depth])?[0])
}

impl Operator for OneHot {
    fn name(&self) -> &'static str {
        "OneHot"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (indices, values) = (required(inputs, 0)?, required(inputs, 2)?);
        let rank = indices.rank() + 1;
        let axis = resolve(self.axis, rank)?;
        let known = concrete(&indices.shape).zip(required(inputs, 1)?.value.as_ref());
        let Some((mut shape, size)) = known else {
            let mut dims: TVec<Option<TDim>> = indices.shape.iter().cloned().map(Some).collect();
            dims.insert(axis, None);
            return Ok(tvec!((values.dtype, dims)));
        };
        shape.insert(axis, depth(size)?);
        volume(&shape)?;
        Ok(tvec!((values.dtype, shape.into_iter().map(|dim| Some(dim.to_dim())).collect())))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (indices, values) = (*required(inputs, 0)?, *required(inputs, 2)?);
        ensure!(
            values.shape() == [2],
            "expected two values, off and on, found the shape {:?}",
            values.shape()
        );
        let (depth, axis) = (depth(required(inputs, 1)?)?, resolve(self.axis, indices.rank() + 1)?);
        let mut shape = indices.shape().to_vec();
        let inner: usize = shape[axis..].iter().product();
        shape.insert(axis, depth);
        let size = values.datum_type().size_of();
        let (off, on) = values.as_bytes().split_at(size);
        let indices = whole(indices)?;
        let mut bytes = Vec::with_capacity(volume(&shape)?.saturating_mul(size));
        let mut at = vec![0; shape.len()];
        let strides = crate::framework::dims::strides(&shape);
        for place in 0..volume(&shape)? {
            let outer = place / strides[axis] / depth;
            let index = indices[outer * inner + place % strides[axis]];
            let index = if self.wraps && index < 0 { index + depth as i64 } else { index };
            bytes.extend_from_slice(if index == at[axis] as i64 { on } else { off });
            advance(&mut at, &shape);
        }
        Ok(tvec!(from_bytes(values.datum_type(), &shape, &bytes)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, row, scalar, tensor};

    const OFF: i64 = 1 << 40;

    fn one_hot(case: Case, indices: &[i64]) -> Case {
        let case = case.input(row(indices)).input(scalar(3i64));
        case.input(row(&[1i64 << 40, 7]))
    }

    #[test]
    fn one_hot_is_off_for_indices_outside_and_counts_negative_ones_from_the_end() {
        let expected = tensor(&[3, 3], &[OFF, OFF, 7, 7, OFF, OFF, OFF, OFF, OFF]);
        one_hot(case("OneHot"), &[-1, 0, 3]).gives(expected);
        one_hot(case("OneHot"), &[-4]).gives(tensor(&[1, 3], &[OFF; 3]));
        one_hot(case("OneHot").opset(11), &[-1]).gives(tensor(&[1, 3], &[OFF, OFF, 7]));
        one_hot(case("OneHot").opset(10), &[-1]).gives(tensor(&[1, 3], &[OFF; 3]));
    }

    #[test]
    fn one_hot_inserts_its_axis_at_the_given_position() {
        one_hot(case("OneHot").int("axis", 0), &[1, 2])
            .gives(tensor(&[3, 2], &[OFF, OFF, 7, OFF, OFF, 7]));
        one_hot(case("OneHot").int("axis", -2), &[1]).gives(tensor(&[3, 1], &[OFF, 7, OFF]));
        one_hot(case("OneHot").int("axis", 2), &[1]).fails("2");
    }

    #[test]
    fn one_hot_refuses_a_negative_or_nonscalar_depth() {
        let node = |depth| {
            let case = case("OneHot").input(row(&[0i64])).input(depth);
            case.input(row(&[0f32, 1.0]))
        };
        node(row(&[2i64])).gives(tensor(&[1, 2], &[1f32, 0.0]));
        node(scalar(-2i64)).fails("-2");
        node(row(&[2i64, 3])).fails("2");
    }
}
