//! Slice (ONNX).

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::array::StridedSlice;
use tract_onnx::tract_hir::internal::*;

use crate::framework::assumptions::{at_most, clamp};
use crate::framework::axes::resolve;
use crate::framework::deferred;
use crate::framework::dims::MAX_DIM;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::dims;
use crate::framework::upstream::{BuildResult, originals};
use crate::framework::wiring::constant_dims;

pub(crate) const OPERATORS: &[Registration] =
    &[own("Slice", build_1).until(9), own("Slice", build_10).since(10)];

fn build_1(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let op = Slice1 {
        axes: node.get_attr_opt_vec("axes")?,
        starts: node.get_attr_vec("starts")?,
        ends: node.get_attr_vec("ends")?,
    };
    Ok((expand(op), vec![]))
}

fn build_10(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    let (original, outer) = originals()["Slice"](context, node)?;
    let Some(op) = original.as_op().downcast_ref::<StridedSlice>() else {
        bail!("this form of Slice is not implemented")
    };
    Ok((expand(Slice(op.clone())), outer))
}

/// Slice with bounds as attributes.
#[derive(Clone, Debug)]
struct Slice1 {
    axes: Option<Vec<i64>>,
    starts: Vec<i64>,
    ends: Vec<i64>,
}

impl Slice1 {
    fn parts(&self, shape: &[TDim]) -> TractResult<Vec<Part>> {
        let count = self.starts.len();
        let axes = match &self.axes {
            Some(axes) => axes.clone(),
            None => (0..count as i64).collect(),
        };
        let dims = |list: &[i64]| list.iter().map(|at| at.to_dim()).collect::<Vec<_>>();
        parts(&dims(&self.starts), &dims(&self.ends), &axes, &vec![1; count], shape)
    }
}

impl Expansion for Slice1 {
    fn name(&self) -> StaticName {
        "Slice".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        s.equals(&inputs[0].rank, &outputs[0].rank)?;
        s.given(&inputs[0].shape, move |s, shape| {
            let mut sliced = shape.clone();
            for part in self.parts(&shape)? {
                sliced[part.axis] = part.count()?;
            }
            s.equals(&outputs[0].shape, sliced)
        })
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let shape = model.outlet_fact(inputs[0])?.shape.to_tvec();
        wire_parts(self.parts(&shape)?, prefix, model, inputs[0])
    }

    fn wire_with_inference_model_and_node(
        &self,
        prefix: &str,
        _: &InferenceModel,
        node: &InferenceNode,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        if deferred::all_constant(model, inputs, 1)? {
            return self.wire(prefix, model, inputs);
        }
        let expansion: Box<dyn Expansion> = Box::new(self.clone());
        deferred::wire(&expansion, prefix, node, model, inputs, None)
    }
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
                let lists = values.iter().map(|value| dims(value));
                let lists = lists.collect::<TractResult<Vec<Vec<TDim>>>>()?;
                let mut shape = shape.clone();
                for part in self.parts(&lists, &shape.clone())? {
                    shape[part.axis] = part.count()?;
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
        let lists = inputs[1..].iter().map(|input| constant_dims(model, *input, "the bounds"));
        let lists = lists.collect::<TractResult<Vec<_>>>()?;
        wire_parts(self.parts(&lists, &shape)?, prefix, model, inputs[0])
    }

    fn wire_with_inference_model_and_node(
        &self,
        prefix: &str,
        _: &InferenceModel,
        node: &InferenceNode,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        if deferred::all_constant(model, inputs, 1)? {
            return self.wire(prefix, model, inputs);
        }
        let expansion: Box<dyn Expansion> = Box::new(self.clone());
        deferred::wire(&expansion, prefix, node, model, inputs, None)
    }
}

impl Slice {
    /// The part of each axis, from starts, ends, axes and steps in the order of the inputs.
    fn parts(&self, lists: &[Vec<TDim>], shape: &[TDim]) -> TractResult<Vec<Part>> {
        let [starts, ends, ..] = lists else { bail!("starts or ends are missing") };
        let optional = |at: Option<usize>| at.and_then(|at| lists.get(at.checked_sub(1)?));
        let count = starts.len();
        let known = |list: &Vec<TDim>| {
            let known: Option<Vec<i64>> = list.iter().map(TDim::as_i64).collect();
            known.or_user_error(
                "axes and steps are only known when the model runs, which is not implemented",
            )
        };
        let axes = match optional(self.0.optional_axes_input) {
            Some(axes) => known(axes)?,
            None => (0..count as i64).collect(),
        };
        let steps = match optional(self.0.optional_steps_input) {
            Some(steps) => known(steps)?,
            None => vec![1; count],
        };
        parts(starts, ends, &axes, &steps, shape)
    }
}

