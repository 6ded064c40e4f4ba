//! The outputs of a GroupQueryAttention: the caches with the new keys and values, and the attention
//! to them.

use tract_onnx::tract_hir::internal::*;

use super::cache::{Bits as CacheBits, Cache, Scales, elements, round};
use super::lengths::{Entry, Plan};
use super::sizes::Sizes;
use super::{
    BIAS, COS, GroupQuery, KEY_NORM, KEY_SCALE, LENGTHS, PAST_KEY, PAST_VALUE, POSITIONS,
    QUERY_LENGTHS, QUERY_NORM, SIN, SINK, Shown, TOTAL, VALUE_SCALE,
};
use crate::framework::facts::{optional, required};
use crate::framework::tensors::{Bits, ints, shapes};
use crate::microsoft::attention::core::{
    Heads, Singles, cap, factor, from_singles, softmax, zeros,
};
use crate::microsoft::attention::grouped::Groups;
use crate::microsoft::attention::rotation::Rotation;

/// What happens to queries and keys before the attention.
struct Preparation<'a> {
    rotation: Option<Rotation<'a>>,
    /// The row of the tables for each token.
    rows: Vec<usize>,
    /// The weights and the epsilon of the normalization of queries, and of keys.
    norms: [Option<(&'a [f32], f32)>; 2],
}

impl Preparation<'_> {
    /// Prepares the head of a token: a query, or a key.
    fn apply(&self, head: &mut [f32], token: usize, is_key: bool) {
        if let Some((weights, epsilon)) = self.norms[usize::from(is_key)] {
            let square: f32 = head.iter().map(|value| value * value).sum();
            let factor = 1.0 / (square / head.len() as f32 + epsilon).sqrt();
            head.iter_mut().zip(weights).for_each(|(value, weight)| *value *= factor * weight);
        }
        if let Some(rotation) = &self.rotation {
            rotation.rotate(head, self.rows[token]);
        }
    }
}

