//! The rotation of pairs of elements by angles that depend on the position of a token, whose cosines
//! and sines are tables.

use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::{bail, ensure};

/// The sizes of the tables, which must match: the number of positions and of pairs.
pub(super) fn check_tables(cos: &[usize], sin: &[usize]) -> TractResult<[usize; 2]> {
    let ([rows, pairs], true) = (cos, cos == sin) else {
        bail!(
            "cos_cache and sin_cache have the shapes {cos:?} and {sin:?}. Both must have the same \
             two dimensions, positions and pairs"
        )
    };
    ensure!(*pairs > 0, "cos_cache has the shape {cos:?}, which rotates no elements");
    Ok([*rows, *pairs])
}

/// The tables of cosines and sines.
pub(super) struct Rotation<'a> {
    pub(super) cos: &'a [f32],
    pub(super) sin: &'a [f32],
    /// The number of elements of a row.
    pub(super) pairs: usize,
    /// Whether the elements of a pair are neighbours, instead of half of the rotated elements apart.
    pub(super) interleaved: bool,
}

impl Rotation<'_> {
    /// The row of the tables for a position.
    pub(super) fn row(&self, position: i64) -> TractResult<usize> {
        let rows = self.cos.len() / self.pairs;
        match usize::try_from(position).ok().filter(|row| *row < rows) {
            Some(row) => Ok(row),
            None => bail!(
                "position {position} is not a row of cos_cache and sin_cache, which have {rows} \
                 rows. Give positions from 0 on, or longer tables"
            ),
        }
    }

    /// Rotates the first elements of a head. Any others stay.
    pub(super) fn rotate(&self, head: &mut [f32], row: usize) {
        let cos = &self.cos[row * self.pairs..][..self.pairs];
        let sin = &self.sin[row * self.pairs..][..self.pairs];
        let angles = cos.iter().zip(sin);
        let turn = |a: &mut f32, b: &mut f32, cos: f32, sin: f32| {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        };
        if self.interleaved {
            for (pair, (cos, sin)) in head.chunks_exact_mut(2).zip(angles) {
                let (a, b) = pair.split_at_mut(1);
                turn(&mut a[0], &mut b[0], *cos, *sin);
            }
        } else {
            let (low, high) = head.split_at_mut(self.pairs);
            for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(angles) {
                turn(a, b, *cos, *sin);
            }
        }
    }
}
