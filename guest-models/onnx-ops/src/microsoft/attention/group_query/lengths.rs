//! The lengths of a GroupQueryAttention, which follow from the values of its inputs. They say which
//! rows of the cache are used, so all of them are checked before any row is read.

use tract_onnx::tract_hir::internal::*;

use super::GroupQuery;
use super::sizes::Sizes;
use crate::framework::errors::{bail, ensure};
use crate::framework::tensors::ints;

/// The lengths of all entries of a batch.
pub(super) struct Plan {
    /// The greatest number of tokens after this step.
    pub(super) total: usize,
    /// The number of rows of each entry and head that are computed with: those of the present cache,
    /// or of a window's past cache and of new tokens.
    pub(super) room: usize,
    /// Whether the cache was empty before, and every token of the first entry starts at its first
    /// position.
    pub(super) first: bool,
    pub(super) entries: Vec<Entry>,
}

/// One entry of a batch.
pub(super) struct Entry {
    /// The first token that is still in the cache before.
    pub(super) origin: usize,
    /// The number of tokens before.
    pub(super) past: usize,
    /// The number of tokens afterwards, without padding.
    pub(super) total: usize,
    /// The number of queries that are not padding.
    pub(super) queries: usize,
    /// The number of new rows in the cache.
    pub(super) new: usize,
}

impl GroupQuery {
    pub(super) fn plan(
        &self,
        s: &Sizes,
        lengths: &Tensor,
        total: &Tensor,
        queries: Option<&Tensor>,
    ) -> TractResult<Plan> {
        let total = ints(total)?[0];
        let Some(total) = usize::try_from(total).ok().filter(|total| *total > 0) else {
            bail!("total_sequence_length is {total}, expected a positive number")
        };
        let past = s.past.unwrap_or(0);
        let capacity = self.capacity(s);
        let mut room = if capacity.is_some() { 0 } else { past.max(total) };
        match s.bias {
            Some([.., columns]) if columns != total => {
                bail!("attention_bias has {columns} columns, but total_sequence_length is {total}")
            }
            _ => {}
        }
        let queries = queries.map(ints).transpose()?;
        if queries.is_none() {
            ensure!(
                total >= s.new && (capacity.is_some() || total <= past + s.new),
                "total_sequence_length is {total}, but the past cache has {past} rows, and there \
                 are {} new tokens",
                s.new
            );
        } else {
            let fits = self.causal
                && s.past.is_some()
                && s.new == s.tokens
                && (capacity.is_some() || total >= s.new);
            ensure!(
                fits,
                "query_seqlens needs causal attention, a past cache, a key for each query, and at \
                 least as many tokens in total. Leave it out if the queries have no padding"
            );
        }
        let first = queries.is_none() && s.tokens == total;
        ensure!(
            queries.is_some() || first || s.tokens == 1 || s.batch <= 1,
            "there are {} tokens and a batch of {} after earlier tokens. Give query_seqlens, or \
             one token or one entry at a time",
            s.tokens,
            s.batch
        );
        let mut entries = Vec::with_capacity(s.batch);
        for (at, length) in ints(lengths)?.into_iter().enumerate() {
            let length = match usize::try_from(length).ok().filter(|length| *length < total) {
                Some(length) => length + 1,
                None => bail!(
                    "seqlens_k[{at}] is {length}, but it must be from 0 to {}: the number of \
                     tokens of the entry less one",
                    total - 1
                ),
            };
            let mut entry = match &queries {
                Some(queries) => {
                    let most = s.tokens.min(length);
                    let count = usize::try_from(queries[at]).ok().filter(|count| *count <= most);
                    let Some(count) = count else {
                        bail!("query_seqlens[{at}] is {}, expected 0 to {most}", queries[at])
                    };
                    Entry {
                        origin: 0,
                        past: length - count,
                        total: length,
                        queries: count,
                        new: count,
                    }
                }
                None if first => {
                    Entry { origin: 0, past: 0, total: length, queries: s.tokens, new: s.new }
                }
                None => {
                    ensure!(
                        length >= s.tokens,
                        "seqlens_k[{at}] is {}, which is too small for {} new tokens",
                        length - 1,
                        s.tokens
                    );
                    let past = length - s.tokens;
                    Entry { origin: 0, past, total: length, queries: s.tokens, new: s.new }
                }
            };
            match capacity {
                Some(capacity) => {
                    entry.origin = entry.past - self.resident(entry.past, capacity);
                    room = room.max(entry.past - entry.origin + entry.new);
                }
                None => self.check_room(s, &entry, room, at, queries.is_some())?,
            }
            entries.push(entry);
        }
        Ok(Plan { total, room, first, entries })
    }

    /// Checks that the caches have all rows that an entry reads and writes.
    fn check_room(
        &self,
        s: &Sizes,
        entry: &Entry,
        room: usize,
        at: usize,
        padded: bool,
    ) -> TractResult<()> {
        let past = s.past.unwrap_or(0);
        // Without new keys, all are in the past cache.
        let read = if s.new == 0 { entry.total } else { entry.past };
        ensure!(
            read <= past,
            "seqlens_k[{at}] is {}, which means {read} earlier tokens, but the past cache has \
             {past} rows",
            entry.total - 1
        );
        let written = entry.past + if padded { s.tokens } else { entry.new };
        ensure!(
            written <= room,
            "{} tokens after {} earlier ones do not fit into a cache of {room} rows. Give a longer \
             past_key, or a greater total_sequence_length",
            written - entry.past,
            entry.past
        );
        Ok(())
    }
}
