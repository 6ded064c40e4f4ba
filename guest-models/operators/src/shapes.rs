//! Constants, shapes, gathering, slicing, and control flow.

use crate::entry::Values::{
    AnyText, AnyTexts, Float, Floats, Graph, Int, Ints, Tensor, Text, Type,
};
use crate::entry::{
    Attribute, Check, Operator, Output, any, attr, axis, flag, must, only, op, t, u,
};
use crate::types::{
    ANY, BF16, BOOL, F8E8M0, F32, F64, FLOAT8, FLOATS, I16, I64, INDICES, INTEGERS, NUMBERS, PLAIN,
    REALS, SINGLES, STORED, Types, U8,
};

const IS_I64: &[Output] = &[Output::Is(I64)];
const RANGED: Types = REALS.or(I16).or(INDICES);
const RANGED_11: Types = F32.or(F64).or(I16).or(INDICES);
/// Small types whose codes have all bits of a byte, or of two.
const CODES: Types = BF16.or(FLOAT8).or(F8E8M0);
const SPECIAL: &[Output] = &[Output::Special];
/// The types of operators that only move elements: all types.
const MOVED: Types = ANY.or(STORED);
const MOVED_NUMBERS: Types = PLAIN.or(STORED);
/// The types of operators that scatter elements, which may be reduced with others.
const PLACED: Types = PLAIN.or(BF16);
/// Between integers, Resize only takes the nearest.
const RESIZED: Types = NUMBERS.or(BF16);

