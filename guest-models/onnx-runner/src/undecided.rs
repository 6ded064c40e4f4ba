//! Which nodes of a prepared model may still refuse what a run brings. A node is decided if nothing
//! but its shapes and element types can make it fail: those are known here. Of the others some look
//! at values (indices, divisors, texts), and some have sizes that follow from values. A node of which
//! this file does not know that it is decided counts as undecided.

use std::collections::HashSet;

use belljar_abi::{MAX_UNDECIDED, Missing, Preparation, Undecided};
use onnx_ops::control_flow;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::scan::OptScan;

use crate::explain::Nodes;

/// Nodes of a plan whose names are looked up at most.
const LOOKED_UP: usize = 4 * MAX_UNDECIDED;

/// Operators that look at values of any type: at numbers that are not finite, at all of a mask that
/// hides everything, at scales and zero points, at classes of equal scores.
const LOOKING: &[&str] = &[
    "ArrayFeatureExtractor",
    "Attention",
    "CastSmall",
    "DeformConv",
    "DequantizeSmall",
    "IfThenElse",
    "InBounds",
    "LabelEncoder",
    "LinearClassifier",
    "Loop",
    "MaxUnpool",
    "NonMaxSuppression",
    "OneHotEncoder",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeSmall",
    "Range",
    "Resize",
    "RoiAlign",
    "SVMClassifier",
    "SVMRegressor",
    "TreeEnsemble",
    "TreeEnsembleClassifier",
    "TreeEnsembleRegressor",
];

/// Operators that take integers, truths or texts as they are: to move, to compare or to compute with
/// them. Names are the plan's.
const TAKING: &[&str] = &[
    "Abs",
    "Add",
    "AddAxis",
    "And",
    "BitAnd",
    "BitNot",
    "BitOr",
    "BitXor",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "BlockedConv",
    "Cast",
    "CenterCropPad",
    "Concat",
    "Conv",
    "CumProd",
    "DepthWiseConv",
    "DequantizeLinear",
    "DequantizeLinearF32",
    "DirectSpatialConv",
    "Dummy",
    "EQ",
    "EinSum",
    "EinSumMatMul",
    "Eq",
    "Extreme",
    "EyeLike",
    "GT",
    "GTE",
    "Identity",
    "Iff",
    "Im2col",
    "IntoShape",
    "LT",
    "LTE",
    "LazyIm2col",
    "Max",
    "MaxPool",
    "Min",
    "MoveAxis",
    "Mul",
    "MultiBroadcastTo",
    "NE",
    "Neg",
    "Not",
    "OptMatMul",
    "OptMatMulPack",
    "OptMaxPool",
    "OptSimpleMatMulPack",
    "OptSumPool",
    "Or",
    "Pad",
    "QSumB",
    "Reshape",
    "RmAxis",
    "Shape",
    "Sign",
    "Size",
    "Slice",
    "SpaceToDepth",
    "Square",
    "Sub",
    "SumPool",
    "Tile",
    "Trilu",
    "TypedConcat",
    "Where",
    "Xor",
];

/// Operators whose integers were looked at when the model was prepared, where they are constants.
const CHECKED: &[&str] =
    &["CumSum", "DynSlice", "Gather", "OptGather", "Places", "StridedSlice", "TopK"];

/// What is said of a plan.
pub(crate) fn of(model: &TypedModel, nodes: &Nodes) -> Preparation {
    let mut found = Preparation::default();
    let mut named: HashSet<String> = HashSet::new();
    let mut looked_up = 0;
    // A plan that runs has an order.
    for id in model.eval_order().unwrap_or_default() {
        let node = model.node(id);
        let Some(missing) = missing(model, node) else { continue };
        looked_up += 1;
        if found.undecided.len() == MAX_UNDECIDED || looked_up > LOOKED_UP {
            found.more = true;
            break;
        }
        let (name, operator) = match nodes.find(&node.name) {
            Some(known) => (known.name.clone(), known.operator.clone()),
            None => (node.name.clone(), String::new()),
        };
        if named.insert(name.clone()) {
            found.undecided.push(Undecided { node: name, operator, missing });
        }
    }
    found
}

/// The name of an operator without what the optimiser adds to it.
fn plain(name: &str) -> &str {
    let inner = name.strip_prefix("Opt");
    let inner = inner
        .and_then(|inner| inner.strip_suffix("ByScalar").or_else(|| inner.strip_suffix("Unicast")));
    inner.unwrap_or(name)
}

/// What is missing to decide whether a node is computed, if anything is.
fn missing(model: &TypedModel, node: &TypedNode) -> Option<Missing> {
    let outputs = node.outputs.iter().map(|output| &output.fact);
    // A constant has been computed, and an input is checked before it comes here.
    if node.inputs.is_empty() || outputs.clone().all(|fact| fact.konst.is_some()) {
        return None;
    }
    let inputs = node.inputs.iter().filter_map(|input| model.outlet_fact(*input).ok());
    if inputs.clone().chain(outputs).any(|fact| fact.shape.as_concrete().is_none()) {
        return Some(Missing::Sizes);
    }
    let name = node.op.name();
    let scan = node.op_as::<OptScan>().map(|scan| scan.plan.model());
    if let Some(body) = scan.or_else(|| control_flow::body_of_scan(node.op.as_ref())) {
        let undecided = body.nodes.iter().any(|inner| missing(body, inner).is_some());
        return undecided.then_some(Missing::Values);
    }
    let looks = LOOKING.contains(&&*name) || name.ends_with("AtRunTime");
    let takes = name.starts_with("Reduce<") || TAKING.contains(&plain(&name));
    let checked = CHECKED.contains(&&*name);
    let mut exact = inputs.filter(|fact| !fact.datum_type.is_float());
    let reads = exact.any(|fact| fact.konst.is_none() || !checked);
    (looks || !takes && reads).then_some(Missing::Values)
}
