//! Operators of sequences and optionals. They are resolved before a model runs where lengths and
//! positions are known by then.

use crate::entry::Values::Graph;
use crate::entry::{Input, Operator, Output, any, attr, axis, flag, must, op};
use crate::types::{ANY, BOOL, I32, I64, INDICES, STORED, Types};

/// The operators of sequences whose lengths or positions are only known when the model runs. No
/// model can use them: the gate puts them into a graph. Such a sequence is two tensors, the elements
/// of all its tensors one after another, and a row with the shape of each.
#[rustfmt::skip]
const PACKED: &[Operator] = &[
    op("BelljarSequenceConstruct", 1, &[MOVING]).many().to(PAIR),
    op("BelljarSequenceInsert", 1, &[MOVING, any(I64), MOVING, any(INDICES)]).optional(1).to(PAIR),
    op("BelljarSequenceErase", 1, &[MOVING, any(I64), any(INDICES)]).optional(1).to(PAIR),
    op("BelljarSequenceAt", 1, &[MOVING, any(I64), any(INDICES)]).to(&[Output::Like('T')]),
    op("BelljarSplitToSequence", 1, &[MOVING, any(I32.or(I64))]).optional(1).to(PAIR).with(&[axis("axis"), flag("keepdims")]),
    op("BelljarOptionalGetElement", 1, &[MOVING, any(I64), any(BOOL)]).to(PAIR),
    op("BelljarConcatFromSequence", 1, &[MOVING, any(I64)]).to(&[Output::Like('T')]).with(&[axis("axis"), flag("new_axis")]),
];

const MOVING: Input = Input { types: MOVED, letter: 'T' };
const PAIR: &[Output] = &[Output::Like('T'), Output::Is(I64)];

/// The operator of this name for sequences and maps in tensors, which only the gate puts into a
/// graph.
pub fn packed(name: &str) -> Option<&'static Operator> {
    PACKED.iter().chain(crate::ml::IN_TENSORS).find(|operator| operator.name == name)
}

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
