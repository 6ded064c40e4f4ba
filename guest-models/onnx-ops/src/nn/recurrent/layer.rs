//! Layers of cells in any direction and layout, over whole sequences. Computed by the host's kernels,
//! or else in 64 bits.

use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::activation::Activation;
use super::cell::{Cell, Functions, Weights};
use super::native::{Direction, Layer, MOST_GATES, States};
use crate::framework::dims::volume;
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{
    InputFact, OutputFact, known_shapes, optional, required, unknown_dims, with_dims,
};
use crate::framework::native;
use crate::framework::native_floats::Matrices;
use crate::framework::operator::Operator;
use crate::framework::tensors::{floats, from_floats, ints, shapes};

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recurrent {
    cell: Cell,
    /// For each direction, whether it is reversed.
    directions: Vec<bool>,
    batch_first: bool,
    hidden: Option<usize>,
    /// The functions of each direction.
    activations: Vec<Vec<Activation>>,
    clip: f64,
    coupled: bool,
    /// The weights of the inputs and of the states, and those of a GRU's candidates, if they are
    /// constants and the host's kernels compute with them.
    packed: Option<PackedWeights>,
}

/// Weights in the layout of the host's kernels.
#[derive(Clone, Debug, PartialEq)]
struct PackedWeights {
    inputs: Matrices,
    states: Matrices,
    candidates: Option<Matrices>,
    /// The shapes that they had.
    shapes: [Vec<usize>; 2],
}

impl PackedWeights {
    fn of(cell: Cell, w: &Tensor, r: &Tensor) -> Option<PackedWeights> {
        let (inputs, states) = (Matrices::of_rows(w)?, Matrices::of_rows(r)?);
        let [_, wide, hidden] = *r.shape() else { return None };
        let candidates = match cell {
            Cell::Gru { linear_before_reset: false } => {
                let rows = r.slice(1, wide.checked_sub(hidden)?, wide).ok()?;
                Some(Matrices::of_rows(&rows)?)
            }
            _ => None,
        };
        let shapes = [w.shape().to_vec(), r.shape().to_vec()];
        Some(PackedWeights { inputs, states, candidates, shapes })
    }
}

impl Recurrent {
    pub(super) fn new(
        node: &NodeProto,
        directions: Vec<bool>,
        batch_first: bool,
    ) -> TractResult<Recurrent> {
        let cell = match &*node.op_type {
            "RNN" => Cell::Rnn,
            "GRU" => {
                let before = node.get_attr_opt::<i64>("linear_before_reset")?.unwrap_or(0) != 0;
                Cell::Gru { linear_before_reset: before }
            }
            _ => Cell::Lstm,
        };
        let hidden = node.get_attr_opt("hidden_size")?;
        let activations = Activation::of(node, directions.len(), cell.activations())?;
        let clip = node.get_attr_opt::<f32>("clip")?.map_or(f64::INFINITY, f64::from);
        ensure!(clip > 0.0, "the attribute \"clip\" is {clip}, expected a positive number");
        let coupled = node.get_attr_opt::<i64>("input_forget")?.unwrap_or(0) != 0;
        let packed = None;
        Ok(Recurrent { cell, directions, batch_first, hidden, activations, clip, coupled, packed })
    }

    /// Whether the functions are those of a node that names none.
    pub(super) fn has_usual_functions(&self) -> bool {
        let usual = |functions: &Vec<Activation>| **functions == *self.cell.activations();
        self.activations.iter().all(usual) && self.clip.is_infinite() && !self.coupled
    }
}

struct Sizes {
    steps: usize,
    batch: usize,
    inputs: usize,
    hidden: usize,
}

impl Recurrent {
    fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<Sizes> {
        let (x, r) = (required(shapes, 0)?, required(shapes, 2)?);
        let ([first, second, inputs], [_, _, hidden]) = (&**x, &**r) else {
            bail!("the input's shape {x:?} does not match the weights' shape {r:?}")
        };
        let [steps, batch] = if self.batch_first { [*second, *first] } else { [*first, *second] };
        let (inputs, hidden) = (*inputs, *hidden);
        let expected = self.hidden.is_none_or(|expected| expected == hidden);
        ensure!(
            expected && hidden > 0,
            "the weights have a hidden size of {hidden}, but hidden_size says {:?}",
            self.hidden
        );
        let (ways, wide) = (self.directions.len(), self.cell.gates().saturating_mul(hidden));
        let state = self.state(batch, hidden);
        let wanted: [&[usize]; 7] = [
            &[ways, wide, inputs],
            &[ways, wide, hidden],
            &[ways, 2 * wide],
            &[batch],
            &state,
            &state,
            &[ways, 3 * hidden],
        ];
        for (at, wanted) in wanted.into_iter().enumerate() {
            if let Some(shape) = optional(shapes, at + 1) {
                ensure!(
                    **shape == *wanted,
                    "input {} has the shape {shape:?}, expected {wanted:?}",
                    at + 1
                );
            }
        }
        volume(&[steps, ways, batch, hidden])?;
        volume(&[batch, wide])?;
        Ok(Sizes { steps, batch, inputs, hidden })
    }

