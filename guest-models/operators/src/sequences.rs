//! Operators of sequences and optionals. They are resolved before a model runs, so lengths, and
//! positions other than that of SequenceAt, must be known by then.

use crate::entry::Values::Graph;
use crate::entry::{Operator, Output, any, attr, axis, flag, must, op};
use crate::types::{ANY, I32, I64, INDICES, STORED, Types};

const SPECIAL: &[Output] = &[Output::Special];
const MOVED: Types = ANY.or(STORED);

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
    op("SequenceEmpty", 11, &[]).to(SPECIAL).with(&[attr("dtype", crate::entry::Values::Type(MOVED))]),
    op("SequenceConstruct", 11, &[any(MOVED)]).many().to(SPECIAL),
    op("SequenceInsert", 11, &[any(MOVED), any(MOVED), any(INDICES)]).optional(1).to(SPECIAL),
    op("SequenceErase", 11, &[any(MOVED), any(INDICES)]).optional(1).to(SPECIAL),
    op("SequenceAt", 11, &[any(MOVED), any(INDICES)]).to(SPECIAL),
    op("SequenceLength", 11, &[any(MOVED)]).to(&[Output::Is(I64)]),
    op("SplitToSequence", 11, &[any(MOVED), any(I32.or(I64))]).optional(1).to(SPECIAL).with(&[axis("axis"), flag("keepdims")]),
    op("ConcatFromSequence", 11, &[any(MOVED)]).to(SPECIAL).with(&[axis("axis"), flag("new_axis")]),
    op("SequenceMap", 17, &[any(MOVED)]).many().to(SPECIAL).many_outputs().with(&[must("body", Graph)]),
    op("Optional", 15, &[any(MOVED)]).optional(1).to(SPECIAL),
    op("OptionalHasElement", 15, &[any(MOVED)]).optional(1).to(SPECIAL),
    op("OptionalGetElement", 15, &[any(MOVED)]).to(SPECIAL),
];
