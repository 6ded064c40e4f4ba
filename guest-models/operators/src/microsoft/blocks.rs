//! Operators on weights that are quantized in blocks.

use super::microsoft;
use crate::entry::Values::Int;
use crate::entry::{Attribute, Operator, Output, any, attr, axis, must, only, t, u};
use crate::types::{F4E2M1, FLOAT8, I32, INDICES, INT4, SINGLES, U8};

const SIZE: crate::entry::Values = Int(1, 1 << 24);
const BITS: Attribute = attr("bits", Int(4, 8));

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
    microsoft("MatMulNBits", &[t(SINGLES), any(U8), t(SINGLES), any(SINGLES.or(U8)), any(I32), t(SINGLES)]).optional(3)
        .with(&[must("K", SIZE), must("N", SIZE), BITS, must("block_size", Int(16, 1 << 24)),
            attr("accuracy_level", Int(0, 4)), only("weight_prepacked", 0)]),
    microsoft("GatherBlockQuantized", &[t(U8.or(INT4).or(FLOAT8).or(F4E2M1)), any(INDICES), u(SINGLES), t(U8.or(INT4))]).optional(1)
        .to(&[Output::Like('U')])
        .with(&[BITS, attr("block_size", Int(0, 1 << 24)), axis("quantize_axis"), axis("gather_axis")]),
];
