//! RNN, GRU and LSTM (ONNX) as tract does not have them: backwards, both ways, with the batch as the
//! first dimension, and with lengths, which must all be the whole sequence. Computed in 64 bits.

use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::own::{
    Known, Own, Said, built, floats, from_floats, ints, known_shapes, needed, optional, shapes,
    sized, unknown, volume,
};
use super::{Built, Ours};

pub(super) fn register(registry: &mut OnnxOpRegister) {
    for name in ["RNN", "GRU", "LSTM"] {
        registry.insert(name, build);
    }
}

fn build(context: &ParsingContext, node: &NodeProto) -> Built {
    let direction = node.get_attr_opt::<&str>("direction")?.unwrap_or("forward");
    let batch_first = node.get_attr_opt::<i64>("layout")?.unwrap_or(0) != 0;
    let lengths = node.input.get(4).is_some_and(|name| !name.is_empty());
    if direction == "forward" && !batch_first && !lengths {
        return Ours::build(context, node, forward);
    }
    let directions = match direction {
        "forward" => vec![false],
        "reverse" => vec![true],
        "bidirectional" => vec![false, true],
        other => bail!("the direction {other:?} is not implemented"),
    };
    let cell = match &*node.op_type {
        "RNN" => Cell::Rnn,
        "GRU" => {
            let before = node.get_attr_opt::<i64>("linear_before_reset")?.unwrap_or(0) != 0;
            Cell::Gru { linear_before_reset: before }
        }
        _ => Cell::Lstm,
    };
    let hidden = node.get_attr_opt("hidden_size")?;
    built(Recurrent { cell, directions, batch_first, hidden }, node)
}

/// tract's own way, once weights and states are of the sizes of the input.
fn forward(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let shape = |at: usize| {
        let fact = ours.input(at).map(|at| model.outlet_fact(inputs[at])).transpose()?;
        Ok::<_, TractError>(fact.map(|fact| fact.shape.to_tvec()))
    };
    let (Some(x), Some(r)) = (shape(0)?, shape(2)?) else { bail!("inputs are missing") };
    let ([_, batch, width], [_, _, hidden]) = (&*x, &*r) else {
        bail!("inputs of {x:?} and weights of {r:?}")
    };
    let said = ours.node.get_attr_opt::<i64>("hidden_size")?;
    let agreed = said.is_none_or(|said| *hidden == said.to_dim());
    ensure!(agreed, "a hidden size of {hidden}, said is {said:?}");
    let gates = match &*ours.node.op_type {
        "RNN" => 1,
        "GRU" => 3,
        _ => 4,
    };
    let (one, wide) = (1.to_dim(), hidden.clone() * gates);
    let state = [one.clone(), batch.clone(), hidden.clone()];
    let wanted: [&[TDim]; 7] = [
        &[one.clone(), wide.clone(), width.clone()],
        &[one.clone(), wide.clone(), hidden.clone()],
        &[one.clone(), wide * 2],
        std::slice::from_ref(batch),
        &state,
        &state,
        &[one, hidden.clone() * 3],
    ];
    for (at, wanted) in wanted.into_iter().enumerate() {
        if let Some(shape) = shape(at + 1)? {
            ensure!(*shape == *wanted, "its input {} is {shape:?}, not {wanted:?}", at + 1);
        }
    }
    ours.original.as_ref().wire(prefix, model, inputs)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    Rnn,
    Gru { linear_before_reset: bool },
    Lstm,
}

