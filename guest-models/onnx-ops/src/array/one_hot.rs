//! OneHot (ONNX, operator sets 9 and 11): indices of any type of numbers, and none at all where one
//! is outside.

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::tract_hir::internal::*;

use super::own::{
    Known, Own, Said, advance, built, concrete, floats, from_bytes, ints, needed, sizes, volume,
};
use super::resolve;

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("OneHot", |context, node| {
        let axis = node.get_attr_opt("axis")?.unwrap_or(-1);
        // Before version 11 what is negative was outside.
        let wraps = context.onnx_operator_set_version >= 11;
        built(OneHot { axis, wraps }, node)
    });
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct OneHot {
    axis: i64,
    wraps: bool,
}

/// Integers, of numbers that may be floats.
fn whole(tensor: &Tensor) -> TractResult<Vec<i64>> {
    if !tensor.datum_type().is_float() {
        return ints(tensor);
    }
    let whole = |value: f64| {
        ensure!(value.abs() < 9e15, "the index {value}");
        Ok(value as i64)
    };
    floats(tensor)?.into_iter().map(whole).collect()
}

fn depth(tensor: &Tensor) -> TractResult<usize> {
    let [depth] = *whole(tensor)? else { bail!("{} depths", tensor.len()) };
    Ok(sizes(&[depth])?[0])
}

impl Own for OneHot {
    fn name(&self) -> &'static str {
        "OneHot"
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let (indices, values) = (needed(inputs, 0)?, needed(inputs, 2)?);
        let rank = indices.rank() + 1;
        let axis = resolve(self.axis, rank)?;
        let known = concrete(&indices.shape).zip(needed(inputs, 1)?.value.as_ref());
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
        let (indices, values) = (*needed(inputs, 0)?, *needed(inputs, 2)?);
        ensure!(values.shape() == [2], "values of {:?}", values.shape());
        let (depth, axis) = (depth(needed(inputs, 1)?)?, resolve(self.axis, indices.rank() + 1)?);
        let mut shape = indices.shape().to_vec();
        let inner: usize = shape[axis..].iter().product();
        shape.insert(axis, depth);
        let size = values.datum_type().size_of();
        let (off, on) = values.as_bytes().split_at(size);
        let indices = whole(indices)?;
        let mut bytes = Vec::with_capacity(volume(&shape)?.saturating_mul(size));
        let mut at = vec![0; shape.len()];
        let strides = super::own::strides(&shape);
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
