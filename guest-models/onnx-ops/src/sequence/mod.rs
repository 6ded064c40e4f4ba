//! Operators of sequences and optionals. The gate of the guest resolves them before tract sees a
//! model, or replaces them by the operators of the other files here.

pub(crate) mod optional;
pub(crate) mod packed;
pub(crate) mod split;

use crate::framework::registration::{Registration, lowered};

/// The operators of this family.
pub(crate) const OPERATORS: &[&[Registration]] = &[LOWERED];

/// The operators that the gate replaces by other nodes.
const LOWERED: &[Registration] = &[
    lowered("ConcatFromSequence"),
    lowered("Optional"),
    lowered("OptionalGetElement"),
    lowered("OptionalHasElement"),
    lowered("SequenceAt"),
    lowered("SequenceConstruct"),
    lowered("SequenceEmpty"),
    lowered("SequenceErase"),
    lowered("SequenceInsert"),
    lowered("SequenceLength"),
    lowered("SequenceMap"),
    lowered("SplitToSequence"),
];
