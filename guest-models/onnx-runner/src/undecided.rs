//! Finds the nodes of a prepared model that may still fail at run time. A node is decided if only
//! its shapes and element types, which are known here, can make it fail. Others depend on values
//! (indices, divisors, strings), or have sizes that follow from values. A node that is not known to
//! be decided counts as undecided.

use std::collections::HashSet;

use belljar_abi::{MAX_UNDECIDED, Missing, Preparation, Undecided};
use onnx_ops::control_flow;
use onnx_ops::optimizer::prepared_in_runs;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::scan::OptScan;

use crate::explain::Nodes;

/// Maximum number of nodes of a plan whose names are looked up.
const MAX_LOOKED_UP: usize = 4 * MAX_UNDECIDED;

/// Operators that can fail because of values of any type: numbers that are not finite, masks that
/// hide everything, scales and zero points, classes with equal scores.
const DEPEND_ON_VALUES: &[&str] = &[
    "ArrayFeatureExtractor",
    "Attention",
    "CastMap",
    "CastSmall",
    "CubicSample",
    "DeformConv",
    "DequantizeSmall",
    "DictVectorizer",
    "Dropout",
    "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul",
    "DynamicTimeWarping",
    "IfThenElse",
    "Inverse",
    "BoundsCheck",
    "LabelEncoder",
    "LinearClassifier",
    "Loop",
    "MatMulFpQ4",
    "MatMulIntegerToFloat",
    "MaxRoiPool",
    "MaxUnpool",
    "MelWeightMatrix",
    "Multinomial",
    "NonMaxSuppression",
    "OneHotEncoder",
    "QAttention",
    "QEmbedLayerNormalization",
    "QGemm",
    "QLinearAdd",
    "QLinearAveragePool",
    "QLinearConcat",
    "QLinearConv",
    "QLinearGlobalAveragePool",
    "QLinearLeakyRelu",
    "QLinearMatMul",
    "QLinearMul",
    "QLinearSigmoid",
    "QLinearSoftmax",
    "QLinearWhere",
    "QuantizeLinear",
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

/// Operators that accept all integers, booleans or strings, since they only move, compare or
/// compute with them. The names are those of the plan.
const ACCEPT_ALL_INTEGERS: &[&str] = &[
    "Abs",
    "Add",
    "AddAxis",
    "And",
    "AttentionMask",
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
    "Concat",
    "Conv",
    "ConvInteger",
    "DepthWiseConv",
    "DequantizeLinear",
    "DequantizeLinearF32",
    "DequantizeWeights",
    "DirectSpatialConv",
    "DropoutMask",
    "Dummy",
    "EQ",
    "EinSum",
    "EinSumMatMul",
    "Einsum",
    "Eq",
    "Extreme",
    "EyeLike",
    "GT",
    "GTE",
    "Gemm",
    "Identity",
    "Iff",
    "Im2col",
    "IntegerNorm",
    "IntegerShrink",
    "IntoShape",
    "LT",
    "LTE",
    "LazyIm2col",
    "MatMul",
    "MatMulBnb4",
    "MatMulInteger",
    "MatMulInteger16",
    "MatMulNBits",
    "Max",
    "MaxPool",
    "Min",
    "MoveAxis",
    "Mul",
    "MultiBroadcastTo",
    "MurmurHash3",
    "NE",
    "NativeConvert",
    "NativeDequantize",
    "Neg",
    "Not",
    "OptMatMul",
    "OptMatMulPack",
    "OptMaxPool",
    "OptSimpleMatMulPack",
    "OptSumPool",
    "Or",
    "Pad",
    "QMoE",
    "QSumB",
    "QuantizeBytes",
    "RandomNormalLike",
    "RandomUniformLike",
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
    "UnfoldTensor",
    "Where",
    "Widen",
    "Xor",
];

/// Operators whose constant integers were checked when the model was prepared.
const CONSTANTS_CHECKED: &[&str] = &[
    "CenterCropPad",
    "CumSum",
    "DynSlice",
    "ExpandDims",
    "Gather",
    "OptGather",
    "ResolveIndices",
    "StridedSlice",
    "TopK",
];

/// The undecided nodes of a plan.
pub(crate) fn of(model: &TypedModel, nodes: &Nodes) -> Preparation {
    let mut found = Preparation::default();
    let mut named: HashSet<String> = HashSet::new();
    let mut looked_up = 0;
    // A plan that can run has an order.
    for id in model.eval_order().unwrap_or_default() {
        let node = model.node(id);
        let Some(missing) = missing(model, node) else { continue };
        let within = prepared_in_runs(&*node.op).unwrap_or_else(|| vec![&*node.name]);
        for name in within {
            looked_up += 1;
            if found.undecided.len() == MAX_UNDECIDED || looked_up > MAX_LOOKED_UP {
                found.more = true;
                return found;
            }
            let (name, operator) = match nodes.find(name) {
                Some(known) => (known.name.clone(), known.operator.clone()),
                None => (name.to_owned(), String::new()),
            };
            if named.insert(name.clone()) {
                found.undecided.push(Undecided { node: name, operator, missing });
            }
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

/// What is missing to decide whether a node can fail, if anything.
fn missing(model: &TypedModel, node: &TypedNode) -> Option<Missing> {
    // Inputs are checked separately. A node with inputs runs even if its outputs are known to be
    // empty.
    if node.inputs.is_empty() {
        return None;
    }
    let outputs = node.outputs.iter().map(|output| &output.fact);
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
    let depends = DEPEND_ON_VALUES.contains(&&*name) || name.ends_with("Deferred");
    let accepts = name.starts_with("Reduce<") || ACCEPT_ALL_INTEGERS.contains(&plain(&name));
    let checked = CONSTANTS_CHECKED.contains(&&*name);
    let mut exact = inputs.filter(|fact| !fact.datum_type.is_float());
    let reads = exact.any(|fact| fact.konst.is_none() || !checked);
    (depends || !accepts && reads).then_some(Missing::Values)
}