    /// The shape of a state.
    fn state(&self, batch: usize, hidden: usize) -> [usize; 3] {
        let ways = self.directions.len();
        if self.batch_first { [batch, ways, hidden] } else { [ways, batch, hidden] }
    }

    /// The shape of the outputs of all steps.
    fn sequence(&self, s: &Sizes) -> [usize; 4] {
        let ways = self.directions.len();
        if self.batch_first {
            [s.batch, s.steps, ways, s.hidden]
        } else {
            [s.steps, ways, s.batch, s.hidden]
        }
    }

    /// The offset of a batch entry in a state.
    fn place(&self, s: &Sizes, way: usize, one: usize) -> usize {
        let ways = self.directions.len();
        s.hidden * if self.batch_first { one * ways + way } else { way * s.batch + one }
    }
}

impl Recurrent {
    /// The outputs by the host's kernels, if they take the layer.
    fn native(
        &self,
        s: &Sizes,
        lengths: &[usize],
        inputs: &[Option<&Tensor>],
    ) -> TractResult<Option<TVec<Tensor>>> {
        let x = *required(inputs, 0)?;
        let takes = native::enabled()
            && x.datum_type() == f32::datum_type()
            && self.has_usual_functions()
            && optional(inputs, 7).is_none();
        let made;
        let weights = match &self.packed {
            _ if !takes => return Ok(None),
            Some(packed) => packed,
            None => {
                made = PackedWeights::of(self.cell, required(inputs, 1)?, required(inputs, 2)?);
                match &made {
                    Some(made) => made,
                    None => return Ok(None),
                }
            }
        };
        let given = |at| -> TractResult<Option<Vec<f32>>> {
            let Some(tensor) = optional(inputs, at) else { return Ok(None) };
            Ok(Some(tensor.try_as_plain_ram()?.as_slice::<f32>()?.to_vec()))
        };
        let plain = x.try_as_plain_ram()?;
        let biases = given(3)?;
        let (ways, state) = (self.directions.len(), self.state(s.batch, s.hidden));
        let none = || vec![0f32; state.iter().product()];
        let mut hidden = given(5)?.unwrap_or_else(none);
        let mut cells = given(6)?.unwrap_or_else(none);
        let mut sequence = vec![0f32; s.steps * hidden.len()];
        // Sequences of one length are computed together.
        let together = lengths.windows(2).all(|pair| pair[0] == pair[1]);
        // Those of one step must be near each other.
        let near =
            !self.batch_first || s.steps * s.batch <= MOST_GATES / weights.inputs.columns.max(1);
        let rows = if together && near { s.batch.max(1) } else { 1 };
        let mut products = vec![0f32; rows * weights.states.columns];
        for (way, back) in self.directions.iter().enumerate() {
            let direction = Direction {
                cell: self.cell,
                inputs: &weights.inputs,
                states: &weights.states,
                candidates: weights.candidates.as_ref(),
                way,
                back: *back,
                biases: biases
                    .as_ref()
                    .map(|all| &all[all.len() / ways * way..][..all.len() / ways]),
            };
            let mut layer = Layer::new(direction, plain.as_slice()?);
            for first in (0..s.batch).step_by(rows) {
                let places: Vec<usize> =
                    (first..first + rows).map(|one| self.place(s, way, one)).collect();
                let gather = |all: &[f32]| -> Vec<f32> {
                    places.iter().flat_map(|at| &all[*at..at + s.hidden]).copied().collect()
                };
                let mut states = States::new(s.hidden, gather(&hidden), gather(&cells));
                let length = lengths[first];
                for step in 0..length {
                    let step = if *back { length - 1 - step } else { step };
                    let (row, apart) = match self.batch_first {
                        true => (first * s.steps + step, s.steps),
                        false => (step * s.batch + first, 1),
                    };
                    if !layer.step(&mut states, row, apart, &mut products) {
                        return Ok(None);
                    }
                    for (at, h) in states.h.chunks_exact(s.hidden).enumerate() {
                        let one = first + at;
                        let to = match self.batch_first {
                            true => (one * s.steps + step) * ways + way,
                            false => (step * ways + way) * s.batch + one,
                        };
                        sequence[to * s.hidden..][..s.hidden].copy_from_slice(h);
                    }
                }
                let rows = states.h.chunks_exact(s.hidden).zip(states.c.chunks_exact(s.hidden));
                for (at, (h, c)) in places.iter().zip(rows) {
                    hidden[*at..at + s.hidden].copy_from_slice(h);
                    cells[*at..at + s.hidden].copy_from_slice(c);
                }
            }
        }
        let mut outputs = tvec!(
            Tensor::from_shape(&self.sequence(s), &sequence)?,
            Tensor::from_shape(&state, &hidden)?
        );
        if self.cell == Cell::Lstm {
            outputs.push(Tensor::from_shape(&state, &cells)?);
        }
        Ok(Some(outputs))
    }
}

