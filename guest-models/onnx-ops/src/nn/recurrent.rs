//! RNN, GRU and LSTM (ONNX). This crate computes what tract does not have: reverse and
//! bidirectional layers, `layout` 1, and sequence lengths, which must all be the whole sequence.
//! Computed in 64 bits.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::volume;
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{
    InputFact, OutputFact, known_shapes, optional, required, unknown_dims, with_dims,
};
use crate::framework::operator::{Operator, built, wire_operator};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{floats, from_floats, ints, shapes};
use crate::framework::upstream::BuildResult;
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] =
    &[own("RNN", build), own("GRU", build), own("LSTM", build)];

fn build(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    let direction = node.get_attr_opt::<&str>("direction")?.unwrap_or("forward");
    let batch_first = node.get_attr_opt::<i64>("layout")?.unwrap_or(0) != 0;
    let lengths = node.input.get(4).is_some_and(|name| !name.is_empty());
    if direction == "forward" && !batch_first && !lengths {
        return Wrapping::new(wire_forward).build(context, node);
    }
    let directions = match direction {
        "forward" => vec![false],
        "reverse" => vec![true],
        "bidirectional" => vec![false, true],
        other => bail!("the direction {other:?} is not implemented"),
    };
    built(Recurrent::new(node, directions, batch_first)?, node)
}

/// tract's own wiring, with weights and states that match the input.
fn wire_forward(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let shape = |at: usize| {
        let fact = op.input(at).map(|at| model.outlet_fact(inputs[at])).transpose()?;
        Ok::<_, TractError>(fact.map(|fact| fact.shape.to_tvec()))
    };
    let (Some(x), Some(r)) = (shape(0)?, shape(2)?) else { bail!("inputs are missing") };
    let ([_, batch, width], [_, _, hidden]) = (&*x, &*r) else {
        bail!("the input's shape {x:?} does not match the weights' shape {r:?}")
    };
    let expected = op.node.get_attr_opt::<i64>("hidden_size")?;
    let agreed = expected.is_none_or(|expected| *hidden == expected.to_dim());
    ensure!(
        agreed,
        "the weights have a hidden size of {hidden}, but hidden_size says {expected:?}"
    );
    let gates = match &*op.node.op_type {
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
            ensure!(
                *shape == *wanted,
                "input {} has the shape {shape:?}, expected {wanted:?}",
                at + 1
            );
        }
    }
    let some = |dim: &TDim| dim.as_i64().is_none_or(|dim| dim > 1);
    let stateless = op.input(5).is_none() || op.input(6).is_none();
    let beyond_tract = match &*op.node.op_type {
        // tract's initial state is that of one sequence.
        "LSTM" => stateless && some(&x[0]) && some(batch),
        // With one input feature tract reads the products in the wrong order.
        "GRU" => width.is_one(),
        _ => false,
    };
    if beyond_tract {
        let recurrent = Recurrent::new(&op.node, vec![false], false)?;
        return wire_operator(recurrent, &op.node, prefix, model, inputs);
    }
    op.wire_original(prefix, model, inputs)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    Rnn,
    Gru { linear_before_reset: bool },
    Lstm,
}

impl Cell {
    /// The number of gates, including the candidate.
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
    /// For each direction, whether it is reversed.
    directions: Vec<bool>,
    batch_first: bool,
    hidden: Option<usize>,
}

impl Recurrent {
    fn new(node: &NodeProto, directions: Vec<bool>, batch_first: bool) -> TractResult<Recurrent> {
        let cell = match &*node.op_type {
            "RNN" => Cell::Rnn,
            "GRU" => {
                let before = node.get_attr_opt::<i64>("linear_before_reset")?.unwrap_or(0) != 0;
                Cell::Gru { linear_before_reset: before }
            }
            _ => Cell::Lstm,
        };
        let hidden = node.get_attr_opt("hidden_size")?;
        Ok(Recurrent { cell, directions, batch_first, hidden })
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

/// The weights of one direction.
struct Weights<'w> {
    inputs: &'w [f64],
    hidden: &'w [f64],
    /// The biases of the input, then those of the state.
    biases: Option<&'w [f64]>,
    /// The peephole weights of an LSTM, for the input, output and forget gate.
    peepholes: Option<&'w [f64]>,
}

impl Weights<'_> {
    /// The product of an input with a row of the input weights.
    fn of_input(&self, row: usize, x: &[f64]) -> f64 {
        dot(&self.inputs[row * x.len()..], x) + self.biases.map_or(0.0, |biases| biases[row])
    }

