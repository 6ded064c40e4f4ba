//! Attention with a mask of keys, a bias and a cache, which MultiHeadAttention, Attention and others
//! share. Queries, keys and values are matrices of rows, for each entry of a batch and each head.

use std::ops::Range;

use tract_onnx::tract_hir::internal::*;

use super::core::{Heads, Singles, softmax, zeros};
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::tensors::ints;

/// Which keys are padding or hidden.
pub(super) enum Mask {
    None,
    /// The keys of each entry that are not padding.
    Ranges(Vec<Range<usize>>),
    /// Whether each key of an entry is seen, by all its queries, or by each of them.
    Keys(Vec<bool>),
    Queries(Vec<bool>),
}

impl Mask {
    /// Whether a query attends to a key, as far as the mask is concerned.
    pub(super) fn sees(&self, sizes: &MaskSizes, batch: usize, query: usize, key: usize) -> bool {
        match self {
            Mask::None => true,
            Mask::Ranges(ranges) => ranges[batch].contains(&key),
            Mask::Keys(seen) => seen[batch * sizes.keys + key],
            Mask::Queries(seen) => seen[(batch * sizes.queries + query) * sizes.keys + key],
        }
    }
}

/// The sizes that a mask must match.
#[derive(Clone, Copy)]
pub(super) struct MaskSizes {
    pub(super) batch: usize,
    pub(super) queries: usize,
    /// All keys, with earlier ones.
    pub(super) keys: usize,
    /// Whether two numbers for each entry are the ends and the starts of its keys.
    pub(super) starts: bool,
}

impl MaskSizes {
    /// Checks the shape of a mask, of which `name` is the input.
    pub(super) fn check(&self, mask: &[usize], name: &str) -> TractResult<()> {
        let MaskSizes { batch, queries, keys, .. } = *self;
        let fits = match *mask {
            [count] => {
                count == batch || count == 3 * batch + 2 || self.starts && count == 2 * batch
            }
            [a, b] => [a, b] == [batch, keys],
            [a, b, c] => [a, b, c] == [batch, queries, keys],
            _ => false,
        };
        ensure!(
            fits,
            "{name} has the shape {mask:?}, expected one length for each entry of a batch of \
             {batch}, [{batch}, {keys}] or [{batch}, {queries}, {keys}]"
        );
        Ok(())
    }

    /// Reads a mask.
    pub(super) fn read(&self, mask: &Tensor, name: &str) -> TractResult<Mask> {
        self.check(mask.shape(), name)?;
        let values = ints(mask)?;
        let seen = |values: Vec<i64>| values.into_iter().map(|value| value > 0).collect();
        Ok(match mask.rank() {
            3 => Mask::Queries(seen(values)),
            2 => Mask::Keys(seen(values)),
            _ => {
                // Three numbers for each entry begin with the lengths; the others are sums of them.
                let starts = self.starts && values.len() == 2 * self.batch && self.batch > 0;
                let mut ranges = Vec::with_capacity(self.batch);
                for at in 0..self.batch {
                    let start = if starts { values[self.batch + at] } else { 0 };
                    let (start, end) = (self.length(start, name)?, self.length(values[at], name)?);
                    ranges.push(start.min(end)..end);
                }
                Mask::Ranges(ranges)
            }
        })
    }

    fn length(&self, length: i64, name: &str) -> TractResult<usize> {
        match usize::try_from(length).ok().filter(|length| *length <= self.keys) {
            Some(length) => Ok(length),
            None => bail!("{name} has the length {length}, expected 0 to {} keys", self.keys),
        }
    }
}

/// An attention to the keys and values of a cache.
pub(super) struct Masked<'a> {
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) queries: usize,
    /// The number of keys before the new ones, and of all.
    pub(super) past: usize,
    pub(super) keys: usize,
    /// The number of rows of a head in the cache.
    pub(super) room: usize,
    pub(super) width: usize,
    pub(super) value_width: usize,
    pub(super) scale: f32,
    pub(super) causal: bool,
    pub(super) mask: Mask,
    /// What is added to the scores of keys that the mask hides.
    pub(super) fill: f32,
    /// What is added to scores, and the shape of it.
    pub(super) bias: Option<(&'a [f32], [usize; 4])>,
    /// Whether scores are an output.
    pub(super) shows: bool,
}

