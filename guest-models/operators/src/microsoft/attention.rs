//! Attention, its caches and rotary embeddings.

use super::microsoft;
use crate::entry::Values::{AnyFloat, AnyInts, Float, Int, Text};
use crate::entry::{Attribute, Input, Operator, Output, any, attr, flag, must, only, t, u};
use crate::types::{BYTES, F32, I32, I64, SINGLES};

const MAX_HEADS: i64 = 1 << 16;
const HEADS: Attribute = must("num_heads", Int(1, MAX_HEADS));
const KV_HEADS: Attribute = must("kv_num_heads", Int(1, MAX_HEADS));
const SCALE: Attribute = attr("scale", Float);
const QUANTIZATION: &[&str] = &["NONE", "PER_TENSOR", "PER_CHANNEL"];
const RULES: &[&str] = &["linear", "gated", "delta", "gated_delta"];

const LIKE: Output = Output::Like('T');
const X: Input = t(SINGLES);
/// A cache, which may be quantized.
const CACHE: Input = Input { types: SINGLES.or(BYTES), letter: 'C' };
const COUNT: Input = any(I32);

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
    microsoft("RotaryEmbedding", &[X, any(I64), X, X])
        .with(&[attr("num_heads", Int(0, MAX_HEADS)), attr("rotary_embedding_dim", Int(0, MAX_HEADS)),
            flag("interleaved"), flag("is_packed_batching"), SCALE]),
    microsoft("MRotaryEmbedding", &[X, any(I64), X, X])
        .with(&[attr("num_heads", Int(0, MAX_HEADS)), attr("rotary_embedding_dim", Int(0, MAX_HEADS)),
            flag("interleaved"), flag("is_packed_batching"), SCALE, must("mrope_section", AnyInts), flag("mrope_layout")]),
    microsoft("GroupQueryAttention", &[X, X, X, CACHE, CACHE, COUNT, COUNT, X, X, any(I64), X, X, any(F32), any(F32), X, X, COUNT])
        .optional(16).to(&[LIKE, Output::Either('C', 'T'), Output::Either('C', 'T'), LIKE]).fewest(1)
        .with(&[HEADS, KV_HEADS, SCALE, attr("softcap", Float), flag("causal"), flag("do_rotary"),
            flag("rotary_interleaved"), attr("local_window_size", Int(-1, 1 << 30)), attr("smooth_softmax", Int(-1, 1)),
            attr("qk_output", Int(0, 2)), attr("qk_norm_epsilon", AnyFloat), attr("q_norm_epsilon", AnyFloat),
            attr("k_norm_epsilon", AnyFloat), flag("sliding_window_cache"), attr("kv_cache_bit_width", Int(0, 8)),
            attr("k_quant_type", Text(QUANTIZATION)), attr("v_quant_type", Text(QUANTIZATION))]),
    microsoft("SparseAttention", &[X, X, X, X, X, COUNT, COUNT, COUNT, COUNT, X, X]).optional(10).to(&[LIKE, LIKE, LIKE]).fewest(1)
        .with(&[HEADS, KV_HEADS, SCALE, flag("do_rotary"), flag("rotary_interleaved"), must("sparse_block_size", Int(1, 1 << 24))]),
    microsoft("Attention", &[X, X, X, COUNT, X, X, COUNT]).optional(5).to(&[LIKE, LIKE]).fewest(1)
        .with(&[HEADS, SCALE, flag("unidirectional"), attr("mask_filter_value", Float), attr("qkv_hidden_sizes", AnyInts),
            flag("past_present_share_buffer"), flag("do_rotary"), attr("rotary_embedding_dim", Int(0, MAX_HEADS))]),
    microsoft("LinearAttention", &[X, X, X, u(SINGLES), X, X]).optional(3).to(&[LIKE, Output::Either('U', 'T')])
        .with(&[must("q_num_heads", Int(1, MAX_HEADS)), KV_HEADS, SCALE, attr("chunk_size", Int(1, 1 << 30)),
            attr("update_rule", Text(RULES)), attr("state_window", Int(0, 8))]),
    microsoft("GatedDeltaNet", &[X, X, X, COUNT, any(SINGLES), any(SINGLES), any(F32), any(SINGLES), any(SINGLES)])
        .optional(8).to(&[LIKE, Output::Is(F32)]).fewest(1)
        .with(&[attr("update_rule", Text(RULES)), SCALE, flag("qk_l2_norm"), attr("gate_lower_bound", Float),
            attr("gate_activation", Text(&["none", "softplus", "qwen", "sigmoid", "kda"])),
            attr("beta_activation", Text(&["none", "sigmoid"])), attr("chunk_size", Int(1, 1 << 30)),
            only("state_update_capacity", 0)]),
    microsoft("CausalConvWithState", &[X, X, X, X]).optional(2).to(&[LIKE, LIKE, LIKE]).fewest(2)
        .with(&[attr("activation", Text(&["none", "silu", "swish"])), attr("ndim", Int(1, 3)), attr("dilation", Int(1, 1 << 20)),
            flag("channels_last"), attr("state_window", Int(0, 8)), attr("state_update_capacity", Int(0, 8)),
            attr("state_channels_last", Int(-1, 1)), attr("state_length", Int(0, 1 << 20)),
            attr("input_channel_offset", Int(0, 1 << 30)), attr("input_channels", Int(0, 1 << 30))]),
    microsoft("DecoderMaskedMultiHeadAttention", &[X, X, X, COUNT, X, X, X, COUNT, COUNT, COUNT, X])
        .optional(10).to(&[LIKE, LIKE, LIKE, LIKE]).fewest(1)
        .with(&[HEADS, SCALE, attr("mask_filter_value", Float), flag("past_present_share_buffer"), flag("output_qk")]),
    microsoft("MultiHeadAttention", &[X, X, X, X, COUNT, X, X, X, COUNT, COUNT])
        .optional(9).to(&[LIKE, LIKE, LIKE, LIKE]).fewest(1)
        .with(&[HEADS, SCALE, flag("unidirectional"), attr("mask_filter_value", Float)]),
];
