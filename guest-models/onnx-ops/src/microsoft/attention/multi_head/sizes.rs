//! The sizes of a MultiHeadAttention, which follow from the shapes of its inputs and must match, and
//! where the inputs have their heads.

use tract_onnx::tract_hir::internal::*;

use super::{BEAMS, BIAS, MASK, MultiHead, PAST_KEY, PAST_LENGTH, PAST_VALUE, SCORE_BIAS};
use crate::framework::dims::volume;
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{optional, required};
use crate::microsoft::attention::core::Singles;
use crate::microsoft::attention::masked::{MaskSizes, Place, check_keys};

/// How queries, keys and values are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Three inputs of batch, tokens and channels.
    Separate,
    /// Keys and values of batch, heads, tokens and width, which are projected already.
    Projected,
    /// One input of keys and values, with each key before its value.
    PackedKeys,
    /// One input of all three.
    Packed,
}

pub(super) struct Sizes {
    pub(super) layout: Layout,
    pub(super) batch: usize,
    pub(super) queries: usize,
    /// New keys.
    pub(super) new: usize,
    /// The number of rows of the past cache.
    pub(super) held: usize,
    pub(super) width: usize,
    pub(super) value_width: usize,
}

impl MultiHead {
    pub(super) fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<Sizes> {
        let heads = self.heads;
        let query = required(shapes, 0)?;
        let (key, value) = (optional(shapes, 1), optional(shapes, 2));
        let (batch, queries, width) = match **query {
            [batch, tokens, all] if all > 0 && all % heads == 0 => (batch, tokens, all / heads),
            [batch, tokens, of, 3, width] if of == heads && width > 0 && key.is_none() => {
                (batch, tokens, width)
            }
            _ => bail!(
                "query has the shape {query:?}, expected [batch, tokens, a multiple of {heads}], \
                 or without key [batch, tokens, {heads}, 3, width]"
            ),
        };
        let (layout, new, value_width) = match (key.map(|key| &**key), value.map(|value| &**value))
        {
            (None, None) if query.len() == 5 => (Layout::Packed, queries, width),
            (Some(&[b, new, of, 2, w]), None) if [b, of, w] == [batch, heads, width] => {
                (Layout::PackedKeys, new, width)
            }
            (Some(&[b, new, all]), Some(&[v_b, v_new, v_all]))
                if [b, v_b, v_new] == [batch, batch, new]
                    && all == heads * width
                    && v_all % heads == 0 =>
            {
                (Layout::Separate, new, v_all / heads)
            }
            (Some(&[b, of, new, w]), Some(&[v_b, v_of, v_new, v_width]))
                if [b, of, w] == [batch, heads, width]
                    && [v_b, v_of, v_new] == [batch, heads, new] =>
            {
                (Layout::Projected, new, v_width)
            }
            _ => bail!(
                "key and value have the shapes {key:?} and {value:?}, which do not match a query \
                 of the shape {query:?} and {heads} heads"
            ),
        };
        ensure!(value_width > 0, "the values have no elements");
        let held = match (optional(shapes, PAST_KEY), optional(shapes, PAST_VALUE)) {
            (None, None) => 0,
            (Some(key), Some(value)) => {
                let held = key.get(2).copied().unwrap_or(0);
                let wanted = |width| [batch, heads, held, width];
                ensure!(
                    **key == wanted(width) && **value == wanted(value_width),
                    "past_key and past_value have the shapes {key:?} and {value:?}, expected \
                     [{batch}, {heads}, tokens, {width}] and [.., {value_width}]"
                );
                held
            }
            _ => bail!("past_key and past_value must be given together"),
        };
        if let Some(length) = optional(shapes, PAST_LENGTH) {
            ensure!(
                length.iter().product::<usize>() == 1 && optional(shapes, PAST_KEY).is_some(),
                "past_sequence_length has the shape {length:?}, expected one number, together with \
                 past_key and past_value"
            );
        }
        ensure!(
            optional(shapes, BEAMS).is_none(),
            "cache_indirection is given, but caches of beams are not implemented. Search without \
             beams"
        );
        if let Some(bias) = optional(shapes, BIAS) {
            let count = heads * (2 * width + value_width);
            ensure!(**bias == [count], "bias has the shape {bias:?}, expected [{count}]");
        }
        volume(&[batch, heads, queries.max(new), width.max(value_width), 3])?;
        let s = Sizes { layout, batch, queries, new, held, width, value_width };
        if optional(shapes, PAST_LENGTH).is_none() {
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
        let sizes = [s.batch, self.heads, s.queries, s.new];
        let mask = optional(shapes, MASK);
        let bias = optional(shapes, SCORE_BIAS);
        let keys = check_keys(past, sizes, mask, (self.mask, false), bias)?;
        if self.shows {
            volume(&[s.batch, self.heads, s.queries, keys])?;
        }
        Ok(keys)
    }

    pub(super) fn mask_sizes(&self, s: &Sizes, keys: usize) -> MaskSizes {
        MaskSizes { batch: s.batch, queries: s.queries, keys, starts: false }
    }
}

impl MultiHead {
    /// Where the heads of queries, keys and values are.
    pub(super) fn places<'a>(
        &self,
        s: &Sizes,
        query: &'a Singles<'_>,
        key: &'a Option<Singles<'_>>,
        value: &'a Option<Singles<'_>>,
        biases: [Option<&'a [f32]>; 3],
    ) -> TractResult<[Place<'a>; 3]> {
        let (heads, query) = (self.heads, query.get()?);
        let [key, value] = [key, value].map(|input| input.as_ref().map(Singles::get).transpose());
        let (key, value) = (key?.unwrap_or(query), value?);
        let value = value.unwrap_or(key);
        // One of several inputs that are packed for each head.
        let packed = |values, tokens: usize, count: usize, at: usize, bias| Place {
            values,
            entry: tokens * heads * count * s.width,
            token: heads * count * s.width,
            head: count * s.width,
            first: at * s.width,
            bias,
        };
        let separate = |values, tokens: usize, width: usize, bias| Place {
            values,
            entry: tokens * heads * width,
            token: heads * width,
            head: width,
            first: 0,
            bias,
        };
        // Heads come before tokens, and have their biases already.
        let projected = |values, width: usize| Place {
            values,
            entry: heads * s.new * width,
            token: width,
            head: s.new * width,
            first: 0,
            bias: None,
        };
        let [of_queries, of_keys, of_values] = biases;
        Ok(match s.layout {
            Layout::Packed => [
                packed(query, s.queries, 3, 0, of_queries),
                packed(query, s.queries, 3, 1, of_keys),
                packed(query, s.queries, 3, 2, of_values),
            ],
            Layout::PackedKeys => [
                separate(query, s.queries, s.width, of_queries),
                packed(key, s.new, 2, 0, of_keys),
                packed(key, s.new, 2, 1, of_values),
            ],
            Layout::Separate => [
                separate(query, s.queries, s.width, of_queries),
                separate(key, s.new, s.width, of_keys),
                separate(value, s.new, s.value_width, of_values),
            ],
            Layout::Projected => [
                separate(query, s.queries, s.width, of_queries),
                projected(key, s.width),
                projected(value, s.value_width),
            ],
        })
    }
}
