//! `Scan`. The states keep their element type and shape; each iteration reads one slice of every
//! scanned input, and the slices that it makes are stacked. tract's own operator is not used: it
//! counts negative axes by the ranks that a body declares, and fails at bodies that pass a state on
//! unchanged, ignore one, or make a constant.

mod batched;
mod run;

use std::collections::HashMap;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::{GraphProto, NodeProto};
use tract_onnx::tract_hir::infer::{Factoid, InferenceOp};
use tract_onnx::tract_hir::internal::*;

pub use self::run::body_of_scan;
pub(super) use self::run::draws;
use self::run::{Resolved, ScanOp};
use super::Inferred;
use super::body::Body;
use super::loop_op::{keeps_type_and_shape, plain_type, stacked, varying};
use crate::computed_sizes::{Computing, Value, Values};
use crate::framework::axes::resolve;
use crate::framework::errors::{OrUserError, ensure};
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] =
    &[own("Scan", batched::build).until(8), own("Scan", build).since(9)];

fn build(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    let graph: &GraphProto = node.get_attr("body")?;
    let parsed = context.parse_graph(graph)?;
    let named = node.input.iter().chain(&node.output).all(|name| !name.is_empty());
    ensure!(named, "an input or an output has no name");
    let scanned: usize = node.get_attr("num_scan_inputs")?;
    let states = node.input.len().checked_sub(scanned);
    let states = states.or_user_error("num_scan_inputs is larger than the number of inputs")?;
    let made = node.output.len().checked_sub(states);
    let made = made.or_user_error("there are fewer outputs than states")?;
    let directions = |name: &str, count: usize, axes: &str| -> TractResult<Vec<Along>> {
        let of = |name: &str| -> TractResult<Vec<i64>> {
            let given = node.get_attr_opt_vec::<i64>(name)?;
            let given = given.unwrap_or_else(|| vec![0; count]);
            ensure!(given.len() == count, "{name} has {} values, expected {count}", given.len());
            Ok(given)
        };
        let along = |(axis, direction)| Along { axis, backwards: direction == 1 };
        Ok(of(axes)?.into_iter().zip(of(name)?).map(along).collect())
    };
    let op = Scan {
        body: parsed.model,
        computing: Arc::new(Computing::of(graph)),
        states,
        inputs: directions("scan_input_directions", scanned, "scan_input_axes")?,
        outputs: directions("scan_output_directions", made, "scan_output_axes")?,
    };
    ensure!(scanned > 0, "there is nothing to scan");
    Ok((Box::new(op), parsed.unresolved_inputs))
}

/// The axis and the direction along which a tensor is split or stacked.
#[derive(Clone, Copy, Debug)]
struct Along {
    axis: i64,
    backwards: bool,
}

/// The inputs are the states, the scanned tensors, and the outer values that the body reads, in the
/// order of the body's inputs. The outputs are the states and the stacked slices, in the order of
/// the body's outputs.
#[derive(Clone, Debug)]
pub(super) struct Scan {
    pub(super) body: InferenceModel,
    computing: Arc<Computing>,
    states: usize,
    inputs: Vec<Along>,
    outputs: Vec<Along>,
}

super::only_until_translated!(Scan);

impl Scan {
    /// Sets the facts of the body's inputs.
    pub(super) fn set_inputs(&mut self, inputs: &[InferenceFact]) -> TractResult<()> {
        let wanted = self.body.input_outlets()?.len();
        ensure!(
            inputs.len() == wanted,
            "the body has {wanted} inputs, which do not match {} values",
            inputs.len()
        );
        let mut iterations: Option<TDim> = None;
        for (at, fact) in inputs.iter().enumerate() {
            let along = at.checked_sub(self.states).and_then(|at| self.inputs.get(at));
            let fact = match along {
                Some(along) => {
                    let (slice, length) = slice(fact, *along)?;
                    if let (Some(iterations), Some(length)) = (&iterations, &length) {
                        let known = iterations.as_i64().zip(length.as_i64());
                        ensure!(
                            known.is_none_or(|(one, other)| one == other),
                            "the scanned inputs have different lengths: {iterations} and {length}"
                        );
                    }
                    iterations = iterations.or(length);
                    slice
                }
                None if at < self.states => varying(fact),
                None => fact.clone(),
            };
            self.body.set_input_fact(at, fact)?;
        }
        Ok(())
    }

