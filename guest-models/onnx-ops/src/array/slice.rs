//! Operators that take places in a tensor from another one: what is outside is refused, where
//! tract would read or write somewhere else.

use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::array::GatherNd;
use tract_onnx::tract_core::ops::array::StridedSlice;
use tract_onnx::tract_hir::infer::InferenceRulesOp;
use tract_onnx::tract_hir::internal::*;

use super::guards::{InBounds, MOST, constant};
use super::{Built, Ours, late, resolve};

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("Gather", |context, node| Ours::build(context, node, along_axis));
    registry.insert("GatherND", |_, node| {
        let batch = node.get_attr_opt::<usize>("batch_dims")?.unwrap_or(0);
        Ok((expand(Gather(GatherNd::new(batch))), vec![]))
    });
    registry.insert("TopK", |context, node| {
        Ours::build(context, node, |ours, prefix, model, inputs| {
            let fact = model.outlet_fact(inputs[0])?;
            let axis = ours.axis("axis", -1, fact.rank())?;
            let size = fact.shape[axis].to_i64()?;
            let bounds = InBounds { least: 0, most: size, what: "k" };
            let mut inputs: TVec<OutletId> = inputs.into();
            inputs[1] = bounds.guard(format!("{prefix}.guard"), model, inputs[1])?;
            ours.original.as_ref().wire(prefix, model, &inputs)
        })
    });
    registry.insert("Slice", slice);
}

/// Indices along one axis.
fn along_axis(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let fact = model.outlet_fact(inputs[0])?;
    let axis = ours.axis("axis", 0, fact.rank())?;
    let size = fact.shape[axis].to_i64().context("gathering from a tensor of unknown size")?;
    let bounds = InBounds { least: -size, most: size - 1, what: "the index" };
    let mut inputs: TVec<OutletId> = inputs.into();
    inputs[1] = bounds.guard(format!("{prefix}.guard"), model, inputs[1])?;
    ours.original.as_ref().wire(prefix, model, &inputs)
}

#[derive(Clone, Debug)]
struct Gather(GatherNd);

impl Expansion for Gather {
    fn name(&self) -> StaticName {
        "GatherND".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        InferenceRulesOp::rules(&self.0, s, inputs, outputs)
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let shape = model.outlet_fact(inputs[0])?.shape.to_tvec();
        let batch = self.0.batch_dims;
        ensure!(batch < shape.len(), "{batch} batch dimensions of {}", shape.len());
        let indices = model.outlet_fact(inputs[1])?.shape.to_tvec();
        let fits = batch < indices.len() && indices[..batch] == shape[..batch];
        ensure!(fits, "indices of {indices:?} for {batch} batch dimensions of {shape:?}");
        ensure!(indices[indices.len() - 1].as_i64() != Some(0), "indices of no dimensions");
        let sizes = shape[batch..].iter().map(|dim| dim.to_i64());
        let places = Places { sizes: sizes.collect::<Result<Vec<_>, _>>()? };
        let mut inputs: TVec<OutletId> = inputs.into();
        let name = format!("{prefix}.guard");
        inputs[1] = match model.outlet_fact(inputs[1])?.konst.clone() {
            Some(konst) => model.add_const(name, places.from_the_start(&konst)?)?,
            None => model.wire_node(name, places, &inputs[1..])?[0],
        };
        model.wire_node(prefix, self.0.clone(), &inputs)
    }
}

/// Places in several dimensions, each along the size of its own, counted from the start or the end:
/// passed on as counted from the start, or refused.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct Places {
    sizes: Vec<i64>,
}

impl Places {
    fn from_the_start(&self, indices: &Tensor) -> TractResult<Tensor> {
        let deep = indices.shape().last().copied().unwrap_or(0);
        ensure!(deep <= self.sizes.len(), "indices of {deep} dimensions are too many");
        let mut indices = indices.clone();
        let mut all = indices.try_as_plain_ram_mut()?;
        for place in all.as_slice_mut::<i64>()?.chunks_mut(deep.max(1)) {
            for (index, size) in place.iter_mut().zip(&self.sizes) {
                ensure!(
                    (-size..*size).contains(index),
                    "the index {index} is not in -{size} to {}",
                    size - 1
                );
                if *index < 0 {
                    *index += size;
                }
            }
        }
        Ok(indices)
    }
}

impl Op for Places {
    fn name(&self) -> StaticName {
        "Places".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Places {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(tvec!(self.from_the_start(&inputs[0])?.into_tvalue()))
    }
}

impl TypedOp for Places {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].without_value()))
    }

    as_op!();
}

fn slice(context: &ParsingContext, node: &NodeProto) -> Built {
    if context.onnx_operator_set_version < 10 {
        return Ours::build(context, node, slice_1);
    }
    let (original, outer) = super::originals()["Slice"](context, node)?;
    let Some(op) = original.as_op().downcast_ref::<StridedSlice>() else {
        bail!("slices are not implemented this way")
    };
    Ok((expand(Slice(op.clone())), outer))
}

/// Bounds that are attributes: tract counts them from the end once, and no further.
fn slice_1(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let shape = model.outlet_fact(inputs[0])?.shape.to_tvec();
    let starts: Vec<i64> = ours.node.get_attr_vec("starts")?;
    let ends: Vec<i64> = ours.node.get_attr_vec("ends")?;
    let axes = match ours.node.get_attr_opt_vec::<i64>("axes")? {
        Some(axes) => axes,
        None => (0..starts.len() as i64).collect(),
    };
    for ((axis, start), end) in axes.iter().zip(&starts).zip(&ends) {
        let size = shape[resolve(*axis, shape.len())?].to_i64()?;
        let place = |at: i64| if at < 0 { at.saturating_add(size) } else { at.min(size) };
        let (start, end) = (place(*start), place(*end));
        ensure!(
            (0..=size).contains(&start) && (start..=size).contains(&end),
            "a slice from {start} to {end} of {size} is not implemented"
        );
    }
    ours.original.as_ref().wire(prefix, model, inputs)
}