/// The part of each axis that is named.
fn parts(
    starts: &[TDim],
    ends: &[TDim],
    axes: &[i64],
    steps: &[i64],
    shape: &[TDim],
) -> TractResult<Vec<Part>> {
    let count = starts.len();
    ensure!(
        ends.len() == count && axes.len() == count && steps.len() == count,
        "starts, ends, axes and steps have different lengths"
    );
    let mut parts: Vec<Part> = Vec::with_capacity(count);
    for at in 0..count {
        let axis = resolve(axes[at], shape.len())?;
        ensure!(parts.iter().all(|part| part.axis != axis), "duplicate axis {axis}");
        let (start, end) = bounds(&starts[at], &ends[at], steps[at], &shape[axis])?;
        parts.push(Part { axis, start, end, step: steps[at] });
    }
    Ok(parts)
}

fn wire_parts(
    parts: Vec<Part>,
    prefix: &str,
    model: &mut TypedModel,
    input: OutletId,
) -> TractResult<TVec<OutletId>> {
    let mut wire = input;
    for part in parts {
        wire = part.wire(&format!("{prefix}.axis-{}", part.axis), model, wire)?;
    }
    Ok(tvec!(wire))
}

/// Where a slice starts and ends: counted from the end if negative, and clamped.
fn bounds(start: &TDim, end: &TDim, step: i64, size: &TDim) -> TractResult<(TDim, TDim)> {
    ensure!(step != 0, "a step must not be 0");
    let endless = [i64::MAX, i64::from(i32::MAX)].iter().any(|all| end.as_i64() == Some(*all));
    // Some exporters use it for the end in the direction of the step, which the specification does
    // not.
    ensure!(step > 0 || !endless, "an end of {end} with a step of {step} is not implemented");
    let (Some(start), Some(end), Some(size)) = (start.as_i64(), end.as_i64(), size.as_i64()) else {
        return symbolic_bounds(start, end, step, size);
    };
    let place = |at: i64| if at < 0 { at.saturating_add(size) } else { at };
    let (start, end) = if size == 0 {
        if step > 0 { (0, 0) } else { (-1, -1) }
    } else {
        match step > 0 {
            true => (place(start).clamp(0, size), place(end).clamp(0, size)),
            false => (place(start).clamp(0, size - 1), place(end).clamp(-1, size - 1)),
        }
    };
    Ok((start.to_dim(), end.to_dim()))
}

/// The same with symbols, which have positive sizes.
fn symbolic_bounds(start: &TDim, end: &TDim, step: i64, size: &TDim) -> TractResult<(TDim, TDim)> {
    ensure!(
        step == 1,
        "a step of {step} along an axis whose size is only known when the model runs is not implemented"
    );
    // No dimension is larger, and sums with larger numbers would overflow.
    let far = 4 * MAX_DIM;
    let place = |at: &TDim| {
        let at = match at.as_i64() {
            Some(at) => at.clamp(-far, far).to_dim(),
            None => at.clone(),
        };
        let from_start = if at_most(&0.to_dim(), &at)? { at } else { (at + size).reduce() };
        clamp(&from_start, &0.to_dim(), size)
    };
    Ok((place(start)?, place(end)?))
}

/// The part of one axis.
struct Part {
    axis: usize,
    start: TDim,
    end: TDim,
    step: i64,
}