    /// The facts of the node's outputs, from those of its inputs and of the body's outputs.
    fn output_facts(&self, inputs: &[InferenceFact]) -> TractResult<TVec<InferenceFact>> {
        let made = self.body_outputs()?;
        let of = |at: usize| match at.checked_sub(self.states) {
            None => Ok(varying(&inputs[at])),
            Some(scan) => {
                let along = self.outputs.get(scan).or_user_error("an output is missing")?;
                stacked(&made[at], along.axis)
            }
        };
        (0..made.len()).map(of).collect()
    }

    /// Infers the body, following integers that depend on symbols, and the node's outputs.
    pub(super) fn infer(
        &mut self,
        inputs: &[InferenceFact],
        known: &[Option<Value>],
    ) -> TractResult<Inferred> {
        self.set_inputs(inputs)?;
        // States and slices change.
        let changing = self.states + self.inputs.len();
        let around = known.get(changing..).unwrap_or_default();
        let read = self.body.input_outlets()?.get(changing..).unwrap_or_default();
        let outer: Values =
            read.iter().zip(around).filter_map(|(at, value)| Some((*at, value.clone()?))).collect();
        self.computing.infer_from(&mut self.body, outer)?;
        Ok((self.output_facts(inputs)?, Vec::new()))
    }

    fn body_outputs(&self) -> TractResult<Vec<InferenceFact>> {
        let outlets = self.body.output_outlets()?;
        let wanted = self.states + self.outputs.len();
        ensure!(
            outlets.len() == wanted,
            "the body has {} outputs, expected {wanted}",
            outlets.len()
        );
        outlets.iter().map(|outlet| Ok(self.body.outlet_fact(*outlet)?.clone())).collect()
    }
}

/// The fact of one slice of a scanned tensor, and the number of slices if it is known.
fn slice(fact: &InferenceFact, along: Along) -> TractResult<(InferenceFact, Option<TDim>)> {
    let mut slice = varying(fact);
    slice.shape = ShapeFactoid::default();
    let Some(rank) = fact.shape.rank().concretize() else { return Ok((slice, None)) };
    let axis = resolve(along.axis, usize::try_from(rank)?)?;
    let dims = (0..rank as usize).filter(|at| *at != axis);
    let dims = dims.map(|at| fact.shape.dim(at).unwrap_or_default());
    slice.shape = ShapeFactoid::closed(dims.collect());
    Ok((slice, fact.shape.dim(axis).and_then(|dim| dim.concretize())))
}

impl InferenceOp for Scan {
    fn infer_facts(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<(TVec<InferenceFact>, TVec<InferenceFact>, TVec<InferenceFact>)> {
        let inputs: TVec<InferenceFact> = inputs.into_iter().cloned().collect();
        let mut analysed = self.clone();
        analysed.set_inputs(&inputs)?;
        analysed.body.analyse(false)?;
        let made = analysed.output_facts(&inputs)?;
        let facts = outputs.iter().zip(&made).map(|(known, made)| known.unify(made));
        let facts = facts.collect::<TractResult<TVec<_>>>()?;
        Ok((inputs, facts, observed.into_iter().cloned().collect()))
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.states + self.outputs.len())
    }

