//! Operators of transformers: attention, its alternatives, and gates.

use crate::entry::Values::{Float, Int, Text, Type};
use crate::entry::{Attribute, Check, Input, Operator, Output, any, attr, flag, must, op, t, u};
use crate::types::{BOOL, FLOATS, I64, REALS, SINGLES};

const Q_HEADS: Attribute = attr("q_num_heads", Int(1, 1 << 16));
const KV_HEADS: Attribute = attr("kv_num_heads", Int(1, 1 << 16));
const MODE: Attribute = attr("qk_matmul_output_mode", Int(0, 3));
const PRECISION: Attribute = attr("softmax_precision", Type(FLOATS));
const SOFTCAP: Attribute = attr("softcap", Float);
const SCALE: Attribute = attr("scale", Float);
const BACK: Attribute = attr("left_window_size", Int(-1, 1 << 30));
const AHEAD: Attribute = attr("right_window_size", Int(-1, 1 << 30));

const QKV: [Input; 6] = [t(REALS), t(REALS), t(REALS), any(REALS.or(BOOL)), t(REALS), t(REALS)];
const LENGTHS: &[Input] = &[QKV[0], QKV[1], QKV[2], QKV[3], QKV[4], QKV[5], any(I64)];
const OF_ATTENTION: &[Output] =
    &[Output::Like('T'), Output::Like('T'), Output::Like('T'), Output::Like('T')];
const RULES: &[&str] = &["linear", "gated", "delta", "gated_delta"];

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
    op("Attention", 23, &QKV).until(23).optional(3).to(OF_ATTENTION).fewest(1).check(Check::Attention)
        .with(&[flag("is_causal"), Q_HEADS, KV_HEADS, SCALE, SOFTCAP, MODE, PRECISION]),
    op("Attention", 24, LENGTHS).until(24).optional(4).to(OF_ATTENTION).fewest(1).check(Check::Attention)
        .with(&[flag("is_causal"), Q_HEADS, KV_HEADS, SCALE, SOFTCAP, MODE, PRECISION]),
    op("Attention", 25, LENGTHS).optional(4).to(OF_ATTENTION).fewest(1).check(Check::Attention)
        .with(&[flag("is_causal"), Q_HEADS, KV_HEADS, SCALE, SOFTCAP, MODE, PRECISION, BACK, AHEAD]),
    op("LinearAttention", 27, &[t(SINGLES), t(SINGLES), t(SINGLES), u(SINGLES), t(SINGLES), t(SINGLES)])
        .optional(3).to(&[Output::Like('T'), Output::Either('U', 'T')]).fewest(1)
        .with(&[must("q_num_heads", Int(1, 1 << 16)), must("kv_num_heads", Int(1, 1 << 16)), SCALE,
            attr("chunk_size", Int(1, 1 << 30)), attr("update_rule", Text(RULES))]),
    op("CausalConvWithState", 27, &[t(SINGLES), t(SINGLES), t(SINGLES), t(SINGLES)]).optional(2)
        .to(&[Output::Like('T'), Output::Like('T')]).fewest(1)
        .with(&[attr("activation", Text(&["none", "silu", "swish"]))]),
    op("RotaryEmbedding", 23, &[t(SINGLES), t(SINGLES), t(SINGLES), any(I64)]).optional(1)
        .with(&[flag("interleaved"), attr("num_heads", Int(0, 1 << 16)), attr("rotary_embedding_dim", Int(0, 1 << 16))]),
    op("Swish", 24, &[t(REALS)]).with(&[attr("alpha", Float)]),
    op("SwiGLU", 28, &[t(REALS), t(REALS)]).with(&[attr("alpha", Float)]),
];