impl Cell {
    /// How many vectors are computed of every input.
    fn gates(self) -> usize {
        match self {
            Cell::Rnn => 1,
            Cell::Gru { .. } => 3,
            Cell::Lstm => 4,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Recurrent {
    cell: Cell,
    /// For each direction, whether it is backwards.
    directions: Vec<bool>,
    batch_first: bool,
    hidden: Option<usize>,
}

struct Sizes {
    steps: usize,
    batch: usize,
    inputs: usize,
    hidden: usize,
}

impl Recurrent {
    fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<Sizes> {
        let (x, r) = (needed(shapes, 0)?, needed(shapes, 2)?);
        let ([first, second, inputs], [_, _, hidden]) = (&**x, &**r) else {
            bail!("inputs of {x:?} and weights of {r:?}")
        };
        let [steps, batch] = if self.batch_first { [*second, *first] } else { [*first, *second] };
        let (inputs, hidden) = (*inputs, *hidden);
        let said = self.hidden.is_none_or(|said| said == hidden);
        ensure!(said && hidden > 0, "a hidden size of {hidden}, said is {:?}", self.hidden);
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
                ensure!(**shape == *wanted, "its input {} is {shape:?}, not {wanted:?}", at + 1);
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

    /// The place of one of the batch in a state.
    fn place(&self, s: &Sizes, way: usize, one: usize) -> usize {
        let ways = self.directions.len();
        s.hidden * if self.batch_first { one * ways + way } else { way * s.batch + one }
    }
}

/// The weights of one direction.
struct Weights<'w> {
    inputs: &'w [f64],
    hidden: &'w [f64],
    /// Biases of the inputs, then of the states.
    biases: Option<&'w [f64]>,
    /// What an LSTM's gates see of its cells: of the input, the output and the forget gate.
    peepholes: Option<&'w [f64]>,
}

impl Weights<'_> {
    /// What a row of the weights of inputs makes of an input.
    fn of_input(&self, row: usize, x: &[f64]) -> f64 {
        dot(&self.inputs[row * x.len()..], x) + self.biases.map_or(0.0, |biases| biases[row])
    }

    /// The same of a state.
    fn of_state(&self, row: usize, h: &[f64]) -> f64 {
        let bias = self.biases.map_or(0.0, |biases| biases[biases.len() / 2 + row]);
        dot(&self.hidden[row * h.len()..], h) + bias
    }

    fn peep(&self, gate: usize, at: usize, hidden: usize, cell: f64) -> f64 {
        self.peepholes.map_or(0.0, |peepholes| peepholes[gate * hidden + at] * cell)
    }
}

fn dot(weights: &[f64], values: &[f64]) -> f64 {
    weights.iter().zip(values).map(|(weight, value)| weight * value).sum()
}

fn sigmoid(value: f64) -> f64 {
    1.0 / (1.0 + (-value).exp())
}

impl Cell {
    /// The next state, and the next cells of an LSTM.
    fn step(self, weights: &Weights<'_>, x: &[f64], h: &mut [f64], c: &mut [f64]) {
        let size = h.len();
        let before = h.to_vec();
        let sum = |row: usize| weights.of_input(row, x) + weights.of_state(row, &before);
        match self {
            Cell::Rnn => h.iter_mut().enumerate().for_each(|(at, h)| *h = sum(at).tanh()),
            Cell::Gru { linear_before_reset } => {
                let reset: Vec<f64> = (0..size).map(|at| sigmoid(sum(size + at))).collect();
                let kept: Vec<f64> = reset.iter().zip(&before).map(|(r, h)| r * h).collect();
                for (at, h) in h.iter_mut().enumerate() {
                    let (update, row) = (sigmoid(sum(at)), 2 * size + at);
                    let state = match linear_before_reset {
                        true => reset[at] * weights.of_state(row, &before),
                        false => weights.of_state(row, &kept),
                    };
                    let fresh = (weights.of_input(row, x) + state).tanh();
                    *h = (1.0 - update) * fresh + update * before[at];
                }
            }
            Cell::Lstm => {
                for at in 0..size {
                    let gate = |which: usize| sum(which * size + at);
                    let peep = |which: usize, cell: f64| weights.peep(which, at, size, cell);
                    let input = sigmoid(gate(0) + peep(0, c[at]));
                    let forget = sigmoid(gate(2) + peep(2, c[at]));
                    c[at] = forget * c[at] + input * gate(3).tanh();
                    let output = sigmoid(gate(1) + peep(1, c[at]));
                    h[at] = output * c[at].tanh();
                }
            }
        }
    }
}

impl Own for Recurrent {
    fn name(&self) -> &'static str {
        match self.cell {
            Cell::Rnn => "RNN",
            Cell::Gru { .. } => "GRU",
            Cell::Lstm => "LSTM",
        }
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let dtype = needed(inputs, 0)?.dtype;
        let mut said = match known_shapes(inputs) {
            None => tvec!(unknown(dtype, 4), unknown(dtype, 3), unknown(dtype, 3)),
            Some(shapes) => {
                let s = self.sizes(&shapes)?;
                let of = |dims: &[usize]| sized(dtype, dims.iter().map(|dim| dim.to_dim()));
                let state = of(&self.state(s.batch, s.hidden));
                tvec!(of(&self.sequence(&s)), state.clone(), state)
            }
        };
        said.truncate(if self.cell == Cell::Lstm { 3 } else { 2 });
        Ok(said)
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let s = self.sizes(&shapes(inputs))?;
        if let Some(lengths) = optional(inputs, 4) {
            let whole = ints(lengths)?.iter().all(|length| *length == s.steps as i64);
            ensure!(
                whole,
                "lengths other than {}, the whole sequence, are not implemented",
                s.steps
            );
        }
        let given = |at| optional(inputs, at).map(|tensor| floats(tensor)).transpose();
        let (x, w, r) =
            (floats(needed(inputs, 0)?)?, floats(needed(inputs, 1)?)?, floats(needed(inputs, 2)?)?);
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
            for one in 0..s.batch {
                let at = self.place(&s, way, one);
                for step in 0..s.steps {
                    let step = if *back { s.steps - 1 - step } else { step };
                    let [from, to] = match self.batch_first {
                        true => [one * s.steps + step, (one * s.steps + step) * ways + way],
                        false => [step * s.batch + one, (step * ways + way) * s.batch + one],
                    };
                    let h = &mut hidden[at..at + s.hidden];
                    let c = &mut cells[at..at + s.hidden];
                    self.cell.step(&weights, &x[from * s.inputs..][..s.inputs], h, c);
                    sequence[to * s.hidden..][..s.hidden].copy_from_slice(h);
                }
            }
        }
        let dtype = needed(inputs, 0)?.datum_type();
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
