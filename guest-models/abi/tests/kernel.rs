//! Requests to native kernels round-trip, and malformed ones are refused.

use belljar_abi::kernel::{
    Conv, Dims, KERNEL_RANK, Kernel, MAX_KERNEL_WORDS, MAX_POINTWISE_INPUTS, MAX_POINTWISE_STEPS,
    Pointwise, PointwiseInput, PointwiseStep, Step,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// Small numbers and limits.
fn word() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => 0..64u32,
        1 => prop::sample::select(vec![u32::MAX, 1 << 31, (1 << 31) - 1, 1 << 16]),
        1 => any::<u32>(),
    ]
}

fn dims() -> impl Strategy<Value = Dims> {
    prop::array::uniform5(word())
}

/// A request without lists: any words of its length are one.
fn plain() -> impl Strategy<Value = Kernel> {
    let mut plain = Vec::new();
    for kernel in Kernel::defaults() {
        match &kernel {
            Kernel::Conv(_)
            | Kernel::Gemm(_)
            | Kernel::IntegerGemm(_)
            | Kernel::IntegerConv(_)
            | Kernel::Quantize(_)
            | Kernel::Dequantize(_)
            | Kernel::BlockGemm(_)
            | Kernel::Pool(_)
            | Kernel::Reduce(_)
            | Kernel::Softmax(_)
            | Kernel::Permute(_)
            | Kernel::Convert(_) => plain.push((kernel.number(), kernel.encode().len())),
            Kernel::Pointwise(_) => {}
        }
    }
    (prop::sample::select(plain), vec(word(), 64)).prop_map(|((number, len), mut words)| {
        words[0] = number;
        words.truncate(len);
        Kernel::decode(words).expect("any words are such a request")
    })
}

fn pointwise() -> impl Strategy<Value = Kernel> {
    let inputs = vec((word(), dims()), 1..=MAX_POINTWISE_INPUTS);
    let index = any::<prop::sample::Index>;
    let steps =
        vec((prop::sample::select(&Step::ALL[..]), index(), index()), 1..=MAX_POINTWISE_STEPS);
    (dims(), word(), inputs, steps).prop_map(|(dims, output, inputs, steps)| {
        let inputs: Vec<_> = inputs
            .into_iter()
            .map(|(address, strides)| PointwiseInput { address, strides })
            .collect();
        let steps = steps
            .into_iter()
            .enumerate()
            .map(|(at, (step, a, b))| {
                // An input, or the result of a step before.
                let operand = |index: prop::sample::Index| match index.index(inputs.len() + at) {
                    input if input < inputs.len() => input as u32,
                    result => (result - inputs.len() + MAX_POINTWISE_INPUTS) as u32,
                };
                PointwiseStep { step, a: operand(a), b: operand(b) }
            })
            .collect();
        Kernel::Pointwise(Pointwise { dims, output, inputs, steps })
    })
}

fn kernel() -> impl Strategy<Value = Kernel> {
    prop_oneof![plain(), pointwise()]
}

proptest! {
    #[test]
    fn requests_round_trip(kernel in kernel()) {
        let words = kernel.encode();
        prop_assert!(words.len() <= MAX_KERNEL_WORDS);
        prop_assert_eq!(Kernel::decode(words), Some(kernel));
    }

    #[test]
    fn truncated_or_extended_requests_are_refused(kernel in kernel(), more in vec(any::<u32>(), 1..4)) {
        let words = kernel.encode();
        for len in 0..words.len() {
            prop_assert_eq!(Kernel::decode(words[..len].iter().copied()), None, "cut to {}", len);
        }
        prop_assert_eq!(Kernel::decode(words.into_iter().chain(more)), None);
    }

    /// An accepted request has exactly one encoding.
    #[test]
    fn changed_requests_do_not_panic(
        kernel in kernel(),
        changes in vec((any::<prop::sample::Index>(), word()), 1..5),
    ) {
        let mut words = kernel.encode();
        for (at, word) in changes {
            let at = at.index(words.len());
            words[at] = word;
        }
        if let Some(kernel) = Kernel::decode(words.iter().copied()) {
            prop_assert_eq!(kernel.encode(), words);
        }
    }

    #[test]
    fn arbitrary_words_do_not_panic(number in 0..16u32, words in vec(word(), 0..300)) {
        let words: Vec<u32> = [number].into_iter().chain(words).collect();
        if let Some(kernel) = Kernel::decode(words.iter().copied()) {
            prop_assert_eq!(kernel.encode(), words);
        }
    }
}

