//! Axes as ONNX counts them: from the start, or from the end if they are negative.

use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::{bail, ensure};

/// The largest number of axes that is accepted.
const MAX_AXES: usize = 64;

/// Resolves an axis of a tensor of this rank. A negative axis counts from the end.
pub(crate) fn resolve(axis: i64, rank: usize) -> TractResult<usize> {
    let from_start = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    match from_start.and_then(|axis| usize::try_from(axis).ok()).filter(|axis| *axis < rank) {
        Some(axis) => Ok(axis),
        None => bail!("axis {axis} is out of range for {rank} dimensions"),
    }
}

/// Checks that all are axes of a tensor of this rank, and that no two are the same.
pub(crate) fn distinct(axes: &[i64], rank: usize) -> TractResult<()> {
    ensure!(axes.len() <= MAX_AXES, "{} axes are more than {MAX_AXES}", axes.len());
    let mut seen = vec![false; rank];
    for axis in axes {
        let at = resolve(*axis, rank)?;
        ensure!(!seen[at], "duplicate axis {axis}");
        seen[at] = true;
    }
    Ok(())
}
