//! Tests operands and results of narrow floats: a request with them computes what the same request
//! computes with the wide numbers, rounded where it says so, bit for bit.

use belljar_abi::kernel::*;
use belljar_abi::narrow::Narrow;
use proptest::prelude::*;

use super::convolutions::{convolutions, packed};
use super::products::panels;
use super::{MARK, Memory, infinite, random};
use crate::operations::Refused;
use crate::product::clamp;
use crate::{InstructionSet, Watch};

const BOTH: [Narrow; 2] = [Narrow::F16, Narrow::Bf16];

fn types() -> impl Strategy<Value = Option<Narrow>> {
    prop::sample::select(vec![None, Some(Narrow::F16), Some(Narrow::Bf16)])
}

fn rounded(narrow: Option<Narrow>, value: f32) -> f32 {
    narrow.map_or(value, |narrow| narrow.round(value))
}

impl Memory {
    fn place_narrow(&mut self, narrow: Option<Narrow>, values: &[f32]) -> u32 {
        let Some(narrow) = narrow else { return self.place(values) };
        let codes = |pair: &[f32]| {
            let code = |at: usize| pair.get(at).map_or(0, |value| narrow.encode(*value));
            f32::from_bits(u32::from(code(0)) | u32::from(code(1)) << 16)
        };
        let words: Vec<f32> = values.chunks(2).map(codes).collect();
        self.place(&words)
    }

    /// The result of a request, as bits.
    fn result(&mut self, request: &Kernel, output: u32, count: usize, watch: &Watch) -> Vec<u32> {
        let output = output as usize / 4;
        self.words[output..output + count].fill(MARK);
        self.run(request, watch).unwrap();
        self.words[output..output + count].to_vec()
    }
}

fn each_watch() -> impl Iterator<Item = Watch> {
    let sets = InstructionSet::available().into_iter();
    sets.flat_map(|set| {
        [1, 3].map(|threads| {
            let watch = Watch::new(set, threads).unwrap();
            watch.scratch().plant(f32::from_bits(MARK));
            watch
        })
    })
}