impl GroupQuery {
    pub(super) fn attend(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let s = self.sizes(&shapes(inputs))?;
        let dtype = required(inputs, 0)?.datum_type();
        let queries = optional(inputs, QUERY_LENGTHS).copied();
        let plan = self.plan(&s, required(inputs, LENGTHS)?, required(inputs, TOTAL)?, queries)?;
        let given = |at| Singles::given(inputs, at);
        let (query, key, value) = (Singles::of(required(inputs, 0)?)?, given(1)?, given(2)?);
        let get = Singles::get;
        let [key, value] = [&key, &value].map(|input| input.as_ref().map(get).transpose());
        let [query, key, value] = self.groups.places(query.get()?, key?, value?, s.width);
        let Groups { heads, kv_heads } = self.groups;
        let tables = [given(COS)?, given(SIN)?];
        let norms = [given(QUERY_NORM)?, given(KEY_NORM)?];
        let rotation = match (&tables, s.tables) {
            ([Some(cos), Some(sin)], Some([_, pairs])) if self.rotates => {
                let (cos, sin) = (cos.get()?, sin.get()?);
                Some(Rotation { cos, sin, pairs, interleaved: self.interleaved })
            }
            _ => None,
        };
        let rows = match &rotation {
            Some(rotation) => {
                let positions =
                    optional(inputs, POSITIONS).map(|tensor| ints(tensor)).transpose()?;
                rows(rotation, &s, &plan, positions.as_deref())?
            }
            None => vec![],
        };
        let [query_norm, key_norm] =
            norms.each_ref().map(|norm| norm.as_ref().map(get).transpose());
        let epsilons = self.epsilons.map(Bits::get);
        let norms = [
            query_norm?.map(|weights| (weights, epsilons[0])),
            key_norm?.map(|weights| (weights, epsilons[1])),
        ];
        let preparation = Preparation { rotation, rows, norms };
        let past = |at| optional(inputs, at).map(|past| elements(past, self.bits)).transpose();
        let past = [past(PAST_KEY)?, past(PAST_VALUE)?];
        let [past_keys, past_values] =
            past.each_ref().map(|past| past.as_ref().map(get).transpose());
        let scales = [given(KEY_SCALE)?, given(VALUE_SCALE)?];
        let [key_scales, value_scales] =
            scales.each_ref().map(|scales| scales.as_ref().map(get).transpose());
        let scales_of =
            |scales: Option<_>| scales.zip(self.bits).map(|(scales, bits)| Scales { bits, scales });
        let [key_scales, value_scales] = [scales_of(key_scales?), scales_of(value_scales?)];
        let prepare = |head: &mut [f32], token| {
            preparation.apply(head, token, true);
            // A key is rounded to its element type before it is quantized.
            match self.bits {
                Some(_) => round(head, dtype),
                None => Ok(()),
            }
        };
        let key_cache = Cache::filled(self, &s, &plan, past_keys?, key_scales, key, prepare)?;
        let value_cache =
            Cache::filled(self, &s, &plan, past_values?, value_scales, value, |_, _| Ok(()))?;
        let (keys, values) = (key_cache.read(self, &s, &plan), value_cache.read(self, &s, &plan));
        let (bias, sink) = (given(BIAS)?, given(SINK)?);
        let bias = bias.as_ref().map(get).transpose()?;
        let sink = sink.as_ref().map(get).transpose()?;
        let mut output = zeros(&[s.batch, s.tokens, heads * s.width])?;
        let mut shown = match self.shown {
            Shown::Nothing => vec![],
            _ => zeros(&[s.batch, heads, s.tokens, plan.total])?,
        };
        let scale = factor(self.scale, s.width);
        let group = heads / kv_heads;
        let mut scores = vec![];
        for (batch, entry) in plan.entries.iter().enumerate() {
            let (count, total) = (entry.queries, entry.total);
            for head in 0..kv_heads {
                let first = (batch * kv_heads + head) * plan.room * s.width;
                let cached = first..first + (total - entry.origin) * s.width;
                let mut rows = Vec::with_capacity(group * count * s.width);
                for (one, at) in (0..group).flat_map(|one| (0..count).map(move |at| (one, at))) {
                    let token = batch * s.tokens + at;
                    let start = rows.len();
                    rows.extend_from_slice(query.head(token, head * group + one, s.width));
                    preparation.apply(&mut rows[start..], token, false);
                }
                let attention = Heads {
                    queries: &rows,
                    keys: &keys[cached.clone()],
                    values: &values[cached],
                    width: s.width,
                    value_width: s.width,
                };
                let mut out = vec![0.0; rows.len()];
                attention.attend(
                    |row| {
                        let keys = self.range(entry, row % count);
                        keys.start - entry.origin..keys.end - entry.origin
                    },
                    |row, keys, scores| {
                        let (head, at) = (head * group + row / count, row % count);
                        let keys = keys.start + entry.origin..keys.end + entry.origin;
                        scores.iter_mut().for_each(|score| *score *= scale);
                        cap(scores, self.softcap.get());
                        if let (Some(bias), Some([a, b, ..])) = (bias, s.bias) {
                            let of = (batch % a * b + head % b) * s.tokens + at;
                            let bias = &bias[of * plan.total..][keys.clone()];
                            scores.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
                        }
                        let show = |shown: &mut [f32], scores: &[f32]| {
                            let of = (batch * heads + head) * s.tokens + at;
                            shown[of * plan.total..][keys.clone()].copy_from_slice(scores);
                        };
                        if self.shown == Shown::Scores {
                            show(&mut shown, scores);
                        }
                        let none = self.smooth.then_some(0.0);
                        softmax(scores, sink.map(|sink| sink[head]).or(none));
                        if self.shown == Shown::Weights {
                            show(&mut shown, scores);
                        }
                    },
                    &mut scores,
                    &mut out,
                );
                for (row, from) in out.chunks_exact(s.width).enumerate() {
                    let (head, at) = (head * group + row / count, row % count);
                    let token = batch * s.tokens + at;
                    output[(token * heads + head) * s.width..][..s.width].copy_from_slice(from);
                }
            }
        }
        let shown_shape = match self.shown {
            Shown::Nothing => [0; 4],
            _ => [s.batch, heads, s.tokens, plan.total],
        };
        drop((keys, values));
        let stored = self.bits.map_or(dtype, CacheBits::dtype);
        Ok(tvec!(
            from_singles(dtype, &[s.batch, s.tokens, heads * s.width], output)?,
            key_cache.present(self, &s, &plan, stored)?,
            value_cache.present(self, &s, &plan, stored)?,
            from_singles(dtype, &shown_shape, shown)?
        ))
    }

    /// The keys that a query attends to.
    fn range(&self, entry: &Entry, query: usize) -> std::ops::Range<usize> {
        let end = if self.causal { entry.past + query + 1 } else { entry.total };
        let start = self.window.map_or(0, |window| end.saturating_sub(window));
        let end = end.min(entry.total);
        // The last rows of a padded prompt have no key of their own, and may be past a window.
        start.min(end - 1)..end
    }
}

/// The row of the tables for each token.
fn rows(
    rotation: &Rotation<'_>,
    s: &Sizes,
    plan: &Plan,
    positions: Option<&[i64]>,
) -> TractResult<Vec<usize>> {
    let mut rows = Vec::with_capacity(s.batch * s.tokens);
    for entry in &plan.entries {
        for at in 0..s.tokens {
            let position = match positions {
                // Padding has no position.
                _ if at >= entry.queries => {
                    rows.push(0);
                    continue;
                }
                // The documentation says that only the first element counts.
                Some(positions) if plan.first => positions[0].saturating_add(at as i64),
                Some(positions) => positions[rows.len()],
                None => (entry.past + at) as i64,
            };
            rows.push(rotation.row(position)?);
        }
    }
    Ok(rows)
}