const RESIZE_18: &[Attribute] = &[
    attr("mode", Text(&["nearest", "linear", "cubic"])),
    attr("cubic_coeff_a", Float),
    flag("exclude_outside"),
    attr("extrapolation_value", Float),
    attr("nearest_mode", Text(&["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])),
    attr(
        "coordinate_transformation_mode",
        Text(&[
            "half_pixel",
            "pytorch_half_pixel",
            "align_corners",
            "asymmetric",
            "half_pixel_symmetric",
            "tf_crop_and_resize",
        ]),
    ),
    flag("antialias"),
    attr("axes", Ints(-32, 31)),
    attr("keep_aspect_ratio_policy", Text(&["stretch", "not_larger", "not_smaller"])),
];
/// The attributes before the last three were added.
const RESIZE: &[Attribute] = RESIZE_18.split_at(6).0;

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
    op("Constant", 1, &[]).to(SPECIAL).check(Check::Constant)
        .with(&[attr("value", Tensor), attr("value_int", Int(i64::MIN, i64::MAX)),
            attr("value_ints", Ints(i64::MIN, i64::MAX)), attr("value_float", Float), attr("value_floats", Floats),
            attr("value_string", AnyText), attr("value_strings", AnyTexts)]),
    op("ConstantOfShape", 9, &[any(I64)]).to(SPECIAL).with(&[attr("value", Tensor)]),
    op("Shape", 1, &[any(MOVED)]).to(IS_I64).with(&[attr("start", Int(-64, 64)), attr("end", Int(i64::MIN, i64::MAX))]),
    op("Size", 1, &[any(MOVED)]).to(IS_I64),
    op("Range", 11, &[t(RANGED_11), t(RANGED_11), t(RANGED_11)]).until(26),
    op("Range", 27, &[t(RANGED), t(RANGED), t(RANGED)]).with(&[only("stash_type", 1)]),
    op("EyeLike", 9, &[t(PLACED)]).to(&[Output::AttrOr("dtype", PLACED, 'T')])
        .with(&[attr("dtype", Type(PLACED)), attr("k", Int(-65536, 65536))]),
    op("ImageDecoder", 20, &[t(U8)]).with(&[attr("pixel_format", Text(&["RGB", "BGR", "Grayscale"]))]),

    op("Reshape", 5, &[t(MOVED), any(I64)]).with(&[flag("allowzero")]),
    op("Flatten", 1, &[t(MOVED)]).with(&[axis("axis")]),
    op("Squeeze", 1, &[t(MOVED)]).until(12).with(&[attr("axes", Ints(-32, 31))]),
    op("Squeeze", 13, &[t(MOVED), any(I64)]).optional(1),
    op("Unsqueeze", 1, &[t(MOVED)]).until(12).with(&[must("axes", Ints(-32, 31))]),
    op("Unsqueeze", 13, &[t(MOVED), any(I64)]),
    op("Transpose", 1, &[t(MOVED)]).with(&[attr("perm", Ints(0, 31))]).check(Check::Permutation),
    op("Expand", 8, &[t(MOVED), any(I64)]),
    op("Tile", 6, &[t(MOVED_NUMBERS), any(I64)]),
    op("Concat", 4, &[t(MOVED)]).many().with(&[must("axis", Int(-32, 31))]),
    op("Split", 2, &[t(MOVED)]).until(12).to(&[Output::Like('T')]).many_outputs()
        .with(&[axis("axis"), attr("split", Ints(0, 1 << 30))]),
    op("Split", 13, &[t(MOVED), any(I64)]).optional(1).to(&[Output::Like('T')]).many_outputs()
        .with(&[axis("axis"), attr("num_outputs", Int(1, 1024))]),
    op("Slice", 1, &[t(MOVED)]).until(9).check(Check::Slice1)
        .with(&[attr("axes", Ints(0, 31)), must("starts", Ints(i64::MIN, i64::MAX)), must("ends", Ints(i64::MIN, i64::MAX))]),
    op("Slice", 10, &[t(MOVED), u(INDICES), u(INDICES), u(INDICES), u(INDICES)]).optional(2),
    op("Pad", 2, &[t(FLOATS)]).until(10)
        .with(&[must("pads", Ints(-(1 << 24), 1 << 24)), attr("mode", Text(&["constant", "edge", "reflect"])), attr("value", Float)]),
    op("Pad", 11, &[t(NUMBERS.or(BF16)), any(I64), t(NUMBERS.or(BF16)), any(INDICES)]).until(18).optional(2)
        .with(&[attr("mode", Text(&["constant", "reflect", "edge"]))]),
    op("Pad", 19, &[t(NUMBERS.or(BF16)), any(I64), t(NUMBERS.or(BF16)), any(INDICES)]).optional(2)
        .with(&[attr("mode", Text(&["constant", "reflect", "edge", "wrap"]))]),
    op("DepthToSpace", 1, &[t(PLACED)])
        .with(&[must("blocksize", Int(1, 1 << 12)), attr("mode", Text(&["DCR", "CRD"]))]),
    op("SpaceToDepth", 1, &[t(PLACED)]).until(27).with(&[must("blocksize", Int(1, 1 << 12))]),
    op("SpaceToDepth", 28, &[t(PLACED)])
        .with(&[must("blocksize", Int(1, 1 << 12)), attr("mode", Text(&["DCR", "CRD"]))]),
    op("Trilu", 14, &[t(PLACED), any(I64)]).optional(1).with(&[flag("upper")]),

    op("Gather", 1, &[t(MOVED), any(INDICES)]).with(&[axis("axis")]),
    op("GatherElements", 11, &[t(MOVED_NUMBERS), any(INDICES)]).with(&[axis("axis")]),
    op("GatherND", 11, &[t(MOVED), any(I64)]).with(&[attr("batch_dims", Int(0, 31))]),
    op("Scatter", 9, &[t(PLAIN), any(INDICES), t(PLAIN)]).until(10).with(&[axis("axis")]),
    op("ScatterElements", 11, &[t(PLACED), any(INDICES), t(PLACED)])
        .with(&[axis("axis"), attr("reduction", Text(&["none", "add", "mul", "max", "min"]))]),
    op("ScatterND", 11, &[t(PLACED), any(I64), t(PLACED)])
        .with(&[attr("reduction", Text(&["none", "add", "mul", "max", "min"]))]),
    op("OneHot", 9, &[any(NUMBERS), any(NUMBERS), t(PLAIN.or(BF16))]).with(&[axis("axis")]),
    op("BitCast", 26, &[any(PLAIN.or(CODES))]).to(&[Output::Attr("to", NUMBERS.or(CODES))]).with(&[must("to", Type(NUMBERS.or(CODES)))]),
    op("CenterCropPad", 18, &[t(PLACED), any(INDICES)]).with(&[attr("axes", Ints(-32, 31))]),
    op("Compress", 9, &[t(MOVED_NUMBERS), any(BOOL)]).with(&[axis("axis")]),
    op("ReverseSequence", 10, &[t(MOVED_NUMBERS), any(I64)]).with(&[attr("batch_axis", Int(0, 1)), attr("time_axis", Int(0, 1))]),
    op("TensorScatter", 24, &[t(MOVED_NUMBERS), t(MOVED_NUMBERS), any(I64)]).optional(1)
        .with(&[axis("axis"), attr("mode", Text(&["linear", "circular"]))]),
    op("Unique", 11, &[t(NUMBERS.or(BF16))]).to(&[Output::Like('T'), Output::Is(I64), Output::Is(I64), Output::Is(I64)]).fewest(1)
        .with(&[axis("axis"), flag("sorted")]),
    op("Upsample", 9, &[t(PLAIN), any(F32)]).until(9).with(&[attr("mode", Text(&["nearest"]))]),
    op("TopK", 10, &[t(NUMBERS.or(BF16)), any(I64)]).to(&[Output::Like('T'), Output::Is(I64)])
        .with(&[axis("axis"), flag("largest"), flag("sorted")]),
    op("NonZero", 9, &[any(PLACED)]).to(IS_I64),
    op("Resize", 10, &[t(SINGLES.or(INTEGERS)), any(F32)]).until(10).with(&[attr("mode", Text(&["nearest", "linear"]))]),
    op("Resize", 11, &[t(RESIZED), any(REALS), any(F32), any(I64)]).until(17).optional(3).check(Check::Resize).with(RESIZE),
    op("Resize", 18, &[t(RESIZED), any(REALS), any(F32), any(I64)]).optional(3).check(Check::Resize).with(RESIZE_18),

    op("If", 1, &[any(BOOL)]).to(SPECIAL).many_outputs()
        .with(&[must("then_branch", Graph), must("else_branch", Graph)]),
    op("Loop", 1, &[any(I64), any(BOOL), any(MOVED)]).optional(3).many().to(SPECIAL).many_outputs()
        .with(&[must("body", Graph)]),
    op("Scan", 8, &[any(I64), any(MOVED)]).until(8).optional(2).many().to(SPECIAL).many_outputs().check(Check::Scan8)
        .with(&[must("body", Graph), must("num_scan_inputs", Int(1, 1024)), attr("directions", Ints(0, 1))]),
    op("Scan", 9, &[any(MOVED)]).many().to(SPECIAL).many_outputs().check(Check::Scan)
        .with(&[must("body", Graph), must("num_scan_inputs", Int(1, 1024)), attr("scan_input_axes", Ints(-32, 31)),
            attr("scan_output_axes", Ints(-32, 31)), attr("scan_input_directions", Ints(0, 1)),
            attr("scan_output_directions", Ints(0, 1))]),
];
