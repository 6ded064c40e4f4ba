//! Functions of one tensor that tract puts together from others, and loses a NaN or precision on
//! the way.

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_core::ops::math::{abs, add, exp, ln, mul, neg, sub};
use tract_onnx::tract_core::ops::nn::{Softmax, SoftmaxKind};
use tract_onnx::tract_hir::internal::*;

use super::binary::{Div, Max, Min, wire};
use super::{Ours, scalar};

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("Relu", |context, node| {
        Ours::build(context, node, |_, prefix, model, inputs| {
            let zero = scalar(model, format!("{prefix}.zero"), 0.0, inputs[0])?;
            Ok(tvec!(wire(prefix, model, Max, &[inputs[0], zero])?))
        })
    });
    registry.insert("Clip", |context, node| Ours::build(context, node, clip));
    registry.insert("HardSigmoid", |context, node| Ours::build(context, node, hard_sigmoid));
    registry.insert("HardSwish", |context, node| {
        Ours::build(context, node, |_, prefix, model, inputs| {
            let gate = bounded_line(prefix, model, inputs[0], 1.0 / 6.0, 0.5)?;
            model.wire_node(prefix, mul(), &[inputs[0], gate])
        })
    });
    registry.insert("Celu", |context, node| Ours::build(context, node, celu));
    registry.insert("Elu", |context, node| {
        Ours::build(context, node, |ours, prefix, model, inputs| {
            let half = model.outlet_fact(inputs[0])?.datum_type == f16::datum_type();
            let alpha = ours.float("alpha", 1.0)?;
            let fits = !half || f16::from_f32(alpha).is_finite();
            ensure!(fits, "an \"alpha\" of {alpha} is too large for float16");
            ours.original.as_ref().wire(prefix, model, inputs)
        })
    });
    for name in ["Sigmoid", "Tanh"] {
        registry.insert(name, |context, node| Ours::build(context, node, saturating));
    }
    registry.insert("Softplus", |context, node| Ours::build(context, node, softplus));
    for name in ["Softmax", "LogSoftmax"] {
        registry.insert(name, |context, node| Ours::build(context, node, softmax));
    }
    registry.insert("Selu", |context, node| {
        use tract_onnx::tract_hir::ops::activations::Selu;
        let _ = context;
        let alpha = node.get_attr_opt("alpha")?.unwrap_or(1.673_263_2);
        let gamma = node.get_attr_opt("gamma")?.unwrap_or(1.050_701);
        Ok((expand(Selu(alpha, gamma)), vec![]))
    });
}

fn clip(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let mut result = inputs[0];
    let (least, most) = if ours.version < 11 {
        let bound = |name| ours.node.get_attr_opt::<f32>(name);
        let (least, most) = (bound("min")?, bound("max")?);
        let mut constant = |name: &str, bound: Option<f32>| {
            bound.map(|b| scalar(model, format!("{prefix}.{name}"), b, inputs[0])).transpose()
        };
        (constant("lower", least)?, constant("upper", most)?)
    } else {
        (ours.input(1).map(|at| inputs[at]), ours.input(2).map(|at| inputs[at]))
    };
    for bound in [least, most].into_iter().flatten() {
        let one = model.outlet_fact(bound)?.shape.volume().is_one();
        ensure!(one, "the bounds of Clip are one number each");
    }
    if let Some(least) = least {
        result = wire(&format!("{prefix}.least"), model, Max, &[result, least])?;
    }
    if let Some(most) = most {
        result = wire(&format!("{prefix}.most"), model, Min, &[result, most])?;
    }
    Ok(tvec!(result))
}

/// `max(0, min(1, x · slope + shift))`
fn bounded_line(
    prefix: &str,
    model: &mut TypedModel,
    input: OutletId,
    slope: f32,
    shift: f32,
) -> TractResult<OutletId> {
    let mut constant = |name: &str, value| scalar(model, format!("{prefix}.{name}"), value, input);
    let (slope, shift) = (constant("slope", slope)?, constant("shift", shift)?);
    let (zero, one) = (constant("zero", 0.0)?, constant("one", 1.0)?);
    let scaled = model.wire_node(format!("{prefix}.scaled"), mul(), &[input, slope])?[0];
    let line = model.wire_node(format!("{prefix}.line"), add(), &[scaled, shift])?[0];
    let below = wire(&format!("{prefix}.below"), model, Min, &[line, one])?;
    wire(&format!("{prefix}.above"), model, Max, &[below, zero])
}

fn hard_sigmoid(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let (slope, shift) = (ours.float("alpha", 0.2)?, ours.float("beta", 0.5)?);
    Ok(tvec!(bounded_line(prefix, model, inputs[0], slope, shift)?))
}