/// Requests of a guest and profiles of a host have these numbers.
#[test]
fn each_kernel_has_its_own_number_and_name() {
    let found = Kernel::defaults().map(|kernel| kernel.number());
    let named = found.map(|number| (number, Kernel::name_of(number).unwrap()));
    let expected = [
        (1, "Conv"),
        (2, "Gemm"),
        (3, "Pool"),
        (4, "Reduce"),
        (5, "Softmax"),
        (6, "Permute"),
        (7, "Pointwise"),
        (8, "IntegerGemm"),
        (9, "IntegerConv"),
        (10, "BlockGemm"),
        (11, "Convert"),
        (14, "Quantize"),
        (15, "Dequantize"),
    ];
    assert_eq!(named, expected);
    for unknown in [0, 1 + found.into_iter().max().unwrap(), u32::MAX] {
        assert_eq!(Kernel::name_of(unknown), None);
    }
}

#[test]
fn the_longest_request_is_within_bounds() {
    let longest = Pointwise {
        dims: [u32::MAX; KERNEL_RANK],
        output: u32::MAX,
        inputs: vec![PointwiseInput::default(); MAX_POINTWISE_INPUTS],
        steps: vec![PointwiseStep { step: Step::Add, a: 0, b: 0 }; MAX_POINTWISE_STEPS],
    };
    let words = |program: &Pointwise| Kernel::Pointwise(program.clone()).encode();
    assert!(words(&longest).len() <= MAX_KERNEL_WORDS);
    assert!(Kernel::decode(words(&longest)).is_some());
    let mut inputs = longest.clone();
    inputs.inputs.push(PointwiseInput::default());
    assert_eq!(Kernel::decode(words(&inputs)), None);
    let mut steps = longest.clone();
    steps.steps.push(longest.steps[0]);
    assert_eq!(Kernel::decode(words(&steps)), None);
    let nothing = Pointwise { steps: vec![], ..longest };
    assert_eq!(Kernel::decode(words(&nothing)), None);
}

#[test]
fn operands_come_before_their_step() {
    let program = |a: u32| Pointwise {
        inputs: vec![PointwiseInput::default(); 2],
        steps: vec![
            PointwiseStep { step: Step::Neg, a: 1, b: 1 },
            PointwiseStep { step: Step::Add, a, b: 0 },
        ],
        ..Pointwise::default()
    };
    let known = |a| Kernel::decode(Kernel::Pointwise(program(a)).encode()).is_some();
    let results = MAX_POINTWISE_INPUTS as u32;
    assert!(known(1) && known(results));
    for unknown in [2, results - 1, results + 1, results + 2, u32::MAX] {
        assert!(!known(unknown), "{unknown}");
    }
}

proptest! {
    /// Host and guest both swap rows and columns before they compute sizes; the host does so twice.
    #[test]
    fn swapping_rows_and_columns_of_a_convolution_twice_changes_nothing(
        sizes in prop::array::uniform8(1..4u32), strides in prop::array::uniform4(1..9u32),
        pads in (0..2u32, 0..2u32), channels in (1..3u32, 1..3u32),
    ) {
        let conv = Conv {
            channels_in: channels.0, channels_out: channels.1, in_h: sizes[0], in_w: sizes[1],
            out_h: sizes[2], out_w: sizes[3], kernel_h: sizes[4], kernel_w: sizes[5],
            stride_h: strides[0], stride_w: strides[1], dilation_h: sizes[6], dilation_w: sizes[7],
            pad_top: pads.0, pad_left: pads.1, row_stride: strides[2], column_stride: strides[3],
            ..Conv::default()
        };
        let laid = conv.on_its_side();
        prop_assert_eq!(laid.on_its_side(), laid);
        prop_assert_eq!(laid.scratch_bytes(), conv.scratch_bytes());
    }
}
