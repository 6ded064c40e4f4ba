//! ExpandDims and UnfoldTensor (com.microsoft).

use belljar_operators::MICROSOFT;
use tract_onnx::tract_hir::internal::*;

use crate::framework::axes::resolve;
use crate::framework::dims::volume;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, required, unknown_dims, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::from_bytes;

pub(crate) const OPERATORS: &[Registration] = &[
    own("ExpandDims", |_, node| built(ExpandDims, node)).of(MICROSOFT),
    own("UnfoldTensor", |_, node| {
        let int = |name: &str, default: i64| -> TractResult<i64> {
            Ok(node.get_attr_opt::<i64>(name)?.unwrap_or(default))
        };
        let positive = |name: &str, default: i64| {
            let found = int(name, default)?;
            let size = usize::try_from(found).ok().filter(|size| *size > 0);
            size.or_user_error(format_args!("a {name:?} of {found} is not positive"))
        };
        let (size, step) = (positive("size", 0)?, positive("step", 1)?);
        built(UnfoldTensor { axis: int("dim", -1)?, size, step }, node)
    })
    .of(MICROSOFT),
];

/// Inserts a dimension of 1.
#[derive(Debug)]
struct ExpandDims;

/// The place of the dimension in a tensor of this rank.
fn place(axes: &[i64], rank: usize) -> TractResult<usize> {
    let [axis] = *axes else { bail!("expected one axis, found {}", axes.len()) };
    resolve(axis, rank + 1)
}

impl Operator for ExpandDims {
    fn name(&self) -> &'static str {
        "ExpandDims"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let data = required(inputs, 0)?;
        let Some(axes) = required(inputs, 1)?.ints()? else {
            return Ok(tvec!(unknown_dims(data.dtype, data.rank() + 1)));
        };
        let mut dims = data.shape.clone();
        dims.insert(place(&axes, data.rank())?, 1.to_dim());
        Ok(tvec!(with_dims(data.dtype, dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let mut data = (*required(inputs, 0)?).clone();
        let axes = crate::framework::tensors::ints(required(inputs, 1)?)?;
        let at = place(&axes, data.rank())?;
        data.insert_axis(at)?;
        Ok(tvec!(data))
    }
}

/// Windows along an axis, each in a new last dimension.
#[derive(Debug)]
struct UnfoldTensor {
    axis: i64,
    size: usize,
    step: usize,
}

impl UnfoldTensor {
    /// The number of windows along an axis of this length.
    fn windows(&self, length: usize) -> TractResult<usize> {
        let size = self.size;
        ensure!(size <= length, "a window of {size} is longer than the axis of {length}");
        Ok((length - size) / self.step + 1)
    }
}

impl Operator for UnfoldTensor {
    fn name(&self) -> &'static str {
        "UnfoldTensor"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let data = required(inputs, 0)?;
        let axis = resolve(self.axis, data.rank())?;
        let mut dims: TVec<Option<TDim>> = data.shape.iter().cloned().map(Some).collect();
        dims[axis] = match data.shape[axis].as_i64() {
            Some(length) => Some(self.windows(usize::try_from(length)?)?.to_dim()),
            None => None,
        };
        dims.push(Some(self.size.to_dim()));
        Ok(tvec!((data.dtype, dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *required(inputs, 0)?;
        let axis = resolve(self.axis, data.rank())?;
        let length = data.shape()[axis];
        let windows = self.windows(length)?;
        let mut shape: TVec<usize> = data.shape().into();
        shape[axis] = windows;
        shape.push(self.size);
        let width = data.datum_type().size_of();
        let outer: usize = data.shape()[..axis].iter().product();
        let inner: usize = data.shape()[axis + 1..].iter().product();
        let bytes = data.as_bytes();
        let mut moved = Vec::with_capacity(volume(&shape)? * width);
        for start in 0..outer {
            for window in 0..windows {
                for offset in 0..inner {
                    for at in 0..self.size {
                        let step = window * self.step + at;
                        let from = (start * length + step) * inner + offset;
                        moved.extend_from_slice(&bytes[from * width..][..width]);
                    }
                }
            }
        }
        Ok(tvec!(from_bytes(data.datum_type(), &shape, &moved)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{counting, microsoft, row, scalar, tensor, texts};

    // The expected numbers are those of onnxruntime 1.32 and of the documentation.

    #[test]
    fn expand_dims_inserts_a_dimension_of_one() {
        let node = || microsoft("ExpandDims").input(counting(&[2, 3]));
        for (axis, shape) in
            [(0, [1, 2, 3]), (1, [2, 1, 3]), (2, [2, 3, 1]), (-1, [2, 3, 1]), (-3, [1, 2, 3])]
        {
            node().input(scalar(axis)).gives(counting(&shape));
        }
        node().input(row(&[1i32])).gives(counting(&[2, 1, 3]));
        node().input(scalar(3i32)).fails("3");
        node().input(row(&[1i32, 2])).fails("2");
        let texts = microsoft("ExpandDims").input(texts(&["a", "b"])).input(scalar(0i32));
        texts.gives(tensor(&[1, 2], &["a".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn unfold_tensor_moves_windows_to_a_last_dimension() {
        let node = |shape: &[usize], size, step| {
            let node = microsoft("UnfoldTensor").input(counting(shape));
            node.int("size", size).int("step", step)
        };
        let rows = [0f32, 1.0, 2.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 7.0, 8.0, 9.0];
        node(&[2, 5], 3, 2).gives(tensor(&[2, 2, 3], &rows));
        let columns = [0f32, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0];
        node(&[5, 2], 2, 2).int("dim", 0).gives(tensor(&[2, 2, 2], &columns));
        node(&[2, 5], 6, 1).fails("6");
        node(&[2, 5], 2, 1).int("dim", 2).fails("2");
        node(&[2, 5], 0, 1).fails("0");
        let bytes = microsoft("UnfoldTensor").input(row(&[1u8, 2, 3])).int("size", 2);
        bytes.gives(tensor(&[2, 2], &[1u8, 2, 2, 3]));
    }
}
