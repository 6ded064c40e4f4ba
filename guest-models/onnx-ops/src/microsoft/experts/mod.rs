//! MoE and QMoE (com.microsoft): mixtures of experts. A router chooses some experts for each token,
//! and the output is the sum of what they compute, each times its share. The weights of QMoE are
//! quantized to 2, 4 or 8 bits. Tokens are grouped by expert, so that each matrix is read once for
//! all of its tokens, and matrices of experts that no token has chosen are not read.

mod activation;
mod attributes;
mod checks;
mod layers;
mod routing;

use belljar_operators::MICROSOFT;
use tract_onnx::tract_hir::internal::*;

use self::attributes::{Activation, Fusion, Quantization, build};
use self::layers::{Codes, Layer, Weights};
use crate::framework::dims;
use crate::framework::errors::ensure;
use crate::framework::facts::{InputFact, OutputFact, like, optional, required};
use crate::framework::operator::Operator;
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::Bits;

pub(crate) const OPERATORS: &[Registration] = &[
    own("MoE", |_, node| build(node, None)).of(MICROSOFT),
    own("QMoE", |_, node| build(node, Some(Quantization::of(node)?))).of(MICROSOFT),
];

/// Tokens of an expert that are computed at once, which limits the memory between the layers.
const TOKENS: usize = 128;

const X: usize = 0;
const ROUTER: usize = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Experts {
    /// How many experts a token has.
    chosen: usize,
    normalize: bool,
    activation: Activation,
    fusion: Fusion,
    alpha: Bits,
    beta: Bits,
    limit: Bits,
    quantization: Option<Quantization>,
}

/// The positions of the inputs of a layer. A layer of floats has no scales and zero points.
struct Positions {
    weights: usize,
    scales: usize,
    bias: usize,
    zeros: usize,
}

impl Experts {
    /// The inputs of a layer, counted from 0.
    fn positions(&self, layer: usize) -> Positions {
        match self.quantization {
            Some(_) => {
                let weights = 2 + 3 * layer;
                let (scales, bias, zeros) = (weights + 1, weights + 2, 11 + layer);
                Positions { weights, scales, bias, zeros }
            }
            None => {
                let (weights, none) = (2 + 2 * layer, usize::MAX);
                Positions { weights, scales: none, bias: weights + 1, zeros: none }
            }
        }
    }

    /// The shares of experts, if they are given apart from the scores by which experts are chosen.
    fn shares<'a, T>(&self, inputs: &'a [Option<T>]) -> Option<&'a T> {
        self.quantization.and_then(|_| optional(inputs, 14))
    }

    /// How many outputs of the first layer become one input of the second.
    fn parts(&self) -> usize {
        if self.fusion == Fusion::Apart { 1 } else { 2 }
    }
}

/// Inputs as floats or bytes, of which those of other types are missing.
struct Views<'a>(Vec<Option<PlainView<'a>>>);

