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
    let patch = match node.op_as::<TypedBinOp>() {
        Some(op) if !may_vanish(model, node, op)? => simplify_binary(model, node, op),
        _ => node.op.declutter_with_session(session, model, node),
    };
    // Simplification is optional, so its errors are ignored.
    let patch = patch.unwrap_or_else(|err| {
        log::debug!("{node} is left as it is: {err:#}");
        None
    });
    let reads_further = |patch: &TypedModelPatch| {
        multiplies && patch.taps.values().any(|tap| !node.inputs.contains(tap))
    };
    Ok(patch.filter(|patch| !reads_further(patch)))
}

/// Whether an operand is a constant that may make an operator unnecessary, such as 1 in a product.
fn may_vanish(model: &TypedModel, node: &TypedNode, op: &TypedBinOp) -> TractResult<bool> {
    let special = [op.0.neutral_element(), op.0.absorbing_element()];
    for fact in model.node_input_facts(node.id)? {
        let Some(constant) = &fact.uniform else { continue };
        let constant = constant.cast_to_scalar::<f64>().ok();
        let differs = |special: &i64| constant.is_some_and(|c| (c - *special as f64).abs() > 0.1);
        if !special.iter().flatten().all(differs) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What tract does to an operator on two tensors that is needed: the smaller operand comes last.
/// tract multiplies all sizes of both to find out which one that is, which takes a fifth of the time
/// to prepare a model if they are symbols.
fn simplify_binary(
    model: &TypedModel,
    node: &TypedNode,
    op: &TypedBinOp,
) -> TractResult<Option<TypedModelPatch>> {
    let facts = model.node_input_facts(node.id)?;
    if let [a, b] = *facts
        && op.0.is_commutative()
        && is_smaller(&a.shape, &b.shape)
    {
        let op = TypedBinOp(op.0.clone(), None);
        let inputs = [node.inputs[1], node.inputs[0]];
        return TypedModelPatch::replace_single_op(model, node, &inputs, op).map(Some);
    }
    op.0.declutter(model, node)
}

/// Whether a tensor has fewer elements than another one, whatever the symbols are.
fn is_smaller(a: &ShapeFact, b: &ShapeFact) -> bool {
    if a.rank() != b.rank() {
        return false;
    }
    let others = || a.iter().zip(b.iter()).filter(|(a, b)| a != b);
    let most = others().try_fold(1i64, |most, (a, _)| most.checked_mul(a.as_i64()?));
    let least = others().try_fold(1i64, |least, (_, b)| {
        least.checked_mul(b.as_i64().or_else(|| b.low_inclusive_bound())?)
    });
    matches!((most, least), (Some(most), Some(least)) if most < least)
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

#[cfg(test)]
mod tests {
    use tract_onnx::tract_core::ops::math::{add, mul, sub};

    use super::*;

    /// The number of elements decides, and of symbols it is known that they are at least 1.
    #[test]
    fn smaller_operands_are_found_without_their_products() {
        let scope = SymbolScope::default();
        let symbol = scope.new_with_prefix("size");
        scope.add_assertion(format!("{symbol}>=1")).unwrap();
        let n = symbol.to_dim();
        let fact = |dims: &[TDim]| ShapeFact::from_dims(dims.iter().cloned());
        let (one, three, four) = (1.to_dim(), 3.to_dim(), 4.to_dim());
        let smaller = |a: &[TDim], b: &[TDim]| is_smaller(&fact(a), &fact(b));
        assert!(smaller(&[one.clone(), three.clone()], &[four.clone(), three.clone()]));
        assert!(smaller(&[n.clone(), one.clone()], &[n.clone(), four.clone()]));
        assert!(smaller(&[one.clone()], &[n.clone() * 2]));
        // They may be equal.
        assert!(!smaller(&[one.clone()], &[n.clone()]));
        assert!(!smaller(&[n.clone()], &[n.clone()]));
        // The product of the others is not known to be smaller.
        assert!(!smaller(&[n.clone(), one.clone()], &[one.clone(), four.clone()]));
        assert!(!smaller(&[one.clone(), four], &[three.clone(), one]));
        assert!(!smaller(&[three.clone()], &[n.clone(), three]));
    }

    /// tract decides alike, for operators with and without constants that may vanish.
    #[test]
    fn operators_are_simplified_as_tract_does() {
        let shapes: [&[usize]; 5] = [&[1, 1], &[1, 3], &[2, 1], &[2, 3], &[0, 3]];
        for op in [add(), mul(), sub()] {
            for (a, b) in shapes.iter().flat_map(|a| shapes.iter().map(move |b| (a, b))) {
                for constant in [None, Some(0.0f32), Some(1.0), Some(2.5), Some(f32::NAN)] {
                    let mut model = TypedModel::default();
                    let left = model.add_source("a", f32::fact(*a)).unwrap();
                    let right = match constant {
                        Some(value) => {
                            let value = tensor0(value).broadcast_scalar_to_shape(b).unwrap();
                            model.add_const("b", value).unwrap()
                        }
                        None => model.add_source("b", f32::fact(*b)).unwrap(),
                    };
                    let Ok(out) = model.wire_node("out", op.clone(), &[left, right]) else {
                        continue;
                    };
                    model.select_output_outlets(&out).unwrap();
                    let node = model.node(out[0].node);
                    let op = node.op_as::<TypedBinOp>().unwrap();
                    if may_vanish(&model, node, op).unwrap() {
                        continue;
                    }
                    let inputs = |patch: Option<TypedModelPatch>| {
                        let mut model = model.clone();
                        let patch = patch.map(|patch| patch.apply(&mut model));
                        patch.map(|applied| applied.map(|()| model.nodes.len()).unwrap())
                    };
                    let ours = inputs(simplify_binary(&model, node, op).unwrap());
                    let theirs = inputs(op.declutter(&model, node).unwrap());
                    let empty = a.contains(&0) || b.contains(&0);
                    assert!(ours == theirs || empty, "{op:?} {a:?} {b:?} {constant:?}");
                }
            }
        }
    }
}