    fn to_typed(
        &self,
        _source: &InferenceModel,
        node: &InferenceNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
    ) -> TractResult<TVec<OutletId>> {
        let inputs: TVec<OutletId> = node.inputs.iter().map(|input| mapping[input]).collect();
        let facts = inputs.iter().map(|input| Ok(InferenceFact::from(target.outlet_fact(*input)?)));
        let facts = facts.collect::<TractResult<Vec<InferenceFact>>>()?;
        let mut typed = self.clone();
        typed.set_inputs(&facts)?;
        typed.body_outputs()?;
        let op_body = Body::new(typed.body)?;
        let body = op_body.model();
        let resolved = |along: &Along, rank: usize| -> TractResult<Resolved> {
            Ok(Resolved { axis: resolve(along.axis, rank)?, backwards: along.backwards })
        };
        let mut scanned = Vec::with_capacity(self.inputs.len());
        for (at, along) in self.inputs.iter().enumerate() {
            scanned.push(resolved(along, target.outlet_fact(inputs[self.states + at])?.rank())?);
        }
        let first = target.outlet_fact(inputs[self.states])?;
        let iterations = first.shape[scanned[0].axis].clone();
        let mut outputs = tvec!();
        let mut stacked = Vec::with_capacity(self.outputs.len());
        for at in 0..self.states + self.outputs.len() {
            let made = body.output_fact(at)?.without_value();
            let dtype = plain_type(made.datum_type);
            match at.checked_sub(self.states) {
                None => {
                    let first = target.outlet_fact(inputs[at])?;
                    let kept = keeps_type_and_shape(first, &dtype.fact(made.shape.clone()));
                    ensure!(kept, "a state that changes its type or shape is not implemented");
                    outputs.push(dtype.fact(first.shape.clone()));
                }
                Some(scan) => {
                    let along = resolved(&self.outputs[scan], made.rank() + 1)?;
                    let mut dims = made.shape.to_tvec();
                    dims.insert(along.axis, iterations.clone());
                    outputs.push(dtype.fact(dims));
                    stacked.push(along);
                }
            }
        }
        let op = ScanOp { body: op_body, states: self.states, scanned, stacked, outputs };
        target.wire_node(&*node.name, op, &inputs)
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::DatumType;

    use crate::testing::{Case, Graph, case, counting, graph, row, scalar, tensor};

    const F32: DatumType = DatumType::F32;

    /// The running sums of numbers, and ten times each.
    fn sums() -> Case {
        let body = graph(&[("sum", F32), ("x", F32)], &["next", "each"]);
        let body = body.node("Add", &["sum", "x"], "next").node("Mul", &["next", "factor"], "each");
        let body = body.constant("factor", &scalar(10f32));
        let case = case("Scan").graph("body", body).int("num_scan_inputs", 1).outputs(2);
        case.input(scalar(0f32)).input(row(&[1f32, 2.0, 4.0]))
    }

    #[test]
    fn scan_reads_its_input_in_either_direction() {
        sums().gives_all(&[scalar(7f32), row(&[10f32, 30.0, 70.0])]);
        let reverse = || sums().ints("scan_input_directions", &[1]);
        reverse().gives_all(&[scalar(7f32), row(&[40f32, 60.0, 70.0])]);
        let both = reverse().ints("scan_output_directions", &[1]);
        both.gives_all(&[scalar(7f32), row(&[70f32, 60.0, 40.0])]);
    }

    #[test]
    fn scan_takes_slices_along_an_axis() {
        let body =
            || graph(&[("sum", F32), ("x", F32)], &["next"]).node("Add", &["sum", "x"], "next");
        for axis in [1, -1] {
            let case = case("Scan").graph("body", body()).int("num_scan_inputs", 1);
            let case = case.ints("scan_input_axes", &[axis]).input(row(&[0f32, 100.0]));
            let data = tensor(&[2, 3], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
            case.input(data).gives(row(&[6f32, 115.0]));
        }
    }

    /// A body without states over the input alone.
    fn each(body: Graph, data: &[usize]) -> Case {
        let case = case("Scan").graph("body", body).int("num_scan_inputs", 1);
        case.input(counting(data))
    }

    #[test]
    fn axes_count_from_the_end_of_the_scanned_tensor_and_of_the_result() {
        let same = || graph(&[("x", F32)], &["y"]).node("Identity", &["x"], "y");
        let case = |input: i64, output: i64| {
            let case = each(same(), &[2, 3]).ints("scan_input_axes", &[input]);
            case.ints("scan_output_axes", &[output])
        };
        let turned = tensor(&[3, 2], &[0f32, 3.0, 1.0, 4.0, 2.0, 5.0]);
        case(-1, -2).gives(turned.clone());
        case(-2, -1).gives(turned);
        case(-1, 1).gives(counting(&[2, 3]));
        case(-3, 0).fails("-3");
        case(0, -3).fails("-3");
        case(0, 2).fails("2");
    }

    /// A body with a state of one number and an input of numbers.
    fn with_state(outputs: &[&str]) -> Graph {
        graph(&[("state", F32), ("x", F32)], outputs)
    }

    fn over(body: Graph, outputs: usize) -> Case {
        let case = case("Scan").graph("body", body).int("num_scan_inputs", 1).outputs(outputs);
        case.input(scalar(2f32)).input(row(&[1f32, 4.0]))
    }

    #[test]
    fn unchanged_state_is_read_in_every_iteration() {
        let body = with_state(&["state", "sum"]).node("Add", &["state", "x"], "sum");
        over(body, 2).gives_all(&[scalar(2f32), row(&[3f32, 6.0])]);
        let body = with_state(&["same", "state"]).node("Identity", &["state"], "same");
        over(body, 2).gives_all(&[scalar(2f32), row(&[2f32, 2.0])]);
        over(with_state(&["x", "x"]), 2).gives_all(&[scalar(4f32), row(&[1f32, 4.0])]);
        over(with_state(&["x", "state"]), 2).gives_all(&[scalar(4f32), row(&[2f32, 1.0])]);
        over(with_state(&["state"]), 1).gives(scalar(2f32));
    }

    #[test]
    fn states_can_be_swapped() {
        let body = graph(&[("a", F32), ("b", F32), ("x", F32)], &["b", "a", "a"]);
        let case = case("Scan").graph("body", body).int("num_scan_inputs", 1).outputs(3);
        let case = case.input(scalar(1f32)).input(scalar(2f32)).input(row(&[0f32; 3]));
        case.gives_all(&[scalar(2f32), scalar(1f32), row(&[1f32, 2.0, 1.0])]);
    }

    #[test]
    fn state_that_is_not_read_or_is_constant_is_still_an_output() {
        let body = with_state(&["next"]).node("Neg", &["x"], "next");
        over(body, 1).gives(scalar(-4f32));
        let body = with_state(&["next", "abs"]).node("Neg", &["x"], "next");
        let body = body.node("Abs", &["x"], "abs");
        over(body, 2).gives_all(&[scalar(-4f32), row(&[1f32, 4.0])]);
        let body = with_state(&["next", "sum"]).constant("next", &scalar(9f32));
        let body = body.node("Add", &["state", "x"], "sum");
        over(body, 2).gives_all(&[scalar(9f32), row(&[3f32, 13.0])]);
    }

    #[test]
    fn output_that_is_constant_is_repeated() {
        let body = graph(&[("x", F32)], &["y"]).constant("y", &row(&[1f32, 2.0]));
        each(body, &[3]).gives(tensor(&[3, 2], &[1f32, 2.0, 1.0, 2.0, 1.0, 2.0]));
        let body = graph(&[("x", F32)], &["y"]).node("Add", &["one", "one"], "y");
        each(body.constant("one", &scalar(1f32)), &[2]).gives(row(&[2f32, 2.0]));
    }

    #[test]
    fn outputs_of_outer_values_and_of_no_iterations_have_their_shapes() {
        let body = graph(&[("x", F32)], &["y"]).node("Add", &["x", "outer"], "y");
        let case = each(body, &[0, 2]).around("outer", row(&[1f32, 2.0]));
        case.gives(tensor::<f32>(&[0, 2], &[]));
        let body = with_state(&["x", "x"]);
        let case = case_of_no_iterations(body);
        case.gives_all(&[scalar(2f32), row::<f32>(&[])]);
    }

    fn case_of_no_iterations(body: Graph) -> Case {
        let case = case("Scan").graph("body", body).int("num_scan_inputs", 1).outputs(2);
        case.input(scalar(2f32)).input(row::<f32>(&[]))
    }

    #[test]
    fn scan_refuses_states_that_change_and_inputs_of_different_lengths() {
        let body = graph(&[("state", F32), ("x", F32)], &["next"]);
        let body = body.node("Less", &["state", "x"], "next");
        over(body, 1).fails("state");
        let body = graph(&[("x", F32), ("z", F32)], &["y"]).node("Add", &["x", "z"], "y");
        let case = case("Scan").graph("body", body).int("num_scan_inputs", 2);
        case.input(counting(&[2])).input(counting(&[3])).fails("3");
    }

    #[test]
    fn nested_scan_restarts_in_every_iteration() {
        let inner = with_state(&["next", "next"]).node("Add", &["state", "x"], "next");
        let body = graph(&[("row", F32)], &["sums"]).constant("zero", &scalar(0f32));
        let body = body.scan(inner, &["zero", "row"], &["total", "sums"]);
        let expected = tensor(&[2, 2], &[0f32, 1.0, 2.0, 5.0]);
        each(body, &[2, 2]).gives(expected);
    }
}
