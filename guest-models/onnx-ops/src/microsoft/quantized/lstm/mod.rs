//! DynamicQuantizeLSTM: an LSTM whose weights are bytes, and whose inputs and states are quantized
//! when they are multiplied with them: the inputs of all steps together, and in each step the states
//! of all sequences together.

mod direction;

use std::sync::Arc;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use self::direction::{Activation, Direction, Weights};
use super::parameters::{scales, zeros};
use crate::framework::dims::volume;
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, known_shapes, optional, required, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{Bits, ints, shapes};
use crate::framework::upstream::BuildResult;
use crate::nn::recurrent::native::{Gates, Programs, States};
use crate::quantization::integers::{Rights, check_depth};
use crate::quantization::packed::Packed;

pub(crate) const OPERATORS: &[Registration] =
    &[own("DynamicQuantizeLSTM", build).of(belljar_operators::MICROSOFT)];

fn build(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let directions = match node.get_attr_opt::<&str>("direction")?.unwrap_or("forward") {
        "forward" => vec![false],
        "reverse" => vec![true],
        "bidirectional" => vec![false, true],
        other => bail!("the direction {other:?} is not implemented"),
    };
    let names = node.get_attr_opt_vec::<String>("activations")?;
    let activations = match names.as_deref() {
        None => vec![[Activation::Sigmoid, Activation::Tanh, Activation::Tanh]; directions.len()],
        Some(names) => {
            let (triples, rest) = names.as_chunks::<3>();
            ensure!(
                rest.is_empty() && triples.len() == directions.len(),
                "found {} activations; each of the {} directions has three",
                names.len(),
                directions.len()
            );
            let triple = |names: &[String; 3]| {
                let [gates, candidate, output] = names;
                Ok([Activation::of(gates)?, Activation::of(candidate)?, Activation::of(output)?])
            };
            triples.iter().map(triple).collect::<TractResult<_>>()?
        }
    };
    let clip = match node.get_attr_opt::<f32>("clip")? {
        Some(clip) => {
            ensure!(clip > 0.0, "the attribute \"clip\" is {clip}, expected a positive number");
            Some(Bits::of(node, "clip", clip)?)
        }
        None => None,
    };
    let lstm = Lstm {
        directions,
        hidden: node.get_attr_opt("hidden_size")?,
        activations,
        clip,
        coupled: node.get_attr_opt::<i64>("input_forget")?.unwrap_or(0) != 0,
        packed: None,
    };
    built(lstm, node)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Lstm {
    /// For each direction, whether it is reversed.
    directions: Vec<bool>,
    hidden: Option<usize>,
    /// For each direction, the functions of the gates, of the candidate and of the cell.
    activations: Vec<[Activation; 3]>,
    /// The bound of the inputs of all activations.
    clip: Option<Bits>,
    /// Whether the forget gate is one minus the input gate.
    coupled: bool,
    /// The weights of inputs and of states.
    packed: Option<[Packed; 2]>,
}

struct Sizes {
    steps: usize,
    batch: usize,
    inputs: usize,
    hidden: usize,
}

impl Lstm {
    fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<Sizes> {
        let (x, r) = (required(shapes, 0)?, required(shapes, 2)?);
        let ([steps, batch, inputs], [_, hidden, _]) = (&**x, &**r) else {
            bail!("the input's shape {x:?} does not match the weights' shape {r:?}")
        };
        let (steps, batch, inputs, hidden) = (*steps, *batch, *inputs, *hidden);
        ensure!(
            self.hidden.is_none_or(|expected| expected == hidden) && hidden > 0,
            "the weights have a hidden size of {hidden}, but hidden_size says {:?}",
            self.hidden
        );
        check_depth(inputs.max(hidden))?;
        let (ways, wide) = (self.directions.len(), 4 * hidden);
        let wanted: [&[usize]; 7] = [
            &[ways, inputs, wide],
            &[ways, hidden, wide],
            &[ways, 2 * wide],
            &[batch],
            &[ways, batch, hidden],
            &[ways, batch, hidden],
            &[ways, 3 * hidden],
        ];
        let check = |at: usize, wanted: &[&[usize]]| {
            if let Some(shape) = optional(shapes, at) {
                ensure!(
                    wanted.contains(&&**shape),
                    "input {at} has the shape {shape:?}, expected {:?}",
                    wanted[0]
                );
            }
            Ok(())
        };
        for (at, wanted) in wanted.into_iter().enumerate() {
            check(at + 1, &[wanted])?;
        }
        for at in 8..12 {
            required(shapes, at)?;
            check(at, &[&[ways], &[ways, wide]])?;
        }
        volume(&[steps, ways, batch, hidden])?;
        volume(&[steps, batch, wide])?;
        Ok(Sizes { steps, batch, inputs, hidden })
    }

    /// The number of steps of each sequence.
    fn lengths(&self, s: &Sizes, lengths: Option<&Tensor>) -> TractResult<Vec<usize>> {
        let Some(lengths) = lengths else { return Ok(vec![s.steps; s.batch]) };
        let length = |length: i64| {
            let fits = usize::try_from(length).ok().filter(|length| *length <= s.steps);
            let Some(length) = fits else {
                bail!("the sequence length {length} is not between 0 and {}", s.steps)
            };
            Ok(length)
        };
        ints(lengths)?.into_iter().map(length).collect()
    }
}

/// The floats of an optional input.
fn given<'t>(inputs: &[Option<&'t Tensor>], at: usize) -> TractResult<Option<&'t [f32]>> {
    let Some(tensor) = optional(inputs, at).copied() else { return Ok(None) };
    Ok(Some(tensor.try_as_plain_ram()?.as_slice()?))
}

