//! One node for each way in which an operator sums, with its results in 64 bits, computed from the
//! same narrow inputs by the definition of the operator.

mod made;

use crate::narrow_sums::draw::{Draw, Kind};
use crate::support::onnx::{float_attribute, int_attribute, ints_attribute, string_attribute};

pub(crate) use made::{Case, Input};
use made::{
    attention, bytes, case, causal_conv, dot, factors, folded, fourier, given,
    group_query_attention, ints, kept, linear_attention, logistic, mean, multi_head_attention,
    normalized, products, projected_attention, recurrent, rows, running, skipped, sparse_attention,
    squares, sum, turned, variadic, with,
};

type Made = fn(Draw) -> Case;

/// Every operator that sums narrow floats, in every way that it has.
pub(crate) const ADDING: &[(&str, Made)] = &[
    ("Sum", |d| variadic(d, false)),
    ("Mean", |d| variadic(d, true)),
    ("MatMul", |d| dot(d, |n| vec![1, n], |n| vec![n, 1])),
    ("MatMul", |d| {
        // Several rows and columns, of which each is the same.
        let n = d.count();
        let (values, weights) = (d.terms(n), d.weights(n));
        let terms = products(&values, &weights);
        let columns: Vec<f64> = weights.iter().flat_map(|weight| [*weight; 9]).collect();
        let total = sum(terms.iter().copied());
        let inputs = vec![given(&[5, n], &values.repeat(5)), kept(&[n, 9], &columns)];
        case(inputs, vec![], vec![total; 45]).of(&terms)
    }),
    ("Gemm", |d| {
        let mut made = dot(d, |n| vec![1, n], |n| vec![1, n]);
        made.inputs.push(kept(&[1], &[d.narrow.round(made.term / 4.0)]));
        made.expected[0] += d.narrow.round(made.term / 4.0);
        with(made, [int_attribute("transB", 1)])
    }),
    ("Einsum", |d| {
        let equation = string_attribute("equation", "ab,cb->ac");
        with(dot(d, |n| vec![1, n], |n| vec![1, n]), [equation])
    }),
    ("Einsum", |d| {
        let equation = string_attribute("equation", "ab,ab->a");
        with(dot(d, |n| vec![1, n], |n| vec![1, n]), [equation])
    }),
    // One and more dimensions, with and without a window.
    ("Conv", |d| dot(d, |n| vec![1, n, 1], |n| vec![1, n, 1])),
    ("Conv", |d| dot(d, |n| vec![1, n / 4, 4], |n| vec![1, n / 4, 4])),
    ("Conv", |d| dot(d, |n| vec![1, n, 1, 1], |n| vec![1, n, 1, 1])),
    ("Conv", |d| dot(d, |n| vec![1, n / 4, 2, 2], |n| vec![1, n / 4, 2, 2])),
    ("Conv", |d| dot(d, |n| vec![1, n / 8, 2, 2, 2], |n| vec![1, n / 8, 2, 2, 2])),
    ("Conv", |d| {
        // A filter for each channel.
        let n = d.count();
        let (values, weights) = (d.terms(n), d.weights(n));
        let terms = products(&values, &weights);
        let total = sum(terms.iter().copied());
        let inputs = vec![
            given(&[1, 3, 2, n / 2], &values.repeat(3)),
            kept(&[3, 1, 2, n / 2], &weights.repeat(3)),
            kept(&[3], &[0.0, 1.0, 2.0]),
        ];
        let expected = vec![total, total + 1.0, total + 2.0];
        case(inputs, vec![int_attribute("group", 3)], expected).of(&terms)
    }),
    ("Conv", |d| {
        // Groups of several channels, and steps between what is read.
        let n = d.count() / 2;
        let (values, weights) = (d.terms(n), d.weights(n));
        let terms = products(&values, &weights);
        let total = sum(terms.iter().copied());
        let spread: Vec<f64> = values.chunks(2).flat_map(|pair| [pair[0], 7.0, pair[1]]).collect();
        let inputs =
            vec![given(&[1, n, 3], &spread.repeat(2)), kept(&[2, n / 2, 2], &weights.repeat(2))];
        let attributes = vec![int_attribute("group", 2), ints_attribute("dilations", &[2])];
        case(inputs, attributes, vec![total; 2]).of(&terms)
    }),
    ("ConvTranspose", |d| dot(d, |n| vec![1, n, 1], |n| vec![n, 1, 1])),
    ("ConvTranspose", |d| dot(d, |n| vec![1, n, 1, 1], |n| vec![n, 1, 1, 1])),
    ("DeformConv", |d| {
        let mut made = dot(d, |n| vec![1, n, 1, 1], |n| vec![1, n, 1, 1]);
        made.inputs.push(kept(&[1, 2, 1, 1], &[0.0, 0.0]));
        made
    }),
    ("CausalConvWithState", causal_conv),
    ("com.microsoft:CausalConvWithState", causal_conv),
    ("AveragePool", |d| {
        let values = d.terms(d.count());
        let window = ints_attribute("kernel_shape", &[values.len() as i64]);
        case(vec![given(&[1, 1, values.len()], &values)], vec![window], vec![mean(&values)])
            .of(&values)
    }),
    ("AveragePool", |d| {
        let values = d.terms(d.count());
        let half = values.len() / 2;
        let window = ints_attribute("kernel_shape", &[2, half as i64]);
        case(vec![given(&[1, 1, 2, half], &values)], vec![window], vec![mean(&values)]).of(&values)
    }),
    ("GlobalAveragePool", |d| {
        let values = d.terms(d.count());
        let half = values.len() / 2;
        case(vec![given(&[1, 1, 2, half], &values)], vec![], vec![mean(&values)]).of(&values)
    }),
    ("LpPool", |d| {
        let values = d.roots(d.count());
        let window = ints_attribute("kernel_shape", &[values.len() as i64]);
        let expected = vec![squares(&values).sqrt()];
        case(vec![given(&[1, 1, values.len()], &values)], vec![window], expected)
    }),
    ("GlobalLpPool", |d| {
        let values = d.roots(d.count());
        let expected = vec![squares(&values).sqrt()];
        case(vec![given(&[1, 1, values.len()], &values)], vec![], expected)
    }),
    ("Col2Im", |d| {
        // One pixel that all blocks contribute to.
        let n = 32;
        let terms = d.terms(n);
        let mut blocks = vec![0.0; n * n];
        for (at, term) in terms.iter().enumerate() {
            blocks[at * n + n - 1 - at] = *term;
        }
        let inputs = vec![given(&[1, n, n], &blocks), ints(&[1, 1]), ints(&[1, n as i64])];
        let pads = ints_attribute("pads", &[0, n as i64 - 1, 0, n as i64 - 1]);
        case(inputs, vec![pads], vec![sum(terms.iter().copied())]).of(&terms)
    }),
    ("BatchNormalization", |d| {
        let values = d.terms(8);
        let middle = d.narrow.round(-values[0]);
        let spread = if values[0] > 1000.0 { 10000.0 } else { 1.0 };
        let spread = d.narrow.round(spread);
        let expected = values.iter().map(|x| (x - middle) / (spread + 1e-5).sqrt() * 0.5 + 1.0);
        let one = |value: f64| kept(&[1], &[value]);
        let inputs = vec![given(&[1, 1, 8], &values), one(0.5), one(1.0), one(middle), one(spread)];
        case(inputs, vec![], expected.collect())
    }),
    ("InstanceNormalization", |d| {
        let values = d.terms(d.count());
        rows(&values, &[1, 1, values.len()], 2, normalized(&values, 1e-5))
    }),
    ("GroupNormalization", |d| {
        let values = d.terms(d.count());
        let made = rows(&values, &[1, 1, values.len()], 2, normalized(&values, 1e-5));
        with(made, [int_attribute("num_groups", 1)])
    }),
    ("LayerNormalization", |d| {
        let values = d.terms(d.count());
        rows(&values, &[1, values.len()], values.len(), normalized(&values, 1e-5))
    }),
    ("RMSNormalization", |d| {
        let values = d.terms(d.count());
        let root = (squares(&values) / values.len() as f64 + 1e-5).sqrt();
        let expected = values.iter().map(|value| value / root).collect();
        let mut made = rows(&values, &[1, values.len()], values.len(), expected);
        made.inputs.truncate(2);
        made
    }),
    ("LpNormalization", |d| {
        let values = d.terms(d.count());
        let length = squares(&values).sqrt();
        let expected = values.iter().map(|value| value / length).collect();
        case(vec![given(&[1, values.len()], &values)], vec![], expected)
    }),
    ("LpNormalization", |d| {
        let values = d.terms(d.count());
        let length = sum(values.iter().map(|value| value.abs()));
        let expected = values.iter().map(|value| value / length).collect();
        case(vec![given(&[1, values.len()], &values)], vec![int_attribute("p", 1)], expected)
    }),
    ("MeanVarianceNormalization", |d| {
        // Here the addition is to the deviation, not to the variance.
        let values = d.terms(d.count());
        let (exact, middle) = (normalized(&values, 0.0), mean(&values));
        let deviation = (values[0] - middle) / exact[0];
        let expected = values.iter().map(|value| (value - middle) / (deviation + 1e-9)).collect();
        let axes = ints_attribute("axes", &[0, 2, 3]);
        case(vec![given(&[1, 1, 2, values.len() / 2], &values)], vec![axes], expected)
    }),
    ("LRN", |d| {
        let values = d.roots(if d.kind == Kind::Long { 512 } else { 32 });
        let n = values.len();
        let root = (1.0 + squares(&values) / (2 * n + 1) as f64).sqrt();
        let expected = values.iter().map(|value| value / root).collect();
        let attributes = vec![
            int_attribute("size", 2 * n as i64 + 1),
            float_attribute("alpha", 1.0),
            float_attribute("beta", 0.5),
            float_attribute("bias", 1.0),
        ];
        case(vec![given(&[1, n, 1, 1], &values)], attributes, expected)
    }),
    ("Softmax", |d| {
        let values = d.terms(d.count());
        let most = values.iter().copied().fold(f64::MIN, f64::max);
        let powers: Vec<f64> = values.iter().map(|value| (value - most).exp()).collect();
        let total = sum(powers.iter().copied());
        let expected = powers.iter().map(|power| power / total).collect();
        case(vec![given(&[1, values.len()], &values)], vec![], expected)
    }),
    ("LogSoftmax", |d| {
        let values = d.terms(d.count());
        let most = values.iter().copied().fold(f64::MIN, f64::max);
        let total = sum(values.iter().map(|value| (value - most).exp())).ln() + most;
        let expected = values.iter().map(|value| value - total).collect();
        case(vec![given(&[1, values.len()], &values)], vec![], expected)
    }),
    ("ReduceSum", |d| folded(d, d.terms(d.count()), |values| sum(values.iter().copied()))),
    ("ReduceMean", |d| folded(d, d.terms(d.count()), mean)),
    ("ReduceL1", |d| {
        folded(d, d.terms(d.count()), |values| sum(values.iter().map(|value| value.abs())))
    }),
    ("ReduceL2", |d| folded(d, d.roots(d.count()), |values| squares(values).sqrt())),
    ("ReduceSumSquare", |d| {
        // So that the sum of squares is below the greatest float16.
        let scale = if d.terms(1)[0] > 1000.0 { 1.0 / 128.0 } else { 1.0 };
        let values = d.roots(d.count());
        folded(d, values.iter().map(|v| d.narrow.round(v * scale)).collect(), squares)
    }),
    ("ReduceLogSum", |d| {
        let values: Vec<f64> = d.terms(d.count()).iter().map(|value| value.abs()).collect();
        folded(d, values, |values| sum(values.iter().copied()).ln())
    }),
    ("ReduceLogSumExp", |d| {
        folded(d, d.terms(d.count()), |values| {
            let most = values.iter().copied().fold(f64::MIN, f64::max);
            sum(values.iter().map(|value| (value - most).exp())).ln() + most
        })
    }),
    ("ReduceProd", |d| folded(d, factors(d), |values| values.iter().product())),
    ("CumSum", |d| {
        let values = d.terms(d.count());
        let zero = Input::Ints(vec![], vec![0]);
        case(vec![given(&[values.len()], &values), zero], vec![], running(&values, |a, b| a + b))
            .of(&values)
    }),
    ("CumProd", |d| {
        let values = factors(d);
        let zero = Input::Ints(vec![], vec![0]);
        case(vec![given(&[values.len()], &values), zero], vec![], running(&values, |a, b| a * b))
    }),
    ("LinearAttention", linear_attention),
    ("com.microsoft:LinearAttention", linear_attention),
    ("Attention", |d| attention(d, d.count(), 2)),
    ("Attention", |d| attention(d, 4, d.count().min(1024))),
    ("com.microsoft:GatedDeltaNet", |d| {
        // A batch of one sequence, whose state is the sum of the values so far.
        let n = d.count().min(512);
        let values = d.terms(n);
        let ones = || given(&[1, n, 1, 1], &vec![1.0; n]);
        let inputs = vec![ones(), ones(), given(&[1, n, 1, 1], &values)];
        let attributes =
            vec![float_attribute("scale", 1.0), string_attribute("update_rule", "linear")];
        case(inputs, attributes, running(&values, |a, b| a + b)).of(&values)
    }),
    ("com.microsoft:Attention", projected_attention),
    ("com.microsoft:GroupQueryAttention", group_query_attention),
    ("com.microsoft:SparseAttention", sparse_attention),
    ("com.microsoft:DecoderMaskedMultiHeadAttention", |d| multi_head_attention(d, d.count(), 2)),
    ("com.microsoft:DecoderMaskedMultiHeadAttention", |d| {
        multi_head_attention(d, 4, d.count().min(1024))
    }),
    ("com.microsoft:MultiHeadAttention", |d| multi_head_attention(d, d.count(), 2)),
    ("com.microsoft:MultiHeadAttention", |d| multi_head_attention(d, 4, d.count().min(1024))),
    ("com.microsoft:MRotaryEmbedding", |d| {
        let (values, turn) = (d.terms(8), [0.75, -0.75, 0.5, 1.0, 1.0, 0.75, -0.5, 0.25]);
        let (cos, sin) = turn.split_at(4);
        let positions = Input::Ints(vec![3, 1, 1], vec![0; 3]);
        let inputs =
            vec![given(&[1, 1, 8], &values), positions, kept(&[1, 4], cos), kept(&[1, 4], sin)];
        let sections = ints_attribute("mrope_section", &[2, 1, 1]);
        case(inputs, vec![sections], turned(&values, cos, sin)).of(&values)
    }),
    ("com.microsoft:RotaryEmbedding", |d| {
        let (values, turn) = (d.terms(8), [0.75, -0.75, 0.5, 1.0, 1.0, 0.75, -0.5, 0.25]);
        let (cos, sin) = turn.split_at(4);
        let inputs =
            vec![given(&[1, 1, 8], &values), ints(&[0]), kept(&[1, 4], cos), kept(&[1, 4], sin)];
        case(inputs, vec![], turned(&values, cos, sin)).of(&values)
    }),
    ("RotaryEmbedding", |d| {
        let (values, turn) = (d.terms(8), [0.75, -0.75, 0.5, 1.0, 1.0, 0.75, -0.5, 0.25]);
        let (cos, sin) = turn.split_at(4);
        let inputs =
            vec![given(&[1, 1, 1, 8], &values), kept(&[1, 1, 4], cos), kept(&[1, 1, 4], sin)];
        case(inputs, vec![], turned(&values, cos, sin)).of(&values)
    }),
    ("AffineGrid", |d| {
        let theta = d.terms(6);
        let mut expected = Vec::new();
        for (y, x) in [(-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0)] {
            expected.push(theta[0] * x + theta[1] * y + theta[2]);
            expected.push(theta[3] * x + theta[4] * y + theta[5]);
        }
        let inputs = vec![given(&[1, 2, 3], &theta), ints(&[1, 1, 2, 2])];
        case(inputs, vec![int_attribute("align_corners", 1)], expected).of(&theta)
    }),
    ("Det", |d| {
        let scale = if d.terms(1)[0] > 1000.0 { 1.0 / 128.0 } else { 1.0 };
        let values: Vec<f64> = d.terms(4).iter().map(|v| d.narrow.round(v * scale)).collect();
        let products = [values[0] * values[3], values[1] * values[2]];
        case(vec![given(&[2, 2], &values)], vec![], vec![products[0] - products[1]]).of(&products)
    }),
    ("NegativeLogLikelihoodLoss", |d| {
        let values = d.terms(d.count());
        let target = ints(&vec![0; values.len()]);
        case(vec![given(&[values.len(), 1], &values), target], vec![], vec![-mean(&values)])
            .of(&values)
    }),
    ("SoftmaxCrossEntropyLoss", |d| {
        let values = d.terms(d.count());
        let scores: Vec<f64> = values.iter().flat_map(|value| [*value, 0.0]).collect();
        let loss = |value: &f64| (-value.abs()).exp().ln_1p() + (-value).max(0.0);
        let expected = mean(&values.iter().map(loss).collect::<Vec<_>>());
        let target = ints(&vec![0; values.len()]);
        case(vec![given(&[values.len(), 2], &scores), target], vec![], vec![expected])
    }),
    ("DFT", |d| {
        let values = d.terms(d.count().min(512));
        let n = values.len();
        case(vec![given(&[1, n, 1], &values)], vec![], fourier(&values, n)).of(&values)
    }),
    ("STFT", |d| {
        let values = d.terms(d.count().min(512));
        let n = values.len();
        let length = |n: usize| Input::Ints(vec![], vec![n as i64]);
        let inputs = vec![given(&[1, n, 1], &values), length(n), Input::Missing, length(n)];
        case(inputs, vec![], fourier(&values, n / 2 + 1)).of(&values)
    }),
    ("GridSample", |d| {
        let values = d.terms(4);
        let inputs = vec![given(&[1, 1, 2, 2], &values), kept(&[1, 1, 1, 2], &[0.0, 0.0])];
        case(inputs, vec![int_attribute("align_corners", 1)], vec![mean(&values)]).of(&values)
    }),
    ("RoiAlign", |d| {
        let values = d.terms(4);
        let boxes = kept(&[1, 4], &[0.0, 0.0, 1.0, 1.0]);
        let attributes = vec![
            int_attribute("sampling_ratio", 1),
            string_attribute("coordinate_transformation_mode", "output_half_pixel"),
        ];
        case(
            vec![given(&[1, 1, 2, 2], &values), boxes, ints(&[0])],
            attributes,
            vec![mean(&values)],
        )
        .of(&values)
    }),
    ("Resize", |d| {
        let x = d.terms(2);
        let sizes = ints(&[1, 1, 1, 3]);
        let inputs = vec![given(&[1, 1, 1, 2], &x), Input::Missing, Input::Missing, sizes];
        let attributes = vec![
            string_attribute("mode", "linear"),
            string_attribute("coordinate_transformation_mode", "align_corners"),
        ];
        case(inputs, attributes, vec![x[0], mean(&x), x[1]]).of(&x)
    }),
    ("ScatterElements", |d| {
        let values = d.terms(d.count());
        let inputs = vec![
            given(&[1], &[0.0]),
            ints(&vec![0; values.len()]),
            given(&[values.len()], &values),
        ];
        let add = string_attribute("reduction", "add");
        case(inputs, vec![add], vec![sum(values.iter().copied())]).of(&values)
    }),
    ("ScatterND", |d| {
        let values = d.terms(d.count());
        let places = Input::Ints(vec![values.len() as i64, 1], vec![0; values.len()]);
        let inputs = vec![given(&[1], &[0.0]), places, given(&[values.len()], &values)];
        let add = string_attribute("reduction", "add");
        case(inputs, vec![add], vec![sum(values.iter().copied())]).of(&values)
    }),
    ("SimplifiedLayerNormalization", |d| {
        let values = d.terms(d.count());
        let root = (squares(&values) / values.len() as f64 + 1e-5).sqrt();
        let expected = values.iter().map(|value| value / root).collect();
        let mut made = rows(&values, &[1, values.len()], values.len(), expected);
        made.inputs.truncate(2);
        made
    }),
    ("com.microsoft:SkipSimplifiedLayerNormalization", |d| {
        let values = d.terms(d.count());
        let root = (squares(&values) / values.len() as f64 + 1e-5).sqrt();
        let expected = values.iter().map(|value| value / root).collect();
        skipped(&values, 3, expected)
    }),
    ("com.microsoft:GatedRMSNorm", |d| {
        // The sigmoid of a gate of zero is a half.
        let values = d.terms(d.count());
        let n = values.len();
        let root = (squares(&values) / n as f64 + 1e-5).sqrt();
        let expected = values.iter().map(|value| value / root / 2.0).collect();
        let inputs =
            vec![given(&[1, n], &values), kept(&[n], &vec![1.0; n]), kept(&[1, n], &vec![0.0; n])];
        case(inputs, vec![string_attribute("activation", "sigmoid")], expected)
    }),
    ("com.microsoft:SkipLayerNormalization", |d| {
        let values = d.terms(d.count());
        skipped(&values, 4, normalized(&values, 1e-5))
    }),
    ("com.microsoft:EmbedLayerNormalization", |d| {
        let values = d.terms(d.count());
        let table = [1, values.len()];
        // One word, with the number 0.
        let word = Input::Bytes(6, vec![1, 1], vec![0; 4]);
        let mut inputs = vec![word, Input::Missing, given(&table, &values)];
        inputs.extend([kept(&table, &vec![0.0; values.len()]), Input::Missing]);
        inputs.extend([1.0, 0.0].map(|each| kept(&[values.len()], &vec![each; values.len()])));
        case(inputs, vec![float_attribute("epsilon", 1e-5)], normalized(&values, 1e-5))
    }),
    ("com.microsoft:MatMulNBits", |d| {
        // The code of each weight is one above the zero point.
        let values = d.terms(d.count());
        let blocks = values.len() / 16;
        let weights = Input::Bytes(2, vec![1, blocks as i64, 8], vec![0x99; values.len() / 2]);
        let scales = kept(&[1, blocks], &vec![1.0; blocks]);
        let sizes = [("K", values.len() as i64), ("N", 1), ("block_size", 16), ("bits", 4)];
        let attributes = sizes.map(|(name, size)| int_attribute(name, size)).to_vec();
        let inputs = vec![given(&[1, values.len()], &values), weights, scales];
        case(inputs, attributes, vec![sum(values.iter().copied())]).of(&values)
    }),
    ("com.microsoft:GridSample", |d| {
        let values = d.terms(4);
        let inputs = vec![given(&[1, 1, 2, 2], &values), kept(&[1, 1, 1, 2], &[0.0, 0.0])];
        case(inputs, vec![int_attribute("align_corners", 1)], vec![mean(&values)]).of(&values)
    }),
    ("com.microsoft:CropAndResize", |d| {
        // The middle of four pixels.
        let values = d.terms(4);
        let boxes = kept(&[1, 4], &[0.0, 0.0, 1.0, 1.0]);
        let ints = |numbers: [i32; 2], count: usize| {
            let bytes = numbers[..count].iter().flat_map(|number| number.to_le_bytes());
            Input::Bytes(6, vec![count as i64], bytes.collect())
        };
        let inputs = vec![given(&[1, 1, 2, 2], &values), boxes, ints([0, 0], 1), ints([1, 1], 2)];
        case(inputs, vec![], vec![mean(&values)]).of(&values)
    }),
    ("RNN", |d| recurrent(d, 1, f64::tanh)),
    ("GRU", |d| recurrent(d, 3, |x| (1.0 - logistic(x)) * x.tanh())),
    ("LSTM", |d| recurrent(d, 4, |x| logistic(x) * (logistic(x) * x.tanh()).tanh())),
    ("com.microsoft:FusedMatMul", |d| dot(d, |n| vec![1, n], |n| vec![n, 1])),
    ("com.microsoft:FusedMatMul", |d| {
        with(dot(d, |n| vec![n, 1], |n| vec![n, 1]), [int_attribute("transA", 1)])
    }),
    ("com.microsoft:TransposeMatMul", |d| {
        with(dot(d, |n| vec![1, n], |n| vec![1, n]), [int_attribute("transB", 1)])
    }),
    ("com.microsoft:FusedConv", |d| {
        let mut made = dot(d, |n| vec![1, n, 1, 1], |n| vec![1, n, 1, 1]);
        let added = d.narrow.round(made.term / 4.0);
        made.inputs.extend([Input::Missing, kept(&[1, 1, 1, 1], &[added])]);
        made.expected[0] += added;
        made
    }),
    ("com.microsoft:FusedGemm", |d| {
        // An activation that changes nothing.
        let attributes =
            [string_attribute("activation", "LeakyRelu"), float_attribute("activation_alpha", 1.0)];
        with(dot(d, |n| vec![1, n], |n| vec![n, 1]), attributes)
    }),
    ("com.microsoft:MatMulBnb4", |d| {
        // Weights that are all one, times a factor for each block of 16.
        let n = d.count();
        let (values, factors) = (d.terms(n), d.weights(n / 16));
        let each = values.iter().enumerate().map(|(at, value)| value * factors[at / 16]);
        let terms: Vec<f64> = each.collect();
        let inputs = vec![
            given(&[1, n], &values),
            bytes(&[n / 2], &vec![0xff; n / 2]),
            kept(&[n / 16], &factors),
        ];
        let attributes = vec![
            int_attribute("K", n as i64),
            int_attribute("N", 1),
            int_attribute("block_size", 16),
            int_attribute("quant_type", 1),
        ];
        case(inputs, attributes, vec![sum(terms.iter().copied())]).of(&terms)
    }),
    ("com.microsoft:MoE", |d| {
        // One expert, whose second layer repeats the sum of the first.
        let n = d.count();
        let (values, weights) = (d.terms(n), d.weights(n));
        let terms = products(&values, &weights);
        let mut inputs = vec![given(&[1, n], &values), kept(&[1, 1], &[0.0])];
        inputs.extend([
            kept(&[1, 1, n], &weights),
            Input::Missing,
            kept(&[1, n, 1], &vec![1.0; n]),
        ]);
        let attributes = vec![string_attribute("activation_type", "identity")];
        case(inputs, attributes, vec![sum(terms.iter().copied()); n]).of(&terms)
    }),
    ("com.microsoft:QMoE", |d| {
        // The same, with codes that are one above the zero point.
        let n = d.count();
        let values = d.terms(n);
        let mut inputs = vec![given(&[1, n], &values), kept(&[1, 1], &[0.0])];
        inputs.extend([bytes(&[1, 1, n], &vec![129; n]), kept(&[1, 1], &[1.0]), Input::Missing]);
        inputs.extend([bytes(&[1, n, 1], &vec![129; n]), kept(&[1, n], &vec![1.0; n])]);
        let attributes = vec![
            string_attribute("activation_type", "identity"),
            int_attribute("expert_weight_bits", 8),
        ];
        case(inputs, attributes, vec![sum(values.iter().copied()); n]).of(&values)
    }),
    ("com.microsoft:QAttention", |d| {
        // Keys that are all zero: the mean of the past values and of one that is zero.
        let n = d.count().min(1024);
        let values = d.terms(n);
        let mut past = vec![0.0; n];
        past.extend(&values);
        let mut inputs = vec![bytes(&[1, 1, 1], &[0]), bytes(&[1, 3], &[0; 3])];
        inputs.extend([kept(&[3], &[0.0; 3]), kept(&[], &[1.0]), kept(&[], &[1.0])]);
        inputs.extend([Input::Missing, Input::Missing, Input::Missing]);
        inputs.push(given(&[2, 1, 1, n, 1], &past));
        let expected = sum(values.iter().copied()) / (n + 1) as f64;
        case(inputs, vec![int_attribute("num_heads", 1)], vec![expected]).of(&values)
    }),
];