    /// The product of a state with a row of the recurrent weights.
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
        if let Some(lengths) = optional(inputs, 4) {
            let whole = ints(lengths)?.iter().all(|length| *length == s.steps as i64);
            ensure!(
                whole,
                "sequence lengths other than {}, the whole sequence, are not implemented",
                s.steps
            );
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

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::Tensor;

    use crate::testing::{Case, case, row, tensor};

    /// Weights of gates in one direction, of one number each: those of the input, of the state, and
    /// both biases one after the other.
    fn weights(case: Case, input: &[f32], state: &[f32], bias: &[f32]) -> Case {
        let case = case.int("hidden_size", 1);
        let case = case.input(tensor(&[1, input.len(), 1], input));
        case.input(tensor(&[1, state.len(), 1], state)).input(tensor(&[1, bias.len()], bias))
    }

    /// A sequence of one sample.
    fn sequence(numbers: &[f32]) -> Tensor {
        tensor(&[numbers.len(), 1, 1], numbers)
    }

    fn steps(numbers: &[f64]) -> Tensor {
        let numbers: Vec<f32> = numbers.iter().map(|number| *number as f32).collect();
        tensor(&[numbers.len(), 1, 1, 1], &numbers)
    }

    fn last(number: f64) -> Tensor {
        tensor(&[1, 1, 1], &[number as f32])
    }

    fn rnn(direction: &str) -> Case {
        let case = case("RNN").text("direction", direction).outputs(2).input(sequence(&[1.0, 2.0]));
        weights(case, &[0.5], &[0.25], &[0.1, 0.2])
    }

    #[test]
    fn rnn_is_forward_reverse_or_bidirectional() {
        let step = |x: f64, state: f64| (0.5 * x + 0.3 + 0.25 * state).tanh();
        let first = step(1.0, 0.0);
        let second = step(2.0, first);
        rnn("forward").gives_all_near(&[steps(&[first, second]), last(second)], 1e-6);
        let end = step(2.0, 0.0);
        let start = step(1.0, end);
        rnn("reverse").gives_all_near(&[steps(&[start, end]), last(start)], 1e-6);
    }

    #[test]
    fn rnn_refuses_lengths_other_than_the_whole_sequence() {
        let first = 0.8f64.tanh();
        let second = (1.0 + 0.3 + 0.25 * first).tanh();
        let whole = rnn("forward").input(row(&[2i32]));
        whole.gives_all_near(&[steps(&[first, second]), last(second)], 1e-6);
        rnn("forward").input(row(&[1i32])).fails("2");
        rnn("forward").input(row(&[3i32])).fails("2");
    }

    fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    #[test]
    fn gru_resets_before_or_after_the_product() {
        let input = [0.5f32, -0.25, 1.0];
        let state = [0.75f32, 0.5, -1.5];
        let bias = [0.125f32, -0.5, 0.25, 0.375, 0.0625, -0.75];
        let expected = |after: bool| {
            let [w, r, b] = [&input[..], &state, &bias]
                .map(|list| list.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>());
            let mut h = 0.5;
            let mut all = vec![];
            for x in [1.0, -2.0] {
                let z = sigmoid(x * w[0] + h * r[0] + b[0] + b[3]);
                let reset = sigmoid(x * w[1] + h * r[1] + b[1] + b[4]);
                let hidden = match after {
                    true => (x * w[2] + reset * (h * r[2] + b[5]) + b[2]).tanh(),
                    false => (x * w[2] + reset * h * r[2] + b[5] + b[2]).tanh(),
                };
                h = (1.0 - z) * hidden + z * h;
                all.push(h);
            }
            [steps(&all), last(h)]
        };
        for after in [false, true] {
            let case = case("GRU").int("linear_before_reset", i64::from(after)).outputs(2);
            let case = weights(case.input(sequence(&[1.0, -2.0])), &input, &state, &bias);
            let case = case.missing().input(tensor(&[1, 1, 1], &[0.5f32]));
            case.gives_all_near(&expected(after), 1e-6);
        }
    }

    #[test]
    fn lstm_has_its_gates_in_order_and_peepholes() {
        let input = [0.5f32, -0.25, 1.0, 0.75];
        let state = [0.25f32, 0.5, -0.5, 1.5];
        let bias = [0.125f32, -0.5, 0.25, 0.375, 0.0, 0.0625, -0.75, 0.5];
        let peepholes = [0.5f32, -1.0, 0.25];
        let [w, r, b, p] = [&input[..], &state, &bias, &peepholes]
            .map(|list| list.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>());
        let (mut h, mut c) = (0.5, -0.25);
        let mut all = vec![];
        for x in [1.0, -2.0] {
            let gate = |at: usize, h: f64| x * w[at] + h * r[at] + b[at] + b[at + 4];
            let i = sigmoid(gate(0, h) + p[0] * c);
            let f = sigmoid(gate(2, h) + p[2] * c);
            let o = gate(1, h);
            c = f * c + i * gate(3, h).tanh();
            h = sigmoid(o + p[1] * c) * c.tanh();
            all.push(h);
        }
        let one = |number: f32| tensor(&[1, 1, 1], &[number]);
        let case = case("LSTM").outputs(3).input(sequence(&[1.0, -2.0]));
        let case = weights(case, &input, &state, &bias).missing().input(one(0.5)).input(one(-0.25));
        let case = case.input(tensor(&[1, 3], &peepholes));
        case.gives_all_near(&[steps(&all), last(h), last(c)], 1e-6);
    }

    #[test]
    fn lstm_without_bias_starts_from_zero() {
        let case = case("LSTM").int("hidden_size", 1).outputs(2).without_output(0);
        let case = case.input(sequence(&[1.0])).input(tensor(&[1, 4, 1], &[0.5f32; 4]));
        let half = sigmoid(0.5);
        let expected = last(half * (half * 0.5f64.tanh()).tanh());
        case.input(tensor(&[1, 4, 1], &[9f32; 4])).gives_all_near(&[expected], 1e-6);
    }
}