impl Masked<'_> {
    /// The output as batch, queries, heads and width; and the scores, if they are shown.
    pub(super) fn attend(
        &self,
        queries: &[f32],
        keys: &[f32],
        values: &[f32],
    ) -> TractResult<[Vec<f32>; 2]> {
        let (tokens, value_width) = (self.queries, self.value_width);
        let mut output = zeros(&[self.batch, tokens, self.heads, value_width])?;
        let mut shown = match self.shows {
            true => zeros(&[self.batch, self.heads, tokens, self.keys])?,
            false => vec![],
        };
        let mut out = zeros(&[tokens, value_width])?;
        let mut scores = vec![];
        for head in 0..self.batch * self.heads {
            let batch = head / self.heads;
            let first = head * self.room;
            let attention = Heads {
                queries: &queries[head * tokens * self.width..][..tokens * self.width],
                keys: &keys[first * self.width..][..self.keys * self.width],
                values: &values[first * value_width..][..self.keys * value_width],
                width: self.width,
                value_width,
            };
            attention.attend(
                |query| {
                    0..if self.causal { self.keys.min(self.past + query + 1) } else { self.keys }
                },
                |query, keys, scores| {
                    scores.iter_mut().for_each(|score| *score *= self.scale);
                    self.add_bias(head, query, scores);
                    // Softmax is the same if the same number is added to all scores, and more
                    // precise without it.
                    let hides_all = (0..keys.end).all(|key| !self.sees(batch, query, key));
                    if !hides_all {
                        self.hide(batch, query, scores);
                    }
                    if self.shows {
                        let to = &mut shown[(head * tokens + query) * self.keys..][..self.keys];
                        to.fill(f32::MIN);
                        to[..keys.end].copy_from_slice(scores);
                        if hides_all {
                            self.hide(batch, query, &mut to[..keys.end]);
                        }
                    }
                    softmax(scores, None);
                },
                &mut scores,
                &mut out,
            );
            for (query, from) in out.chunks_exact(value_width.max(1)).enumerate() {
                let to = (batch * tokens + query) * self.heads + head % self.heads;
                output[to * value_width..][..value_width].copy_from_slice(from);
            }
        }
        Ok([output, shown])
    }

    fn add_bias(&self, head: usize, query: usize, scores: &mut [f32]) {
        let Some((bias, [batches, heads, ..])) = self.bias else { return };
        let (batch, head) = (head / self.heads % batches, head % self.heads % heads);
        let row = (batch * heads + head) * self.queries + query;
        let bias = &bias[row * self.keys..];
        scores.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
    }

    fn hide(&self, batch: usize, query: usize, scores: &mut [f32]) {
        if matches!(self.mask, Mask::None) {
            return;
        }
        for (key, score) in scores.iter_mut().enumerate() {
            if !self.sees(batch, query, key) {
                *score += self.fill;
            }
        }
    }

    fn sees(&self, batch: usize, query: usize, key: usize) -> bool {
        let (queries, keys) = (self.queries, self.keys);
        let sizes = MaskSizes { batch: self.batch, queries, keys, starts: false };
        self.mask.sees(&sizes, batch, query, key)
    }
}

/// Checks the shape of a bias of scores, which broadcasts over entries and heads.
pub(super) fn check_bias(bias: &[usize], wanted: [usize; 4]) -> TractResult<[usize; 4]> {
    let [batch, heads, queries, keys] = wanted;
    match *bias {
        [a, b, c, d]
            if [1, batch].contains(&a) && [1, heads].contains(&b) && [c, d] == [queries, keys] =>
        {
            Ok([a, b, c, d])
        }
        _ => bail!(
            "attention_bias has the shape {bias:?}, expected [{batch} or 1, {heads} or 1, \
             {queries}, {keys}]"
        ),
    }
}

