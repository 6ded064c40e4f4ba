//! `Scan` in a typed model: runs the body once for each slice, and stacks the slices that it makes.

use tract_onnx::tract_hir::internal::*;

use crate::control_flow::body::Body;
use crate::control_flow::loop_op::without_tdim;
use crate::framework::dims::volume;
use crate::framework::errors::{OrUserError, ensure};
use crate::framework::randomness::in_iteration;

/// [`Along`](super::Along) with a nonnegative axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resolved {
    pub(super) axis: usize,
    pub(super) backwards: bool,
}

impl Resolved {
    /// The index of the slice of an iteration.
    fn index(self, iteration: usize, iterations: usize) -> usize {
        if self.backwards { iterations - 1 - iteration } else { iteration }
    }
}

#[derive(Clone, Debug)]
pub(super) struct ScanOp {
    pub(super) body: Body,
    pub(super) states: usize,
    pub(super) scanned: Vec<Resolved>,
    pub(super) stacked: Vec<Resolved>,
    pub(super) outputs: TVec<TypedFact>,
}

/// The body of a Scan.
pub fn body_of_scan(op: &dyn TypedOp) -> Option<&TypedModel> {
    op.downcast_ref::<ScanOp>().map(|scan| scan.body.model())
}

impl PartialEq for ScanOp {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl Eq for ScanOp {}

impl Op for ScanOp {
    fn name(&self) -> StaticName {
        "Scan".into()
    }

    fn mints_runtime_symbols(&self) -> bool {
        true
    }

    op_as_typed_op!();
}

/// Whether a Scan draws random numbers.
pub(crate) fn draws(op: &dyn TypedOp) -> bool {
    op.downcast_ref::<ScanOp>().is_some_and(|op| op.body.draws())
}

impl EvalOp for ScanOp {
    fn eval_out_of_plan(&self, inputs: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
        match self.body.draws() {
            true => Ok(None),
            false => self.eval(&EvalContext::out_of_plan(), inputs).map(Some),
        }
    }

    fn eval(&self, context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut inputs = inputs.into_iter();
        let mut states: Vec<TValue> =
            inputs.by_ref().take(self.states).map(without_tdim).collect::<TractResult<_>>()?;
        let scanned: Vec<TValue> = inputs.by_ref().take(self.scanned.len()).collect();
        let around: Vec<TValue> = inputs.collect();
        let lengths = self.scanned.iter().zip(&scanned).map(|(along, value)| {
            value.shape().get(along.axis).copied().or_user_error("a scanned input is missing")
        });
        let lengths = lengths.collect::<TractResult<Vec<usize>>>()?;
        let iterations = lengths.first().copied().or_user_error("there is nothing to scan")?;
        for length in &lengths {
            ensure!(
                *length == iterations,
                "the scanned inputs have different lengths: {iterations} and {length}"
            );
        }
        let first: Vec<TVec<usize>> = states.iter().map(|value| value.shape().into()).collect();
        let mut made: Vec<Option<Tensor>> = vec![None; self.stacked.len()];
        for iteration in 0..iterations {
            let mut given: TVec<TValue> = states.drain(..).collect();
            for (along, value) in self.scanned.iter().zip(&scanned) {
                let at = along.index(iteration, iterations);
                let mut slice = value.slice(along.axis, at, at + 1)?;
                slice.remove_axis(along.axis)?;
                given.push(without_tdim(slice.into_tvalue())?);
            }
            given.extend(around.iter().cloned());
            let run = || self.body.run(context.symbols, given);
            let mut results = in_iteration(iteration as u64, run)?.into_iter();
            for shape in &first {
                let value = results.next().or_user_error("a state is missing")?;
                let value = without_tdim(value)?;
                let (found, was) = (value.shape(), &**shape);
                ensure!(
                    found == was,
                    "iteration {iteration}: a state changes its shape from {was:?} to {found:?}"
                );
                states.push(value);
            }
            for (along, all) in self.stacked.iter().zip(&mut made) {
                let value = results.next().or_user_error("an output is missing")?;
                let mut slice = without_tdim(value)?.into_tensor();
                slice.insert_axis(along.axis)?;
                let mut shape: TVec<usize> = slice.shape().into();
                shape[along.axis] = iterations;
                if all.is_none() {
                    volume(&shape)?;
                    *all = Some(Tensor::zero_dt(slice.datum_type(), &shape)?);
                }
                let Some(all) = all else { continue };
                let same = all.shape() == &*shape && all.datum_type() == slice.datum_type();
                ensure!(same, "the outputs of the iterations have different shapes");
                let at = along.index(iteration, iterations);
                all.assign_slice(at..at + 1, &slice, 0..1, along.axis)?;
            }
        }
        let mut outputs: TVec<TValue> = states.into();
        for (at, all) in made.into_iter().enumerate() {
            let all = match all {
                Some(all) => all,
                None => self.empty(at, context.symbols)?,
            };
            outputs.push(all.into_tvalue());
        }
        Ok(outputs)
    }
}

impl ScanOp {
    /// An output after no iterations.
    fn empty(&self, at: usize, symbols: &SymbolValues) -> TractResult<Tensor> {
        let fact = self.outputs.get(self.states + at).or_user_error("an output is missing")?;
        let along = self.stacked.get(at).or_user_error("an output is missing")?;
        let mut shape = TVec::with_capacity(fact.rank());
        for (axis, dim) in fact.shape.iter().enumerate() {
            shape.push(match axis == along.axis {
                true => 0,
                false => dim.eval(symbols).to_usize().or_user_error(
                    "the sizes of scan outputs are not known after zero iterations",
                )?,
            });
        }
        Tensor::zero_dt(fact.datum_type, &shape)
    }
}

impl TypedOp for ScanOp {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(self.outputs.clone())
    }

    as_op!();
}
