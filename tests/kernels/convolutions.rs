//! Convolutions, and operators that are fused into them.

use belljar::policy::Kernels;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::compare::{Net, cases, policy, same};
use crate::support::onnx::{Message, int_attribute, ints_attribute, string_attribute};

/// The padding of an image.
#[derive(Clone, Debug)]
enum Padding {
    Each(Vec<i64>),
    Auto(&'static str),
}

/// An operation on a tensor of images.
#[derive(Clone, Copy, Debug)]
enum Next {
    BatchNormalization,
    Relu,
    Clip(f32, f32),
    /// A number for each channel; whether it comes first.
    Scale(bool),
    Shift(bool),
    /// One number for all.
    AddOne(f32),
    /// Another whole tensor; whether it comes first.
    AddTensor(bool),
    MulTensor,
    /// A tensor of size 1 along the channels, which is broadcast.
    AddPlane,
    /// The input of the convolution, if it has the same shape.
    AddItsInput(bool),
    /// The same value again.
    ReadTwice,
    IsOutput,
}

#[derive(Clone, Debug)]
struct Convolution {
    batch: i64,
    groups: i64,
    /// Number of channels of a group.
    channels: (i64, i64),
    /// One or two sizes of the image; sizes too small for the filter are increased.
    sizes: Vec<i64>,
    kernel: Vec<i64>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    padding: Padding,
    bias: bool,
    before: Vec<Next>,
    after: Vec<Next>,
}

impl Convolution {
    fn plain(sizes: &[i64], channels: (i64, i64), kernel: &[i64]) -> Convolution {
        let ones = vec![1; sizes.len()];
        Convolution {
            batch: 1,
            groups: 1,
            channels,
            sizes: sizes.to_vec(),
            kernel: kernel.to_vec(),
            strides: ones.clone(),
            dilations: ones,
            padding: Padding::Each(vec![0; 2 * sizes.len()]),
            bias: true,
            before: vec![],
            after: vec![],
        }
    }

    fn net(&self) -> Net {
        let mut net = Net::new();
        let rank = self.sizes.len();
        let reach = |axis: usize| (self.kernel[axis] - 1) * self.dilations[axis] + 1;
        let sizes: Vec<i64> =
            self.sizes.iter().enumerate().map(|(axis, size)| reach(axis).max(*size)).collect();
        let dims = [vec![self.batch, self.groups * self.channels.0], sizes.clone()].concat();
        let input = net.input(&dims);
        let read = self
            .before
            .iter()
            .fold(input.clone(), |value, next| step(&mut net, *next, &value, &dims, None));
        // tract refuses horizontal padding with filters of one column, see below.
        let mut padding = self.padding.clone();
        if let Padding::Each(pads) = &mut padding
            && rank == 2
            && self.kernel[1] == 1
        {
            (pads[1], pads[3]) = (0, 0);
        }
        let out: Vec<i64> = (0..rank)
            .map(|axis| match &padding {
                Padding::Each(pads) => {
                    let padded = sizes[axis] + pads[axis] + pads[axis + rank];
                    (padded - reach(axis)) / self.strides[axis] + 1
                }
                Padding::Auto("VALID") => (sizes[axis] - reach(axis)) / self.strides[axis] + 1,
                Padding::Auto(_) => (sizes[axis] + self.strides[axis] - 1) / self.strides[axis],
            })
            .collect();
        let mut attributes: Vec<Message> = vec![
            int_attribute("group", self.groups),
            ints_attribute("kernel_shape", &self.kernel),
            ints_attribute("strides", &self.strides),
            ints_attribute("dilations", &self.dilations),
        ];
        attributes.push(match &padding {
            Padding::Each(pads) => ints_attribute("pads", pads),
            Padding::Auto(how) => string_attribute("auto_pad", how),
        });
        let filters = self.groups * self.channels.1;
        let weights = net.constant(&[vec![filters, self.channels.0], self.kernel.clone()].concat());
        let bias = self.bias.then(|| net.constant(&[filters]));
        let inputs: Vec<&str> = [&*read, &*weights].into_iter().chain(bias.as_deref()).collect();
        let mut value = net.op("Conv", &inputs, &attributes);
        let result = [vec![self.batch, filters], out].concat();
        let same = (dims == result).then_some(&*read);
        for next in &self.after {
            value = step(&mut net, *next, &value, &result, same);
        }
        net.output(&value);
        net
    }

