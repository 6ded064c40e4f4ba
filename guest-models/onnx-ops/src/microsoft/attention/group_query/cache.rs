//! The caches of a GroupQueryAttention: rows of earlier tokens and of new ones, as floats or quantized.
//! While an attention is computed, a cache has a stage of rows for each entry and head, which begins
//! with the earliest token that is still in the past cache.

use std::borrow::Cow;

use tract_onnx::tract_hir::internal::*;

use super::GroupQuery;
use super::lengths::Plan;
use super::sizes::Sizes;
use crate::framework::dims::volume;
use crate::framework::errors::bail;
use crate::microsoft::attention::core::{Singles, from_singles, zeros};
use crate::microsoft::attention::grouped::Place;

/// How the elements of quantized caches are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bits {
    Eight,
    /// Two to a byte, the earlier in the low half, each with 8 added.
    Four,
}

impl Bits {
    /// The element type of a cache.
    pub(super) fn dtype(self) -> DatumType {
        match self {
            Bits::Eight => i8::datum_type(),
            Bits::Four => u8::datum_type(),
        }
    }

    /// The number of stored elements for so many elements of a head.
    pub(super) fn stored(self, width: usize) -> usize {
        match self {
            Bits::Eight => width,
            Bits::Four => width / 2,
        }
    }

    /// The smallest and the largest number of steps.
    fn range(self) -> [f32; 2] {
        match self {
            Bits::Eight => [-128.0, 127.0],
            Bits::Four => [-8.0, 7.0],
        }
    }
}

/// Scales of a quantized cache: one, or one for each element of each head.
#[derive(Clone, Copy)]
pub(super) struct Scales<'a> {
    pub(super) bits: Bits,
    pub(super) scales: &'a [f32],
}

impl<'a> Scales<'a> {
    /// The scales of the elements of a head.
    fn of(self, head: usize, width: usize) -> impl Iterator<Item = &'a f32> {
        let from = if self.scales.len() == 1 { 0 } else { head * width };
        let own = &self.scales[from..][..if self.scales.len() == 1 { 1 } else { width }];
        own.iter().cycle()
    }

    fn quantize(self, row: &mut [f32], head: usize) {
        let [least, most] = self.bits.range();
        let scales = self.of(head, row.len());
        row.iter_mut().zip(scales).for_each(|(value, scale)| {
            *value = (*value / scale).round_ties_even().clamp(least, most);
        });
    }
}

/// A cache of keys, or of values.
pub(super) struct Cache<'a> {
    /// The rows of the stage: floats, or numbers of steps.
    rows: Vec<f32>,
    scales: Option<Scales<'a>>,
}

