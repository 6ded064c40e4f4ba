//! What the cases are made of: their inputs, and the definitions that several operators share.

use crate::narrow_sums::draw::{Draw, Kind};
use crate::support::onnx::{Message, UINT8, float_attribute, int_attribute, string_attribute};

/// An input of a node.
#[derive(Clone)]
pub(crate) enum Input {
    /// Narrow floats that are given when the model runs.
    Given(Vec<i64>, Vec<f64>),
    /// Narrow floats that are part of the model.
    Kept(Vec<i64>, Vec<f64>),
    /// Integers that are part of the model.
    Ints(Vec<i64>, Vec<i64>),
    /// The bytes of a tensor of another element type that is part of the model.
    Bytes(i64, Vec<i64>, Vec<u8>),
    Missing,
}

pub(crate) struct Case {
    pub(crate) inputs: Vec<Input>,
    pub(crate) attributes: Vec<Message>,
    pub(crate) expected: Vec<f64>,
    /// The largest term, if the result is much smaller.
    pub(crate) term: f64,
}

pub(super) fn case(inputs: Vec<Input>, attributes: Vec<Message>, expected: Vec<f64>) -> Case {
    Case { inputs, attributes, expected, term: 0.0 }
}

impl Case {
    /// Sets the terms.
    pub(super) fn of(mut self, terms: &[f64]) -> Case {
        self.term = terms.iter().fold(0.0, |most: f64, term| most.max(term.abs()));
        self
    }
}

pub(super) fn given(dims: &[usize], values: &[f64]) -> Input {
    Input::Given(dims.iter().map(|dim| *dim as i64).collect(), values.to_vec())
}

pub(super) fn kept(dims: &[usize], values: &[f64]) -> Input {
    Input::Kept(dims.iter().map(|dim| *dim as i64).collect(), values.to_vec())
}

pub(super) fn ints(values: &[i64]) -> Input {
    Input::Ints(vec![values.len() as i64], values.to_vec())
}

pub(super) fn bytes(dims: &[usize], values: &[u8]) -> Input {
    Input::Bytes(UINT8, dims.iter().map(|dim| *dim as i64).collect(), values.to_vec())
}

pub(super) fn sum(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().sum()
}

pub(super) fn mean(values: &[f64]) -> f64 {
    sum(values.iter().copied()) / values.len() as f64
}

pub(super) fn products(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a * b).collect()
}

pub(super) fn squares(values: &[f64]) -> f64 {
    sum(values.iter().map(|value| value * value))
}

/// The normalized numbers.
pub(super) fn normalized(values: &[f64], epsilon: f64) -> Vec<f64> {
    let middle = mean(values);
    let variance = mean(&values.iter().map(|value| (value - middle).powi(2)).collect::<Vec<_>>());
    values.iter().map(|value| (value - middle) / (variance + epsilon).sqrt()).collect()
}

/// A product of a row and a column, in these shapes.
pub(super) fn dot(
    draw: Draw,
    x: impl Fn(usize) -> Vec<usize>,
    w: impl Fn(usize) -> Vec<usize>,
) -> Case {
    let n = draw.count();
    let (values, weights) = (draw.terms(n), draw.weights(n));
    let terms = products(&values, &weights);
    let total = sum(terms.iter().copied());
    case(vec![given(&x(n), &values), kept(&w(n), &weights)], vec![], vec![total]).of(&terms)
}

/// A function of a row of terms that is one number.
pub(super) fn folded(draw: Draw, values: Vec<f64>, fold: impl Fn(&[f64]) -> f64) -> Case {
    let n = values.len();
    let attributes = vec![int_attribute("keepdims", 0)];
    let expected = vec![fold(&values)];
    let made = case(vec![given(&[1, n], &values), ints(&[1])], attributes, expected);
    if draw.kind == Kind::Cancelling { made.of(&values) } else { made }
}

/// A normalisation of a row.
pub(super) fn rows(values: &[f64], dims: &[usize], parameters: usize, expected: Vec<f64>) -> Case {
    let mut inputs = vec![given(dims, values)];
    let width = if parameters == values.len() { values.len() } else { 1 };
    for at in 0..parameters.min(2) {
        inputs.push(kept(&[width], &vec![if at == 0 { 1.0 } else { 0.0 }; width]));
    }
    case(inputs, vec![], expected)
}

