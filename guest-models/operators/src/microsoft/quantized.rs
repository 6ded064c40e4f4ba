//! Operators on quantized tensors: of 8 bits, and of weights in blocks of fewer bits.

use super::microsoft;
use crate::entry::Values::{AnyTexts, Float, Int, Ints, Text};
use crate::entry::{
    Attribute, Check, Input, Operator, Output, any, attr, axis, flag, must, only, t,
};
use crate::types::{BOOL, BYTES, F32, I16, I32, I64, INT4, SINGLES, Types, U8, U16};

const fn of(letter: char) -> Input {
    Input { types: BYTES, letter }
}

/// A scale, and what else has its type.
const S: Input = Input { types: F32, letter: 'S' };
/// The same, also in a narrow type.
const H: Input = Input { types: SINGLES, letter: 'S' };
/// The types that are dequantized.
const STORED: Types = BYTES.or(I16).or(U16).or(I32).or(INT4);
const LIKE_S: &[Output] = &[Output::Like('S')];
const LIKE_Y: &[Output] = &[Output::Like('Y')];
const LSTM: &[Output] = &[Output::Like('S'), Output::Like('S'), Output::Like('S')];

const DIRECTION: Attribute = attr("direction", Text(&["forward", "reverse", "bidirectional"]));
const KERNEL: Attribute = attr("kernel_shape", Ints(1, 1 << 16));
const STRIDES: Attribute = attr("strides", Ints(1, 1 << 16));
const DILATIONS: Attribute = attr("dilations", Ints(1, 1 << 16));
const PADS: Attribute = attr("pads", Ints(0, 1 << 16));
const AUTO_PAD: Attribute =
    attr("auto_pad", Text(&["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]));

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
    microsoft("DynamicQuantizeLSTM", &[S, of('W'), of('R'), S, any(I32), S, S, S, S, of('W'), S, of('R')]).optional(9)
        .to(LSTM).fewest(0)
        .with(&[DIRECTION, attr("hidden_size", Int(1, 1 << 20)), flag("input_forget"),
            attr("clip", Float), attr("activations", AnyTexts)]),
    microsoft("DynamicQuantizeMatMul", &[S, of('B'), S, of('B'), S]).optional(2).to(LIKE_S),
    microsoft("MatMulIntegerToFloat", &[of('A'), of('B'), H, H, of('A'), of('B'), H]).optional(3).to(LIKE_S),
    microsoft("MatMulInteger16", &[t(I16), t(I16)]).to(&[Output::Is(I32)]),
    microsoft("QGemm", &[of('A'), S, of('A'), of('B'), S, of('B'), any(I32), S, of('Y')]).optional(3)
        .to(&[Output::Either('Y', 'S')]).with(&[attr("alpha", Float), flag("transA"), flag("transB")]),
    microsoft("QAttention", &[of('A'), of('B'), H, H, H, any(I32), of('A'), of('B'), H]).optional(4)
        .to(&[Output::Like('S'), Output::Like('S')]).fewest(1)
        .with(&[must("num_heads", Int(1, 1 << 16)), flag("unidirectional"), attr("scale", Float),
            attr("mask_filter_value", Float), only("do_rotary", 0), only("past_present_share_buffer", 0)]),
    microsoft("QLinearAdd", &[of('T'), S, of('T'), of('T'), S, of('T'), S, of('T')]).optional(6),
    microsoft("QLinearMul", &[of('T'), S, of('T'), of('T'), S, of('T'), S, of('T')]).optional(6),
    microsoft("QLinearSigmoid", &[of('T'), S, of('T'), S, of('T')]).optional(3),
    microsoft("QLinearLeakyRelu", &[of('T'), S, of('T'), S, of('T')]).optional(3).with(&[attr("alpha", Float)]),
    microsoft("QLinearSoftmax", &[of('T'), S, of('T'), S, of('T')]).optional(3)
        .with(&[must("opset", Int(1, 1 << 16)), axis("axis")]),
    microsoft("QLinearConcat", &[S, of('Y'), any(F32.or(BYTES))]).many().to(LIKE_Y).with(&[must("axis", Int(-32, 31))]),
    microsoft("QLinearWhere", &[any(BOOL), of('T'), S, of('T'), of('T'), S, of('T'), S, of('T')]),
    microsoft("QLinearAveragePool", &[of('T'), S, of('T'), S, of('T')]).optional(3).check(Check::Pooling)
        .with(&[must("kernel_shape", Ints(1, 1 << 16)), STRIDES, PADS, AUTO_PAD, flag("ceil_mode"),
            flag("count_include_pad"), flag("channels_last")]),
    microsoft("NhwcMaxPool", &[of('T')]).check(Check::Windows)
        .with(&[must("kernel_shape", Ints(1, 1 << 16)), STRIDES, DILATIONS, PADS, AUTO_PAD, flag("ceil_mode")]),
    microsoft("QLinearGlobalAveragePool", &[of('T'), S, of('T'), S, of('T')]).with(&[flag("channels_last")]),
    microsoft("QLinearConv", &[of('X'), S, of('X'), of('W'), S, of('W'), S, of('Y'), any(I32)]).optional(1)
        .to(LIKE_Y).check(Check::Windows)
        .with(&[KERNEL, STRIDES, DILATIONS, PADS, AUTO_PAD, attr("group", Int(1, 1 << 20)), flag("channels_last")]),
    microsoft("QuantizeLinear", &[H, H, Input { types: BYTES.or(I16).or(U16).or(INT4), letter: 'Y' }]).to(LIKE_Y)
        .with(&[axis("axis")]),
    microsoft("DequantizeLinear", &[t(STORED), H, t(STORED)]).optional(1)
        .to(LIKE_S).with(&[axis("axis")]),
    microsoft("MatMulBnb4", &[t(SINGLES), any(U8), t(SINGLES)])
        .with(&[must("K", Int(1, 1 << 24)), must("N", Int(1, 1 << 24)), must("block_size", Int(16, 1 << 24)),
            must("quant_type", Int(0, 1)), flag("transB"), only("training_mode", 0)]),
    // onnxruntime computes type 2 as type 1, which is not what its documentation says.
    microsoft("MatMulFpQ4", &[t(F32), any(U8), any(I64)]).with(&[must("blk_quant_type", Int(0, 1))]),
    microsoft("QEmbedLayerNormalization", &[any(I32), any(I32), of('Q'), of('Q'), of('Q'), of('Q'), of('Q'), any(I32),
        S, S, S, S, S, of('Q'), of('Q'), of('Q'), of('Q'), of('Q')]).optional(17)
        .to(&[Output::Like('S'), Output::Is(I32)]).fewest(1).with(&[attr("epsilon", Float)]),
];
