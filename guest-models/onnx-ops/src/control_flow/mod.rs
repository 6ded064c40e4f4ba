//! Operators with graphs of their own.

pub(crate) mod body;
pub(crate) mod if_op;
pub(crate) mod loop_op;
pub(crate) mod scan;

use tract_onnx::tract_hir::internal::*;

use self::if_op::If;
use self::loop_op::Loop;
use self::scan::Scan;
use crate::computed_sizes::Value;
use crate::framework::registration::Registration;

pub use self::scan::body_of_scan;

/// The operators of this family.
pub(crate) const OPERATORS: &[&[Registration]] =
    &[if_op::OPERATORS, loop_op::OPERATORS, scan::OPERATORS];

/// The facts of a node's outputs, and those of their values that are followed.
pub(crate) type Inferred = (TVec<InferenceFact>, Vec<Option<Value>>);

/// Infers the outputs of a node with graphs of its own, following integers that depend on symbols
/// into the graphs, which keep what was inferred. `None` for other nodes.
pub(crate) fn infer(
    node: &mut InferenceNode,
    facts: &[InferenceFact],
    known: &[Option<Value>],
) -> Option<TractResult<Inferred>> {
    if let Some(op) = node.op_as_mut::<If>() {
        return Some(op.infer(facts, known));
    }
    if let Some(op) = node.op_as_mut::<Loop>() {
        return Some(op.infer(facts, known));
    }
    node.op_as_mut::<Scan>().map(|op| op.infer(facts, known))
}

/// A graph of a node, and whether it could not be inferred.
pub type InferredBody<'a> = (&'a InferenceModel, bool);

/// The graphs of a node, by position, as they were inferred with symbols. Of an `If` with a known
/// condition, only the branch that is taken.
pub fn inferred_bodies<'a>(
    node: &'a InferenceNode,
    facts: &[InferenceFact],
) -> Vec<Option<InferredBody<'a>>> {
    if let Some(op) = node.op_as::<If>() {
        return op.bodies(facts);
    }
    let of_loop = node.op_as::<Loop>().map(|op| &op.body);
    let body = of_loop.or_else(|| node.op_as::<Scan>().map(|op| &op.body));
    body.map(|body| Some((body, false))).into_iter().collect()
}

/// The graphs of a node, as [`inferred_bodies`], inferred from these facts of its inputs.
///
/// # Errors
/// If the facts do not fit the node.
pub fn infer_bodies(
    node: &InferenceNode,
    facts: &[InferenceFact],
) -> TractResult<Vec<Option<TractResult<InferenceModel>>>> {
    let mut node = node.clone();
    if let Some(op) = node.op_as_mut::<If>() {
        op.set_inputs(facts)?;
    } else if let Some(op) = node.op_as_mut::<Loop>() {
        op.analyse(facts)?;
    } else if let Some(op) = node.op_as_mut::<Scan>() {
        op.set_inputs(facts)?;
    }
    let analysed = |(body, _): InferredBody<'_>| {
        let mut body = body.clone();
        body.analyse(false).map(|_| body)
    };
    Ok(inferred_bodies(&node, facts).into_iter().map(|body| body.map(analysed)).collect())
}

/// Implements tract's traits for an operator that exists only until the model is typed.
macro_rules! only_until_translated {
    ($op:ident) => {
        impl PartialEq for $op {
            fn eq(&self, _: &Self) -> bool {
                false
            }
        }

        impl Eq for $op {}

        impl Op for $op {
            fn name(&self) -> StaticName {
                stringify!($op).into()
            }

            not_a_typed_op!();
        }

        impl EvalOp for $op {
            fn eval_out_of_plan(&self, _: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
                Ok(None)
            }

            fn eval(&self, _ctx: &EvalContext, _: TVec<TValue>) -> TractResult<TVec<TValue>> {
                bail!("{} was not translated", stringify!($op))
            }
        }
    };
}
pub(crate) use only_until_translated;
