//! Operators that stand alone.

use super::microsoft;
use crate::entry::Values::{AnyText, AnyTexts, Float, Int, Ints, Text};
use crate::entry::{Check, Operator, Output, any, attr, axis, flag, must, only, t};
use crate::types::{
    ANY, BF16, F32, F64, I16, I32, I64, INDICES, NUMBERS, PLAIN, REALS, SINGLES, STRING, Types,
    U32, U64,
};

/// The types of elements that are only moved.
const MOVED: Types = PLAIN.or(BF16).or(STRING);
const RANGED: Types = F32.or(F64).or(I16).or(INDICES);
const HASHED: Types = F32.or(F64).or(INDICES).or(U32).or(U64).or(STRING);
const NGRAM: crate::entry::Values = Int(1, 1 << 20);

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
    microsoft("Trilu", &[t(PLAIN.or(BF16)), any(I64)]).optional(1).with(&[flag("upper")]),
    microsoft("GatherND", &[t(ANY.or(BF16)), any(INDICES)]),
    microsoft("GridSample", &[t(SINGLES), t(SINGLES)])
        .with(&[flag("align_corners"), attr("mode", Text(&["bilinear", "nearest", "bicubic"])),
            attr("padding_mode", Text(&["zeros", "border", "reflection"]))]),
    microsoft("Pad", &[t(REALS), any(I64), t(REALS)]).optional(1)
        .with(&[attr("mode", Text(&["constant", "reflect", "edge"]))]),
    microsoft("Range", &[t(RANGED), t(RANGED), t(RANGED)]).optional(1),
    microsoft("Unique", &[t(NUMBERS.or(BF16))]).to(&[Output::Like('T'), Output::Is(I64), Output::Is(I64)]).fewest(1),
    microsoft("ExpandDims", &[t(MOVED), any(I32)]),
    microsoft("UnfoldTensor", &[t(PLAIN.or(BF16))])
        .with(&[axis("dim"), must("size", Int(1, 1 << 30)), attr("step", Int(1, 1 << 30))]),
    microsoft("TransposeMatMul", &[t(REALS), t(REALS)]).with(&[flag("transA"), flag("transB"), attr("alpha", Float)]),
    microsoft("Inverse", &[t(REALS)]),
    microsoft("CDist", &[t(F32.or(F64)), t(F32.or(F64))]).with(&[attr("metric", Text(&["euclidean", "sqeuclidean"]))]),
    microsoft("MurmurHash3", &[any(HASHED)]).to(&[Output::Unless("positive", U32, I32)])
        .with(&[flag("positive"), attr("seed", Int(0, u32::MAX as i64))]),
    microsoft("NGramRepeatBlock", &[any(I64), t(F32)]).with(&[must("ngram_size", NGRAM)]),
    microsoft("CropAndResize", &[t(SINGLES), t(SINGLES), any(I32), any(I32)])
        .with(&[attr("mode", Text(&["bilinear", "nearest"])), attr("extrapolation_value", Float)]),
    microsoft("WordConvEmbedding", &[any(I32), t(F32), t(F32), t(F32)])
        .with(&[attr("embedding_size", Int(1, 1 << 30)), attr("conv_window_size", Int(1, 1 << 30)),
            attr("char_embedding_size", Int(1, 1 << 30))]),
    microsoft("Tokenizer", &[t(STRING)])
        .with(&[must("mark", Int(0, 1)), must("mincharnum", Int(1, i64::MAX)), must("pad_value", AnyText),
            attr("separators", AnyTexts), attr("tokenexp", AnyText)]),
    microsoft("MaxpoolWithMask", &[t(F32), any(I32)]).check(Check::Windows)
        .with(&[must("kernel_shape", Ints(1, 1 << 16)), attr("strides", Ints(1, 1 << 16)), attr("pads", Ints(0, 1 << 16)),
            attr("auto_pad", Text(&["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])), only("storage_order", 0)]),
    microsoft("DynamicTimeWarping", &[t(F32)]).to(&[Output::Is(I32)]),
];
