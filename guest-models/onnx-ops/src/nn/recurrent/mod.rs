//! RNN, GRU and LSTM (ONNX). This crate computes what tract does not have: reverse and
//! bidirectional layers, `layout` 1, sequence lengths, other activations, clipped sums, and coupled
//! gates.

mod activation;
mod cell;
mod layer;
pub(crate) mod native;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use self::layer::Recurrent;
use crate::framework::errors::{bail, ensure};
use crate::framework::native as native_kernels;
use crate::framework::operator::{built, wire_operator};
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] =
    &[own("RNN", build), own("GRU", build), own("LSTM", build)];

fn build(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    let direction = node.get_attr_opt::<&str>("direction")?.unwrap_or("forward");
    let batch_first = node.get_attr_opt::<i64>("layout")?.unwrap_or(0) != 0;
    let lengths = node.input.get(4).is_some_and(|name| !name.is_empty());
    let usual = Recurrent::new(node, vec![false], false).is_ok_and(|one| one.has_usual_functions());
    if direction == "forward" && !batch_first && !lengths && usual {
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
    let dtype = model.outlet_fact(inputs[0])?.datum_type;
    let double = dtype == f64::datum_type();
    // Without steps, tract's last state has no dimensions.
    let empty = x.iter().any(|dim| dim.as_i64() == Some(0));
    // The host's kernels compute whole steps of this crate's own layer.
    let native = dtype == f32::datum_type() && native_kernels::enabled() && op.input(7).is_none();
    if beyond_tract || double || empty || native {
        let recurrent = Recurrent::new(&op.node, vec![false], false)?;
        return wire_operator(recurrent, &op.node, prefix, model, inputs);
    }
    op.wire_original(prefix, model, inputs)
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
    fn states_without_steps_are_the_initial_ones() {
        let case = case("RNN").outputs(2).input(tensor::<f32>(&[0, 1, 1], &[]));
        let case = weights(case, &[0.5], &[0.25], &[0.1, 0.2]).missing();
        let case = case.input(tensor(&[1, 1, 1], &[0.75f32]));
        case.gives_all(&[tensor::<f32>(&[0, 1, 1, 1], &[]), tensor(&[1, 1, 1], &[0.75f32])]);
    }

    #[test]
    fn shorter_sequences_end_early_and_are_reversed_by_themselves() {
        let step = |x: f64, state: f64| (0.5 * x + 0.3 + 0.25 * state).tanh();
        let first = step(1.0, 0.0);
        let second = step(2.0, first);
        let of = |direction, length: i32| rnn(direction).input(row(&[length]));
        of("forward", 2).gives_all_near(&[steps(&[first, second]), last(second)], 1e-6);
        for direction in ["forward", "reverse"] {
            of(direction, 1).gives_all_near(&[steps(&[first, 0.0]), last(first)], 1e-6);
            of(direction, 0).gives_all(&[steps(&[0.0, 0.0]), last(0.0)]);
            of(direction, 3).fails("3");
            of(direction, -1).fails("-1");
            let from = of(direction, 0).input(tensor(&[1, 1, 1], &[1f32]));
            from.fails("length 0");
        }
    }

    #[test]
    fn sequences_of_a_batch_have_their_own_lengths_in_both_layouts() {
        let step = |x: f64, state: f64| (0.5 * x + 0.3 + 0.25 * state).tanh();
        // Two sequences of three steps, of which the second ends after two, in two directions.
        let [a, b] = [[1.0, 2.0, 3.0], [4.0, 5.0, 9.0]];
        let walk = |x: &[f64]| {
            let mut h = 0.0;
            x.iter()
                .map(|x| {
                    h = step(*x, h);
                    h
                })
                .collect::<Vec<f64>>()
        };
        let back = |x: &[f64]| {
            let reversed: Vec<f64> = x.iter().rev().copied().collect();
            walk(&reversed).into_iter().rev().collect::<Vec<f64>>()
        };
        let [a_on, a_back, mut b_on, mut b_back] =
            [walk(&a), back(&a), walk(&b[..2]), back(&b[..2])];
        b_on.push(0.0);
        b_back.push(0.0);
        let ends = [a_on[2], b_on[1], a_back[0], b_back[0]].map(|x| x as f32);
        let node = |layout: i64, x: Tensor| {
            let case = case("RNN").text("direction", "bidirectional").int("layout", layout);
            let case = case.int("hidden_size", 1).outputs(2).input(x);
            let case = case.input(tensor(&[2, 1, 1], &[0.5f32; 2]));
            let case = case.input(tensor(&[2, 1, 1], &[0.25f32; 2]));
            case.input(tensor(&[2, 2], &[0.1f32, 0.2, 0.1, 0.2])).input(row(&[3i32, 2]))
        };
        let by_step: Vec<f32> = (0..3)
            .flat_map(|t| [a_on[t], b_on[t], a_back[t], b_back[t]].map(|x| x as f32))
            .collect();
        let x: Vec<f32> = (0..3).flat_map(|t| [a[t] as f32, b[t] as f32]).collect();
        node(0, tensor(&[3, 2, 1], &x))
            .gives_all_near(&[tensor(&[3, 2, 2, 1], &by_step), tensor(&[2, 2, 1], &ends)], 1e-6);
        let by_sequence: Vec<f32> = [[&a_on, &a_back], [&b_on, &b_back]]
            .iter()
            .flat_map(|ways| (0..3).flat_map(|t| ways.map(|way| way[t] as f32)))
            .collect();
        let x: Vec<f32> = a.iter().chain(&b).map(|x| *x as f32).collect();
        let ends = [ends[0], ends[2], ends[1], ends[3]];
        node(1, tensor(&[2, 3, 1], &x)).gives_all_near(
            &[tensor(&[2, 3, 2, 1], &by_sequence), tensor(&[2, 2, 1], &ends)],
            1e-6,
        );
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
    fn recurrent_layers_of_float64_are_computed_in_float64() {
        let one = |numbers: &[f64]| tensor(&[1, numbers.len(), 1], numbers);
        let step = (0.1f64).tanh();
        for (operator, gates, outputs) in [("RNN", 1, 2), ("GRU", 3, 2), ("LSTM", 4, 3)] {
            let case = case(operator).int("hidden_size", 1).outputs(outputs);
            let case = case.input(tensor(&[1, 1, 1], &[1f64])).input(one(&[0.1; 4][..gates]));
            let case = case.input(one(&[9.0; 4][..gates]));
            let gate = sigmoid(0.1);
            let (h, c) = match operator {
                "RNN" => (step, 0.0),
                "GRU" => ((1.0 - gate) * step, 0.0),
                _ => (gate * (gate * step).tanh(), gate * step),
            };
            let mut expected = vec![tensor(&[1, 1, 1, 1], &[h]), tensor(&[1, 1, 1], &[h])];
            if operator == "LSTM" {
                expected.push(tensor(&[1, 1, 1], &[c]));
            }
            case.gives_all_near(&expected, 1e-15);
        }
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
