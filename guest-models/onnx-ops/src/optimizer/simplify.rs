//! tract's simplification of each operator, without the rewrites that change a model's outputs:
//! moving a product before a broadcast, removing arithmetic, and moving a strided slice before an
//! operator that needs the skipped elements.

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::array::MultiBroadcastTo;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::downsample::Downsample;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::math::Mul;
use tract_onnx::tract_core::optim::{OptimizerSession, TypedPass};

use super::bodies::{self, Simplified};

#[derive(Clone, Debug, Default)]
pub(crate) struct Simplify {
    /// The node to continue with.
    next: usize,
}

impl TypedPass for Simplify {
    fn reset(&mut self) -> TractResult<()> {
        self.next = 0;
        Ok(())
    }

    fn next(
        &mut self,
        session: &mut OptimizerSession,
        model: &TypedModel,
    ) -> TractResult<Option<TypedModelPatch>> {
        for node in model.nodes.get(self.next..).unwrap_or_default() {
            let patch = match bodies::simplify_scan(session, model, node)? {
                Some(Simplified::To(patch)) => Some(*patch),
                Some(Simplified::Already) => None,
                None => match protect_broadcast(model, node)? {
                    Some(patch) => Some(patch),
                    None => simplify(session, model, node)?,
                },
            };
            if let Some(patch) = patch {
                self.next = node.id + usize::from(patch.dont_apply_twice.is_some());
                return Ok(Some(patch));
            }
        }
        Ok(None)
    }
}

/// tract lets a product read a tensor before it is broadcast. The result is the same only if
/// another operand has the broadcast size along that axis and the axis is not summed over.
/// Otherwise the broadcast is replaced by an operator that tract does not move.
fn protect_broadcast(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(product) = node.op_as::<EinSum>() else { return Ok(None) };
    for (slot, outlet) in node.inputs.iter().enumerate() {
        let prec = model.node(outlet.node);
        let Some(repeat) = prec.op_as::<MultiBroadcastTo>() else { continue };
        let (before, after) = (&model.outlet_fact(prec.inputs[0])?.shape, &repeat.shape);
        let mut same = before.rank() == after.rank();
        for at in 0..after.rank() {
            if !same {
                break;
            }
            let axis = product.axes.axis((InOut::In(slot), at))?;
            same = before[at] == after[at]
                || axis.inputs[slot].len() == 1
                    && axis.outputs[0].len() == 1
                    && as_wide(model, node, slot, &axis.inputs, &after[at])?;
        }
        if !same {
            let repeat = Repeat(repeat.clone());
            return TypedModelPatch::replace_single_op(model, prec, &prec.inputs, repeat).map(Some);
        }
    }
    Ok(None)
}

/// Whether another operand has this size along an axis without being broadcast.
fn as_wide(
    model: &TypedModel,
    node: &TypedNode,
    slot: usize,
    positions: &[TVec<usize>],
    width: &TDim,
) -> TractResult<bool> {
    for (other, positions) in positions.iter().enumerate() {
        let outlet = node.inputs[other];
        let not_broadcast = !model.node(outlet.node).op_is::<MultiBroadcastTo>();
        let shape = &model.outlet_fact(outlet)?.shape;
        if other != slot && not_broadcast && positions.iter().any(|at| shape[*at] == *width) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// tract's simplification of a node, except for rewrites of float arithmetic:
/// - with a 64-bit constant, which tract treats as zero or one if its 32-bit value is;
/// - multiplications by zero, which are NaN if the other operand is NaN or infinite;
/// - two successive multiplications by constants, whose combined factor may underflow or overflow;
///
/// and except for strided slices. tract would move them before operators that keep the dimensions,
/// such as a Softmax, which needs all elements, and into a convolution, where they would change the
/// padding and the first position.
fn simplify(
    session: &mut OptimizerSession,
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<TypedModelPatch>> {
    if node.op_as::<Downsample>().is_some_and(|step| step.stride != 1) {
        return Ok(None);
    }
    let arithmetic = node.op_as::<TypedBinOp>().filter(|_| {
        let is_float = |output: &Outlet<TypedFact>| output.fact.datum_type.is_float();
        node.outputs.iter().all(is_float)
    });
    let multiplies = arithmetic.is_some_and(|op| op.0.is::<Mul>());
    if arithmetic.is_some() {
        for fact in model.node_input_facts(node.id)? {
            let Some(constant) = &fact.uniform else { continue };
            let wide = fact.datum_type == f64::datum_type();
            if wide || multiplies && constant.cast_to_scalar::<f64>()? == 0.0 {
                return Ok(None);
            }
        }
    }
    // Simplification is optional, so its errors are ignored.
    let patch = node.op.declutter_with_session(session, model, node).unwrap_or_else(|err| {
        log::debug!("{node} is left as it is: {err:#}");
        None
    });
    let reads_further = |patch: &TypedModelPatch| {
        multiplies && patch.taps.values().any(|tap| !node.inputs.contains(tap))
    };
    Ok(patch.filter(|patch| !reads_further(patch)))
}

/// A broadcast that tract does not move.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Repeat(MultiBroadcastTo);

impl Op for Repeat {
    fn name(&self) -> StaticName {
        "Repeat".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Repeat {
    op_out_of_plan!();

    fn eval(&self, ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        self.0.eval(ctx, inputs)
    }
}

impl TypedOp for Repeat {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        self.0.output_facts(inputs)
    }

    as_op!();
}
