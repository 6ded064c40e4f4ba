//! Helpers for adding nodes to a typed model.

use tract_onnx::tract_core::ops::math::mul;
use tract_onnx::tract_hir::internal::*;

use crate::framework::axes::resolve;
use crate::framework::checks::BoundsCheck;
use crate::framework::errors::{bail, ensure};
use crate::framework::tensors::dims;
use crate::framework::wrapped::Wrapped;

/// The integers of a constant.
pub(crate) fn constant_ints(
    model: &TypedModel,
    outlet: OutletId,
    what: &str,
) -> TractResult<Vec<i64>> {
    let Some(konst) = &model.outlet_fact(outlet)?.konst else {
        bail!("{what} are only known when the model runs, which is not implemented")
    };
    let wide = konst.cast_to::<i64>()?;
    Ok(wide.try_as_plain_ram()?.as_slice::<i64>()?.to_vec())
}

/// The dimensions of a constant: integers, or symbols.
pub(crate) fn constant_dims(
    model: &TypedModel,
    outlet: OutletId,
    what: &str,
) -> TractResult<Vec<TDim>> {
    let Some(konst) = &model.outlet_fact(outlet)?.konst else {
        bail!("{what} are only known when the model runs, which is not implemented")
    };
    dims(konst)
}

/// A constant of one element with the element type and rank of another value.
pub(crate) fn constant_like(
    model: &mut TypedModel,
    name: String,
    value: f32,
    like: OutletId,
) -> TractResult<OutletId> {
    let fact = model.outlet_fact(like)?;
    let (dtype, rank) = (fact.datum_type, fact.rank());
    let tensor = tensor0(value).cast_to_dt(dtype)?.into_owned().broadcast_into_rank(rank)?;
    model.add_const(name, tensor)
}

/// Checks that there are two inputs and one output, all of one element type.
pub(crate) fn two_of_one_type<'r, 'p: 'r>(
    s: &mut Solver<'r>,
    inputs: &'p [TensorProxy],
    outputs: &'p [TensorProxy],
) -> InferenceResult {
    check_input_arity(inputs, 2)?;
    check_output_arity(outputs, 1)?;
    s.equals(&inputs[0].datum_type, &inputs[1].datum_type)?;
    s.equals(&inputs[0].datum_type, &outputs[0].datum_type)
}

/// Wires an operator with one output, and its product with a factor unless that is one.
pub(crate) fn wire_times(
    op: &dyn Expansion,
    factor: f32,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    if factor == 1.0 {
        return op.wire(prefix, model, inputs);
    }
    let product = op.wire(&format!("{prefix}.product"), model, inputs)?[0];
    let factor = constant_like(model, format!("{prefix}.alpha"), factor, product)?;
    model.wire_node(prefix, mul(), &[product, factor])
}

/// tract's own wiring, with one input checked against bounds.
pub(crate) fn wire_with_bounds(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
    at: usize,
    bounds: BoundsCheck,
) -> TractResult<TVec<OutletId>> {
    let mut inputs: TVec<OutletId> = inputs.into();
    inputs[at] = bounds.check_input(format!("{prefix}.check"), model, inputs[at])?;
    op.wire_original(prefix, model, &inputs)
}

/// Whether a tensor is known to have no elements.
pub(crate) fn is_empty(model: &TypedModel, outlet: OutletId) -> TractResult<bool> {
    Ok(model.outlet_fact(outlet)?.shape.iter().any(|dim| dim.as_i64() == Some(0)))
}

/// Checks that the first input has dimensions, and that the attribute `axis` or its default is one
/// of them.
pub(crate) fn check_axis(
    op: &Wrapped,
    default: Option<i64>,
    model: &TypedModel,
    inputs: &[OutletId],
) -> TractResult<()> {
    let rank = model.outlet_fact(inputs[0])?.rank();
    ensure!(rank > 0, "the input has no dimensions, so it has no axis");
    if let Some(axis) = op.node.get_attr_opt::<i64>("axis")?.or(default) {
        resolve(axis, rank)?;
    }
    Ok(())
}
