//! Integers that say shapes and places. In tract they are 32 bits wide somewhere on their way: what
//! does not fit is refused here rather than cut.

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::tract_hir::internal::*;

use super::Ours;

/// What integers must be. Passes them on, or fails.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct InBounds {
    pub(super) least: i64,
    pub(super) most: i64,
    pub(super) what: &'static str,
}

impl InBounds {
    fn check(&self, tensor: &Tensor) -> TractResult<()> {
        // Also what tract made of shapes.
        let wide = match tensor.datum_type() {
            DatumType::I64 | DatumType::I32 | DatumType::TDim => tensor.cast_to::<i64>()?,
            DatumType::I8 | DatumType::I16 | DatumType::U8 | DatumType::U16 | DatumType::U32 => {
                tensor.cast_to::<i64>()?
            }
            _ => tensor.cast_to::<f64>()?,
        };
        if wide.datum_type() == f64::datum_type() {
            let wide = wide.try_as_plain_ram()?;
            let fits = |value: &f64| {
                value.fract() == 0.0 && *value >= self.least as f64 && *value <= self.most as f64
            };
            return match wide.as_slice::<f64>()?.iter().find(|value| !fits(value)) {
                Some(value) => {
                    bail!("{} {value} is not between {} and {}", self.what, self.least, self.most)
                }
                None => Ok(()),
            };
        }
        let wide = wide.try_as_plain_ram()?;
        let outside = |value: &&i64| !(self.least..=self.most).contains(*value);
        match wide.as_slice::<i64>()?.iter().find(outside) {
            Some(value) => {
                bail!("{} {value} is not between {} and {}", self.what, self.least, self.most)
            }
            None => Ok(()),
        }
    }

    /// Checks a constant at once, and everything else when it is known.
    pub(super) fn guard(
        self,
        name: String,
        model: &mut TypedModel,
        outlet: OutletId,
    ) -> TractResult<OutletId> {
        match &model.outlet_fact(outlet)?.konst {
            Some(konst) => {
                self.check(konst)?;
                Ok(outlet)
            }
            None => Ok(model.wire_node(name, self, &[outlet])?[0]),
        }
    }
}

impl Op for InBounds {
    fn name(&self) -> StaticName {
        "InBounds".into()
    }

    op_as_typed_op!();
}

impl EvalOp for InBounds {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        self.check(&inputs[0])?;
        Ok(inputs)
    }
}

impl TypedOp for InBounds {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].without_value()))
    }

    as_op!();
}

/// The sizes of a tensor's dimensions, as many as fit a sandbox.
pub(super) const SIZES: InBounds = InBounds { least: -1, most: MOST, what: "the size" };
/// Sizes, none of them -1.
pub(super) const COUNTS: InBounds = InBounds { least: 0, most: MOST, what: "the number" };

pub(super) const MOST: i64 = i32::MAX as i64;

