//! Normalizations, some with the addition of a skipped value or a lookup of embeddings before them.

use crate::entry::Operator;

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
];
