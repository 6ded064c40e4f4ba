//! Arithmetic as it was before operator set 7: the second operand is as large as the first one, or
//! is said to be broadcast, from an axis on. And what else had other rules then.

use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::change_axes::AxisOp;
use tract_onnx::tract_core::ops::change_axes::wire_with_rank_broadcast;
use tract_onnx::tract_core::ops::math::{add, mul, sub};
use tract_onnx::tract_hir::internal::*;

use super::binary::{self, Div};
use super::{Built, Ours, originals};

/// The last version with these rules.
const LAST: i64 = 6;

/// Replaces what is in the registry by now: for newer versions that is what is used.
pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("Add", |context, node| arithmetic(context, node, newer("Add")));
    registry.insert("Sub", |context, node| arithmetic(context, node, newer("Sub")));
    registry.insert("Mul", |context, node| arithmetic(context, node, newer("Mul")));
    registry.insert("Div", |context, node| {
        arithmetic(context, node, |_, _| Ok((Div.into_hir(), vec![])))
    });
    registry.insert("Pow", |context, node| arithmetic(context, node, binary::pow_builder));
    registry.insert("PRelu", |context, node| old(context, node, newer("PRelu")));
    registry.insert("Gemm", |context, node| {
        old(context, node, |context, node| Ours::build(context, node, super::agree::agreed))
    });
}

/// tract's own builder.
fn newer(name: &'static str) -> impl Fn(&ParsingContext, &NodeProto) -> Built {
    move |context, node| match originals().get(name) {
        Some(builder) => builder(context, node),
        None => bail!("{name} is not implemented"),
    }
}

fn arithmetic(
    context: &ParsingContext,
    node: &NodeProto,
    newer: impl Fn(&ParsingContext, &NodeProto) -> Built,
) -> Built {
    if context.onnx_operator_set_version > LAST {
        return newer(context, node);
    }
    let broadcast = node.get_attr_opt::<i64>("broadcast")?.unwrap_or(0) != 0;
    let axis = node.get_attr_opt::<usize>("axis")?;
    Ok((expand(Arithmetic { op: node.op_type.clone(), broadcast, axis }), vec![]))
}

#[derive(Clone, Debug)]
struct Arithmetic {
    op: String,
    broadcast: bool,
    /// Where the dimensions of the second operand begin among those of the first one.
    axis: Option<usize>,
}

/// Gives the second operand the dimensions that it lacks: those before an axis, and behind.
fn placed(
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
    broadcast: bool,
    axis: Option<usize>,
) -> TractResult<OutletId> {
    let first = model.outlet_fact(inputs[0])?.shape.to_tvec();
    let second = model.outlet_fact(inputs[1])?.shape.to_tvec();
    ensure!(broadcast || first == second, "{second:?} is not of the shape {first:?}");
    let one = second.iter().all(|dim| dim.is_one());
    let fits = second.len() <= first.len();
    ensure!(fits, "{second:?} has more dimensions than {first:?}");
    let start = match axis {
        // One number goes anywhere.
        Some(axis) if !one => axis,
        _ => first.len() - second.len(),
    };
    let behind = first.len().checked_sub(start).and_then(|rest| rest.checked_sub(second.len()));
    let behind = behind.with_context(|| format!("{second:?} from axis {start} of {first:?}"))?;
    let within = second.iter().zip(&first[start..]).all(|(b, a)| b.is_one() || a == b);
    ensure!(within, "{second:?} from axis {start} of {first:?}");
    let mut wire = inputs[1];
    for (at, axis) in (0..start).map(|_| 0).chain((0..behind).map(|_| usize::MAX)).enumerate() {
        let axis = axis.min(model.outlet_fact(wire)?.rank());
        wire = model.wire_node(format!("{prefix}.axis-{at}"), AxisOp::Add(axis), &[wire])?[0];
    }
    Ok(wire)
}

impl Expansion for Arithmetic {
    fn name(&self) -> StaticName {
        format!("Old{}", self.op).into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 2)?;
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].datum_type, &inputs[0].datum_type)?;
        s.equals(&outputs[0].shape, &inputs[0].shape)
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let second = placed(prefix, model, inputs, self.broadcast, self.axis)?;
        let operands = [inputs[0], second];
        match &*self.op {
            "Add" => wire_with_rank_broadcast(prefix, model, add(), &operands),
            "Sub" => wire_with_rank_broadcast(prefix, model, sub(), &operands),
            "Mul" => wire_with_rank_broadcast(prefix, model, mul(), &operands),
            "Div" => Ok(tvec!(binary::wire(prefix, model, Div, &operands)?)),
            "Pow" => binary::power(prefix, model, &operands),
            other => bail!("{other} is not implemented this way"),
        }
    }
}

/// PRelu, whose slopes belonged to the channels, and Gemm, whose third operand is as large as the
/// result or is said to be broadcast: brought into the form that newer versions have.
fn old(
    context: &ParsingContext,
    node: &NodeProto,
    newer: impl Fn(&ParsingContext, &NodeProto) -> Built,
) -> Built {
    let (original, outer) = newer(context, node)?;
    if context.onnx_operator_set_version > LAST {
        return Ok((original, outer));
    }
    let Some(original) = original.as_op().downcast_ref::<Box<dyn Expansion>>().cloned() else {
        bail!("{} is not implemented this way", node.op_type)
    };
    let broadcast = node.get_attr_opt::<i64>("broadcast")?.unwrap_or(0) != 0;
    Ok((expand(Old { original, broadcast, slopes: node.op_type == "PRelu" }), outer))
}

#[derive(Clone, Debug)]
struct Old {
    original: Box<dyn Expansion>,
    broadcast: bool,
    slopes: bool,
}

impl Expansion for Old {
    fn name(&self) -> StaticName {
        self.original.as_ref().name()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        if self.slopes {
            check_output_arity(outputs, 1)?;
            s.equals(&outputs[0].datum_type, &inputs[0].datum_type)?;
            return s.equals(&outputs[0].shape, &inputs[0].shape);
        }
        self.original.as_ref().rules(s, inputs, outputs)
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        if self.slopes {
            let rank = model.outlet_fact(inputs[0])?.rank();
            let slopes = model.outlet_fact(inputs[1])?.shape.to_tvec();
            ensure!(slopes.len() == 1 && rank >= 2, "slopes of the shape {slopes:?}");
            let place = format!("{prefix}.slopes");
            let slopes = placed(&place, model, inputs, true, Some(1))?;
            return self.original.as_ref().wire(prefix, model, &[inputs[0], slopes]);
        }
        let result = self.original.as_ref().wire(prefix, model, inputs)?;
        let shape = model.outlet_fact(result[0])?.shape.to_tvec();
        let third = model.outlet_fact(inputs[2])?.shape.to_tvec();
        ensure!(self.broadcast || third == shape, "{third:?} is not of the shape {shape:?}");
        Ok(result)
    }
}