impl Part {
    fn count(&self) -> TractResult<TDim> {
        let (from, to) = match self.step > 0 {
            true => (&self.start, &self.end),
            false => (&self.end, &self.start),
        };
        if at_most(to, from)? {
            return Ok(0.to_dim());
        }
        let length = (to.clone() - from).reduce();
        match length.as_i64() {
            Some(length) => {
                let step = self.step.saturating_abs();
                Ok(((length - 1) / step + 1).to_dim())
            }
            // Only a step of 1 has symbols.
            None => Ok(length),
        }
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, wire: OutletId) -> TractResult<OutletId> {
        use tract_onnx::tract_core::ops::array;
        use tract_onnx::tract_core::ops::downsample::Downsample;
        let Part { axis, start, end, step } = self;
        let (axis, step) = (*axis, *step);
        let empty = self.count()?.as_i64() == Some(0);
        let (from, to) = match step > 0 {
            true => (start.clone(), if empty { start.clone() } else { end.clone() }),
            false => (if empty { start.clone() + 1 } else { end.clone() + 1 }, start.clone() + 1),
        };
        let op = array::Slice::new(axis, from, to);
        let wire = model.wire_node(format!("{prefix}.slice"), op, &[wire])?[0];
        if step == 1 || empty {
            return Ok(wire);
        }
        let op = Downsample::new(axis, step.clamp(-MAX_DIM, MAX_DIM) as isize, 0);
        Ok(model.wire_node(format!("{prefix}.step"), op, &[wire])?[0])
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, counting, row, tensor};

    #[test]
    fn slice_clamps_its_bounds_and_steps_backwards() {
        let slice = |bounds: [&[i64]; 4]| {
            let case = case("Slice").input(counting(&[2, 4]));
            bounds.into_iter().fold(case, |case, bound| case.input(row(bound)))
        };
        slice([&[-3], &[i64::MAX], &[-1], &[2]]).gives(tensor(&[2, 2], &[1f32, 3.0, 5.0, 7.0]));
        let backwards = slice([&[i64::MAX], &[i64::MIN], &[1], &[-3]]);
        backwards.gives(tensor(&[2, 2], &[3f32, 0.0, 7.0, 4.0]));
        slice([&[1, 3], &[2, 1], &[0, 1], &[1, 1]]).gives(tensor::<f32>(&[1, 0], &[]));
        slice([&[0], &[1], &[2], &[1]]).fails("2");
        slice([&[0], &[1], &[0], &[0]]).fails("0");
    }

    #[test]
    fn slice_has_default_axes_and_steps() {
        let data = || counting(&[2, 3]);
        let node = case("Slice").input(data()).input(row(&[1i32, -2])).input(row(&[2i32, 3]));
        node.clone().gives(tensor(&[1, 2], &[4f32, 5.0]));
        node.opset(10).gives(tensor(&[1, 2], &[4f32, 5.0]));
        let old = case("Slice").opset(9).ints("starts", &[-2]).ints("ends", &[1 << 40]);
        old.ints("axes", &[1]).input(data()).gives(tensor(&[2, 2], &[1f32, 2.0, 4.0, 5.0]));
    }

    #[test]
    fn slice_before_version_10_clamps_bounds_and_may_be_empty() {
        let slice = |start: i64, end: i64| {
            let case = case("Slice").opset(9).ints("axes", &[0]).input(counting(&[3, 2]));
            case.ints("starts", &[start]).ints("ends", &[end])
        };
        let empty = || tensor::<f32>(&[0, 2], &[]);
        for (start, end) in [(3, 0), (2, 1), (1, -9), (-9, -5), (9, 9), (5, 2), (1, 1), (-1, -2)] {
            slice(start, end).gives(empty());
        }
        slice(-9, 1).gives(counting(&[1, 2]));
        slice(i64::MIN, i64::MAX).gives(counting(&[3, 2]));
        let negative = case("Slice").opset(1).ints("axes", &[-2]).input(counting(&[3, 2]));
        negative.ints("starts", &[0]).ints("ends", &[1]).gives(counting(&[1, 2]));
        let all = case("Slice").opset(1).ints("starts", &[0]).ints("ends", &[2]);
        all.input(counting(&[3, 2])).gives(counting(&[2, 2]));
    }

    #[test]
    fn slice_of_an_axis_of_one_may_be_empty() {
        let slice = |shape: &[usize], bounds: [i64; 4]| {
            let case = case("Slice").input(counting(shape));
            bounds.into_iter().fold(case, |case, bound| case.input(row(&[bound])))
        };
        slice(&[1, 3], [2, 9, 0, 1]).gives(tensor::<f32>(&[0, 3], &[]));
        slice(&[3, 1], [3, 0, -1, 2]).gives(tensor::<f32>(&[3, 0], &[]));
        slice(&[1], [0, 5, 0, -1]).gives(row::<f32>(&[]));
        slice(&[2, 1], [0, 0, 1, 1]).gives(tensor::<f32>(&[2, 0], &[]));
    }
}
