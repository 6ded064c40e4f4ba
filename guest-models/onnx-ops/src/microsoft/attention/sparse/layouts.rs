//! Layouts of blocks, which are lists of the columns of each row.

use tract_onnx::tract_hir::internal::*;

use super::Sizes;
use crate::framework::dims::volume;
use crate::framework::errors::{OrUserError, bail};
use crate::framework::tensors::ints;

/// Which blocks of keys the blocks of queries see, in each layout.
pub(super) struct Layouts {
    seen: Vec<bool>,
    blocks: usize,
}

impl Layouts {
    pub(super) fn of(s: &Sizes, rows: &Tensor, columns: &Tensor) -> TractResult<Layouts> {
        let (rows, columns) = (ints(rows)?, ints(columns)?);
        let mut seen = vec![false; volume(&[s.layouts, s.blocks, s.blocks])?];
        for (row, seen) in seen.chunks_exact_mut(s.blocks).enumerate() {
            let layout = row / s.blocks;
            let ends = &rows[layout * (s.blocks + 1) + row % s.blocks..][..2];
            let end = |at: i64| usize::try_from(at).ok().filter(|at| *at <= s.listed);
            let (Some(from), Some(to)) = (end(ends[0]), end(ends[1])) else {
                bail!(
                    "block_row_indices has the elements {ends:?}, but block_col_indices has {} \
                     elements",
                    s.listed
                )
            };
            let columns = &columns[layout * s.listed..][..s.listed];
            let listed = columns.get(from..to);
            for &column in listed.or_user_error("block_row_indices must not decrease")? {
                match usize::try_from(column).ok().filter(|column| *column < s.blocks) {
                    Some(column) => seen[column] = true,
                    None => {
                        bail!("block_col_indices has {column}, but there are {} blocks", s.blocks)
                    }
                }
            }
        }
        Ok(Layouts { seen, blocks: s.blocks })
    }

    /// The blocks of keys that a block of queries sees.
    pub(super) fn row(&self, layout: usize, block: usize) -> &[bool] {
        &self.seen[(layout * self.blocks + block) * self.blocks..][..self.blocks]
    }
}
