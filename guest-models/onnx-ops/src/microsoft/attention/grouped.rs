//! Groups of query heads that share heads of keys and values, as GroupQueryAttention and
//! SparseAttention have them.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::{bail, ensure};

/// The numbers of heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Groups {
    pub(super) heads: usize,
    /// Heads of keys and values. Each serves the same number of query heads.
    pub(super) kv_heads: usize,
}

impl Groups {
    pub(super) fn of(node: &NodeProto) -> TractResult<Groups> {
        let heads = |name| {
            let heads = node.get_attr_opt::<i64>(name)?.unwrap_or(0);
            match usize::try_from(heads) {
                Ok(heads) if heads > 0 => Ok(heads),
                _ => bail!("{name} is {heads}, but there must be at least one head"),
            }
        };
        let (heads, kv_heads) = (heads("num_heads")?, heads("kv_num_heads")?);
        ensure!(
            heads % kv_heads == 0,
            "num_heads is {heads}, which is not a multiple of kv_num_heads ({kv_heads})"
        );
        Ok(Groups { heads, kv_heads })
    }

    /// The number of heads of a query that is packed with its keys and values.
    pub(super) fn packed(self) -> usize {
        self.heads + 2 * self.kv_heads
    }

    /// The number of new keys, and the width of a head.
    pub(super) fn sizes(
        self,
        [batch, tokens, all]: [usize; 3],
        key: Option<&Vec<usize>>,
        value: Option<&Vec<usize>>,
    ) -> TractResult<[usize; 2]> {
        let (heads, parts) = (self.heads, self.packed());
        match (key, value) {
            (None, None) => {
                ensure!(
                    all % parts == 0 && all > 0,
                    "query has {all} channels of queries, keys and values, which are not a \
                     multiple of its {parts} heads"
                );
                Ok([tokens, all / parts])
            }
            (Some(key), Some(value)) => {
                ensure!(
                    all % heads == 0 && all > 0,
                    "query has {all} channels, which are not a multiple of its {heads} heads"
                );
                let width = all / heads;
                let wanted = [batch, self.kv_heads * width];
                let fits = |shape: &[usize]| matches!(*shape, [a, _, b] if [a, b] == wanted);
                ensure!(
                    fits(key) && key == value,
                    "key and value have the shapes {key:?} and {value:?}, expected a batch of \
                     {batch}, and {} channels",
                    wanted[1]
                );
                Ok([key[1], width])
            }
            _ => bail!("key and value must be given together, or both be parts of query"),
        }
    }

    /// Where the heads of queries, keys and values are.
    pub(super) fn places<'a>(
        self,
        query: &'a [f32],
        key: Option<&'a [f32]>,
        value: Option<&'a [f32]>,
        width: usize,
    ) -> [Place<'a>; 3] {
        let place = |values, first: usize, heads: usize| Place {
            values,
            offset: first * width,
            row: heads * width,
        };
        let (heads, kv_heads) = (self.heads, self.kv_heads);
        match (key, value) {
            (Some(key), Some(value)) => {
                [place(query, 0, heads), place(key, 0, kv_heads), place(value, 0, kv_heads)]
            }
            _ => {
                [0, heads, heads + kv_heads].map(|first| place(query, first, heads + 2 * kv_heads))
            }
        }
    }
}

/// Where heads are in an input: after so many elements, in rows of so many.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    values: &'a [f32],
    offset: usize,
    row: usize,
}

impl<'a> Place<'a> {
    /// A head of a token.
    pub(super) fn head(&self, token: usize, head: usize, width: usize) -> &'a [f32] {
        &self.values[token * self.row + self.offset + head * width..][..width]
    }
}
