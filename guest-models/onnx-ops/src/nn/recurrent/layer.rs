//! Layers of cells in any direction and layout, over whole sequences. Computed in 64 bits.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::activation::Activation;
use super::cell::{Cell, Functions, Weights};
use crate::framework::dims::volume;
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{
    InputFact, OutputFact, known_shapes, optional, required, unknown_dims, with_dims,
};
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
        Ok(Recurrent { cell, directions, batch_first, hidden, activations, clip, coupled })
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

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let s = self.sizes(&shapes(inputs))?;
        let lengths = lengths(inputs, &s)?;
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
