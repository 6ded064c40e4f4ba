//! Operators that sample pixels at positions given by a tensor.

use crate::entry::Values::{Float, Int, Ints, Text};
use crate::entry::{Attribute, Check, Operator, any, attr, must, op, t};
use crate::types::{I64, REALS};

const MODE: Attribute = attr("mode", Text(&["avg", "max"]));
const HEIGHT: Attribute = attr("output_height", Int(1, 1 << 16));
const WIDTH: Attribute = attr("output_width", Int(1, 1 << 16));
const SAMPLES: Attribute = attr("sampling_ratio", Int(0, 1 << 12));
const SCALE: Attribute = attr("spatial_scale", Float);

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
    op("RoiAlign", 10, &[t(REALS), t(REALS), any(I64)]).until(15).with(&[MODE, HEIGHT, WIDTH, SAMPLES, SCALE]),
    op("RoiAlign", 16, &[t(REALS), t(REALS), any(I64)])
        .with(&[MODE, HEIGHT, WIDTH, SAMPLES, SCALE, attr("coordinate_transformation_mode", Text(&["half_pixel", "output_half_pixel"]))]),
    op("MaxRoiPool", 1, &[t(REALS), t(REALS)])
        .with(&[must("pooled_shape", Ints(1, 1 << 16)), SCALE]),
    op("DeformConv", 19, &[t(REALS), t(REALS), t(REALS), t(REALS), t(REALS)]).optional(2).check(Check::Windows)
        .with(&[attr("kernel_shape", Ints(1, 1 << 16)), attr("strides", Ints(1, 1 << 16)), attr("dilations", Ints(1, 1 << 16)),
            attr("pads", Ints(0, 1 << 16)), attr("group", Int(1, 1 << 20)), attr("offset_group", Int(1, 1 << 20))]),
];
