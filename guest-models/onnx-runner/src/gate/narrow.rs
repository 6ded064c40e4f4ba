//! The one rule for narrow floats, float16 and bfloat16: an operator that computes reads them as the
//! float32 that they are, computes in float32, and its results are rounded to the narrow type once.
//!
//! A node is under this rule unless it is known to do nothing but move or make elements, so that an
//! operator that is added to the table follows it without anybody thinking of it. Here is decided
//! which nodes these are; `carry.rs` puts the conversions into the graph. In the typed model they are
//! operators of ours (`narrow_cast.rs` of onnx-ops), which no pass of tract's and none of ours looks
//! through: two nodes with a rounding between them are never made one.

use belljar_operators::{F8E8M0, NARROW, Operator, Output, Types};
use tract_onnx::pb::NodeProto;

/// What becomes of a node that reads or makes narrow floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// It reads float32, and what it makes is rounded.
    Compute,
    /// It reads float32, and what it makes is among the numbers that it reads, or their negatives:
    /// nothing is left to round.
    Choose,
    /// It moves elements, which may be of either width.
    Move,
    /// It reads and makes the narrow elements themselves.
    Keep,
}

/// Operators of which every result is a number that they read, a whole number not above one, or the
/// same with another sign. One that is not here but could be costs a rounding that changes nothing.
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

/// The rule for a node that reads values of these types, and makes values of those.
pub(super) fn rule(node: &NodeProto, operator: &Operator, given: &[Types], made: &[Types]) -> Rule {
    if !given.iter().chain(made).any(|types| NARROW.has(*types)) {
        return Rule::Keep;
    }
    // What has bodies passes values on to them; what says the type of its output by an attribute
    // makes it of nothing, or of bits.
    let bodies = node.attribute.iter().any(|attribute| attribute.g.is_some());
    let said =
        |output: &Output| matches!(output, Output::Special | Output::Said(..) | Output::SaidOr(..));
    if bodies || operator.outputs.iter().any(said) {
        return Rule::Keep;
    }
    // What takes any small type moves it, and computes nothing.
    if operator.inputs.iter().any(|input| input.types.has(F8E8M0)) {
        return Rule::Move;
    }
    if operator.domain.is_empty() && CHOOSING.contains(&&*node.op_type) {
        return Rule::Choose;
    }
    Rule::Compute
}