/// The bias of scores, which is an optional input, and its shape.
pub(super) fn score_bias<'a>(
    bias: &'a Option<Singles<'_>>,
    shape: Option<&Vec<usize>>,
    wanted: [usize; 4],
) -> TractResult<Option<(&'a [f32], [usize; 4])>> {
    match (bias, shape) {
        (Some(bias), Some(shape)) => Ok(Some((bias.get()?, check_bias(shape, wanted)?))),
        _ => Ok(None),
    }
}

/// The number of all keys. A mask, by its input's name, and a bias of scores must match it.
pub(super) fn check_keys(
    past: usize,
    [batch, heads, queries, new]: [usize; 4],
    mask: Option<&Vec<usize>>,
    (name, starts): (&str, bool),
    bias: Option<&Vec<usize>>,
) -> TractResult<usize> {
    let keys = past.checked_add(new).or_user_error("there are too many keys")?;
    ensure!(keys > 0, "there are no keys to attend to");
    if let Some(mask) = mask {
        MaskSizes { batch, queries, keys, starts }.check(mask, name)?;
    }
    if let Some(bias) = bias {
        check_bias(bias, [batch, heads, queries, keys])?;
    }
    Ok(keys)
}

/// The number of keys in a cache of so many rows, which is all of them or an input, before new ones.
pub(super) fn past_length(
    length: Option<&&Tensor>,
    held: usize,
    new: usize,
    name: &str,
) -> TractResult<usize> {
    let Some(length) = length else { return Ok(held) };
    let length = ints(length)?[0];
    let most = held.saturating_sub(new);
    match usize::try_from(length).ok().filter(|length| *length <= most && new <= held) {
        Some(length) => Ok(length),
        None => bail!(
            "past_sequence_length is {length}, but {name} has {held} rows for earlier tokens and \
             {new} new ones"
        ),
    }
}

/// Where the heads of tokens are in an input.
pub(super) struct Place<'a> {
    pub(super) values: &'a [f32],
    /// The distances between the entries of a batch, between tokens and between heads, and where the
    /// first head begins.
    pub(super) entry: usize,
    pub(super) token: usize,
    pub(super) head: usize,
    pub(super) first: usize,
    /// What is added to all tokens: the elements of all heads.
    pub(super) bias: Option<&'a [f32]>,
}

/// A cache: rows of earlier tokens, and new ones after them, for each entry and head.
pub(super) struct Cache<'a> {
    pub(super) past: Option<&'a [f32]>,
    /// The number of rows of a head in the past cache, how many of them are used, and the number of
    /// rows of a head in the new cache.
    pub(super) held: usize,
    pub(super) used: usize,
    pub(super) room: usize,
}

impl Cache<'_> {
    /// A cache without earlier tokens.
    pub(super) fn empty(room: usize) -> Cache<'static> {
        Cache { past: None, held: 0, used: 0, room }
    }

    /// The rows of all heads, with new tokens.
    pub(super) fn filled(
        &self,
        [batch, heads, tokens, width]: [usize; 4],
        new: &Place<'_>,
    ) -> TractResult<Vec<f32>> {
        let mut rows = zeros(&[batch, heads, self.room, width])?;
        for (at, rows) in rows.chunks_exact_mut((self.room * width).max(1)).enumerate() {
            let (entry, head) = (at / heads, at % heads);
            if let Some(past) = self.past {
                // Rows after the new tokens keep what they had if the cache has room for more.
                let kept = self.held.min(self.room) * width;
                rows[..kept].copy_from_slice(&past[at * self.held * width..][..kept]);
            }
            let rows = rows[self.used * width..].chunks_exact_mut(width.max(1)).take(tokens);
            for (token, row) in rows.enumerate() {
                let from = entry * new.entry + token * new.token + head * new.head + new.first;
                row.copy_from_slice(&new.values[from..from + width]);
                if let Some(bias) = new.bias {
                    let bias = &bias[head * width..][..width];
                    row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
                }
            }
        }
        Ok(rows)
    }
}
