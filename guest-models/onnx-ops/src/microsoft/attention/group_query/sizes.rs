//! The sizes of a GroupQueryAttention, which follow from the shapes of its inputs and must match.

use tract_onnx::tract_hir::internal::*;

use super::cache::Bits;
use super::{
    BIAS, COS, GroupQuery, KEY_NORM, KEY_SCALE, LENGTHS, PAST_KEY, PAST_VALUE, POSITIONS,
    QUERY_LENGTHS, QUERY_NORM, SIN, SINK, TOTAL, VALUE_SCALE,
};
use crate::framework::dims::volume;
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{optional, required};
use crate::microsoft::attention::rotation::check_tables;

/// All sizes that follow from shapes.
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) tokens: usize,
    /// The number of new keys and values: one for each token, or none if all are in the cache.
    pub(super) new: usize,
    /// The number of tokens for which the past cache has room, if there is one.
    pub(super) past: Option<usize>,
    pub(super) width: usize,
    /// The numbers of positions and of pairs in the tables of the rotation.
    pub(super) tables: Option<[usize; 2]>,
    /// The shape of the bias.
    pub(super) bias: Option<[usize; 4]>,
}

impl GroupQuery {
    pub(super) fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<Sizes> {
        let query = required(shapes, 0)?;
        let [batch, tokens, all] = **query else {
            bail!("query has the shape {query:?}, expected three dimensions")
        };
        let parts = self.groups.packed();
        let (key, value) = (optional(shapes, 1), optional(shapes, 2));
        let [new, width] = self.groups.sizes([batch, tokens, all], key, value)?;
        let past = self.past(shapes, batch, width)?;
        ensure!(
            new == tokens || new == 0 && past.is_some(),
            "there are {tokens} queries and {new} keys. Give a key for each query, or none and a \
             past_key that has all of them"
        );
        self.check_kind(past, new, width)?;
        self.check_lengths(shapes, batch)?;
        let tables = match (optional(shapes, COS), optional(shapes, SIN)) {
            (None, None) => None,
            (Some(cos), Some(sin)) => {
                let [rows, pairs] = check_tables(cos, sin)?;
                ensure!(
                    2 * pairs <= width,
                    "cos_cache has {pairs} columns, but heads have only {width} elements"
                );
                Some([rows, pairs])
            }
            _ => bail!("cos_cache and sin_cache must be given together"),
        };
        ensure!(
            tables.is_some() || !self.rotates,
            "do_rotary is 1, but cos_cache and sin_cache are missing"
        );
        if let Some(positions) = optional(shapes, POSITIONS) {
            let wanted = [batch, tokens];
            ensure!(
                **positions == wanted,
                "position_ids has the shape {positions:?}, expected {wanted:?}"
            );
        }
        let bias = optional(shapes, BIAS).map(|bias| self.bias(bias, batch, tokens)).transpose()?;
        if let Some(sink) = optional(shapes, SINK) {
            let heads = self.groups.heads;
            ensure!(**sink == [heads], "head_sink has the shape {sink:?}, expected [{heads}]");
        }
        for (name, at) in [("k_scale", KEY_SCALE), ("v_scale", VALUE_SCALE)] {
            self.check_scales(name, optional(shapes, at), width)?;
        }
        let norms = [QUERY_NORM, KEY_NORM].map(|at| optional(shapes, at));
        ensure!(
            norms[0].is_some() == norms[1].is_some(),
            "q_norm_weight and k_norm_weight must be given together"
        );
        for norm in norms.into_iter().flatten() {
            ensure!(
                **norm == [width],
                "the weights of a normalization have the shape {norm:?}, expected [{width}]"
            );
        }
        volume(&[batch, tokens, parts, width])?;
        Ok(Sizes { batch, tokens, new, past, width, tables, bias })
    }

