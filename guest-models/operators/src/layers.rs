//! Operators of networks: products, convolutions, poolings, normalisations, reductions, recurrence.

use crate::entry::Values::{AnyText, Float, Int, Ints, Text, Type, ZeroOr};
use crate::entry::{
    Attribute, Check, Operator, Output, any, attr, axis, flag, must, only, op, t, u,
};
use crate::types::{
    BF16, BOOL, BYTES, F4E2M1, F8E8M0, F32, FLOAT8, I16, I32, I64, INDICES, INT2, INT4, INTEGERS,
    NUMBERS, REALS, SINGLES, Types, U8, U16, WIDE_INTEGERS,
};

/// Bounds of windows, larger than any image that fits a sandbox.
const KERNEL: Attribute = attr("kernel_shape", Ints(1, 1 << 16));
const MUST_KERNEL: Attribute = must("kernel_shape", Ints(1, 1 << 16));
const STRIDES: Attribute = attr("strides", Ints(1, 1 << 16));
const DILATIONS: Attribute = attr("dilations", Ints(1, 1 << 16));
const PADS: Attribute = attr("pads", Ints(0, 1 << 16));
const AUTO_PAD: Attribute =
    attr("auto_pad", Text(&["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]));
const EPSILON: Attribute = attr("epsilon", Float);
const KEEP: Attribute = flag("keepdims");
const AXES: Attribute = attr("axes", Ints(-32, 31));
const NOOP: Attribute = flag("noop_with_empty_axes");
const GROUP: Attribute = attr("group", Int(1, 1 << 20));

const CONV: &[Attribute] = &[KERNEL, STRIDES, DILATIONS, PADS, AUTO_PAD, GROUP];
const REDUCE: &[Attribute] = &[AXES, KEEP];
const REDUCE_18: &[Attribute] = &[KEEP, NOOP];
const ARG: &[Attribute] = &[axis("axis"), KEEP, flag("select_last_index")];
/// The types of sums, products and their norms. Those of integers wrap around.
const SUMMED: Types = REALS.or(WIDE_INTEGERS);
const IS_I64: &[Output] = &[Output::Is(I64)];
/// The type that an attribute names, or float32.
const NAMED: &[Output] = &[Output::With(&[("output_datatype", REALS.or(INTEGERS))], F32)];
const OUTPUT_TYPE: Attribute = attr("output_datatype", Type(REALS.or(INTEGERS)));
const QUANTIZED: &[Output] = &[Output::Special];
/// The types of quantized values, scales and results.
const SCALED: Types = SCALES.or(I32);
const SCALES: Types = SINGLES;
const STORED_QUANTIZED: Types = BYTES.or(I16).or(U16).or(FLOAT8).or(F4E2M1).or(INT4).or(INT2);

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
    op("MatMul", 1, &[t(REALS), t(REALS)]).until(8),
    op("MatMul", 9, &[t(SUMMED), t(SUMMED)]),
    op("MatMulInteger", 10, &[t(BYTES), u(BYTES), t(BYTES), u(BYTES)]).optional(2).to(&[Output::Is(I32)]),
    op("Gemm", 7, &[t(REALS), t(REALS), t(REALS)]).until(8)
        .with(&[attr("alpha", Float), attr("beta", Float), flag("transA"), flag("transB")]),
    op("Gemm", 9, &[t(SUMMED), t(SUMMED), t(SUMMED)]).until(10)
        .with(&[attr("alpha", Float), attr("beta", Float), flag("transA"), flag("transB")]),
    op("Gemm", 11, &[t(SUMMED), t(SUMMED), t(SUMMED)]).optional(1)
        .with(&[attr("alpha", Float), attr("beta", Float), flag("transA"), flag("transB")]),
    op("Einsum", 12, &[t(NUMBERS.or(BF16))]).many().with(&[must("equation", AnyText)]).check(Check::Equation),
    op("Conv", 1, &[t(REALS), t(REALS), t(REALS)]).optional(1).with(CONV).check(Check::Windows),
    op("ConvInteger", 10, &[t(BYTES), u(BYTES), t(BYTES), u(BYTES)]).optional(2).to(&[Output::Is(I32)])
        .with(CONV).check(Check::Windows),
    op("ConvTranspose", 1, &[t(REALS), t(REALS), t(REALS)]).optional(1).check(Check::Windows)
        .with(&[KERNEL, STRIDES, DILATIONS, PADS, AUTO_PAD, GROUP, attr("output_padding", Ints(0, 1 << 16)),
            attr("output_shape", Ints(1, 1 << 24))]),
    op("MaxPool", 1, &[t(REALS.or(BYTES))]).to(&[Output::Like('T'), Output::Is(I64)]).fewest(1).check(Check::Pooling)
        .with(&[MUST_KERNEL, STRIDES, DILATIONS, PADS, AUTO_PAD, flag("ceil_mode"), flag("storage_order")]),
    op("AveragePool", 7, &[t(REALS)]).check(Check::Pooling)
        .with(&[MUST_KERNEL, STRIDES, DILATIONS, PADS, AUTO_PAD, flag("ceil_mode"), flag("count_include_pad")]),
    op("LpPool", 2, &[t(REALS)]).check(Check::Pooling)
        .with(&[MUST_KERNEL, STRIDES, DILATIONS, PADS, AUTO_PAD, only("ceil_mode", 0), attr("p", Int(1, 64))]),
    op("MaxUnpool", 9, &[t(REALS), any(I64), any(I64)]).optional(1).check(Check::Windows).with(&[MUST_KERNEL, STRIDES, PADS]),
    op("Col2Im", 18, &[t(NUMBERS.or(BF16)), any(I64), any(I64)]).check(Check::Windows).with(&[STRIDES, DILATIONS, PADS]),
    op("GlobalAveragePool", 1, &[t(REALS)]),
    op("GlobalMaxPool", 1, &[t(REALS)]),
    op("GlobalLpPool", 2, &[t(REALS)]).with(&[attr("p", Int(1, 64))]),

    op("BatchNormalization", 7, &[t(REALS), t(REALS), t(REALS), t(REALS), t(REALS)]).until(8)
        .with(&[EPSILON, attr("momentum", Float), only("spatial", 1)]),
    op("BatchNormalization", 9, &[t(REALS), t(REALS), t(REALS), t(REALS), t(REALS)]).until(13)
        .with(&[EPSILON, attr("momentum", Float)]),
    op("BatchNormalization", 14, &[t(REALS), t(REALS), t(REALS), t(REALS), t(REALS)])
        .to(&[Output::Like('T'), Output::Like('T'), Output::Like('T')]).fewest(1).check(Check::Training)
        .with(&[EPSILON, attr("momentum", Float), flag("training_mode")]),
    op("InstanceNormalization", 6, &[t(REALS), t(REALS), t(REALS)]).with(&[EPSILON]),
    op("LayerNormalization", 17, &[t(REALS), t(REALS), t(REALS)]).optional(1)
        .to(&[Output::Like('T'), Output::Is(F32), Output::Is(F32)]).fewest(1)
        .with(&[axis("axis"), EPSILON, only("stash_type", 1)]),
    op("GroupNormalization", 21, &[t(REALS), t(REALS), t(REALS)])
        .with(&[EPSILON, must("num_groups", Int(1, 1 << 20)), only("stash_type", 1)]),
    op("RMSNormalization", 23, &[t(REALS), t(REALS)])
        .with(&[axis("axis"), EPSILON, only("stash_type", 1)]),
    op("LpNormalization", 1, &[t(REALS)]).with(&[axis("axis"), attr("p", Int(1, 2))]),
    op("MeanVarianceNormalization", 9, &[t(REALS)]).with(&[AXES]),
    op("LRN", 1, &[t(REALS)]).check(Check::OddSize)
        .with(&[must("size", Int(1, 1 << 16)), attr("alpha", Float), attr("beta", Float), attr("bias", Float)]),
    op("Softmax", 1, &[t(REALS)]).with(&[axis("axis")]),
    op("LogSoftmax", 1, &[t(REALS)]).with(&[axis("axis")]),
    op("Hardmax", 1, &[t(REALS)]).with(&[axis("axis")]),

    op("ReduceSum", 1, &[t(SUMMED)]).until(12).with(REDUCE),
    op("ReduceSum", 13, &[t(SUMMED), any(I64)]).optional(1).with(REDUCE_18),
    op("ReduceMax", 1, &[t(NUMBERS.or(BF16))]).until(17).with(REDUCE),
    op("ReduceMax", 18, &[t(NUMBERS.or(BF16).or(BOOL)), any(I64)]).optional(1).with(REDUCE_18),
    op("ReduceMin", 1, &[t(NUMBERS.or(BF16))]).until(17).with(REDUCE),
    op("ReduceMin", 18, &[t(NUMBERS.or(BF16).or(BOOL)), any(I64)]).optional(1).with(REDUCE_18),
    op("ReduceProd", 1, &[t(SUMMED)]).until(17).with(REDUCE),
    op("ReduceProd", 18, &[t(SUMMED), any(I64)]).optional(1).with(REDUCE_18),
    op("ReduceMean", 1, &[t(SUMMED)]).until(17).with(REDUCE),
    op("ReduceMean", 18, &[t(SUMMED), any(I64)]).optional(1).with(REDUCE_18),
    op("ReduceL1", 1, &[t(SUMMED)]).until(17).with(REDUCE),
    op("ReduceL1", 18, &[t(SUMMED), any(I64)]).optional(1).with(REDUCE_18),
    op("ReduceL2", 1, &[t(SUMMED)]).until(17).with(REDUCE),
    op("ReduceL2", 18, &[t(SUMMED), any(I64)]).optional(1).with(REDUCE_18),
    op("ReduceLogSum", 1, &[t(REALS)]).until(17).with(REDUCE),
    op("ReduceLogSum", 18, &[t(REALS), any(I64)]).optional(1).with(REDUCE_18),
    op("ReduceLogSumExp", 1, &[t(REALS)]).until(17).with(REDUCE),
    op("ReduceLogSumExp", 18, &[t(REALS), any(I64)]).optional(1).with(REDUCE_18),
    op("ReduceSumSquare", 1, &[t(SUMMED)]).until(17).with(REDUCE),
    op("ReduceSumSquare", 18, &[t(SUMMED), any(I64)]).optional(1).with(REDUCE_18),
    op("ArgMax", 1, &[t(NUMBERS.or(BF16))]).to(IS_I64).with(ARG),
    op("ArgMin", 1, &[t(NUMBERS.or(BF16))]).to(IS_I64).with(ARG),
    op("CumProd", 26, &[t(SUMMED), any(INDICES)]).with(&[flag("exclusive"), flag("reverse")]),
    op("CumSum", 11, &[t(SUMMED), any(INDICES)]).with(&[flag("exclusive"), flag("reverse")]),

    op("QuantizeLinear", 10, &[any(F32.or(I32)), any(F32), u(BYTES)]).until(18).optional(1)
        .to(QUANTIZED).with(&[axis("axis"), only("saturate", 1), only("block_size", 0),
            only("output_dtype", 0), only("precision", 0)]),
    op("QuantizeLinear", 19, &[any(SCALED), any(SCALES), u(BYTES.or(FLOAT8))]).until(20).optional(1)
        .to(QUANTIZED).with(&[axis("axis"), flag("saturate"), only("block_size", 0),
            only("output_dtype", 0), only("precision", 0)]),
    op("QuantizeLinear", 21, &[any(SCALED), any(SCALES.or(F8E8M0)), u(STORED_QUANTIZED)]).optional(1)
        .to(QUANTIZED).with(&[axis("axis"), flag("saturate"), attr("block_size", Int(0, 1 << 30)),
            attr("output_dtype", ZeroOr(STORED_QUANTIZED)), attr("precision", ZeroOr(SCALES))]),
    op("DequantizeLinear", 10, &[t(BYTES.or(I32)), any(F32), t(BYTES.or(I32))]).until(18).optional(1)
        .to(QUANTIZED).with(&[axis("axis"), only("block_size", 0), only("output_dtype", 0)]),
    op("DequantizeLinear", 19, &[t(BYTES.or(I32).or(FLOAT8)), any(SCALES), t(BYTES.or(I32).or(FLOAT8))]).until(20)
        .optional(1).to(QUANTIZED).with(&[axis("axis"), only("block_size", 0), only("output_dtype", 0)]),
    op("DequantizeLinear", 21, &[t(STORED_QUANTIZED.or(I32)), any(SCALES.or(F8E8M0)), t(STORED_QUANTIZED.or(I32))])
        .optional(1).to(QUANTIZED)
        .with(&[axis("axis"), attr("block_size", Int(0, 1 << 30)), attr("output_dtype", ZeroOr(SCALES))]),
    op("DynamicQuantizeLinear", 11, &[any(F32)])
        .to(&[Output::Is(U8), Output::Is(F32), Output::Is(U8)]),
    op("AffineGrid", 20, &[t(REALS), any(I64)]).with(&[flag("align_corners")]),
    op("Det", 11, &[t(REALS)]),
    op("NegativeLogLikelihoodLoss", 12, &[t(REALS), any(INDICES), t(REALS)]).optional(1)
        .with(&[attr("ignore_index", Int(i64::MIN, i64::MAX)), attr("reduction", Text(&["none", "sum", "mean"]))]),
    op("SoftmaxCrossEntropyLoss", 12, &[t(REALS), any(INDICES), t(REALS)]).optional(1)
        .to(&[Output::Like('T'), Output::Like('T')]).fewest(1)
        .with(&[attr("ignore_index", Int(i64::MIN, i64::MAX)), attr("reduction", Text(&["none", "sum", "mean"]))]),
    op("GridSample", 16, &[t(REALS), any(REALS)]).until(19).check(Check::GridSample)
        .with(&[flag("align_corners"), attr("mode", Text(&["bilinear", "nearest", "bicubic"])),
            attr("padding_mode", Text(&["zeros", "border", "reflection"]))]),
    op("GridSample", 20, &[t(REALS), any(REALS)]).check(Check::GridSample)
        .with(&[flag("align_corners"), attr("mode", Text(&["linear", "nearest", "cubic"])),
            attr("padding_mode", Text(&["zeros", "border", "reflection"]))]),
    op("NonMaxSuppression", 10, &[any(F32), any(F32), any(I64), any(F32), any(F32)]).optional(3)
        .to(IS_I64).with(&[flag("center_point_box")]),
    op("DFT", 17, &[t(REALS), any(INDICES)]).until(19).optional(1)
        .with(&[axis("axis"), flag("inverse"), flag("onesided")]),
    op("DFT", 20, &[t(REALS), any(INDICES), any(I64)]).optional(2).with(&[flag("inverse"), flag("onesided")]),
    op("STFT", 17, &[t(REALS), any(INDICES), t(REALS), any(INDICES)]).optional(2).with(&[flag("onesided")]),
    op("HannWindow", 17, &[any(INDICES)]).to(NAMED).with(&[flag("periodic"), OUTPUT_TYPE]),
    op("HammingWindow", 17, &[any(INDICES)]).to(NAMED).with(&[flag("periodic"), OUTPUT_TYPE]),
    op("BlackmanWindow", 17, &[any(INDICES)]).to(NAMED).with(&[flag("periodic"), OUTPUT_TYPE]),
    op("MelWeightMatrix", 17, &[any(INDICES), any(INDICES), any(INDICES), any(REALS), any(REALS)])
        .to(NAMED).with(&[OUTPUT_TYPE]),
];
