//! Activations, some with the addition of a bias before them.

use super::microsoft;
use crate::entry::Values::Float;
use crate::entry::{Operator, attr, t};
use crate::types::REALS;

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
    microsoft("Gelu", &[t(REALS)]),
    microsoft("QuickGelu", &[t(REALS)]).with(&[attr("alpha", Float)]),
    microsoft("BiasGelu", &[t(REALS), t(REALS)]),
    microsoft("FastGelu", &[t(REALS), t(REALS)]).optional(1),
];