/// The integers of a constant.
pub(super) fn constant(model: &TypedModel, outlet: OutletId, what: &str) -> TractResult<Vec<i64>> {
    let Some(konst) = &model.outlet_fact(outlet)?.konst else {
        bail!("{what} are only known when the model runs, which is not implemented")
    };
    let wide = konst.cast_to::<i64>()?;
    Ok(wide.try_as_plain_ram()?.as_slice::<i64>()?.to_vec())
}

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("Reshape", |context, node| {
        Ours::build_late(context, node, 1, |ours, prefix, model, inputs| {
            guarded(ours, prefix, model, inputs, 1, SIZES)
        })
    });
    registry.insert("Expand", |context, node| {
        Ours::build_late(context, node, 1, |ours, prefix, model, inputs| {
            guarded(ours, prefix, model, inputs, 1, InBounds { least: 0, ..SIZES })
        })
    });
    registry.insert("Tile", |context, node| {
        Ours::build_late(context, node, 1, |ours, prefix, model, inputs| {
            guarded(ours, prefix, model, inputs, 1, COUNTS)
        })
    });
    registry.insert("ConstantOfShape", |context, node| {
        let mut node = node.clone();
        if node.attribute.is_empty() {
            node.attribute.push(zero());
        }
        Ours::build_late(context, &node, 0, |ours, prefix, model, inputs| {
            guarded(ours, prefix, model, inputs, 0, COUNTS)
        })
    });
    for name in ["Squeeze", "Unsqueeze"] {
        registry.insert(name, |context, node| Ours::build_late(context, node, 1, axes));
    }
    registry.insert("CumSum", |context, node| {
        Ours::build_late(context, node, 1, |ours, prefix, model, inputs| {
            let rank = model.outlet_fact(inputs[0])?.rank();
            for axis in constant(model, inputs[1], "the axes")? {
                super::resolve(axis, rank)?;
            }
            ours.original.as_ref().wire(prefix, model, inputs)
        })
    });
    registry.insert("NonMaxSuppression", |context, node| {
        Ours::build(context, node, |ours, prefix, model, inputs| {
            // None at all is what ONNX says of no number, and of 0; tract says all of them.
            let Some(at) = ours.input(2) else {
                bail!("without a largest number of boxes there are none to select")
            };
            let some = InBounds { least: 1, most: i64::MAX, what: "the largest number of boxes" };
            guarded(ours, prefix, model, inputs, at, some)
        })
    });
    registry.insert("Split", |context, node| Ours::build_late(context, node, 1, split));
    registry.insert("Pad", pad_builder);
    registry.insert("Resize", |context, node| match super::resample::ours(node)? {
        // Empty tensors stand there for what is not said; tract counts on them.
        _ if (11..13).contains(&context.onnx_operator_set_version)
            && node.input.iter().any(String::is_empty) =>
        {
            bail!("in this version no input of Resize may be left out")
        }
        true => super::resample::resize(context, node),
        false
            if context.onnx_operator_set_version == 10
                && node.get_attr_opt::<&str>("mode")? != Some("linear") =>
        {
            super::arrange::resize_10(node)
        }
        false => Ours::build_late(context, node, 1, resize),
    });
    registry.insert("BatchNormalization", |context, node| match super::training::ours(node)? {
        true => super::training::batch_norm(context, node),
        false => Ours::build_late(context, node, 1, plain),
    });
    registry.insert("RotaryEmbedding", |context, node| Ours::build(context, node, rotary));
    registry.insert("DequantizeLinear", |context, node| Ours::build_late(context, node, 1, plain));
    for name in ["MaxPool", "AveragePool", "Conv", "ConvInteger"] {
        registry.insert(name, |context, node| Ours::build(context, node, windows));
    }
    for name in ["Hardmax", "Flatten", "Concat", "LpNormalization"] {
        registry.insert(name, |context, node| Ours::build(context, node, one_axis));
    }
    registry.insert("LayerNormalization", |context, node| Ours::build(context, node, one_axis));
}

/// The value that ONNX fills with where a model says none: zero, in 32 bits.
fn zero() -> tract_onnx::pb::AttributeProto {
    use tract_onnx::pb::attribute_proto::AttributeType;
    use tract_onnx::pb::tensor_proto::DataType;
    use tract_onnx::pb::{AttributeProto, TensorProto};
    AttributeProto {
        name: "value".into(),
        r#type: AttributeType::Tensor as i32,
        t: Some(TensorProto {
            dims: vec![1],
            data_type: DataType::Float as i32,
            raw_data: vec![0; 4],
            ..TensorProto::default()
        }),
        ..AttributeProto::default()
    }
}

/// tract's own way, once one of the inputs is in bounds.
fn guarded(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
    at: usize,
    bounds: InBounds,
) -> TractResult<TVec<OutletId>> {
    let mut inputs: TVec<OutletId> = inputs.into();
    inputs[at] = bounds.guard(format!("{prefix}.guard"), model, inputs[at])?;
    ours.original.as_ref().wire(prefix, model, &inputs)
}

/// tract's own way.
fn plain(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    ours.original.as_ref().wire(prefix, model, inputs)
}

/// Positions that are rows of the tables.
fn rotary(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let mut inputs: TVec<OutletId> = inputs.into();
    if let Some(at) = ours.input(3) {
        let mut rows = MOST;
        for table in [inputs[1], inputs[2]] {
            let shape = &model.outlet_fact(table)?.shape;
            ensure!(shape.rank() == 2, "tables of {} dimensions", shape.rank());
            rows = rows.min(shape[0].to_i64()?);
        }
        let bounds = InBounds { least: 0, most: rows - 1, what: "the position" };
        inputs[at] = bounds.guard(format!("{prefix}.guard"), model, inputs[at])?;
    }
    ours.original.as_ref().wire(prefix, model, &inputs)
}