    /// The number of tokens for which the past cache has room.
    fn past(
        &self,
        shapes: &[Option<Vec<usize>>],
        batch: usize,
        width: usize,
    ) -> TractResult<Option<usize>> {
        let (key, value) = match (optional(shapes, PAST_KEY), optional(shapes, PAST_VALUE)) {
            (None, None) => return Ok(None),
            (Some(key), Some(value)) => (key, value),
            _ => bail!("past_key and past_value must be given together"),
        };
        let heads = self.groups.kv_heads;
        let stored = self.bits.map_or(width, |bits| bits.stored(width));
        let fits = matches!(**key, [a, b, _, c] if [a, b, c] == [batch, heads, stored]);
        ensure!(
            fits && key == value,
            "past_key and past_value have the shapes {key:?} and {value:?}, expected [{batch}, \
             {heads}, tokens, {stored}]"
        );
        Ok(Some(key[2]))
    }

    /// Checks what quantized caches and those of a window need.
    fn check_kind(&self, past: Option<usize>, new: usize, width: usize) -> TractResult<()> {
        if let Some(bits) = self.bits {
            ensure!(past.is_some(), "past_key is missing, which a quantized cache needs");
            ensure!(
                bits == Bits::Eight || width % 2 == 0,
                "heads have {width} elements, but two of 4 bits are stored in a byte"
            );
        }
        if let (true, Some(window)) = (self.windowed, self.window) {
            let Some(capacity) = past else {
                bail!("past_key is missing, which sliding_window_cache needs")
            };
            ensure!(
                capacity >= window,
                "past_key has {capacity} rows, but local_window_size is {window}. Give it a row for \
                 each token of the window"
            );
            ensure!(new > 0, "key has no tokens, which sliding_window_cache needs");
        }
        Ok(())
    }

    fn check_scales(
        &self,
        name: &str,
        scales: Option<&Vec<usize>>,
        width: usize,
    ) -> TractResult<()> {
        let Some(scales) = scales else {
            ensure!(self.bits.is_none(), "{name} is missing, which a quantized cache needs");
            return Ok(());
        };
        ensure!(self.bits.is_some(), "{name} is given, but k_quant_type is \"NONE\"");
        let heads = self.groups.kv_heads;
        let each = [heads, 1, width];
        let fits = match self.per_channel {
            true => **scales == each || scales.len() == 4 && scales[0] == 1 && scales[1..] == each,
            false => scales.iter().product::<usize>() == 1,
        };
        ensure!(
            fits,
            "{name} has the shape {scales:?}, expected one number for \"PER_TENSOR\", or {each:?} \
             for \"PER_CHANNEL\""
        );
        Ok(())
    }

    fn check_lengths(&self, shapes: &[Option<Vec<usize>>], batch: usize) -> TractResult<()> {
        let lengths = required(shapes, LENGTHS)?;
        ensure!(
            **lengths == [batch] || **lengths == [batch, 1],
            "seqlens_k has the shape {lengths:?}, expected [{batch}]"
        );
        let total = required(shapes, TOTAL)?;
        ensure!(
            total.iter().product::<usize>() == 1,
            "total_sequence_length has the shape {total:?}, expected one number"
        );
        if let Some(lengths) = optional(shapes, QUERY_LENGTHS) {
            ensure!(
                **lengths == [batch],
                "query_seqlens has the shape {lengths:?}, expected [{batch}]"
            );
        }
        Ok(())
    }

    fn bias(&self, bias: &[usize], batch: usize, tokens: usize) -> TractResult<[usize; 4]> {
        let heads = self.groups.heads;
        match *bias {
            [a, b, c, d] if [1, batch].contains(&a) && [1, heads].contains(&b) && c == tokens => {
                Ok([a, b, c, d])
            }
            _ => bail!(
                "attention_bias has the shape {bias:?}, expected [{batch} or 1, {heads} or 1, \
                 {tokens}, total_sequence_length]"
            ),
        }
    }
}
