//! Products of quantized tensors.

use crate::entry::Values::{Int, Ints, Text};
use crate::entry::{Attribute, Check, Input, Operator, Output, any, attr, op};
use crate::types::{BYTES, F32, I32, SINGLES};

const fn of(letter: char) -> Input {
    Input { types: BYTES, letter }
}

const fn scale(types: crate::types::Types) -> Input {
    Input { types, letter: 'S' }
}

const CONV: &[Attribute] = &[
    attr("kernel_shape", Ints(1, 1 << 16)),
    attr("strides", Ints(1, 1 << 16)),
    attr("dilations", Ints(1, 1 << 16)),
    attr("pads", Ints(0, 1 << 16)),
    attr("auto_pad", Text(&["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])),
    attr("group", Int(1, 1 << 20)),
];
const TO: &[Output] = &[Output::Like('Y')];
const SINGLE: Input = scale(F32);
const ANY: Input = scale(SINGLES);

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
    op("QLinearMatMul", 10, &[of('A'), SINGLE, of('A'), of('B'), SINGLE, of('B'), SINGLE, of('Y')]).until(20).to(TO),
    op("QLinearMatMul", 21, &[of('A'), ANY, of('A'), of('B'), ANY, of('B'), ANY, of('Y')]).to(TO),
    op("QLinearConv", 10, &[of('X'), SINGLE, of('X'), of('W'), SINGLE, of('W'), SINGLE, of('Y'), any(I32)]).optional(1)
        .to(TO).with(CONV).check(Check::Windows),
];