/// Refuses an output that no sandbox holds.
fn held(sizes: impl IntoIterator<Item = f64>) -> TractResult<()> {
    let elements = sizes.into_iter().fold(1.0, |product, size| product * size.max(1.0));
    ensure!(elements <= (MOST / 4) as f64, "{elements} elements are more than a sandbox holds");
    Ok(())
}

/// Windows that fit what they go over, with its padding, at least once.
fn windows(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let shape = model.outlet_fact(inputs[0])?.shape.to_tvec();
    let list = |name| Ok::<_, TractError>(ours.node.get_attr_opt_vec::<i64>(name)?);
    let kernel = match (list("kernel_shape")?, inputs.get(1)) {
        (Some(kernel), _) => kernel,
        (None, Some(weights)) => {
            let weights = model.outlet_fact(*weights)?.shape.to_tvec();
            let sizes = weights.iter().skip(2).map(|dim| dim.to_i64());
            sizes.collect::<Result<_, _>>()?
        }
        (None, None) => bail!("windows of unknown size"),
    };
    let axes = kernel.len();
    ensure!(shape.len() == axes + 2, "windows of {axes} dimensions over {}", shape.len());
    let auto = ours.node.get_attr_opt::<&str>("auto_pad")?.unwrap_or("NOTSET");
    let dilations = list("dilations")?.unwrap_or_else(|| vec![1; axes]);
    let strides = list("strides")?.unwrap_or_else(|| vec![1; axes]);
    let counts = dilations.len() == axes && strides.len() == axes;
    ensure!(counts, "strides and dilations are not of {axes} dimensions");
    ensure!(kernel.iter().all(|size| *size > 0), "windows of {kernel:?}");
    ensure!(shape[1].as_i64().is_some(), "the number of channels is not known");
    let reach = |axis: usize| (kernel[axis] - 1) * dilations[axis] + 1;
    if auto.starts_with("SAME") {
        // Of elements between windows poolings leave out some at one end or at the other.
        let pool = ours.node.op_type.ends_with("Pool");
        let near = !pool || (0..axes).all(|axis| strides[axis] <= reach(axis));
        ensure!(near, "auto_pad with strides beyond the windows is not implemented");
    } else {
        let pads = list("pads")?.unwrap_or_else(|| vec![0; 2 * axes]);
        ensure!(pads.len() == 2 * axes, "pads are not of {axes} dimensions");
        for axis in 0..axes {
            let size = shape[axis + 2].to_i64()? + pads[axis] + pads[axis + axes];
            let reach = reach(axis);
            ensure!(reach <= size, "a window {reach} wide does not fit {size}");
            // Where a pooling sees nothing but padding, there is nothing to say.
            let pooling = ours.node.op_type.ends_with("Pool");
            let empty = pooling && pads[axis].max(pads[axis + axes]) >= reach;
            ensure!(!empty, "padding as wide as a window of {reach} is not implemented");
        }
    }
    ours.original.as_ref().wire(prefix, model, inputs)
}

