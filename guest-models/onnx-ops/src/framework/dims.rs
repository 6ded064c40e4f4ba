//! Sizes and positions in tensors.

use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::{bail, ensure};

/// The largest size of a dimension: what tract keeps in 32 bits.
pub const MAX_DIM: i64 = i32::MAX as i64;

/// The number of elements of a tensor of this shape, if a sandbox can hold them.
pub(crate) fn volume(shape: &[usize]) -> TractResult<usize> {
    let product =
        shape.iter().try_fold(1usize, |product, size| product.checked_mul((*size).max(1)));
    ensure!(
        product.is_some_and(|product| product <= (MAX_DIM / 16) as usize),
        "a tensor of the shape {shape:?} is larger than a sandbox can hold"
    );
    Ok(shape.iter().product())
}

/// A shape for messages.
pub(crate) fn shown(shape: &[TDim]) -> String {
    let dims: Vec<String> = shape.iter().map(TDim::to_string).collect();
    format!("[{}]", dims.join(", "))
}

/// The distance, in elements, between neighbours along each dimension.
pub(crate) fn strides(shape: &[usize]) -> TVec<usize> {
    let mut strides: TVec<usize> = tvec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    strides
}

/// Advances to the next position in row-major order. Returns false after the last one.
pub(crate) fn advance(place: &mut [usize], shape: &[usize]) -> bool {
    for axis in (0..place.len()).rev() {
        place[axis] += 1;
        if place[axis] < shape[axis] {
            return true;
        }
        place[axis] = 0;
    }
    false
}

/// An index counted from the start, of one that is counted from the end if it is negative.
pub(crate) fn index(index: i64, size: usize) -> TractResult<usize> {
    let from_start = if index < 0 { index.saturating_add(size as i64) } else { index };
    match usize::try_from(from_start).ok().filter(|at| *at < size) {
        Some(at) => Ok(at),
        None => {
            bail!("the index {index} is not between {} and {}", -(size as i64), size as i64 - 1)
        }
    }
}

/// A list of integers as sizes, each within what a sandbox can hold.
pub(crate) fn sizes(list: &[i64]) -> TractResult<Vec<usize>> {
    let size = |size: &i64| {
        ensure!((0..=MAX_DIM / 16).contains(size), "the size {size} is out of range");
        Ok(*size as usize)
    };
    list.iter().map(size).collect()
}