    #[track_caller]
    fn agrees(&self) {
        self.net().agrees(&["NativeConv"]);
    }
}

/// Applies an operation to a value of these dimensions.
fn step(net: &mut Net, next: Next, value: &str, dims: &[i64], input: Option<&str>) -> String {
    let ones = vec![1; dims.len() - 2];
    let channels = dims[1];
    let ordered = |first: bool, other: &str| match first {
        true => [other.to_owned(), value.to_owned()],
        false => [value.to_owned(), other.to_owned()],
    };
    let binary = |net: &mut Net, op: &str, [a, b]: [String; 2]| net.op(op, &[&a, &b], &[]);
    match next {
        Next::BatchNormalization => {
            let [scale, shift, mean] = [(); 3].map(|()| net.constant(&[channels]));
            let variance: Vec<f32> =
                net.numbers(channels as usize).iter().map(|number| number + 1.5).collect();
            let variance = net.constant_of(&[channels], &variance);
            net.op("BatchNormalization", &[value, &scale, &shift, &mean, &variance], &[])
        }
        Next::Relu => net.op("Relu", &[value], &[]),
        Next::Clip(low, high) => {
            let (low, high) = (net.constant_of(&[], &[low]), net.constant_of(&[], &[high]));
            net.op("Clip", &[value, &low, &high], &[])
        }
        Next::Scale(first) => {
            let factors = net.constant(&[vec![1, channels], ones].concat());
            binary(net, "Mul", ordered(first, &factors))
        }
        Next::Shift(first) => {
            // Without the batch dimension.
            let summands = net.constant(&[vec![channels], ones].concat());
            binary(net, "Add", ordered(first, &summands))
        }
        Next::AddOne(number) => {
            let number = net.constant_of(&[], &[number]);
            net.op("Add", &[value, &number], &[])
        }
        Next::AddTensor(first) => {
            let other = net.input(dims);
            binary(net, "Add", ordered(first, &other))
        }
        Next::MulTensor => {
            let other = net.input(dims);
            net.op("Mul", &[value, &other], &[])
        }
        Next::AddPlane => {
            let other = net.input(&[&[1, 1], &dims[2..]].concat());
            net.op("Add", &[value, &other], &[])
        }
        Next::AddItsInput(first) => match input {
            Some(input) => binary(net, "Add", ordered(first, input)),
            None => value.to_owned(),
        },
        Next::ReadTwice => {
            let other = net.op("Sigmoid", &[value], &[]);
            net.op("Mul", &[value, &other], &[])
        }
        Next::IsOutput => {
            // An input must not be an output, and an output must not be listed twice.
            if !net.has_output() && input.is_none_or(|input| input != value) {
                let other = net.op("Identity", &[value], &[]);
                net.output(&other);
            }
            value.to_owned()
        }
    }
}

fn next() -> impl Strategy<Value = Next> {
    prop_oneof![
        3 => Just(Next::BatchNormalization),
        3 => Just(Next::Relu),
        2 => (-1.0f32..0.5, 0.0f32..1.5).prop_map(|(low, more)| Next::Clip(low, low + more)),
        2 => any::<bool>().prop_map(Next::Scale),
        2 => any::<bool>().prop_map(Next::Shift),
        1 => (-1.0f32..1.0).prop_map(Next::AddOne),
        2 => any::<bool>().prop_map(Next::AddTensor),
        1 => Just(Next::MulTensor),
        1 => Just(Next::AddPlane),
        2 => any::<bool>().prop_map(Next::AddItsInput),
        1 => Just(Next::ReadTwice),
        1 => Just(Next::IsOutput),
    ]
}

prop_compose! {
    fn convolution()(rank in 1..3usize, depthwise in prop::bool::weighted(0.3))(
        batch in 1..4i64,
        groups in if depthwise { 1..20i64 } else { 1..4i64 },
        channels in if depthwise { (1..2i64, 1..3i64) } else { (1..9i64, 1..20i64) },
        sizes in vec(1..20i64, rank),
        kernel in vec(1..5i64, rank),
        strides in vec(1..4i64, rank),
        dilations in vec(prop_oneof![2 => Just(1i64), 1 => 2..4i64], rank),
        padding in prop_oneof![
            2 => vec(0..4i64, 2 * rank).prop_map(Padding::Each),
            1 => prop::sample::select(vec!["SAME_UPPER", "SAME_LOWER", "VALID"])
                .prop_map(Padding::Auto),
        ],
        bias in any::<bool>(),
        before in vec(next(), 0..3),
        after in vec(next(), 0..5),
    ) -> Convolution {
        Convolution {
            batch, groups, channels, sizes, kernel, strides, dilations, padding, bias, before,
            after,
        }
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn any_convolution(convolution in convolution()) {
        convolution.agrees();
    }

    /// The same channels and size before and after, so that the input can be added.
    #[test]
    fn any_residual_block(
        (batch, groups, channels, depthwise) in (1..3i64, 1..3i64, 1..20i64, any::<bool>()),
        sizes in vec(1..15i64, 2),
        half in 0..3i64,
        (before, after) in (vec(next(), 0..4), vec(next(), 0..5)),
        at in 0..5usize,
        first in any::<bool>(),
    ) {
        let groups = if depthwise { channels } else { groups };
        let channels = if depthwise { 1 } else { channels };
        let mut after = after;
        after.insert(at.min(after.len()), Next::AddItsInput(first));
        let sizes: Vec<i64> = sizes.iter().map(|size| size + 2 * half).collect();
        Convolution {
            batch,
            groups,
            padding: Padding::Each(vec![half; 4]),
            before,
            after,
            ..Convolution::plain(&sizes, (channels, channels), &[2 * half + 1; 2])
        }
        .agrees();
    }
}

#[test]
fn operators_fused_into_a_convolution() {
    use Next::*;
    let nexts: &[&[Next]] = &[
        &[],
        &[BatchNormalization],
        &[BatchNormalization, Relu],
        &[Relu, BatchNormalization],
        &[Clip(0.0, 6.0)],
        &[Clip(-0.5, 0.25), Clip(0.0, 1.0)],
        &[Clip(0.5, 0.75), Relu, Clip(-1.0, 0.6)],
        &[Scale(false), Shift(true)],
        &[Shift(false), Scale(true), Relu],
        &[AddTensor(false), Relu],
        &[AddTensor(true), Relu],
        &[AddTensor(true), AddTensor(false), Relu],
        &[AddTensor(true), BatchNormalization, Relu],
        &[BatchNormalization, AddTensor(false), Clip(-0.1, 0.1), AddTensor(false)],
        &[Relu, AddTensor(false)],
        &[AddPlane, Relu],
        &[MulTensor, AddOne(0.5)],
        &[AddItsInput(false)],
        &[AddItsInput(true), Relu],
        &[AddItsInput(false), AddItsInput(true)],
        &[ReadTwice],
        &[ReadTwice, AddItsInput(false)],
        &[IsOutput, Relu],
        &[BatchNormalization, IsOutput, AddItsInput(true)],
        &[AddTensor(false), IsOutput, Relu],
    ];
    for after in nexts {
        for (groups, channels) in [(1, 9), (3, 3), (9, 1)] {
            Convolution {
                groups,
                padding: Padding::Each(vec![1; 4]),
                after: after.to_vec(),
                ..Convolution::plain(&[7, 9], (channels, channels), &[3, 3])
            }
            .agrees();
        }
    }
}

/// Padding is zero even if the image is scaled and shifted before.
#[test]
fn padding_stays_zero_after_a_scaled_input() {
    use Next::*;
    let befores: &[&[Next]] = &[
        &[BatchNormalization],
        &[BatchNormalization, Relu],
        &[Shift(false), Relu],
        &[AddOne(1.0), Relu],
        &[Scale(true), Shift(true), Clip(0.25, 2.0)],
        &[AddTensor(false), BatchNormalization, Relu],
        &[BatchNormalization, Relu, AddItsInput(false)],
        &[BatchNormalization, Clip(0.5, f32::INFINITY)],
        &[BatchNormalization, IsOutput, Relu],
    ];
    for before in befores {
        for (groups, channels, kernel) in [(1, 6, 3), (2, 3, 2), (6, 1, 3), (1, 6, 1)] {
            for pads in [[1, 1, 1, 1], [0, 2, 1, 0], [2, 0, 0, 0]] {
                Convolution {
                    batch: 2,
                    groups,
                    padding: Padding::Each(pads.to_vec()),
                    before: before.to_vec(),
                    after: vec![Relu],
                    ..Convolution::plain(&[6, 5], (channels, 4.min(channels)), &[kernel; 2])
                }
                .agrees();
            }
        }
    }
}

/// Filters of one column with horizontal padding, which is a part of the input or added by the
/// convolution.
fn one_column_and_padding(in_the_input: bool) -> Net {
    let (rows, columns, before, after) = (5, 4, 1, 2);
    let mut net = Net::new();
    let image = net.numbers(2 * rows * columns);
    let (input, pads) = if in_the_input {
        let padded = image.chunks_exact(columns).flat_map(|row| {
            let zeros = |count| std::iter::repeat_n(0.0, count);
            zeros(before).chain(row.iter().copied()).chain(zeros(after)).collect::<Vec<f32>>()
        });
        let padded: Vec<f32> = padded.collect();
        let width = (before + columns + after) as i64;
        (net.input_of(&[1, 2, rows as i64, width], padded), [0; 4])
    } else {
        let pads = [0, before as i64, 0, after as i64];
        (net.input_of(&[1, 2, rows as i64, columns as i64], image), pads)
    };
    let weights = net.constant(&[3, 2, 2, 1]);
    let result = net.op("Conv", &[&input, &weights], &[ints_attribute("pads", &pads)]);
    net.output(&result);
    net
}

#[test]
fn filters_of_one_column_with_horizontal_padding() {
    let native = one_column_and_padding(false).run(&policy(Kernels::Native)).unwrap();
    let sandbox = one_column_and_padding(true).run(&policy(Kernels::Sandbox)).unwrap();
    assert!(native.plan.contains("NativeConv"), "{}", native.plan);
    same(&native.outputs, &sandbox.outputs, false);
}

// tract 0.23.9 uses its "blocked-conv" for such filters on WebAssembly, which does not support
// horizontal padding, so it refuses the model. Native kernels support it.
#[test]
#[ignore = "tract refuses this model without native kernels"]
fn filters_of_one_column_with_horizontal_padding_in_the_sandbox() {
    one_column_and_padding(false).agrees(&["NativeConv"]);
}

#[test]
fn transposed_convolutions_compute_their_products_natively() {
    for (batch, groups, kernel, strides, pads) in [
        (1, 1, [2, 2], [2, 2], [0, 0, 0, 0]),
        (2, 1, [3, 3], [2, 2], [1, 1, 1, 1]),
        (1, 2, [3, 2], [1, 2], [0, 1, 1, 0]),
        (3, 2, [1, 1], [1, 1], [0, 0, 0, 0]),
    ] {
        for constant in [true, false] {
            let mut net = Net::new();
            let x = net.input(&[batch, 4 * groups, 9, 11]);
            let dims = [4 * groups, 6, kernel[0], kernel[1]];
            let w = if constant { net.constant(&dims) } else { net.input(&dims) };
            let result = net.op(
                "ConvTranspose",
                &[&x, &w],
                &[
                    int_attribute("group", groups),
                    ints_attribute("strides", &strides),
                    ints_attribute("pads", &pads),
                ],
            );
            net.output(&result);
            // The kernel has no products of one left operand with a batch of right ones.
            net.agrees(if groups == 1 && batch == 1 { &["NativeGemm"] } else { &[] });
        }
    }
}
