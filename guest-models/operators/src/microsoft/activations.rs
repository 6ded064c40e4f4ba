//! Activations, some with the addition of a bias before them.

use super::microsoft;
use crate::entry::Values::Float;
use crate::entry::{Operator, attr, t};
use crate::types::SINGLES;

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
    microsoft("Gelu", &[t(SINGLES)]),
    microsoft("QuickGelu", &[t(SINGLES)]).with(&[attr("alpha", Float)]),
    microsoft("BiasGelu", &[t(SINGLES), t(SINGLES)]),
    microsoft("FastGelu", &[t(SINGLES), t(SINGLES)]).optional(1),
];
