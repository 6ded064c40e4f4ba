//! SparseAttention: causal attention of groups of query heads to a cache of fixed size, in which each
//! block of queries sees only some of the blocks of keys.

mod layouts;

use belljar_operators::MICROSOFT;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use self::layouts::Layouts;
use super::core::{Heads, Singles, factor, from_singles, softmax, zeros};
use super::grouped::{Groups, Place};
use super::rotation::{Rotation, check_tables};
use crate::framework::dims::volume;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, known_shapes, optional, required, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{Bits, ints, shapes};

pub(crate) const OPERATORS: &[Registration] =
    &[own("SparseAttention", |_, node| built(sparse(node)?, node)).of(MICROSOFT)];

// The positions of the inputs.
const PAST_KEY: usize = 3;
const PAST_VALUE: usize = 4;
const ROWS: usize = 5;
const COLUMNS: usize = 6;
const TOTAL: usize = 7;
const LENGTHS: usize = 8;
const COS: usize = 9;
const SIN: usize = 10;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Sparse {
    groups: Groups,
    scale: Bits,
    /// The number of tokens of a block.
    block: usize,
    rotates: bool,
    interleaved: bool,
}

fn sparse(node: &NodeProto) -> TractResult<Sparse> {
    let flag = |name| Ok::<_, TractError>(node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0);
    let block = node.get_attr_opt::<i64>("sparse_block_size")?.unwrap_or(0);
    let block = usize::try_from(block).ok().filter(|size| *size > 0);
    Ok(Sparse {
        groups: Groups::of(node)?,
        scale: Bits::of(node, "scale", 0.0)?,
        block: block.or_user_error("sparse_block_size must be at least one")?,
        rotates: flag("do_rotary")?,
        interleaved: flag("rotary_interleaved")?,
    })
}

/// The sizes that follow from shapes.
struct Sizes {
    batch: usize,
    tokens: usize,
    width: usize,
    /// The number of tokens for which the cache has room.
    room: usize,
    layouts: usize,
    /// The number of rows of blocks of a layout, and of elements that list the columns of all rows.
    blocks: usize,
    listed: usize,
    /// The number of pairs in the tables of the rotation.
    pairs: Option<usize>,
}

impl Sparse {
    fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<Sizes> {
        let Groups { heads, kv_heads } = self.groups;
        let query = required(shapes, 0)?;
        let [batch, tokens, all] = **query else {
            bail!("query has the shape {query:?}, expected three dimensions")
        };
        let (key, value) = (optional(shapes, 1), optional(shapes, 2));
        let [new, width] = self.groups.sizes([batch, tokens, all], key, value)?;
        ensure!(
            new == tokens,
            "there are {tokens} queries and {new} keys. Give a key for each query"
        );
        let (past, past_value) = (required(shapes, PAST_KEY)?, required(shapes, PAST_VALUE)?);
        let fits = matches!(**past, [a, b, _, c] if [a, b, c] == [batch, kv_heads, width]);
        ensure!(
            fits && past == past_value,
            "past_key and past_value have the shapes {past:?} and {past_value:?}, expected \
             [{batch}, {kv_heads}, tokens, {width}]"
        );
        let (rows, columns) = (required(shapes, ROWS)?, required(shapes, COLUMNS)?);
        let (&[layouts, ends], &[same, listed]) = (&**rows, &**columns) else {
            bail!(
                "block_row_indices and block_col_indices have the shapes {rows:?} and {columns:?}, \
                 expected two dimensions"
            )
        };
        ensure!(
            layouts == same && layouts > 0 && heads % layouts == 0 && ends > 1,
            "block_row_indices and block_col_indices have the shapes {rows:?} and {columns:?}. \
             Both must have the same number of layouts, of which {heads} heads are a multiple, and \
             the rows begin with 0"
        );
        let total = required(shapes, TOTAL)?;
        ensure!(
            total.iter().product::<usize>() == 1,
            "total_sequence_length has the shape {total:?}, expected one number"
        );
        let lengths = required(shapes, LENGTHS)?;
        ensure!(
            **lengths == [batch],
            "key_total_sequence_lengths has the shape {lengths:?}, expected [{batch}]"
        );
        let pairs = match (optional(shapes, COS), optional(shapes, SIN)) {
            (Some(cos), Some(sin)) => {
                let [_, pairs] = check_tables(cos, sin)?;
                ensure!(
                    2 * pairs <= width,
                    "cos_cache has {pairs} columns, but heads have only {width} elements"
                );
                Some(pairs)
            }
            (None, None) if !self.rotates => None,
            _ => bail!("cos_cache and sin_cache must be given together, and if do_rotary is 1"),
        };
        volume(&[batch, tokens, self.groups.packed(), width])?;
        let (room, blocks) = (past[2], ends - 1);
        Ok(Sizes { batch, tokens, width, room, layouts, blocks, listed, pairs })
    }

