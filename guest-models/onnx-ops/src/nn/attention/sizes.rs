//! The sizes of an attention, which follow from the shapes of its inputs and must match.

use tract_onnx::tract_hir::internal::*;

use super::{Attention, ScoresStep};
use crate::framework::dims::volume;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{optional, required};

/// All sizes.
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) heads: usize,
    /// Heads of keys and values. Each serves the same number of query heads.
    pub(super) kv_heads: usize,
    pub(super) queries: usize,
    pub(super) past: usize,
    pub(super) keys: usize,
    pub(super) width: usize,
    pub(super) value_width: usize,
    /// Whether all heads are packed into one dimension.
    pub(super) packed: bool,
}

/// Batch, heads, length and width of queries, keys or values.
fn split(shape: &[usize], heads: Option<usize>) -> TractResult<[usize; 4]> {
    Ok(match (shape, heads) {
        ([batch, found, length, width], heads) => {
            let agreed = heads.is_none_or(|heads| heads == *found);
            ensure!(agreed, "the attribute says {heads:?} heads, but the input has {found}");
            [*batch, *found, *length, *width]
        }
        ([batch, length, all], Some(heads)) if heads > 0 && all % heads == 0 => {
            [*batch, heads, *length, all / heads]
        }
        _ => bail!("the shape {shape:?} does not match {heads:?} heads"),
    })
}

impl Attention {
    /// Checks that the shapes of all inputs match.
    pub(super) fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<Sizes> {
        let (q, k, v) = (required(shapes, 0)?, required(shapes, 1)?, required(shapes, 2)?);
        ensure!(
            q.len() == k.len() && k.len() == v.len(),
            "queries, keys and values have different ranks"
        );
        let [batch, heads, queries, width] = split(q, self.heads[0])?;
        let [k_batch, kv_heads, new, k_width] = split(k, self.heads[1])?;
        let [v_batch, v_heads, v_new, value_width] = split(v, self.heads[1])?;
        let agreed = batch == k_batch && batch == v_batch && kv_heads == v_heads && new == v_new;
        ensure!(
            agreed && width == k_width,
            "queries, keys and values have the shapes {q:?}, {k:?} and {v:?}, which do not match"
        );
        let grouped = kv_heads > 0 && heads % kv_heads == 0;
        ensure!(grouped, "{heads} query heads do not match {kv_heads} key heads");
        let past = match (optional(shapes, 4), optional(shapes, 5)) {
            (None, None) => 0,
            (Some(key), Some(value)) => {
                let [_, _, past, _] = **key else {
                    bail!("past_key has the unexpected shape {key:?}")
                };
                let wanted = [batch, kv_heads, past];
                let fits = **key == [&wanted[..], &[width]].concat()
                    && **value == [&wanted[..], &[value_width]].concat();
                ensure!(
                    fits,
                    "past_key and past_value have the shapes {key:?} and {value:?}, which do not match"
                );
                past
            }
            _ => bail!("past_key and past_value must be given together"),
        };
        let keys = past.checked_add(new).or_user_error("there are too many keys")?;
        ensure!(keys > 0 && width > 0, "attention over zero keys is not implemented");
        if let Some(lengths) = optional(shapes, 6) {
            ensure!(
                **lengths == [batch],
                "lengths of the shape {lengths:?} do not match a batch of {batch}"
            );
        }
        if let Some(mask) = optional(shapes, 3) {
            self.check_mask(mask, [batch, heads, queries, keys])?;
        }
        volume(&[batch, heads, queries, value_width])?;
        volume(&[batch, kv_heads, keys, width.max(value_width)])?;
        if self.shown != ScoresStep::Never {
            volume(&[batch, heads, queries, keys])?;
        }
        let packed = q.len() == 3;
        Ok(Sizes { batch, heads, kv_heads, queries, past, keys, width, value_width, packed })
    }

    /// A mask broadcasts over the dimensions that it lacks, and may be shorter in versions that
    /// allow it.
    fn check_mask(&self, mask: &[usize], wanted: [usize; 4]) -> TractResult<()> {
        let Some((last, before)) = mask.split_last() else { bail!("the mask has no dimensions") };
        ensure!(before.len() <= 3, "the mask has {} dimensions, which are too many", mask.len());
        let keys = wanted[3];
        // One column could apply to all keys or to the first one.
        let fits = *last == keys || self.short_masks && *last < keys && *last != 1;
        let outer = before.iter().rev().zip(wanted[..3].iter().rev());
        let broadcast = |(size, wanted): (&usize, &usize)| *size == 1 || size == wanted;
        ensure!(
            fits && outer.clone().all(broadcast),
            "the mask's shape {mask:?} does not broadcast to {wanted:?}"
        );
        Ok(())
    }
}