/// Factors and sizes that make a tensor of some size.
fn resize(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let rank = model.outlet_fact(inputs[0])?.rank();
    let nothing = model.outlet_fact(inputs[0])?.shape.iter().any(|dim| dim.as_i64() == Some(0));
    ensure!(!nothing, "of nothing there is no larger or smaller");
    let mode = ours.node.get_attr_opt::<&str>("coordinate_transformation_mode")?;
    let cubic = ours.node.get_attr_opt::<&str>("mode")? == Some("cubic");
    let agreed = !cubic || mode != Some("pytorch_half_pixel");
    ensure!(agreed, "cubic interpolation in this coordinate mode is not implemented");
    let scales = if ours.version > 10 { ours.input(2) } else { Some(1) };
    for input in scales.into_iter().filter_map(|at| inputs.get(at)) {
        let Some(scales) = model.outlet_fact(*input)?.konst.clone() else { continue };
        let scales = scales.cast_to::<f32>()?.into_owned();
        let scales = scales.try_as_plain_ram()?.as_slice::<f32>()?.to_vec();
        let fits = |scale: &f32| scale.is_finite() && *scale > 0.0;
        ensure!(scales.len() <= rank && scales.iter().all(fits), "factors of {scales:?}");
        let shape = model.outlet_fact(inputs[0])?.shape.to_tvec();
        let known = shape.iter().map(|dim| dim.to_i64().unwrap_or(1) as f64);
        held(known.chain(scales.iter().map(|scale| f64::from(*scale))))?;
        // How large an output is that is no whole number wide, implementations do not agree.
        if mode == Some("align_corners") {
            let shape = model.outlet_fact(inputs[0])?.shape.to_tvec();
            let axes = ours.node.get_attr_opt_vec::<i64>("axes")?;
            let axes = axes.unwrap_or_else(|| (0..rank as i64).collect());
            for (axis, scale) in axes.iter().zip(&scales) {
                let size = shape[super::resolve(*axis, rank)?].to_i64()? as f32 * scale;
                let whole = (size - size.round()).abs() < 1e-4;
                ensure!(whole, "aligned corners of an output {size} wide are not implemented");
            }
        }
    }
    if let Some(axes) = ours.node.get_attr_opt_vec::<i64>("axes")? {
        for (at, axis) in axes.iter().enumerate() {
            super::resolve(*axis, rank)?;
            ensure!(!axes[..at].contains(axis), "axis {axis} is there twice");
        }
    }
    match ours.input(3).filter(|_| ours.version > 10) {
        Some(sizes) => {
            if model.outlet_fact(inputs[sizes])?.konst.is_some() {
                let list = constant(model, inputs[sizes], "the sizes")?;
                held(list.iter().map(|size| *size as f64))?;
            }
            let positive = InBounds { least: 1, ..COUNTS };
            guarded(ours, prefix, model, inputs, sizes, positive)
        }
        None => ours.original.as_ref().wire(prefix, model, inputs),
    }
}

/// Axes that are an input or an attribute: known, each there, none twice.
fn axes(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let rank = model.outlet_fact(inputs[0])?.rank();
    let axes = match inputs.get(1) {
        Some(axes) => Some(constant(model, *axes, "the axes")?),
        None => ours.node.get_attr_opt_vec::<i64>("axes")?,
    };
    match axes {
        Some(axes) => ours.distinct(&axes, rank as i64)?,
        None => {
            let shape = &model.outlet_fact(inputs[0])?.shape;
            let known = shape.iter().all(|dim| dim.as_i64().is_some());
            ensure!(known, "which of the dimensions are 1 is only known when it runs");
        }
    }
    ours.original.as_ref().wire(prefix, model, inputs)
}

/// An axis that is an attribute.
fn one_axis(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let rank = model.outlet_fact(inputs[0])?.rank();
    let flatten = ours.node.op_type == "Flatten";
    ensure!(flatten || rank > 0, "a tensor without dimensions has no axis");
    let nothing = model.outlet_fact(inputs[0])?.shape.iter().any(|dim| dim.as_i64() == Some(0));
    let norm = ours.node.op_type == "LpNormalization";
    ensure!(!norm || !nothing, "of nothing there is no norm");
    ensure!(ours.node.op_type != "Hardmax" || !nothing, "of nothing there is no greatest");
    let old = ours.version < 13 && ours.node.op_type == "Hardmax";
    if let Some(axis) = ours.node.get_attr_opt::<i64>("axis")?.or(old.then_some(1)) {
        // To flatten behind the last dimension is to have one column.
        let behind = flatten && axis == rank as i64;
        if !behind {
            super::resolve(axis, rank)?;
        }
    }
    if ours.node.op_type == "Concat" {
        return super::agree::agreed(ours, prefix, model, inputs);
    }
    ours.original.as_ref().wire(prefix, model, inputs)
}

