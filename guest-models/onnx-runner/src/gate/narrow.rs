//! The rule for narrow floats, float16 and bfloat16: an operator that computes reads them as
//! float32, computes in float32, and rounds its results to the narrow type once.
//!
//! The rule applies to every node that is not known to only move or create elements, so that it
//! applies to new operators in the table by default. This file classifies the nodes; `carry.rs`
//! adds the conversions to the graph. The conversions are operators of onnx-ops (`narrow_cast.rs`)
//! that no optimizer pass looks through: two nodes with a rounding between them are never fused.

use belljar_operators::{F8E8M0, NARROW, Operator, Output, Types};
use tract_onnx::pb::NodeProto;

/// How a node that reads or makes narrow floats is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// It reads float32, and its results are rounded.
    Compute,
    /// It reads float32, and its results are numbers that it reads or their negatives, which need
    /// no rounding.
    Choose,
    /// It moves elements, which may be of either width.
    Move,
    /// It reads and makes the narrow elements themselves.
    Keep,
}

/// Operators whose every result is a number that they read, 0 or 1, or the negative of one. Leaving
/// an operator out of this list costs a rounding that changes nothing.
const CHOOSING: [&str; 14] = [
    "Abs",
    "DepthToSpace",
    "GlobalMaxPool",
    "Max",
    "MaxPool",
    "Min",
    "Neg",
    "ReduceMax",
    "ReduceMin",
    "Relu",
    "Sign",
    "SpaceToDepth",
    "TopK",
    "Trilu",
];

/// The rule for a node that reads and makes values of these types.
pub(super) fn rule(node: &NodeProto, operator: &Operator, given: &[Types], made: &[Types]) -> Rule {
    if !given.iter().chain(made).any(|types| NARROW.has(*types)) {
        return Rule::Keep;
    }
    // A node with bodies passes values on to them; a node whose output type is an attribute creates
    // its elements or reinterprets bits.
    let bodies = node.attribute.iter().any(|attribute| attribute.g.is_some());
    let by_attribute = |output: &Output| match output {
        Output::Special | Output::Attr(..) | Output::AttrOr(..) | Output::AttrOrIs(..) => true,
        _ => false,
    };
    if bodies || operator.outputs.iter().any(by_attribute) {
        return Rule::Keep;
    }
    // An operator that takes any small type only moves elements.
    if operator.inputs.iter().any(|input| input.types.has(F8E8M0)) {
        return Rule::Move;
    }
    if operator.domain.is_empty() && CHOOSING.contains(&&*node.op_type) {
        return Rule::Choose;
    }
    Rule::Compute
}
