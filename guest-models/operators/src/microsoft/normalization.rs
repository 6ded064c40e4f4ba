//! Normalizations, some with the addition of a skipped value or a lookup of embeddings before them.

use super::microsoft;
use crate::entry::Values::{Float, Text};
use crate::entry::{Attribute, Operator, Output, any, attr, axis, flag, only, op, t, u};
use crate::types::{F32, I32, REALS, SINGLES};

const EPSILON: Attribute = attr("epsilon", Float);
/// The output, the mean, the inverse of the deviation, and the sum that was normalized.
const OF_SKIP: &[Output] =
    &[Output::Like('T'), Output::Is(F32), Output::Is(F32), Output::Like('T')];

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
    // onnxruntime has it in ONNX's own domain, and its optimiser writes it there.
    op("SimplifiedLayerNormalization", 1, &[t(REALS), u(REALS)]).to(&[Output::Like('U'), Output::Is(F32)]).fewest(1)
        .with(&[axis("axis"), EPSILON, only("stash_type", 1)]),
    microsoft("SkipLayerNormalization", &[t(SINGLES), t(SINGLES), t(SINGLES), t(SINGLES), t(SINGLES)]).optional(2)
        .to(OF_SKIP).fewest(1).with(&[EPSILON]),
    microsoft("SkipSimplifiedLayerNormalization", &[t(SINGLES), t(SINGLES), t(SINGLES), t(SINGLES)]).optional(1)
        .to(OF_SKIP).fewest(1).with(&[EPSILON]),
    microsoft("GatedRMSNorm", &[t(SINGLES), t(SINGLES), t(SINGLES)])
        .with(&[EPSILON, attr("activation", Text(&["silu", "swish", "sigmoid"]))]),
    // The segments are optional, and the operator checks that the others are there.
    microsoft("EmbedLayerNormalization", &[any(I32), any(I32), t(SINGLES), t(SINGLES), t(SINGLES), t(SINGLES), t(SINGLES), any(I32), any(I32)])
        .optional(8).to(&[Output::Like('T'), Output::Is(I32), Output::Like('T')]).fewest(1)
        .with(&[EPSILON, flag("mask_index_type")]),
];
