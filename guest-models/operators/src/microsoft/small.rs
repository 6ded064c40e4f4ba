//! Operators that stand alone.

use crate::entry::Operator;

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
];