#[derive(Clone, Debug)]
struct Slice(StridedSlice);

impl Expansion for Slice {
    fn name(&self) -> StaticName {
        "Slice".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        s.equals(&inputs[0].rank, &outputs[0].rank)?;
        s.given(&inputs[0].shape, move |s, shape| {
            let values = inputs[1..].iter().map(|input| &input.value);
            s.given_all(values, move |s, values: Vec<Arc<Tensor>>| {
                let lists = values.iter().map(|value| {
                    let wide = value.cast_to::<i64>()?;
                    Ok(wide.try_as_plain_ram()?.as_slice::<i64>()?.to_vec())
                });
                let lists = lists.collect::<TractResult<Vec<Vec<i64>>>>()?;
                let mut shape = shape.clone();
                for part in self.parts(&lists, &shape.clone())? {
                    shape[part.axis] = part.count().to_dim();
                }
                s.equals(&outputs[0].shape, shape)
            })
        })
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let shape = model.outlet_fact(inputs[0])?.shape.to_tvec();
        let lists = inputs[1..].iter().map(|input| constant(model, *input, "the bounds"));
        let lists = lists.collect::<TractResult<Vec<_>>>()?;
        let mut wire = inputs[0];
        for part in self.parts(&lists, &shape)? {
            wire = part.wire(&format!("{prefix}.axis-{}", part.axis), model, wire)?;
        }
        Ok(tvec!(wire))
    }

    fn wire_with_inference_model_and_node(
        &self,
        prefix: &str,
        _: &InferenceModel,
        node: &InferenceNode,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        if late::known(model, inputs, 1)? {
            return self.wire(prefix, model, inputs);
        }
        let expansion: Box<dyn Expansion> = Box::new(self.clone());
        late::wire(&expansion, prefix, node, model, inputs, None)
    }
}

impl Slice {
    /// What is taken along each axis; of starts, ends, axes and steps in the order of the inputs.
    fn parts(&self, lists: &[Vec<i64>], shape: &[TDim]) -> TractResult<Vec<Part>> {
        let [starts, ends, ..] = lists else { bail!("starts or ends are missing") };
        let optional = |at: Option<usize>| at.and_then(|at| lists.get(at.checked_sub(1)?));
        let count = starts.len();
        let axes = match optional(self.0.optional_axes_input) {
            Some(axes) => axes.clone(),
            None => (0..count as i64).collect(),
        };
        let steps = match optional(self.0.optional_steps_input) {
            Some(steps) => steps.clone(),
            None => vec![1; count],
        };
        ensure!(
            ends.len() == count && axes.len() == count && steps.len() == count,
            "starts, ends, axes and steps are not of one length"
        );
        let mut parts: Vec<Part> = Vec::with_capacity(count);
        for at in 0..count {
            let axis = resolve(axes[at], shape.len())?;
            ensure!(parts.iter().all(|part| part.axis != axis), "axis {axis} is there twice");
            let (start, end) = bounds(starts[at], ends[at], steps[at], shape[axis].to_i64()?)?;
            parts.push(Part { axis, start, end, step: steps[at] });
        }
        Ok(parts)
    }
}

/// Where a slice starts and ends: counted from the end if negative, and clamped.
fn bounds(start: i64, end: i64, step: i64, size: i64) -> TractResult<(i64, i64)> {
    ensure!(step != 0, "a step of 0");
    let endless = [i64::MAX, i64::from(i32::MAX)].contains(&end);
    // Some take it for the end that the step goes to, which it is not.
    ensure!(step > 0 || !endless, "an end of {end} with a step of {step} is not implemented");
    let place = |at: i64| if at < 0 { at.saturating_add(size) } else { at };
    if size == 0 {
        return Ok(if step > 0 { (0, 0) } else { (-1, -1) });
    }
    Ok(match step > 0 {
        true => (place(start).clamp(0, size), place(end).clamp(0, size)),
        false => (place(start).clamp(0, size - 1), place(end).clamp(-1, size - 1)),
    })
}

/// What is taken along one axis.
struct Part {
    axis: usize,
    start: i64,
    end: i64,
    step: i64,
}

impl Part {
    fn count(&self) -> i64 {
        let (length, step) = match self.step > 0 {
            true => (self.end - self.start, self.step),
            false => (self.start - self.end, self.step.saturating_neg()),
        };
        if length <= 0 { 0 } else { (length - 1) / step + 1 }
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, wire: OutletId) -> TractResult<OutletId> {
        use tract_onnx::tract_core::ops::array;
        use tract_onnx::tract_core::ops::downsample::Downsample;
        let Part { axis, start, end, step } = *self;
        let (from, to) = match step > 0 {
            true => (start, end.max(start)),
            false => (end.min(start) + 1, start + 1),
        };
        let op = array::Slice::new(axis, from as usize, to as usize);
        let wire = model.wire_node(format!("{prefix}.slice"), op, &[wire])?[0];
        if step == 1 || to <= from {
            return Ok(wire);
        }
        let op = Downsample::new(axis, step.clamp(-MOST, MOST) as isize, 0);
        Ok(model.wire_node(format!("{prefix}.step"), op, &[wire])?[0])
    }
}