    /// The number of tokens in the cache of each entry before this step. All lengths are checked
    /// before any row is read.
    fn starts(&self, s: &Sizes, total: &Tensor, lengths: &Tensor) -> TractResult<Vec<usize>> {
        let total = ints(total)?[0];
        let most = s.room.min(s.blocks.saturating_mul(self.block));
        let fits = |total: &usize| (s.tokens.max(1)..=most).contains(total);
        let Some(total) = usize::try_from(total).ok().filter(fits) else {
            bail!(
                "total_sequence_length is {total}, expected {} new tokens or more, and at most the \
                 {} rows of the cache and the {} blocks of {} tokens",
                s.tokens,
                s.room,
                s.blocks,
                self.block
            )
        };
        // A prompt starts with an empty cache, also where its end is padding.
        let prompt = total == s.tokens;
        let fewest = if prompt { 0 } else { s.tokens };
        let start = |(at, length): (usize, i64)| {
            let fits = |length: &usize| (fewest..=total).contains(length);
            match usize::try_from(length).ok().filter(fits) {
                Some(length) => Ok(if prompt { 0 } else { length - s.tokens }),
                None => bail!(
                    "key_total_sequence_lengths[{at}] is {length}, expected {fewest} to {total}"
                ),
            }
        };
        ints(lengths)?.into_iter().enumerate().map(start).collect()
    }
}

impl Operator for Sparse {
    fn name(&self) -> &'static str {
        "SparseAttention"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let query = required(inputs, 0)?;
        ensure!(query.rank() == 3, "query has {} dimensions, expected 3", query.rank());
        if let Some(shapes) = known_shapes(inputs) {
            let s = self.sizes(&shapes)?;
            let value = |at| optional(inputs, at).and_then(|input| input.value.as_deref());
            if let (Some(rows), Some(columns)) = (value(ROWS), value(COLUMNS)) {
                Layouts::of(&s, rows, columns)?;
            }
            if let (Some(total), Some(lengths)) = (value(TOTAL), value(LENGTHS)) {
                self.starts(&s, total, lengths)?;
            }
        }
        let all = match optional(inputs, 1) {
            Some(_) => Some(query.shape[2].clone()),
            None => query.shape[2].as_i64().map(|all| {
                let width = all / self.groups.packed() as i64;
                (width * self.groups.heads as i64).to_dim()
            }),
        };
        let past = required(inputs, PAST_KEY)?;
        let output = tvec!(Some(query.shape[0].clone()), Some(query.shape[1].clone()), all);
        let cache = with_dims(query.dtype, past.shape.iter().cloned());
        Ok(tvec!((query.dtype, output), cache.clone(), cache))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let s = self.sizes(&shapes(inputs))?;
        let starts = self.starts(&s, required(inputs, TOTAL)?, required(inputs, LENGTHS)?)?;
        let layouts = Layouts::of(&s, required(inputs, ROWS)?, required(inputs, COLUMNS)?)?;
        let dtype = required(inputs, 0)?.datum_type();
        let given = |at| Singles::given(inputs, at);
        let query = Singles::of(required(inputs, 0)?)?;
        let (key, value, cos, sin) = (given(1)?, given(2)?, given(COS)?, given(SIN)?);
        let [key, value, cos, sin] =
            [&key, &value, &cos, &sin].map(|input| input.as_ref().map(Singles::get).transpose());
        let places = self.groups.places(query.get()?, key?, value?, s.width);
        let rotation = match (cos?, sin?, s.pairs) {
            (Some(cos), Some(sin), Some(pairs)) if self.rotates => {
                Some(Rotation { cos, sin, pairs, interleaved: self.interleaved })
            }
            _ => None,
        };
        let turn = |head: &mut [f32], position: usize| match &rotation {
            Some(rotation) => {
                rotation.rotate(head, rotation.row(position as i64)?);
                Ok::<_, TractError>(())
            }
            None => Ok(()),
        };
        let mut keys = Singles::of(required(inputs, PAST_KEY)?)?.get()?.to_vec();
        let mut values = Singles::of(required(inputs, PAST_VALUE)?)?.get()?.to_vec();
        self.fill(&mut keys, &s, &starts, &places[1], turn)?;
        self.fill(&mut values, &s, &starts, &places[2], |_, _| Ok(()))?;
        let output = self.attend(&s, &starts, &layouts, &places[0], turn, [&keys, &values])?;
        let cache = [s.batch, self.groups.kv_heads, s.room, s.width];
        Ok(tvec!(
            from_singles(dtype, &[s.batch, s.tokens, self.groups.heads * s.width], output)?,
            from_singles(dtype, &cache, keys)?,
            from_singles(dtype, &cache, values)?
        ))
    }
}

