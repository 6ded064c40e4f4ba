//! Attention, its caches and rotary embeddings.

use crate::entry::Operator;

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
];