/// The number of steps of each batch entry. The outputs behind the last one are zeros.
fn lengths(inputs: &[Option<&Tensor>], s: &Sizes) -> TractResult<Vec<usize>> {
    let Some(lengths) = optional(inputs, 4) else { return Ok(vec![s.steps; s.batch]) };
    let stateful = optional(inputs, 5).is_some() || optional(inputs, 6).is_some();
    let length = |length: i64| {
        let found = usize::try_from(length).ok().filter(|length| *length <= s.steps);
        let Some(found) = found else {
            bail!("the sequence length {length} is not between 0 and {}", s.steps)
        };
        // Its last state is not specified; onnxruntime says zeros.
        ensure!(
            found > 0 || !stateful || s.steps == 0,
            "a sequence of length 0 with an initial state is not implemented"
        );
        Ok(found)
    };
    ints(lengths)?.into_iter().map(length).collect()
}

impl Operator for Recurrent {
    fn name(&self) -> &'static str {
        match self.cell {
            Cell::Rnn => "RNN",
            Cell::Gru { .. } => "GRU",
            Cell::Lstm => "LSTM",
        }
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let dtype = required(inputs, 0)?.dtype;
        let mut expected = match known_shapes(inputs) {
            None => tvec!(unknown_dims(dtype, 4), unknown_dims(dtype, 3), unknown_dims(dtype, 3)),
            Some(shapes) => {
                let s = self.sizes(&shapes)?;
                let of = |dims: &[usize]| with_dims(dtype, dims.iter().map(|dim| dim.to_dim()));
                let state = of(&self.state(s.batch, s.hidden));
                tvec!(of(&self.sequence(&s)), state.clone(), state)
            }
        };
        expected.truncate(if self.cell == Cell::Lstm { 3 } else { 2 });
        Ok(expected)
    }

    fn packed(
        &self,
        constants: &[Option<&Arc<Tensor>>],
    ) -> Option<(Arc<dyn Operator>, Vec<usize>)> {
        let constant = |at: usize| constants.get(at).copied().flatten();
        let (w, r) = (constant(1)?, constant(2)?);
        if !native::enabled() || !self.has_usual_functions() || constants.len() > 7 {
            return None;
        }
        let packed = PackedWeights::of(self.cell, w, r)?;
        Some((Arc::new(Recurrent { packed: Some(packed), ..self.clone() }), vec![1, 2]))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let mut all = shapes(inputs);
        if let Some(packed) = &self.packed {
            for (at, shape) in packed.shapes.iter().enumerate() {
                all[at + 1] = Some(shape.clone());
            }
        }
        let s = self.sizes(&all)?;
        let lengths = lengths(inputs, &s)?;
        if let Some(outputs) = self.native(&s, &lengths, inputs)? {
            return Ok(outputs);
        }
        let given = |at| optional(inputs, at).map(|tensor| floats(tensor)).transpose();
        let (x, w, r) = (
            floats(required(inputs, 0)?)?,
            floats(required(inputs, 1)?)?,
            floats(required(inputs, 2)?)?,
        );
        let (biases, peepholes) = (given(3)?, given(7)?);
        let ways = self.directions.len();
        let state = self.state(s.batch, s.hidden);
        let none = || vec![0.0; state.iter().product()];
        let mut hidden = given(5)?.unwrap_or_else(none);
        let mut cells = given(6)?.unwrap_or_else(none);
        let mut sequence = vec![0.0; s.steps * hidden.len()];
        for (way, back) in self.directions.iter().enumerate() {
            let part = |all: &'_ Vec<f64>| all.len() / ways * way..all.len() / ways * (way + 1);
            let weights = Weights {
                inputs: &w[part(&w)],
                hidden: &r[part(&r)],
                biases: biases.as_ref().map(|all| &all[part(all)]),
                peepholes: peepholes.as_ref().map(|all| &all[part(all)]),
            };
            let functions = Functions {
                activations: &self.activations[way],
                clip: self.clip,
                coupled: self.coupled,
            };
            for (one, length) in lengths.iter().copied().enumerate() {
                let at = self.place(&s, way, one);
                for step in 0..length {
                    let step = if *back { length - 1 - step } else { step };
                    let [from, to] = match self.batch_first {
                        true => [one * s.steps + step, (one * s.steps + step) * ways + way],
                        false => [step * s.batch + one, (step * ways + way) * s.batch + one],
                    };
                    let h = &mut hidden[at..at + s.hidden];
                    let c = &mut cells[at..at + s.hidden];
                    self.cell.step(&functions, &weights, &x[from * s.inputs..][..s.inputs], h, c);
                    sequence[to * s.hidden..][..s.hidden].copy_from_slice(h);
                }
            }
        }
        let dtype = required(inputs, 0)?.datum_type();
        let mut outputs = tvec!(
            from_floats(dtype, &self.sequence(&s), &sequence)?,
            from_floats(dtype, &state, &hidden)?
        );
        if self.cell == Cell::Lstm {
            outputs.push(from_floats(dtype, &state, &cells)?);
        }
        Ok(outputs)
    }
}
