//! tract's own builders of operators.

use std::collections::HashMap;
use std::sync::OnceLock;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::infer::InferenceOp;
use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::bail;

/// What a builder gives to tract: the operator, and the outer values that it reads.
pub(crate) type BuildResult = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

/// Makes an operator of a node.
pub(crate) type Builder = fn(&ParsingContext, &NodeProto) -> BuildResult;

/// tract's builders by the names of their operators.
pub(crate) fn originals() -> &'static HashMap<String, Builder> {
    static ALL: OnceLock<HashMap<String, Builder>> = OnceLock::new();
    ALL.get_or_init(|| tract_onnx::onnx().op_register.0)
}

/// Builds a node as tract does.
pub(crate) fn build(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    match originals().get(&node.op_type) {
        Some(build) => build(context, node),
        None => bail!("{} is not implemented", node.op_type),
    }
}
