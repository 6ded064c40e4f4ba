//! tract's simplification of each operator, without the steps that change a model's outputs: moving
//! a product before a repetition, removing arithmetic, and moving a slice with steps before an operator
//! that needs the elements it leaves out.

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
                Some(Simplified::To(patch)) => Some(patch),
                Some(Simplified::Already) => None,
                None => match repeated_before_a_product(model, node)? {
                    Some(patch) => Some(patch),
                    None => simpler(session, model, node)?,
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

/// tract lets a product read a tensor before it is repeated. The result is the same only if another
/// operand has the repeated size along that axis and the axis is not summed over. Otherwise the
/// repetition is replaced by an operator that tract does not move.
fn repeated_before_a_product(
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<TypedModelPatch>> {
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

/// Whether an operand beside this one is that wide along an axis, and by itself.
fn as_wide(
    model: &TypedModel,
    node: &TypedNode,
    slot: usize,
    places: &[TVec<usize>],
    width: &TDim,
) -> TractResult<bool> {
    for (other, places) in places.iter().enumerate() {
        let outlet = node.inputs[other];
        let by_itself = !model.node(outlet.node).op_is::<MultiBroadcastTo>();
        let shape = &model.outlet_fact(outlet)?.shape;
        if other != slot && by_itself && places.iter().any(|place| shape[*place] == *width) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What tract makes of a node, but for arithmetic of floats that is no longer done:
/// - with a constant of 64 bits, which tract takes for zero or one as soon as 32 bits of it are;
/// - multiplications by zero, which give no number where the other operand is none or has no end;
/// - multiplications by two constants one after the other, whose product may vanish or have no end
///   where the two steps do not;
///
/// and but for steps through a tensor. tract takes them before whatever keeps the places of dimensions,
/// which a Softmax does that needs all it reads, and by way of a convolution, whose padding and first
/// place would then be others.
fn simpler(
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
    // Nothing has to be simplified.
    let patch = node.op.declutter_with_session(session, model, node).unwrap_or_else(|err| {
        log::debug!("{node} is left as it is: {err:#}");
        None
    });
    let reads_further = |patch: &TypedModelPatch| {
        multiplies && patch.taps.values().any(|tap| !node.inputs.contains(tap))
    };
    Ok(patch.filter(|patch| !reads_further(patch)))
}

/// Repeats a tensor along dimensions.
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