/// In float16 tract's approximations stop a thousandth short of where these functions go, which
/// scales and gates make much of.
fn saturating(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let original = ours.original.as_ref();
    if model.outlet_fact(inputs[0])?.datum_type != f16::datum_type() {
        return original.wire(prefix, model, inputs);
    }
    let wide = model.wire_node(format!("{prefix}.wide"), cast(f32::datum_type()), inputs)?;
    let result = original.wire(&format!("{prefix}.of_wide"), model, &wide)?;
    model.wire_node(prefix, cast(f16::datum_type()), &result)
}

/// `max(0, x) + min(0, alpha · (exp(x / alpha) − 1))`
fn celu(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let x = inputs[0];
    let alpha = ours.float("alpha", 1.0)?;
    ensure!(alpha > 0.0, "an \"alpha\" of {alpha} is not implemented");
    let half = model.outlet_fact(x)?.datum_type == f16::datum_type();
    let small = half && f16::from_f32(alpha) == f16::ZERO;
    ensure!(!small, "an \"alpha\" of {alpha} is too small for float16");
    let mut constant = |name: &str, value| scalar(model, format!("{prefix}.{name}"), value, x);
    let (zero, one, alpha) =
        (constant("zero", 0.0)?, constant("one", 1.0)?, constant("alpha", alpha)?);
    let scaled = wire(&format!("{prefix}.scaled"), model, Div, &[x, alpha])?;
    let power = model.wire_node(format!("{prefix}.exp"), exp(), &[scaled])?[0];
    let less = model.wire_node(format!("{prefix}.less"), sub(), &[power, one])?[0];
    let below = model.wire_node(format!("{prefix}.below"), mul(), &[less, alpha])?[0];
    let below = wire(&format!("{prefix}.min"), model, Min, &[below, zero])?;
    let above = wire(&format!("{prefix}.max"), model, Max, &[x, zero])?;
    model.wire_node(prefix, add(), &[above, below])
}

/// `max(x, 0) + ln(1 + exp(−|x|))`, which is `ln(1 + exp(x))` and never overflows.
fn softplus(
    _: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let x = inputs[0];
    let zero = scalar(model, format!("{prefix}.zero"), 0.0, x)?;
    let one = scalar(model, format!("{prefix}.one"), 1.0, x)?;
    let size = model.wire_node(format!("{prefix}.abs"), abs(), &[x])?[0];
    let minus = model.wire_node(format!("{prefix}.neg"), neg(), &[size])?[0];
    let power = model.wire_node(format!("{prefix}.exp"), exp(), &[minus])?[0];
    let sum = model.wire_node(format!("{prefix}.plus-one"), add(), &[power, one])?[0];
    let log = model.wire_node(format!("{prefix}.ln"), ln(), &[sum])?[0];
    let above = wire(&format!("{prefix}.max"), model, Max, &[x, zero])?;
    model.wire_node(prefix, add(), &[above, log])
}

fn softmax(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let shape = &model.outlet_fact(inputs[0])?.shape;
    // Up to version 12 all dimensions from the axis on are one.
    let old = ours.version < 13;
    let axis = ours.axis("axis", if old { 1 } else { -1 }, shape.rank())?;
    let axes = if old { (axis..shape.rank()).collect() } else { tvec!(axis) };
    let something = shape.iter().all(|dim| dim.as_i64().is_some_and(|dim| dim > 0));
    let kind = match &*ours.node.op_type {
        "LogSoftmax" => SoftmaxKind::LogSoftmax,
        _ => SoftmaxKind::Softmax,
    };
    let softmax = Softmax { axes, quant_output_dt: None, kind };
    match something {
        // tract's own, which before version 13 keeps changes of axes from what is behind it.
        true if kind == SoftmaxKind::Softmax => ours.original.as_ref().wire(prefix, model, inputs),
        true => model.wire_node(prefix, softmax, inputs),
        false => model.wire_node(prefix, OfNothing(softmax), inputs),
    }
}

/// Of nothing there is nothing, where tract's panics.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OfNothing(Softmax);

impl Op for OfNothing {
    fn name(&self) -> StaticName {
        "OfNothing".into()
    }

    op_as_typed_op!();
}

impl EvalOp for OfNothing {
    op_out_of_plan!();

    fn eval(&self, ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        if inputs[0].volume() == 0 {
            return Ok(inputs);
        }
        self.0.eval(ctx, inputs)
    }
}

impl TypedOp for OfNothing {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        self.0.output_facts(inputs)
    }

    as_op!();
}