/// Numbers that a narrow type has.
fn numbers(seed: &mut u64, count: usize, narrow: Option<Narrow>) -> Vec<f32> {
    random(seed, count).into_iter().map(|value| rounded(narrow, value)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn narrow_products_are_those_of_the_wide_numbers(
        m in 1..40u32, n in 1..120u32, k in prop_oneof![1..30u32, 380..400u32], types in (types(), types(), types()),
        mut seed in 1..u64::MAX, biased in any::<bool>(), clamped in any::<bool>(),
    ) {
        let (b_type, round_sum, round) = types;
        let (low, high) = if clamped { ((-0.25f32).to_bits(), 0.5f32.to_bits()) } else { infinite() };
        let a = random(&mut seed, (m * k) as usize);
        let b = numbers(&mut seed, (k * n) as usize, b_type);
        let bias = random(&mut seed, n as usize);
        let panels = panels([n, k], &b, [n, 1]);
        let mut memory = Memory::new(256 << 10);
        let (low_all, high_all) = infinite();
        let wide = Gemm {
            batch: 1, m, n, k, a: memory.place(&a), a_row_stride: k, a_step_stride: 1,
            b: memory.place(&panels), b_column_stride: 1, low: low_all, high: high_all,
            output: memory.place(&vec![0.0; (m * n) as usize]), ..Gemm::default()
        };
        let narrow = Gemm {
            b: memory.place_narrow(b_type, &panels), b_type: Narrow::to_word(b_type),
            round_sum: Narrow::to_word(round_sum), round: Narrow::to_word(round),
            bias: if biased { memory.place(&bias) } else { 0 }, low, high, ..wide
        };
        let count = (m * n) as usize;
        for watch in each_watch() {
            let sums = memory.result(&Kernel::Gemm(wide), wide.output, count, &watch);
            let expected: Vec<u32> = sums.iter().enumerate().map(|(at, sum)| {
                let bias = if biased { bias[at % n as usize] } else { 0.0 };
                let sum = rounded(round_sum, f32::from_bits(*sum)) + bias;
                clamp(rounded(round, sum), f32::from_bits(low), f32::from_bits(high)).to_bits()
            }).collect();
            let found = memory.result(&Kernel::Gemm(narrow), wide.output, count, &watch);
            prop_assert_eq!(&found, &expected, "{:?}", watch.set());
        }
    }

    #[test]
    fn narrow_convolutions_are_those_of_the_wide_numbers(
        c in convolutions(), types in (types(), types(), types()), mut seed in 1..u64::MAX,
        with in any::<(bool, bool)>(),
    ) {
        let (weights_type, round_sum, round) = types;
        let by_channel = c.channels_in == 1 && c.channels_out == 1;
        let weights_type = weights_type.filter(|_| !by_channel);
        let outputs = (c.batch * c.groups * c.channels_out * c.out_h * c.out_w) as usize;
        let channels = (c.groups * c.channels_out) as usize;
        let steps = (c.channels_in * c.kernel_h * c.kernel_w) as usize;
        let input = random(&mut seed, (c.batch * c.batch_stride) as usize);
        let weights = packed(&c, &numbers(&mut seed, channels * steps, weights_type));
        let (bias, more) = (random(&mut seed, channels), random(&mut seed, outputs));
        let total = input.len() + 2 * weights.len() + channels + 2 * outputs;
        let mut memory = Memory::new((total + 2048).next_multiple_of(16 << 10));
        let (low, high) = infinite();
        let wide = Conv {
            input: memory.place(&input), weights: memory.place(&weights),
            bias: if with.0 { memory.place(&bias) } else { 0 },
            low, high, output: memory.place(&vec![0.0; outputs]), ..c
        };
        let narrow = Conv {
            weights: memory.place_narrow(weights_type, &weights), weights_type: Narrow::to_word(weights_type),
            round_sum: Narrow::to_word(round_sum), round: Narrow::to_word(round),
            residual: if with.1 { memory.place(&more) } else { 0 }, low: c.low, high: c.high, ..wide
        };
        for watch in each_watch() {
            let sums = memory.result(&Kernel::Conv(wide), wide.output, outputs, &watch);
            let expected: Vec<u32> = sums.iter().zip(&more).map(|(sum, more)| {
                let sum = rounded(round_sum, f32::from_bits(*sum));
                let sum = rounded(round, if with.1 { sum + more } else { sum });
                clamp(sum, f32::from_bits(c.low), f32::from_bits(c.high)).to_bits()
            }).collect();
            let found = memory.result(&Kernel::Conv(narrow), wide.output, outputs, &watch);
            prop_assert_eq!(&found, &expected, "{:?}", watch.set());
        }
    }

    #[test]
    fn scaled_inputs_of_convolutions_are_rounded(c in convolutions(), narrow in types(), mut seed in 1..u64::MAX) {
        let outputs = (c.batch * c.groups * c.channels_out * c.out_h * c.out_w) as usize;
        let (channels, inputs) = (c.groups * c.channels_out, (c.groups * c.channels_in) as usize);
        let steps = (c.channels_in * c.kernel_h * c.kernel_w) as usize;
        let input = random(&mut seed, (c.batch * c.batch_stride) as usize);
        let weights = packed(&c, &random(&mut seed, channels as usize * steps));
        let (scale, shift) = (random(&mut seed, inputs), random(&mut seed, inputs));
        let total = 2 * input.len() + weights.len() + outputs + 2 * inputs;
        let mut memory = Memory::new((total + 2048).next_multiple_of(16 << 10));
        let (low, high) = infinite();
        let plain = Conv {
            weights: memory.place(&weights), low, high, output: memory.place(&vec![0.0; outputs]), ..c
        };
        let scaled = Conv {
            input: memory.place(&input), scale: memory.place(&scale), shift: memory.place(&shift),
            round_scaled: Narrow::to_word(narrow), least: 0, ..plain
        };
        let before = memory.place(&input);
        for watch in each_watch() {
            for (at, value) in input.iter().enumerate() {
                let channel = at as u32 % c.batch_stride / c.channel_stride % inputs as u32;
                let (scale, shift) = (scale[channel as usize], shift[channel as usize]);
                let sum = match watch.set() {
                    InstructionSet::PORTABLE => value * scale + shift,
                    _ => value.mul_add(scale, shift),
                };
                memory.words[before as usize / 4 + at] = rounded(narrow, sum).max(0.0).to_bits();
            }
            let plain = Conv { input: before, ..plain };
            let expected = memory.result(&Kernel::Conv(plain), plain.output, outputs, &watch);
            let found = memory.result(&Kernel::Conv(scaled), plain.output, outputs, &watch);
            let numbers = |bits: &[u32]| bits.iter().map(|bits| f32::from_bits(*bits)).collect::<Vec<_>>();
            prop_assert_eq!(numbers(&found), numbers(&expected), "{:?}", watch.set());
        }
    }

    #[test]
    fn conversions_are_those_of_the_sandbox(count in 1..200usize, bits in prop::collection::vec(any::<u32>(), 200)) {
        for narrow in BOTH {
            let values: Vec<f32> = bits[..count].iter().map(|bits| f32::from_bits(*bits)).collect();
            let codes: Vec<u16> = values.iter().map(|value| narrow.encode(*value)).collect();
            let mut memory = Memory::new(16 << 10);
            let input = memory.place(&values);
            let middle = memory.place(&values);
            let output = memory.place(&values);
            let word = Narrow::to_word(Some(narrow));
            let to = Convert { count: count as u32, from: 0, to: word, input, output: middle };
            let back = Convert { from: word, to: 0, input: middle, output, ..to };
            for watch in each_watch() {
                let words = memory.result(&Kernel::Convert(to), middle, count.div_ceil(2), &watch);
                let found: &[u16] = bytemuck::cast_slice(&words);
                prop_assert_eq!(&found[..count], &*codes);
                // Of an odd number, the other half of the last word is not written.
                if count % 2 == 1 {
                    prop_assert_eq!(found[count], (MARK >> 16) as u16);
                }
                let found = memory.result(&Kernel::Convert(back), output, count, &watch);
                let expected: Vec<u32> = codes.iter().map(|code| narrow.decode(*code).to_bits()).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}

/// Every vector rounds every float16 and the numbers around the middle of two as the sandbox does.
#[test]
fn rounding_on_every_instruction_set_is_that_of_the_sandbox() {
    let mut values: Vec<f32> = Vec::new();
    for code in (0..=u16::MAX).step_by(7) {
        for narrow in BOTH {
            let bits = narrow.decode(code).to_bits();
            let half = if narrow == Narrow::F16 { 0x1000 } else { 0x8000 };
            values.extend([0, half - 1, half, half + 1].map(|more| f32::from_bits(bits + more)));
        }
    }
    let mut memory = Memory::new((3 * values.len() + 8192).next_multiple_of(16 << 10));
    let (input, output) = (memory.place(&values), memory.place(&values));
    for (step, narrow) in [(Step::RoundF16, Narrow::F16), (Step::RoundBf16, Narrow::Bf16)] {
        let program = Pointwise {
            dims: [1, 1, 1, 1, values.len() as u32],
            output,
            inputs: vec![PointwiseInput { address: input, strides: [0, 0, 0, 0, 1] }],
            steps: vec![PointwiseStep { step, a: 0, b: 0 }],
        };
        let request = Kernel::Pointwise(program);
        for watch in each_watch() {
            let found = memory.result(&request, output, values.len(), &watch);
            for (value, found) in values.iter().zip(found) {
                let expected = narrow.round(*value).to_bits();
                assert_eq!(found, expected, "{:?}, {narrow:?}, {value:e}", watch.set());
            }
        }
    }
}

#[test]
fn unknown_types_and_narrow_operands_that_are_not_packed_are_refused() {
    let watch = Watch::new(InstructionSet::best(), 1).unwrap();
    let mut memory = Memory::new(4096);
    let (low, high) = infinite();
    let gemm = Gemm {
        batch: 1,
        m: 8,
        n: 8,
        k: 8,
        a: 4096,
        a_row_stride: 8,
        a_step_stride: 1,
        b: 8192,
        b_column_stride: 1,
        low,
        high,
        output: 12288,
        ..Gemm::default()
    };
    let conv = Conv {
        batch: 1,
        groups: 1,
        channels_in: 2,
        channels_out: 8,
        in_h: 1,
        in_w: 4,
        out_h: 1,
        out_w: 4,
        kernel_h: 1,
        kernel_w: 1,
        stride_h: 1,
        stride_w: 1,
        dilation_h: 1,
        dilation_w: 1,
        batch_stride: 8,
        channel_stride: 4,
        row_stride: 4,
        column_stride: 1,
        input: 4096,
        weights: 8192,
        low,
        high,
        output: 12288,
        ..Conv::default()
    };
    let convert = Convert { count: 7, from: 1, to: 0, input: 4096, output: 8192 };
    let end = 4 * 4096;
    for request in [
        Kernel::Gemm(gemm),
        Kernel::Gemm(Gemm { b_type: 1, ..gemm }),
        Kernel::Conv(conv),
        Kernel::Conv(Conv { weights_type: 2, ..conv }),
        Kernel::Convert(convert),
        Kernel::Convert(Convert { count: 8, input: end - 16, ..convert }),
    ] {
        assert_eq!(memory.run(&request, &watch), Ok(()), "{request:?}");
    }
    for request in [
        Kernel::Gemm(Gemm { b_type: 3, ..gemm }),
        Kernel::Gemm(Gemm { round: 3, ..gemm }),
        Kernel::Gemm(Gemm { round_sum: u32::MAX, ..gemm }),
        Kernel::Gemm(Gemm { b_type: 1, b_step_stride: 8, ..gemm }),
        Kernel::Conv(Conv { weights_type: 3, ..conv }),
        Kernel::Conv(Conv { round: 3, ..conv }),
        Kernel::Conv(Conv { round_sum: 3, ..conv }),
        Kernel::Conv(Conv { round_scaled: 3, scale: 4096, shift: 4096, ..conv }),
        Kernel::Conv(Conv { weights_type: 1, channels_in: 1, channels_out: 1, ..conv }),
        Kernel::Convert(Convert { count: 0, ..convert }),
        Kernel::Convert(Convert { from: 0, ..convert }),
        Kernel::Convert(Convert { to: 2, ..convert }),
        Kernel::Convert(Convert { from: 3, ..convert }),
    ] {
        assert_eq!(memory.run(&request, &watch), Err(Refused::Malformed), "{request:?}");
    }
    for request in [
        Kernel::Gemm(Gemm { b_type: 1, b: end - 252, ..gemm }),
        Kernel::Conv(Conv { weights_type: 1, weights: end - 28, ..conv }),
        Kernel::Convert(Convert { count: 9, input: end - 16, ..convert }),
        Kernel::Convert(Convert { from: 0, to: 1, count: 9, output: end - 16, ..convert }),
        Kernel::Convert(Convert { count: u32::MAX, ..convert }),
    ] {
        assert_eq!(memory.run(&request, &watch), Err(Refused::OutOfBounds), "{request:?}");
    }
    for request in [
        Kernel::Gemm(Gemm { b_type: 1, b: 12288 - 252, ..gemm }),
        Kernel::Convert(Convert { output: 4096 + 12, ..convert }),
    ] {
        assert_eq!(memory.run(&request, &watch), Err(Refused::Overlapping), "{request:?}");
    }
}
