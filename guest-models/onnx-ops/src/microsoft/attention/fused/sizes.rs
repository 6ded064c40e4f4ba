//! The sizes of an Attention, which follow from the shapes of its inputs and must match.

use tract_onnx::tract_hir::internal::*;

use super::{Attention, BIAS, MASK, PAST, PAST_LENGTH, SCORE_BIAS, WEIGHTS};
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{optional, required};
use crate::microsoft::attention::masked::{MaskSizes, check_keys};

pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) tokens: usize,
    /// The number of rows of the past cache.
    pub(super) held: usize,
    pub(super) width: usize,
    pub(super) value_width: usize,
}

impl Attention {
    /// The channels of queries, keys and values.
    pub(super) fn channels(&self, all: usize) -> TractResult<[usize; 3]> {
        let heads = self.heads;
        let channels = match self.hidden {
            None => [all / 3; 3],
            Some(hidden) => hidden,
        };
        let sum = channels.iter().try_fold(0usize, |sum, size| sum.checked_add(*size));
        ensure!(
            sum == Some(all),
            "the weights have {all} columns, which are not three equal parts, or those of \
             qkv_hidden_sizes"
        );
        let whole = channels.iter().all(|size| *size > 0 && size % heads == 0);
        ensure!(whole, "the hidden sizes {channels:?} are not multiples of {heads} heads");
        Ok(channels)
    }

    pub(super) fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<Sizes> {
        let input = required(shapes, 0)?;
        let [batch, tokens, inner] = **input else {
            bail!("the input has the shape {input:?}, expected three dimensions")
        };
        let all = match optional(shapes, WEIGHTS) {
            None => inner,
            Some(weights) => match **weights {
                [rows, all] if rows == inner => all,
                _ => bail!(
                    "the weights have the shape {weights:?}, expected {inner} rows, like the \
                     channels of the input"
                ),
            },
        };
        let heads = self.heads;
        let [of_keys, _, of_values] = self.channels(all)?;
        let (width, value_width) = (of_keys / heads, of_values / heads);
        if let Some(bias) = optional(shapes, BIAS) {
            ensure!(**bias == [all], "the bias has the shape {bias:?}, expected [{all}]");
        }
        let held = match optional(shapes, PAST) {
            None => 0,
            Some(past) => {
                let held = past.get(3).copied().unwrap_or(0);
                ensure!(
                    **past == [2, batch, heads, held, width],
                    "past has the shape {past:?}, expected [2, {batch}, {heads}, tokens, {width}]"
                );
                held
            }
        };
        let one = |shape: &Vec<usize>| shape.iter().product::<usize>() == 1;
        ensure!(
            !self.shared
                || optional(shapes, PAST).is_some()
                    && optional(shapes, PAST_LENGTH).is_some_and(one),
            "past_present_share_buffer is 1, which needs past, and past_sequence_length as one \
             number"
        );
        ensure!(
            self.shared || optional(shapes, PAST_LENGTH).is_none(),
            "past_sequence_length is given, but past_present_share_buffer is not 1"
        );
        let s = Sizes { batch, tokens, held, width, value_width };
        if !self.shared {
            self.check_keys(&s, held, shapes)?;
        }
        Ok(s)
    }

    /// Checks what depends on the number of all keys.
    pub(super) fn check_keys(
        &self,
        s: &Sizes,
        past: usize,
        shapes: &[Option<Vec<usize>>],
    ) -> TractResult<usize> {
        let mask = optional(shapes, MASK);
        if let Some(mask) = mask {
            ensure!(
                mask.len() != 4,
                "mask_index has the shape {mask:?}, but masks of four dimensions are not \
                 implemented. Give [batch, tokens, all tokens]"
            );
        }
        let sizes = [s.batch, self.heads, s.tokens, s.tokens];
        check_keys(past, sizes, mask, ("mask_index", true), optional(shapes, SCORE_BIAS))
    }

    pub(super) fn mask_sizes(&self, s: &Sizes, keys: usize) -> MaskSizes {
        MaskSizes { batch: s.batch, queries: s.tokens, keys, starts: true }
    }
}