/// Parts that are together what is split.
fn split(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let fact = model.outlet_fact(inputs[0])?;
    let axis = ours.axis("axis", 0, fact.rank())?;
    let size = fact.shape[axis].to_i64()?;
    let parts = match inputs.get(1) {
        Some(parts) => Some(constant(model, *parts, "the parts")?),
        None => ours.node.get_attr_opt_vec::<i64>("split")?,
    };
    let outputs = ours.node.output.len();
    match parts {
        Some(parts) => {
            let sum = parts.iter().try_fold(0i64, |sum, part| sum.checked_add(*part));
            let whole = sum == Some(size) && parts.iter().all(|part| *part >= 0);
            ensure!(whole && parts.len() == outputs, "{parts:?} are no {outputs} parts of {size}");
        }
        None => {
            let count = ours.int("num_outputs", outputs as i64)?;
            ensure!(count == outputs as i64, "{count} outputs are wanted, {outputs} named");
            let even = size % count == 0;
            ensure!(even || ours.version >= 18, "{size} is no multiple of {count}");
            // Equal parts but for the last one, of which something must be left.
            let part = (size + count - 1) / count;
            ensure!(part * (count - 1) <= size, "{size} does not make {count} parts");
        }
    }
    ours.original.as_ref().wire(prefix, model, inputs)
}

fn pad_builder(
    context: &tract_onnx::model::ParsingContext,
    node: &tract_onnx::pb::NodeProto,
) -> super::Built {
    let mode = node.get_attr_opt::<&str>("mode")?;
    let value = node.input.get(2).is_some_and(|name| !name.is_empty());
    match context.onnx_operator_set_version {
        version if mode == Some("wrap") => super::padding::pad(version, node),
        version @ ..=10 if mode == Some("reflect") => super::padding::pad(version, node),
        // A value beside another mode means nothing, and tract takes it.
        version if value && [Some("reflect"), Some("edge")].contains(&mode) => {
            super::padding::pad(version, node)
        }
        // All is in the attributes, which have been looked at.
        ..=10 => super::originals()["Pad"](context, node),
        _ => Ours::build_late(context, node, 1, pad),
    }
}

fn pad(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let fact = model.outlet_fact(inputs[0])?.clone();
    let axes: Vec<usize> = match ours.input(3) {
        Some(at) => {
            let axes = constant(model, inputs[at], "the axes")?;
            axes.iter()
                .map(|axis| super::resolve(*axis, fact.rank()))
                .collect::<TractResult<_>>()?
        }
        None => (0..fact.rank()).collect(),
    };
    let pads = constant(model, inputs[1], "the pads")?;
    ensure!(pads.len() == 2 * axes.len(), "{} pads for {} axes", pads.len(), axes.len());
    let reflect = ours.node.get_attr_opt("mode")? == Some("reflect");
    let edge = ours.node.get_attr_opt("mode")? == Some("edge");
    let shape = fact.shape.iter().map(|dim| dim.to_i64()).collect::<Result<Vec<_>, _>>()?;
    let mut padded: Vec<f64> = shape.iter().map(|size| *size as f64).collect();
    for (at, axis) in axes.iter().enumerate() {
        padded[*axis] += pads[at] as f64 + pads[at + axes.len()] as f64;
    }
    held(padded)?;
    for (at, axis) in axes.iter().enumerate() {
        ensure!(!axes[..at].contains(axis), "axis {axis} is there twice");
        let size = shape[*axis];
        for pad in [pads[at], pads[at + axes.len()]] {
            ensure!((0..=MOST).contains(&pad), "a pad of {pad} is not implemented");
            ensure!(!reflect || pad < size.max(1), "{size} elements do not reflect {pad} beyond");
            ensure!(!edge || size > 0 || pad == 0, "no element is there to repeat");
        }
    }
    let mut inputs: TVec<OutletId> = inputs.into();
    if let Some(at) = ours.input(2) {
        let value = model.outlet_fact(inputs[at])?.konst.clone();
        let value = value.context("what is put beyond is not known")?;
        if value.rank() > 0 {
            ensure!(value.rank() == 1 && value.len() == 1, "{} values beyond", value.len());
            let value = value.into_tensor().into_shape(&[])?;
            inputs[at] = model.add_const(format!("{prefix}.beyond"), value)?;
        }
    }
    ours.original.as_ref().wire(prefix, model, &inputs)
}