/// A normalisation of a row, after the addition of zeros, with this many inputs.
pub(super) fn skipped(values: &[f64], inputs: usize, expected: Vec<f64>) -> Case {
    let width = values.len();
    let each = |dims: &[usize], value: f64| kept(dims, &vec![value; width]);
    let mut all = vec![given(&[1, width], values), each(&[1, width], 0.0), each(&[width], 1.0)];
    all.push(each(&[width], 0.0));
    all.truncate(inputs);
    case(all, vec![float_attribute("epsilon", 1e-5)], expected)
}

pub(super) fn with(mut made: Case, attributes: impl IntoIterator<Item = Message>) -> Case {
    made.attributes.extend(attributes);
    made
}

/// Several tensors of three numbers each, added up one by one.
pub(super) fn variadic(draw: Draw, divided: bool) -> Case {
    let count = if draw.kind == Kind::Long { 512 } else { 64 };
    let terms = draw.terms(count);
    let total = sum(terms.iter().copied()) / if divided { count as f64 } else { 1.0 };
    let inputs = terms.iter().map(|term| given(&[3], &[*term; 3])).collect();
    case(inputs, vec![], vec![total; 3]).of(&terms)
}

pub(super) fn logistic(value: f64) -> f64 {
    1.0 / (1.0 + (-value).exp())
}

/// A layer of one cell without an initial state, whose gates all have the same weights.
pub(super) fn recurrent(draw: Draw, gates: usize, cell: impl Fn(f64) -> f64) -> Case {
    let n = draw.count();
    let (values, weights) = (draw.terms(n), draw.weights(n));
    // So that the activations do not saturate.
    let scale = match draw.kind {
        Kind::Large | Kind::Near => 1.0 / 16384.0,
        Kind::Long => 1.0 / 4096.0,
        Kind::Tiny => 512.0,
        Kind::Cancelling => 1.0,
    };
    let weights: Vec<f64> = weights.iter().map(|w| draw.narrow.round(w * scale)).collect();
    let total = cell(sum(products(&values, &weights)));
    let inputs = vec![
        given(&[1, 1, n], &values),
        kept(&[1, gates, n], &weights.repeat(gates)),
        kept(&[1, gates, 1], &vec![0.0; gates]),
    ];
    let made = case(inputs, vec![int_attribute("hidden_size", 1)], vec![total]);
    // A sum of zero has the error of float32 for its terms.
    if draw.kind == Kind::Cancelling { made.of(&[64.0]) } else { made }
}

pub(super) fn causal_conv(draw: Draw) -> Case {
    let n = draw.count().min(512);
    let (values, weights) = (draw.terms(n), draw.weights(n));
    let made = (0..n).map(|at| sum((0..=at).map(|from| values[from] * weights[n - 1 - at + from])));
    let inputs = vec![given(&[1, 1, n], &values), kept(&[1, 1, n], &weights)];
    case(inputs, vec![], made.collect()).of(&products(&values, &weights))
}

pub(super) fn linear_attention(draw: Draw) -> Case {
    let n = draw.count().min(512);
    let values = draw.terms(n);
    let ones = vec![1.0; n];
    let inputs =
        vec![given(&[1, n, 1], &ones), given(&[1, n, 1], &ones), given(&[1, n, 1], &values)];
    let attributes = vec![
        int_attribute("q_num_heads", 1),
        int_attribute("kv_num_heads", 1),
        float_attribute("scale", 1.0),
        string_attribute("update_rule", "linear"),
    ];
    case(inputs, attributes, running(&values, |a, b| a + b)).of(&values)
}

/// Eight numbers whose halves are rotated.
pub(super) fn turned(values: &[f64], cos: &[f64], sin: &[f64]) -> Vec<f64> {
    let (first, second) = values.split_at(4);
    let mut turned: Vec<f64> =
        (0..4).map(|at| cos[at] * first[at] - sin[at] * second[at]).collect();
    turned.extend((0..4).map(|at| sin[at] * first[at] + cos[at] * second[at]));
    turned
}

/// One integer of 32 bits, which is ONNX's element type 6.
fn int32(number: i32) -> Input {
    Input::Bytes(6, vec![1], number.to_le_bytes().to_vec())
}

/// Attention of each token to itself and those before, with equal weights.
pub(super) fn group_query_attention(draw: Draw) -> Case {
    let n = draw.count().min(512);
    let values = draw.terms(n);
    let means = running(&values, |a, b| a + b).into_iter().zip(1i32..);
    let means = means.map(|(sum, count)| sum / f64::from(count)).collect();
    let inputs = vec![
        given(&[1, n, 1], &vec![0.0; n]),
        given(&[1, n, 1], &vec![1.0; n]),
        given(&[1, n, 1], &values),
        Input::Missing,
        Input::Missing,
        int32(n as i32 - 1),
        int32(n as i32),
    ];
    let heads = ["num_heads", "kv_num_heads"].map(|name| int_attribute(name, 1));
    case(inputs, Vec::from(heads), means).of(&values)
}