impl<'a> Views<'a> {
    fn of(inputs: &[Option<&'a Tensor>]) -> TractResult<Views<'a>> {
        let view = |input: &Option<&'a Tensor>| input.map(|input| input.try_as_plain_ram());
        Ok(Views(inputs.iter().map(|input| view(input).transpose()).collect::<TractResult<_>>()?))
    }

    fn given<T: Datum>(&self, at: usize) -> TractResult<Option<&[T]>> {
        optional(&self.0, at).map(|view| view.as_slice::<T>()).transpose()
    }

    fn slice<T: Datum>(&self, at: usize) -> TractResult<&[T]> {
        required(&self.0, at)?.as_slice::<T>()
    }
}

impl Operator for Experts {
    fn name(&self) -> &'static str {
        if self.quantization.is_some() { "QMoE" } else { "MoE" }
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        self.check(inputs)?;
        Ok(tvec!(like(required(inputs, X)?)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let x = *required(inputs, X)?;
        let views = Views::of(inputs)?;
        let layer = |number: usize, outputs: usize, columns: usize| -> TractResult<Layer<'_>> {
            let at = self.positions(number);
            let weights = match self.quantization {
                None => Weights::Floats(views.slice(at.weights)?),
                Some(Quantization { bits, block }) => {
                    let (bytes, scales) = (views.slice(at.weights)?, views.slice(at.scales)?);
                    let zeros = views.given(at.zeros)?;
                    Weights::Codes(Codes { bytes, scales, zeros, bits, block })
                }
            };
            Ok(Layer { weights, bias: views.given(at.bias)?, outputs, inputs: columns })
        };
        let first = required(inputs, self.positions(0).weights)?.shape();
        let (experts, outputs) = (first[0], first[1]);
        let hidden = x.shape().last().copied().unwrap_or(0);
        let inner = outputs / self.parts();
        ensure!(
            self.chosen <= experts,
            "a \"k\" of {} is more than the {experts} experts",
            self.chosen
        );
        let third = optional(inputs, self.positions(2).weights).is_some();
        let third = third.then(|| layer(2, inner, hidden)).transpose()?;
        let (first, second) = (layer(0, outputs, hidden)?, layer(1, hidden, inner)?);
        dims::volume(&[TOKENS, outputs.max(hidden)])?;

        let mut output = Tensor::zero::<f32>(x.shape())?;
        let mut plain = output.try_as_plain_ram_mut()?;
        let (x, to) = (views.slice::<f32>(X)?, plain.as_slice_mut::<f32>()?);
        let scores = views.slice::<f32>(ROUTER)?.chunks_exact(experts);
        let given = self.shares(&views.0).map(|view| view.as_slice::<f32>()).transpose()?;
        let mut tokens_of: Vec<Vec<(usize, f32)>> = vec![vec![]; experts];
        for (token, scores) in scores.enumerate() {
            let given = given.map(|given| &given[token * experts..][..experts]);
            for (expert, share) in self.choose(scores, given) {
                tokens_of[expert].push((token, share));
            }
        }
        let mut gathered = vec![];
        for (expert, tokens) in tokens_of.iter().enumerate() {
            for tokens in tokens.chunks(TOKENS) {
                gathered.clear();
                for (token, _) in tokens {
                    gathered.extend_from_slice(&x[token * hidden..][..hidden]);
                }
                let apply = |layer: &Layer<'_>| layer.apply(expert, &gathered, tokens.len());
                let between = self.activate(apply(&first), third.as_ref().map(apply), inner);
                let made = second.apply(expert, &between, tokens.len());
                for (at, (token, share)) in tokens.iter().enumerate() {
                    let to = &mut to[token * hidden..][..hidden];
                    let made = &made[at * hidden..][..hidden];
                    to.iter_mut().zip(made).for_each(|(to, made)| *to += share * made);
                }
            }
        }
        Ok(tvec!(output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::microsoft::attention::cases;
    use crate::testing::{Case, microsoft, tensor};

    fn floats(shape: &[usize], step: usize) -> Tensor {
        let count = shape.iter().product();
        let number = |at: usize| ((at * step + 3) % 13) as f32 / 8.0 - 0.75;
        tensor(shape, &(0..count).map(number).collect::<Vec<_>>())
    }

    fn bytes(shape: &[usize]) -> Tensor {
        let count = shape.iter().product();
        tensor(shape, &(0..count).map(|at| ((at * 37 + 11) % 256) as u8).collect::<Vec<_>>())
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.to_plain_array_view::<f32>().unwrap().iter().copied().collect()
    }

    /// Three tokens of four numbers, and the scores of two experts.
    fn routed(name: &str, activation: &str) -> Case {
        let case = microsoft(name).text("activation_type", activation);
        let scores = tensor(&[3, 2], &[1f32, -1.0, 0.5, 2.0, -3.0, 0.0]);
        case.int("k", 2).input(floats(&[3, 4], 5)).input(scores)
    }

    #[test]
    fn mixtures_of_float_weights_give_what_onnxruntime_and_numpy_give() {
        cases::check(include_str!("cases/moe.txt"));
    }

    #[test]
    fn mixtures_of_quantized_weights_give_what_onnxruntime_and_numpy_give() {
        cases::check(include_str!("cases/q_moe.txt"));
    }

    #[test]
    fn both_parts_of_swiglu_may_be_in_turn_joined_or_apart() {
        // Two experts with three gates and three linear outputs each.
        let (joined, second) = (floats(&[2, 6, 4], 7), floats(&[2, 4, 3], 11));
        let bias = floats(&[2, 6], 3);
        let ordered = |tensor: &Tensor, width: usize, order: &[usize]| {
            let all = values(tensor);
            let row = |at: usize| all[at * width..][..width].to_vec();
            let expert = |e: usize| order.iter().flat_map(move |at| row(e * 6 + at));
            [0, 1].into_iter().flat_map(expert).collect::<Vec<f32>>()
        };
        let turns = [0, 3, 1, 4, 2, 5];
        let case = |fusion| {
            let case = routed("MoE", "swiglu").float("activation_beta", 0.5);
            case.float("swiglu_limit", 0.75).int("swiglu_fusion", fusion)
        };
        let interleaved = case(1).input(tensor(&[2, 6, 4], &ordered(&joined, 4, &turns)));
        let interleaved = interleaved.input(tensor(&[2, 6], &ordered(&bias, 1, &turns)));
        let expected = interleaved.input(second.clone()).outputs_at_run_time().remove(0);
        assert!(values(&expected).iter().all(|value| value.abs() > 1e-3));
        let both = case(2).input(joined.clone()).input(bias.clone()).input(second.clone());
        both.gives_within(expected.clone(), 1e-6);
        let part = |tensor: &Tensor, width: usize, from: usize| {
            ordered(tensor, width, &[from, from + 1, from + 2])
        };
        let apart = case(0).input(tensor(&[2, 3, 4], &part(&joined, 4, 0)));
        let apart = apart.input(tensor(&[2, 3], &part(&bias, 1, 0))).input(second).missing();
        let apart = apart.input(tensor(&[2, 3, 4], &part(&joined, 4, 3)));
        apart.input(tensor(&[2, 3], &part(&bias, 1, 3))).gives_within(expected, 1e-6);
    }

    #[test]
    fn third_layer_multiplies_what_other_activations_give() {
        let one = |layer: f32| tensor(&[1, 1, 1], &[layer]);
        let case = microsoft("MoE").input(tensor(&[2, 1], &[2f32, -1.0]));
        let case = case.input(tensor(&[2, 1], &[0.25f32, 7.0])).input(one(3.0)).missing();
        // relu(3 x) · 5 x · 0.5
        let case = case.input(one(0.5)).missing().input(one(5.0));
        case.gives(tensor(&[2, 1], &[30f32, 0.0]));
    }

    #[test]
    fn shares_may_be_given_apart_from_the_scores() {
        // The weights are all zero: an expert gives its bias.
        let case = microsoft("QMoE").input(tensor(&[2, 2], &[1f32; 4]));
        let case = case.input(tensor(&[2, 2], &[0f32, 1.0, 5.0, 4.0]));
        let case = case.input(tensor(&[2, 2, 1], &[0x88u8; 4])).input(tensor(&[2, 2], &[1f32; 4]));
        let case = case.missing().input(tensor(&[2, 2, 1], &[0x88u8; 4]));
        let case = case.input(tensor(&[2, 2], &[1f32; 4]));
        let case = case.input(tensor(&[2, 2], &[1f32, 2.0, 3.0, 4.0])).missing().missing();
        let case = case.missing().missing().missing().missing();
        let case = case.input(tensor(&[2, 2], &[0.5f32, 0.25, 2.0, 8.0]));
        case.clone().gives(tensor(&[2, 2], &[0.75f32, 1.0, 2.0, 4.0]));
        let normalized = case.int("normalize_routing_weights", 1);
        normalized.gives(tensor(&[2, 2], &[3f32, 4.0, 1.0, 2.0]));
    }

    #[test]
    fn large_quantized_matrices_give_what_their_floats_give() {
        // Also more tokens and inputs than are computed at once.
        for (bits, block, hidden, tokens) in
            [(2, 16, 1040, 2), (4, 2048, 2048, 1), (8, 0, 8, 130), (4, 32, 32, 3), (4, 0, 1028, 2)]
        {
            let (pack, inner) = (8 / bits, block.max(4));
            let x = || {
                let few = |at: usize| if at % 97 == 5 { (at % 7) as f32 - 3.0 } else { 0.0 };
                tensor(&[tokens, hidden], &(0..tokens * hidden).map(few).collect::<Vec<_>>())
            };
            let scores = || tensor(&[tokens, 1], &vec![0f32; tokens]);
            let quantized = microsoft("QMoE").int("expert_weight_bits", bits as i64);
            let mut quantized =
                quantized.int("block_size", block as i64).input(x()).input(scores());
            let plain = microsoft("MoE").input(x()).input(scores());
            let mut layers = vec![];
            for (outputs, columns) in [(inner, hidden), (hidden, inner)] {
                let blocks = if block == 0 { 1 } else { columns / block };
                let codes = bytes(&[1, outputs, columns / pack]);
                let scales = floats(&[1, outputs, blocks], 5);
                let (all, each) = (codes.as_bytes(), values(&scales));
                let weight = |at: usize| {
                    let (row, column) = (at / columns, at % columns);
                    let byte = all[at / pack] >> (at % pack * bits);
                    let code = f32::from(byte & (255 >> (8 - bits)));
                    let block = column * blocks / columns;
                    (code - (1 << (bits - 1)) as f32) * each[row * blocks + block]
                };
                let weights: Vec<f32> = (0..outputs * columns).map(weight).collect();
                layers.push(tensor(&[1, outputs, columns], &weights));
                let scales = match block {
                    0 => tensor(&[1, outputs], &each),
                    _ => scales,
                };
                quantized = quantized.input(codes).input(scales).missing();
            }
            let [first, second] = <[Tensor; 2]>::try_from(layers).unwrap();
            let plain = plain.input(first).missing().input(second).outputs_at_run_time();
            let found = quantized.outputs_at_run_time();
            assert_eq!(values(&found[0]), values(&plain[0]), "{bits} bits in blocks of {block}");
        }
    }

    #[test]
    fn equal_and_invalid_scores_choose_the_first_experts() {
        let case = |scores: [f32; 2]| {
            let case = microsoft("MoE").text("activation_type", "identity");
            let case = case.int("normalize_routing_weights", 1).input(tensor(&[1, 1], &[1f32]));
            let case = case.input(tensor(&[1, 2], &scores));
            case.input(tensor(&[2, 1, 1], &[1f32, 2.0]))
                .missing()
                .input(tensor(&[2, 1, 1], &[1f32; 2]))
        };
        case([-0.0, 0.0]).gives(tensor(&[1, 1], &[1f32]));
        case([0.0, 1e30]).gives(tensor(&[1, 1], &[2f32]));
        case([f32::NAN, 0.0]).gives(tensor(&[1, 1], &[f32::NAN]));
    }

    #[test]
    fn empty_inputs_give_empty_outputs() {
        let case = microsoft("MoE").input(tensor::<f32>(&[2, 0, 3], &[]));
        let case = case.input(tensor::<f32>(&[0, 2], &[])).input(floats(&[2, 5, 3], 1)).missing();
        case.input(floats(&[2, 3, 5], 1)).gives(tensor::<f32>(&[2, 0, 3], &[]));
        let narrow = microsoft("MoE").input(tensor(&[1, 2], &[1f32; 2])).input(floats(&[1, 1], 1));
        let narrow = narrow.input(tensor::<f32>(&[1, 0, 2], &[])).missing();
        let narrow =
            narrow.input(tensor::<f32>(&[1, 2, 0], &[])).input(tensor(&[1, 2], &[3f32, 4.0]));
        narrow.gives(tensor(&[1, 2], &[3f32, 4.0]));
    }

    #[test]
    fn layers_and_scores_that_do_not_match_are_refused() {
        let moe = |first: &[usize], second: &[usize]| {
            routed("MoE", "relu").input(floats(first, 1)).missing().input(floats(second, 1))
        };
        moe(&[2, 5, 4], &[2, 4, 5]).int("k", 3).fails("\"k\" of 3");
        moe(&[2, 5, 4], &[2, 4, 5]).int("k", 0).fails("\"k\" of 0");
        moe(&[3, 5, 4], &[3, 4, 5]).fails("scores");
        moe(&[2, 5, 3], &[2, 4, 5]).fails("weights of layer 1");
        moe(&[2, 5, 4], &[2, 4, 6]).fails("weights of layer 2");
        moe(&[10, 4], &[2, 4, 5]).fails("[10, 4]");
        moe(&[2, 5, 4], &[2, 4, 5]).input(floats(&[2, 5], 1)).fails("biases of layer 2");
        let third = moe(&[2, 5, 4], &[2, 4, 5]).missing().input(floats(&[2, 4, 4], 1));
        third.fails("weights of layer 3");
        moe(&[2, 5, 4], &[2, 4, 5]).int("use_sparse_mixer", 1).fails("use_sparse_mixer");
        let swiglu = |fusion| {
            let case = routed("MoE", "swiglu").int("swiglu_fusion", fusion);
            case.input(floats(&[2, 5, 4], 1)).missing().input(floats(&[2, 4, 5], 1))
        };
        swiglu(0).fails("fc3_experts_weights");
        swiglu(1).fails("two parts");
        swiglu(3).fails("swiglu_fusion");
        swiglu(1).float("swiglu_limit", -1.0).fails("-1");
        routed("MoE", "mish").fails("mish");
        routed("MoE", "relu").input(floats(&[2, 5, 4], 1)).fails("input 4");
        let vector = microsoft("MoE").input(floats(&[4], 1)).input(floats(&[1, 2], 1));
        vector.input(floats(&[2, 5, 4], 1)).missing().input(floats(&[2, 4, 5], 1)).fails("found 1");
    }

    #[test]
    fn quantized_layers_that_do_not_match_are_refused() {
        let layers = |codes: [&[usize]; 2], scales: [&[usize]; 2]| {
            let case = routed("QMoE", "relu").input(bytes(codes[0])).input(floats(scales[0], 1));
            case.missing().input(bytes(codes[1])).input(floats(scales[1], 1))
        };
        let whole = || layers([&[2, 6, 2], &[2, 4, 3]], [&[2, 6], &[2, 4]]);
        assert_eq!(whole().outputs_at_run_time()[0].shape(), [3, 4]);
        layers([&[2, 6, 4], &[2, 4, 3]], [&[2, 6], &[2, 4]]).fails("weights of layer 1");
        layers([&[2, 6, 2], &[2, 4, 3]], [&[2, 5], &[2, 4]]).fails("scales of layer 1");
        layers([&[2, 5, 2], &[2, 4, 3]], [&[2, 5], &[2, 4]]).fails("rows of 5");
        let zeros = |first: &[usize]| {
            let case = whole().missing().missing().missing().missing();
            case.input(bytes(first))
        };
        zeros(&[2, 6]).fails("zero points of layer 1");
        assert_eq!(zeros(&[2, 3]).outputs_at_run_time()[0].shape(), [3, 4]);
        whole().int("block_size", 16).fails("blocks of 16");
        whole().int("block_size", 17).fails("17");
        whole().int("expert_weight_bits", 3).fails("3");
        whole().int("weights_prepacked", 1).fails("weights_prepacked");
        whole().text("quant_type", "fp4").fails("fp4");
        let bare = routed("QMoE", "relu").input(bytes(&[2, 6, 2])).missing().missing();
        bare.input(bytes(&[2, 4, 3])).fails("scales of layer 1");
    }
}