impl Sparse {
    /// Writes new rows into a cache.
    fn fill(
        &self,
        cache: &mut [f32],
        s: &Sizes,
        starts: &[usize],
        new: &Place<'_>,
        prepare: impl Fn(&mut [f32], usize) -> TractResult<()>,
    ) -> TractResult<()> {
        let heads = self.groups.kv_heads;
        for (at, cache) in cache.chunks_exact_mut((s.room * s.width).max(1)).enumerate() {
            let (entry, head) = (at / heads, at % heads);
            let rows = cache.chunks_exact_mut(s.width).skip(starts[entry]).take(s.tokens);
            for (token, row) in rows.enumerate() {
                row.copy_from_slice(new.head(entry * s.tokens + token, head, s.width));
                prepare(row, starts[entry] + token)?;
            }
        }
        Ok(())
    }

    fn attend(
        &self,
        s: &Sizes,
        starts: &[usize],
        layouts: &Layouts,
        query: &Place<'_>,
        prepare: impl Fn(&mut [f32], usize) -> TractResult<()>,
        [keys, values]: [&[f32]; 2],
    ) -> TractResult<Vec<f32>> {
        let Groups { heads, kv_heads } = self.groups;
        let scale = factor(self.scale, s.width);
        let mut output = zeros(&[s.batch, s.tokens, heads * s.width])?;
        let mut rows = zeros(&[s.tokens, s.width])?;
        let mut out = zeros(&[s.tokens, s.width])?;
        let mut scores = vec![];
        for at in 0..s.batch * heads {
            let (entry, head) = (at / heads, at % heads);
            let start = starts[entry];
            for (token, row) in rows.chunks_exact_mut(s.width).enumerate() {
                row.copy_from_slice(query.head(entry * s.tokens + token, head, s.width));
                prepare(row, start + token)?;
            }
            let cached = (entry * kv_heads + head / (heads / kv_heads)) * s.room * s.width;
            let cached = cached..cached + (start + s.tokens) * s.width;
            let attention = Heads {
                queries: &rows,
                keys: &keys[cached.clone()],
                values: &values[cached],
                width: s.width,
                value_width: s.width,
            };
            attention.attend(
                |token| 0..start + token + 1,
                |token, _, scores| {
                    scores.iter_mut().for_each(|score| *score *= scale);
                    // Layouts are used in turn, head by head.
                    let seen = layouts.row(head % s.layouts, (start + token) / self.block);
                    for (scores, seen) in scores.chunks_mut(self.block).zip(seen) {
                        if !seen {
                            scores.fill(f32::MIN);
                        }
                    }
                    softmax(scores, None);
                },
                &mut scores,
                &mut out,
            );
            for (token, from) in out.chunks_exact(s.width).enumerate() {
                let to = (entry * s.tokens + token) * heads + head;
                output[to * s.width..][..s.width].copy_from_slice(from);
            }
        }
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use crate::microsoft::attention::cases;
    use crate::testing::{Case, counting, microsoft, row, tensor};

    #[test]
    fn sparse_attention_gives_what_onnxruntime_and_numpy_give() {
        cases::check(include_str!("../cases/sparse.txt"));
    }

    fn heads() -> Case {
        microsoft("SparseAttention")
            .int("num_heads", 2)
            .int("kv_num_heads", 1)
            .int("sparse_block_size", 2)
            .outputs(3)
    }

    /// Two tokens after some, in a cache of four rows and two blocks of two tokens.
    fn attention(rows: &[i32], columns: &[i32], total: i32, length: i32) -> Case {
        let case = heads().input(counting(&[1, 2, 4]));
        let case = case.input(counting(&[1, 2, 2])).input(counting(&[1, 2, 2]));
        let case = case.input(counting(&[1, 1, 4, 2])).input(counting(&[1, 1, 4, 2]));
        let case = case.input(tensor(&[1, rows.len()], rows));
        let case = case.input(tensor(&[1, columns.len()], columns));
        case.input(row(&[total])).input(row(&[length]))
    }

    #[test]
    fn lengths_outside_of_the_cache_are_refused() {
        let lengths = |total, length| attention(&[0, 1, 3], &[0, 0, 1], total, length);
        lengths(1, 1).fails("total_sequence_length is 1");
        lengths(5, 4).fails("total_sequence_length is 5");
        lengths(-1, 2).fails("total_sequence_length is -1");
        lengths(4, 5).fails("key_total_sequence_lengths[0] is 5");
        lengths(4, 1).fails("key_total_sequence_lengths[0] is 1");
        lengths(2, -1).fails("key_total_sequence_lengths[0] is -1");
        attention(&[0, 1], &[0], 4, 4).fails("total_sequence_length is 4");
    }

    #[test]
    fn layouts_outside_of_the_blocks_are_refused() {
        attention(&[0, 1, 4], &[0, 0, 1], 4, 4).fails("[1, 4]");
        attention(&[-1, 1, 3], &[0, 0, 1], 4, 4).fails("[-1, 1]");
        attention(&[0, 3, 1], &[0, 0, 1], 4, 4).fails("decrease");
        attention(&[0, 1, 3], &[0, 0, 2], 4, 4).fails("block_col_indices has 2");
        attention(&[0, 1, 3], &[0, -1, 1], 4, 4).fails("block_col_indices has -1");
    }

    #[test]
    fn shapes_that_do_not_match_are_refused() {
        let with = |cache: &[usize], rows: &[usize], columns: &[usize], lengths: &[i32]| {
            let ints = |shape: &[usize]| tensor(shape, &vec![0; shape.iter().product::<usize>()]);
            let case = heads().input(counting(&[1, 2, 8])).missing().missing();
            let case = case.input(counting(cache)).input(counting(cache));
            case.input(ints(rows)).input(ints(columns)).input(row(&[2])).input(row(lengths))
        };
        let cache = [1, 1, 4, 2];
        with(&[1, 2, 4, 2], &[1, 3], &[1, 3], &[2]).fails("past_key");
        with(&[4, 2], &[1, 3], &[1, 3], &[2]).fails("past_key");
        with(&cache, &[3], &[3], &[2]).fails("block_row_indices");
        with(&cache, &[3, 3], &[3, 3], &[2]).fails("layouts");
        with(&cache, &[1, 3], &[2, 3], &[2]).fails("layouts");
        with(&cache, &[1, 1], &[1, 3], &[2]).fails("layouts");
        with(&cache, &[1, 3], &[1, 3], &[2, 2]).fails("key_total_sequence_lengths");
        with(&cache, &[1, 3], &[1, 3], &[2]).int("do_rotary", 1).fails("cos_cache");
        with(&cache, &[1, 3], &[1, 3], &[2]).int("kv_num_heads", 0).fails("kv_num_heads is 0");
        with(&cache, &[1, 3], &[1, 3], &[2]).int("sparse_block_size", 0).fails("sparse_block_size");
    }
}