/// The same with a cache that the tokens fill, in one block.
pub(super) fn sparse_attention(draw: Draw) -> Case {
    let made = group_query_attention(draw);
    let n = made.expected.len();
    let mut inputs = made.inputs[..3].to_vec();
    let cache = || given(&[1, 1, n, 1], &vec![0.0; n]);
    let numbers = |dims: &[i64], numbers: &[i32]| {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Input::Bytes(6, dims.to_vec(), bytes)
    };
    inputs.extend([cache(), cache(), numbers(&[1, 2], &[0, 1]), numbers(&[1, 1], &[0])]);
    inputs.extend([int32(n as i32), int32(n as i32)]);
    let mut attributes = made.attributes;
    attributes.push(int_attribute("sparse_block_size", n as i64));
    Case { inputs, attributes, ..made }
}

/// A projection to the value of a token that attends to itself.
pub(super) fn projected_attention(draw: Draw) -> Case {
    let n = draw.count();
    let (values, weights) = (draw.terms(n), draw.weights(n));
    let terms = products(&values, &weights);
    let columns: Vec<f64> = weights.iter().flat_map(|weight| [0.0, 0.0, *weight]).collect();
    let inputs = vec![given(&[1, 1, n], &values), kept(&[n, 3], &columns)];
    let total = sum(terms.iter().copied());
    case(inputs, vec![int_attribute("num_heads", 1)], vec![total]).of(&terms)
}

/// Attention of one query to keys, with values of one number.
pub(super) fn attention(draw: Draw, width: usize, keys: usize) -> Case {
    let (query, all, values) = if keys == 2 {
        let mut all = draw.weights(width);
        all.extend(vec![0.0; width]);
        (draw.terms(width), all, vec![3.0, 5.0])
    } else {
        (vec![0.0; width], vec![1.0; keys * width], draw.terms(keys))
    };
    let scale = 1.0 / (width as f64).sqrt();
    let scores: Vec<f64> =
        all.chunks(width).map(|key| scale * sum(products(&query, key))).collect();
    let most = scores.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
    let total = sum(products(&weights, &values)) / sum(weights.iter().copied());
    let inputs = vec![
        given(&[1, 1, 1, width], &query),
        given(&[1, 1, keys, width], &all),
        given(&[1, 1, keys, 1], &values),
    ];
    let made = case(inputs, vec![], vec![total]);
    if draw.kind == Kind::Cancelling { made.of(&values) } else { made }
}

/// The same with the inputs of com.microsoft, whose queries have their heads in the channels.
pub(super) fn multi_head_attention(draw: Draw, width: usize, keys: usize) -> Case {
    let mut made = attention(draw, width, keys);
    if let Some(Input::Given(dims, _)) = made.inputs.first_mut() {
        *dims = vec![1, 1, width as i64];
    }
    made.attributes.push(int_attribute("num_heads", 1));
    made
}

pub(super) fn fourier(values: &[f64], frequencies: usize) -> Vec<f64> {
    let mut made = Vec::new();
    for frequency in 0..frequencies {
        let angle = |at: usize| {
            -std::f64::consts::TAU * (at * frequency % values.len()) as f64 / values.len() as f64
        };
        made.push(sum(values.iter().enumerate().map(|(at, value)| value * angle(at).cos())));
        made.push(sum(values.iter().enumerate().map(|(at, value)| value * angle(at).sin())));
    }
    made
}

/// Running results of an operation.
pub(super) fn running(values: &[f64], step: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let mut made: Vec<f64> = Vec::new();
    for value in values {
        made.push(made.last().map_or(*value, |last| step(*last, *value)));
    }
    made
}

/// Factors whose first product is out of the range of float16 but the whole product is not, or the
/// reverse.
pub(super) fn factors(draw: Draw) -> Vec<f64> {
    let factors: &[f64] = match draw.kind {
        Kind::Large | Kind::Near => &[300.0, 400.0, 0.001],
        Kind::Tiny => &[1e-6, 1e-5, 30000.0, 20000.0],
        Kind::Long => &[1.25; 40],
        Kind::Cancelling => &[-1000.0, 2000.0, -0.001, 0.5],
    };
    factors.iter().map(|factor| draw.narrow.round(*factor)).collect()
}