/// The part of a list that belongs to one of several directions.
fn part<T>(all: &[T], way: usize, ways: usize) -> &[T] {
    let count = all.len() / ways;
    &all[way * count..][..count]
}

impl Operator for Lstm {
    fn name(&self) -> &'static str {
        "DynamicQuantizeLSTM"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        if let Some(shapes) = known_shapes(inputs) {
            self.sizes(&shapes)?;
        }
        let (x, r) = (required(inputs, 0)?, required(inputs, 2)?);
        let ([steps, batch, _], [_, hidden, _]) = (&*x.shape, &*r.shape) else {
            bail!("the input's shape {:?} does not match the weights' shape {:?}", x.shape, r.shape)
        };
        let ways = self.directions.len().to_dim();
        let state = [ways.clone(), batch.clone(), hidden.clone()];
        let sequence = [steps.clone(), ways, batch.clone(), hidden.clone()];
        let dtype = f32::datum_type();
        Ok(tvec!(
            with_dims(dtype, sequence),
            with_dims(dtype, state.clone()),
            with_dims(dtype, state)
        ))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let mut all = shapes(inputs);
        let packed = |at: usize| self.packed.as_ref().map(|packed| &packed[at]);
        for at in 0..2 {
            if let Some(packed) = packed(at) {
                all[at + 1] = Some(packed.shape.to_vec());
            }
        }
        let s = self.sizes(&all)?;
        let lengths = self.lengths(&s, optional(inputs, 4).copied())?;
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let (ways, wide) = (self.directions.len(), 4 * s.hidden);
        let x = given(inputs, 0)?.unwrap_or_default();
        let x = &x[..longest * s.batch * s.inputs];
        let w = Rights::of(inputs, 1, packed(0), false)?;
        let r = Rights::of(inputs, 2, packed(1), false)?;
        let (w_scales, r_scales) = (scales(required(inputs, 8)?)?, scales(required(inputs, 10)?)?);
        let (w_zeros, r_zeros) =
            (zeros(optional(inputs, 9).copied())?, zeros(optional(inputs, 11).copied())?);
        let (biases, peepholes) = (given(inputs, 3)?, given(inputs, 7)?);
        let state = |at| -> TractResult<Vec<f32>> {
            let none = || vec![0.0; ways * s.batch * s.hidden];
            Ok(given(inputs, at)?.map_or_else(none, <[f32]>::to_vec))
        };
        let (mut hidden, mut cells) = (state(5)?, state(6)?);
        let mut sequence = vec![0f32; s.steps * ways * s.batch * s.hidden];
        for (way, back) in self.directions.iter().enumerate() {
            let bias = biases.map(|biases| part(biases, way, ways));
            let direction = Direction {
                activations: self.activations[way],
                clip: self.clip.map_or(f32::INFINITY, Bits::get),
                coupled: self.coupled,
                inputs: Weights {
                    values: w.matrix(way, s.inputs * wide),
                    scales: part(&w_scales, way, ways),
                    zeros: part(&w_zeros, way, ways),
                },
                states: Weights {
                    values: r.matrix(way, s.hidden * wide),
                    scales: part(&r_scales, way, ways),
                    zeros: part(&r_zeros, way, ways),
                },
                bias: match bias {
                    Some(bias) => (0..wide).map(|at| bias[at] + bias[wide + at]).collect(),
                    None => vec![0.0; wide],
                },
                peepholes: peepholes.map(|peepholes| part(peepholes, way, ways)),
            };
            let together = lengths.iter().all(|length| *length == longest) && direction.is_native();
            // The host's programs add no bias.
            let bias = together.then_some(&direction.bias[..]);
            let from_inputs =
                direction.inputs.times(x, bias, [longest * s.batch, s.inputs, wide])?;
            let programs = Programs::lstm();
            let count = s.batch * s.hidden;
            let h = &mut hidden[way * count..][..count];
            let c = &mut cells[way * count..][..count];
            if together {
                let mut states = States::new(s.hidden, h.to_vec(), c.to_vec());
                for step in 0..longest {
                    let from_states =
                        direction.states.times(&states.h, None, [s.batch, s.hidden, wide])?;
                    let place = if *back { longest - 1 - step } else { step };
                    let row_stride = wide;
                    let elements = &from_inputs[place * s.batch * wide..];
                    let input = Gates { elements, row_stride };
                    let state = Gates { elements: &from_states, row_stride };
                    let done = states.lstm(&programs, input, state);
                    ensure!(done, "internal error: the host refused the gates of a step");
                    let to = (place * ways + way) * s.batch * s.hidden;
                    sequence[to..to + count].copy_from_slice(&states.h);
                }
                h.copy_from_slice(&states.h);
                c.copy_from_slice(&states.c);
            }
            for step in (0..longest).take_while(|_| !together) {
                // All states are quantized together. The last one of a sequence that is over counts
                // once more, and then 0 in its place, as in onnxruntime.
                let mut states = h.to_vec();
                for (one, state) in states.chunks_mut(s.hidden).enumerate() {
                    if step > lengths[one] {
                        state.fill(0.0);
                    }
                }
                let from_states =
                    direction.states.times(&states, None, [s.batch, s.hidden, wide])?;
                for one in (0..s.batch).filter(|one| step < lengths[*one]) {
                    // A reversed sequence starts with its own last step.
                    let place = if *back { lengths[one] - 1 - step } else { step };
                    let input = &from_inputs[(place * s.batch + one) * wide..][..wide];
                    let state = &from_states[one * wide..][..wide];
                    let gates: Vec<f32> = input.iter().zip(state).map(|(a, b)| a + b).collect();
                    let h = &mut h[one * s.hidden..][..s.hidden];
                    direction.step(&gates, h, &mut c[one * s.hidden..][..s.hidden]);
                    let to = ((place * ways + way) * s.batch + one) * s.hidden;
                    sequence[to..to + s.hidden].copy_from_slice(h);
                }
            }
            for (one, _) in lengths.iter().enumerate().filter(|(_, length)| **length == 0) {
                h[one * s.hidden..][..s.hidden].fill(0.0);
                c[one * s.hidden..][..s.hidden].fill(0.0);
            }
        }
        let state = [ways, s.batch, s.hidden];
        Ok(tvec!(
            Tensor::from_shape(&[s.steps, ways, s.batch, s.hidden], &sequence)?,
            Tensor::from_shape(&state, &hidden)?,
            Tensor::from_shape(&state, &cells)?
        ))
    }

    fn packed(
        &self,
        constants: &[Option<&Arc<Tensor>>],
    ) -> Option<(Arc<dyn Operator>, Vec<usize>)> {
        let packed = |at: usize| Packed::of(constants.get(at).copied().flatten(), false);
        let lstm = Lstm { packed: Some([packed(1)?, packed(2)?]), ..self.clone() };
        Some((Arc::new(lstm), vec![1, 2]))
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::Tensor;

    use crate::testing::{Case, microsoft, row, tensor};

    /// One sequence for each start of its inputs, with a hidden size of one.
    fn node(direction: &str, steps: usize, inputs: &[f32]) -> Case {
        let case = microsoft("DynamicQuantizeLSTM").text("direction", direction).outputs(3);
        let case = case.input(tensor(&[steps, inputs.len() / steps, 1], inputs));
        let case = case.input(tensor(&[1, 1, 4], &[100i8, -50, 25, 127]));
        case.input(tensor(&[1, 1, 4], &[30i8, 60, -90, 120]))
    }

    /// The scales and zero points of the weights.
    fn with_scales(case: Case) -> Case {
        let one = |scale: f32| tensor(&[1], &[scale]);
        let zero = || tensor(&[1], &[0i8]);
        case.input(one(0.01)).input(zero()).input(one(0.02)).input(zero())
    }

    fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    /// One step. A single number is quantized without loss.
    fn step(x: f64, h: f64, c: f64) -> (f64, f64) {
        let gate = |w: f64, r: f64| 0.01 * w * x + 0.02 * r * h;
        let c =
            sigmoid(gate(25.0, -90.0)) * c + sigmoid(gate(100.0, 30.0)) * gate(127.0, 120.0).tanh();
        (sigmoid(gate(-50.0, 60.0)) * c.tanh(), c)
    }

    fn outputs(steps: &[f64], h: f64, c: f64) -> [Tensor; 3] {
        let steps: Vec<f32> = steps.iter().map(|step| *step as f32).collect();
        let last = |number: f64| tensor(&[1, 1, 1], &[number as f32]);
        [tensor(&[steps.len(), 1, 1, 1], &steps), last(h), last(c)]
    }

    #[test]
    fn dynamic_quantize_lstm_runs_forward_and_backward() {
        let (first, cell) = step(2.0, 0.0, 0.0);
        let (second, cell) = step(2.0, first, cell);
        let whole = |direction| {
            let case = node(direction, 2, &[2.0, 2.0]).missing().missing().missing().missing();
            with_scales(case.missing())
        };
        whole("forward").gives_all_near(&outputs(&[first, second], second, cell), 1e-5);
        whole("reverse").gives_all_near(&outputs(&[second, first], second, cell), 1e-5);
        whole("reverse").int("hidden_size", 2).fails("hidden_size");
    }

    #[test]
    fn dynamic_quantize_lstm_ends_short_sequences() {
        let (h, c) = step(2.0, 0.0, 0.0);
        let case = node("forward", 2, &[2.0, 2.0]).missing().input(row(&[1i32]));
        let case = with_scales(case.missing().missing().missing());
        case.gives_all_near(&outputs(&[h, 0.0], h, c), 1e-5);
        let longer = node("forward", 2, &[2.0, 2.0]).missing().input(row(&[3i32]));
        with_scales(longer.missing().missing().missing()).fails("3");
    }

    #[test]
    fn dynamic_quantize_lstm_has_biases_states_and_peepholes() {
        let one = |number: f32| tensor(&[1, 1, 1], &[number]);
        let case = node("forward", 1, &[1.0]).input(tensor(&[1, 8], &[0.25f32; 8])).missing();
        let case = case.input(one(0.5)).input(one(-0.5)).input(tensor(&[1, 3], &[1f32, 2.0, -1.0]));
        let gate = |w: f64, r: f64| 0.01 * w + 0.02 * r * 0.5 + 0.5;
        let input = sigmoid(gate(100.0, 30.0) - 0.5);
        let forget = sigmoid(gate(25.0, -90.0) + 0.5);
        let c = forget * -0.5 + input * gate(127.0, 120.0).tanh();
        let h = sigmoid(gate(-50.0, 60.0) + 2.0 * c) * c.tanh();
        with_scales(case).gives_all_near(&outputs(&[h], h, c), 1e-5);
    }

    #[test]
    fn dynamic_quantize_lstm_has_other_activations_bounds_and_a_coupled_gate() {
        let whole = || {
            let case = node("forward", 1, &[2.0]).missing().missing().missing();
            with_scales(case.input(tensor(&[1, 1, 1], &[0.5f32])).missing())
        };
        // The sums of the gates: input, output, forget, candidate.
        let [i, o, f, g] = [2.0, -1.0, 0.5, 2.54f64];
        let hard = |x: f64| (0.2 * x + 0.5).clamp(0.0, 1.0);
        let names = ["HardSigmoid", "Softsign", "Relu"];
        let c = hard(f) * 0.5 + hard(i) * (g / (1.0 + g));
        let other = whole().texts("activations", &names);
        other.gives_all_near(&outputs(&[hard(o) * c], hard(o) * c, c), 1e-5);
        let c = (1.0 - sigmoid(i)) * 0.5 + sigmoid(i) * g.tanh();
        let h = sigmoid(o) * c.tanh();
        whole().int("input_forget", 1).gives_all_near(&outputs(&[h], h, c), 1e-5);
        let least = |x: f64| x.clamp(-0.5, 0.5);
        let c = sigmoid(least(f)) * 0.5 + sigmoid(least(i)) * least(g).tanh();
        let h = sigmoid(least(o)) * least(c).tanh();
        whole().float("clip", 0.5).gives_all_near(&outputs(&[h], h, c), 1e-5);
        whole().texts("activations", &["Sigmoid", "Tanh"]).fails("three");
        whole().texts("activations", &["Sigmoid", "Tanh", "Sinh"]).fails("Sinh");
        whole().float("clip", -1.0).fails("positive");
        whole().float("clip", f32::NAN).fails("positive");
    }
}