impl<'a> Cache<'a> {
    /// A stage with the rows of the past cache, and new ones after them.
    pub(super) fn filled(
        op: &GroupQuery,
        s: &Sizes,
        plan: &Plan,
        past: Option<&[f32]>,
        scales: Option<Scales<'a>>,
        new: Place<'_>,
        prepare: impl Fn(&mut [f32], usize) -> TractResult<()>,
    ) -> TractResult<Cache<'a>> {
        let heads = op.groups.kv_heads;
        let mut all = zeros(&[s.batch, heads, plan.room, s.width])?;
        let held = s.past.unwrap_or(0);
        for (at, rows) in all.chunks_exact_mut((plan.room * s.width).max(1)).enumerate() {
            let (batch, head) = (at / heads, at % heads);
            let entry = &plan.entries[batch];
            let last = if s.new == 0 { entry.total } else { entry.past };
            let kept = (last - entry.origin) * s.width;
            if let Some(past) = past {
                rows[..kept].copy_from_slice(&past[at * held * s.width..][..kept]);
            }
            let added = rows[kept..].chunks_exact_mut(s.width).take(entry.new);
            for (row, to) in added.enumerate() {
                let token = batch * s.tokens + row;
                to.copy_from_slice(new.head(token, head, s.width));
                prepare(to, token)?;
                if let Some(scales) = scales {
                    scales.quantize(to, head);
                }
            }
        }
        Ok(Cache { rows: all, scales })
    }

    /// The rows that an attention reads.
    pub(super) fn read(&self, op: &GroupQuery, s: &Sizes, plan: &Plan) -> Cow<'_, [f32]> {
        let Some(scales) = self.scales else { return Cow::Borrowed(&self.rows) };
        let mut rows = self.rows.clone();
        for (at, rows) in rows.chunks_exact_mut((plan.room * s.width).max(1)).enumerate() {
            for row in rows.chunks_exact_mut(s.width) {
                let scales = scales.of(at % op.groups.kv_heads, s.width);
                row.iter_mut().zip(scales).for_each(|(value, scale)| *value *= scale);
            }
        }
        Cow::Owned(rows)
    }

    /// The present cache.
    pub(super) fn present(
        self,
        op: &GroupQuery,
        s: &Sizes,
        plan: &Plan,
        dtype: DatumType,
    ) -> TractResult<Tensor> {
        let heads = op.groups.kv_heads;
        let (mut rows, mut room) = (self.rows, plan.room);
        if let Some(capacity) = op.capacity(s) {
            let mut kept = zeros(&[s.batch, heads, capacity, s.width])?;
            for (at, to) in kept.chunks_exact_mut((capacity * s.width).max(1)).enumerate() {
                let entry = &plan.entries[at / heads];
                let held = op.resident(entry.total, capacity);
                let from = at * room + entry.total - held - entry.origin;
                let count = held * s.width;
                to[..count].copy_from_slice(&rows[from * s.width..][..count]);
            }
            (rows, room) = (kept, capacity);
        }
        let shape = [s.batch, heads, room, s.width];
        let Some(Scales { bits: Bits::Four, .. }) = self.scales else {
            return from_singles(dtype, &shape, rows);
        };
        let step = |value: f32| (value as i8 + 8) as u8;
        let bytes: Vec<u8> =
            rows.chunks_exact(2).map(|pair| step(pair[0]) | step(pair[1]) << 4).collect();
        let shape = [s.batch, heads, room, s.width / 2];
        Ok(tract_ndarray::ArrayD::from_shape_vec(&shape[..], bytes)?.into_tensor())
    }
}

/// The elements of a past cache as float32: floats, or numbers of steps.
pub(super) fn elements(past: &Tensor, bits: Option<Bits>) -> TractResult<Singles<'_>> {
    if bits != Some(Bits::Four) {
        return Singles::of(past);
    }
    let bytes = past.try_as_plain_ram()?.as_slice::<u8>()?;
    let mut values = Vec::with_capacity(volume(&[bytes.len(), 2])?);
    for byte in bytes {
        values.extend([byte & 15, byte >> 4].map(|step| f32::from(step) - 8.0));
    }
    Ok(Singles::owned(tensor1(&values)))
}

/// Rounds the numbers of a row to an element type.
pub(super) fn round(row: &mut [f32], dtype: DatumType) -> TractResult<()> {
    if dtype != f32::datum_type() {
        let rounded = from_singles(dtype, &[row.len()], row.to_vec())?;
        row.copy_from_slice(Singles::of(&rounded)?.get()?);
    }
    Ok(())
}

impl GroupQuery {
    /// The number of rows of a cache that holds a window.
    pub(super) fn capacity(&self, s: &Sizes) -> Option<usize> {
        s.past.filter(|_| self.windowed)
    }

    /// The number of tokens that a windowed cache holds after so many. If it is full, it drops as many
    /// at once as the window does not need.
    pub(super) fn resident(&self, tokens: usize, capacity: usize) -> usize {
        let dropped = capacity + 1 - self.window.unwrap_or(capacity).min(capacity);
        tokens - tokens.saturating_sub(capacity).div_ceil(dropped) * dropped
    }

    /// Checks the element type of a cache of attention between numbers of this type.
    pub(super) fn check_cache(&self, cache: DatumType, dtype: DatumType) -> TractResult<()> {
        let wanted = self.bits.map_or(dtype, Bits::dtype);
        if cache != wanted {
            bail!(
                "past_key and past_value are of {cache:?}, expected {wanted:?}: int8 for \
                 kv_cache_bit_width 8, uint8 for 4, and the type of query if k_quant_type is \
                 \"NONE\""
            )
        }
        Ok(())
    }
}
