//! Operators on weights that are quantized in blocks, and mixtures of experts.

use super::microsoft;
use crate::entry::Values::{Float, Int, Text};
use crate::entry::{Attribute, Operator, Output, any, attr, axis, flag, must, only, t, u};
use crate::types::{F4E2M1, FLOAT8, I32, INDICES, INT4, SINGLES, U8};

const SIZE: crate::entry::Values = Int(1, 1 << 24);
const BITS: Attribute = attr("bits", Int(2, 8));
const EXPERTS: Attribute = attr("k", Int(1, 1 << 20));
const ACTIVATION: Attribute =
    attr("activation_type", Text(&["relu", "gelu", "silu", "swiglu", "identity"]));
const FUSION: Attribute = attr("swiglu_fusion", Int(0, 2));

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
    microsoft("MatMulNBits", &[t(SINGLES), any(U8), t(SINGLES), any(SINGLES.or(U8)), any(I32), t(SINGLES)]).optional(3)
        .with(&[must("K", SIZE), must("N", SIZE), BITS, must("block_size", Int(16, 1 << 24)),
            attr("accuracy_level", Int(0, 4)), only("weight_prepacked", 0)]),
    microsoft("GatherBlockQuantized", &[t(U8.or(INT4).or(FLOAT8).or(F4E2M1)), any(INDICES), u(SINGLES), t(U8.or(INT4))]).optional(1)
        .to(&[Output::Like('U')])
        .with(&[BITS, attr("block_size", Int(0, 1 << 24)), axis("quantize_axis"), axis("gather_axis")]),
    // The biases are optional, and the operator checks that the layers after them are there.
    microsoft("MoE", &[t(SINGLES), t(SINGLES), t(SINGLES), t(SINGLES), t(SINGLES), t(SINGLES), t(SINGLES), t(SINGLES)])
        .optional(5)
        .with(&[EXPERTS, ACTIVATION, FUSION, attr("activation_alpha", Float), attr("activation_beta", Float),
            attr("swiglu_limit", Float), flag("normalize_routing_weights"), only("use_sparse_mixer", 0)]),
    microsoft("QMoE", &[t(SINGLES), t(SINGLES), any(U8), any(SINGLES), t(SINGLES), any(U8), any(SINGLES), t(SINGLES),
        any(U8), any(SINGLES), t(SINGLES), any(U8), any(U8), any(U8), t(SINGLES)]).optional(12)
        .with(&[EXPERTS, ACTIVATION, FUSION, attr("activation_alpha", Float), attr("activation_beta", Float),
            attr("swiglu_limit", Float), flag("normalize_routing_weights"), only("use_sparse_mixer", 0),
            attr("expert_weight_bits", Int(2, 8)), attr("block_size", Int(0, 1 << 24)), attr("quant_type", Text(&["int"])),
            attr("weights_prepacked", Int(-1, 0)), attr("accuracy_level", Int(0, 4))]),
];
