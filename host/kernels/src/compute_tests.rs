//! Tests every kernel, on every instruction set of this machine, against an `f64` reference, and
//! with invalid requests.

use belljar_abi::kernel::*;
use proptest::prelude::*;

use super::operations::Refused;
use super::{InstructionSet, Watch, compute};

#[path = "../../../tests/models/functions/exact.rs"]
mod exact;

/// Memory in which tensors are placed, with a mark around each of them.
struct Memory {
    words: Vec<u32>,
    free: usize,
}

/// The mark between tensors. As a float it is a NaN that no computation produces.
const MARK: u32 = 0x7fc0_dead;

impl Memory {
    fn new(len: usize) -> Memory {
        Memory { words: vec![MARK; len], free: MAX_KERNEL_WORDS + 16 }
    }

    fn place(&mut self, values: &[f32]) -> u32 {
        let at = self.free;
        for (to, value) in self.words[at..].iter_mut().zip(values) {
            *to = value.to_bits();
        }
        self.free += values.len() + 16;
        4 * at as u32
    }

    fn run(&mut self, request: &Kernel, watch: &Watch) -> Result<(), Refused> {
        let words = request.encode();
        self.words[..words.len()].copy_from_slice(&words);
        compute(bytemuck::cast_slice_mut(&mut self.words), 0, words.len() as u32, watch)
    }

    /// Runs a request on all instruction sets and on up to three threads, and compares the output
    /// at `output` with the expected one. No other memory may change.
    fn check(&mut self, request: &Kernel, output: u32, expected: &[f64], bound: f64) {
        let mut fused: Option<Vec<u32>> = None;
        for set in InstructionSet::available() {
            for threads in [1, 3] {
                let (start, end) = (output as usize / 4, output as usize / 4 + expected.len());
                self.words[start..end].fill(MARK);
                let mut after = self.words.clone();
                let watch = Watch::new(set, threads).unwrap();
                // A kernel that reads scratch memory before it writes it has the mark in its result.
                watch.scratch().plant(f32::from_bits(MARK));
                self.run(request, &watch).unwrap();
                let found = &self.words[start..end];
                for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
                    let value = f64::from(f32::from_bits(*found));
                    let near = (value - expected).abs() <= bound * expected.abs().max(1.0);
                    let same = value == *expected || value.is_nan() && expected.is_nan();
                    assert!(near || same, "{set:?}, {threads}, {at}: {value}, {expected}");
                    assert_ne!(*found, MARK, "{set:?}, {threads}, {at}: not written");
                }
                if set != InstructionSet::PORTABLE {
                    let first = fused.get_or_insert_with(|| found.to_vec());
                    assert!(first == found, "{set:?}, {threads}: different bits");
                }
                after[start..end].copy_from_slice(found);
                after[..MAX_KERNEL_WORDS].copy_from_slice(&self.words[..MAX_KERNEL_WORDS]);
                assert!(after == self.words, "{set:?}: something else was written");
            }
        }
    }
}

fn random(seed: &mut u64, count: usize) -> Vec<f32> {
    (0..count)
        .map(|_| {
            *seed ^= *seed << 13;
            *seed ^= *seed >> 7;
            *seed ^= *seed << 17;
            (*seed >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn infinite() -> (u32, u32) {
    (f32::NEG_INFINITY.to_bits(), f32::INFINITY.to_bits())
}

/// Filters in the host's packed layout.
fn packed(c: &Conv, weights: &[f32]) -> Vec<f32> {
    let steps = (c.channels_in * c.kernel_h * c.kernel_w) as usize;
    if c.channels_in == 1 && c.channels_out == 1 {
        return weights.to_vec();
    }
    let mut panels = Vec::new();
    for group in weights.chunks_exact(c.channels_out as usize * steps) {
        for panel in group.chunks(PANEL_ROWS * steps) {
            for step in 0..steps {
                for row in 0..PANEL_ROWS {
                    panels.push(panel.get(row * steps + step).copied().unwrap_or_default());
                }
            }
        }
    }
    panels
}

/// The definition of a convolution.
fn convolved(
    c: &Conv,
    input: &[f32],
    before: &[(f32, f32)],
    weights: &[f32],
    bias: &[f32],
    more: &[f32],
) -> Vec<f64> {
    let mut output = Vec::new();
    let steps = c.channels_in * c.kernel_h * c.kernel_w;
    for (image, channel, y, x) in itertools(c) {
        let mut sum = f64::from(bias[channel as usize]);
        for (i, ky, kx) in (0..c.channels_in).flat_map(|i| {
            (0..c.kernel_h).flat_map(move |ky| (0..c.kernel_w).map(move |kx| (i, ky, kx)))
        }) {
            let row = (y * c.stride_h + ky * c.dilation_h).wrapping_sub(c.pad_top);
            let column = (x * c.stride_w + kx * c.dilation_w).wrapping_sub(c.pad_left);
            if row < c.in_h && column < c.in_w {
                let from = channel / c.channels_out * c.channels_in + i;
                let at = image * c.batch_stride
                    + from * c.channel_stride
                    + row * c.row_stride
                    + column * c.column_stride;
                let weight = channel * steps + (i * c.kernel_h + ky) * c.kernel_w + kx;
                let mut value = f64::from(input[at as usize]);
                if let Some((scale, shift)) = before.get(from as usize) {
                    value = value * f64::from(*scale) + f64::from(*shift);
                    value = value.max(f64::from(f32::from_bits(c.least)));
                }
                sum += value * f64::from(weights[weight as usize]);
            }
        }
        sum += f64::from(more[output.len()]);
        let (low, high) = (f32::from_bits(c.low), f32::from_bits(c.high));
        output.push(sum.max(f64::from(low)).min(f64::from(high)));
    }
    output
}

fn itertools(c: &Conv) -> impl Iterator<Item = (u32, u32, u32, u32)> {
    let (channels, out_h, out_w) = (c.groups * c.channels_out, c.out_h, c.out_w);
    (0..c.batch * channels * out_h * out_w).map(move |at| {
        let (x, y) = (at % out_w, at / out_w % out_h);
        let channel = at / out_w / out_h;
        (channel / channels, channel % channels, y, x)
    })
}

prop_compose! {
    fn convolutions()(
        batch in 1..3u32, groups in 1..4u32, channels_in in 1..6u32, channels_out in 1..20u32,
        kernel in (1..5u32, 1..5u32), stride in (1..4u32, 1..4u32), dilation in (1..3u32, 1..3u32),
        pad in (0..3u32, 0..3u32, 0..3u32, 0..3u32), size in (1..16u32, 1..40u32),
        by_column in any::<bool>(), clamped in any::<bool>(), by_channel in 0..4u32,
    ) -> Conv {
        let (channels_in, channels_out) =
            if by_channel == 0 { (1, 1) } else { (channels_in, channels_out) };
        let reach = |kernel: u32, dilation: u32| (kernel - 1) * dilation + 1;
        let (kernel_h, kernel_w) = kernel;
        let (reach_h, reach_w) = (reach(kernel_h, dilation.0), reach(kernel_w, dilation.1));
        let in_h = size.0.max(reach_h.saturating_sub(pad.0 + pad.1)).max(1);
        let in_w = size.1.max(reach_w.saturating_sub(pad.2 + pad.3)).max(1);
        let channels = groups * channels_in;
        // The dimensions of the input in order, or channels last.
        let strides = match by_column {
            true => (in_h * in_w, in_w, 1),
            false => (1, in_w * channels, channels),
        };
        let (low, high) = if clamped { (0f32.to_bits(), 0.5f32.to_bits()) } else { infinite() };
        Conv {
            batch, groups, channels_in, channels_out, in_h, in_w,
            out_h: (in_h + pad.0 + pad.1 - reach_h) / stride.0 + 1,
            out_w: (in_w + pad.2 + pad.3 - reach_w) / stride.1 + 1,
            kernel_h, kernel_w, stride_h: stride.0, stride_w: stride.1,
            dilation_h: dilation.0, dilation_w: dilation.1, pad_top: pad.0, pad_left: pad.2,
            batch_stride: channels * in_h * in_w, channel_stride: strides.0,
            row_stride: strides.1, column_stride: strides.2, low, high, ..Conv::default()
        }
    }
}

fn check_convolution(conv: &Conv, seed: &mut u64, with: (bool, bool, bool)) {
    let mut c = *conv;
    let outputs = (c.batch * c.groups * c.channels_out * c.out_h * c.out_w) as usize;
    let channels = (c.groups * c.channels_out) as usize;
    let steps = (c.channels_in * c.kernel_h * c.kernel_w) as usize;
    let input = random(seed, (c.batch * c.batch_stride) as usize);
    let weights = random(seed, channels * steps);
    let bias = if with.0 { random(seed, channels) } else { vec![0.0; channels] };
    let more = if with.1 { random(seed, outputs) } else { vec![0.0; outputs] };
    let inputs = (c.groups * c.channels_in) as usize;
    let (scale, shift) = (random(seed, inputs), random(seed, inputs));
    let mut before: Vec<_> = scale.iter().copied().zip(shift.iter().copied()).collect();
    let packed = packed(&c, &weights);
    let total = input.len() + packed.len() + channels + 2 * outputs + 2 * inputs;
    let mut memory = Memory::new((total + 1024).next_multiple_of(16 << 10));
    c.input = memory.place(&input);
    c.weights = memory.place(&packed);
    c.bias = if with.0 { memory.place(&bias) } else { 0 };
    c.residual = if with.1 { memory.place(&more) } else { 0 };
    if with.2 {
        (c.scale, c.shift) = (memory.place(&scale), memory.place(&shift));
        c.least = 0f32.to_bits();
    } else {
        before.clear();
    }
    c.output = memory.place(&vec![0.0; outputs]);
    let expected = convolved(&c, &input, &before, &weights, &bias, &more);
    memory.check(&Kernel::Conv(c), c.output, &expected, 1e-6 * (steps as f64 + 4.0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn convolutions_are_right(c in convolutions(), mut seed in 1..u64::MAX, with in any::<(bool, bool, bool)>()) {
        check_convolution(&c, &mut seed, with);
    }

    #[test]
    fn products_are_right(
        batch in 1..3u32, m in 1..40u32, n in 1..120u32, k in 1..30u32, layout in 0..4u32,
        mut seed in 1..u64::MAX, biased in any::<bool>(), clamped in any::<bool>(),
    ) {
        let (a, b) = (random(&mut seed, (batch * m * k) as usize), random(&mut seed, (batch * k * n) as usize));
        let bias = if biased { random(&mut seed, n as usize) } else { vec![0.0; n as usize] };
        let (low, high) = if clamped { ((-0.25f32).to_bits(), 0.5f32.to_bits()) } else { infinite() };
        let mut memory = Memory::new(64 << 10);
        let (a_row_stride, a_step_stride) = if layout & 1 == 0 { (k, 1) } else { (1, m) };
        let (b_step_stride, b_column_stride) = if layout & 2 == 0 { (n, 1) } else { (1, k) };
        let mut request = Gemm {
            batch, m, n, k, a: memory.place(&a), a_batch_stride: m * k, a_row_stride, a_step_stride,
            b: memory.place(&b), b_batch_stride: k * n, b_step_stride, b_column_stride,
            bias: if biased { memory.place(&bias) } else { 0 }, low, high,
            output: memory.place(&vec![0.0; (batch * m * n) as usize]),
        };
        let mut expected = Vec::new();
        for (p, row, column) in (0..batch).flat_map(|p| (0..m).flat_map(move |r| (0..n).map(move |c| (p, r, c)))) {
            let sum: f64 = (0..k).map(|step| {
                let at = p * m * k + row * a_row_stride + step * a_step_stride;
                let right = p * k * n + step * b_step_stride + column * b_column_stride;
                f64::from(a[at as usize]) * f64::from(b[right as usize])
            }).sum();
            let sum = sum + f64::from(bias[column as usize]);
            expected.push(sum.max(f64::from(f32::from_bits(low))).min(f64::from(f32::from_bits(high))));
        }
        memory.check(&Kernel::Gemm(request), request.output, &expected, 1e-5);

        if batch == 1 {
            let mut panels = Vec::new();
            for first in (0..n).step_by(PANEL_COLUMNS) {
                let width = (n - first).min(PANEL_COLUMNS as u32).next_multiple_of(16);
                for step in 0..k {
                    panels.extend((first..first + width).map(|column| match column < n {
                        true => b[(step * b_step_stride + column * b_column_stride) as usize],
                        false => 0.0,
                    }));
                }
            }
            request.b = memory.place(&panels);
            (request.b_step_stride, request.b_batch_stride) = (0, 0);
            memory.check(&Kernel::Gemm(request), request.output, &expected, 1e-5);
        }
    }

    #[test]
    fn poolings_are_right(
        planes in 1..5u32, size in (1..20u32, 1..40u32), kernel in (1..5u32, 1..5u32),
        stride in (1..4u32, 1..4u32), pad in (0..4u32, 0..4u32), mode in 0..4u32, mut seed in 1..u64::MAX,
    ) {
        let pad = (pad.0.min(kernel.0 - 1), pad.1.min(kernel.1 - 1));
        let (in_h, in_w) = (size.0.max(kernel.0), size.1.max(kernel.1));
        // All windows that start inside of the image; the last may end beyond it.
        let (out_h, out_w) = ((in_h + pad.0 - 1) / stride.0 + 1, (in_w + pad.1 - 1) / stride.1 + 1);
        let input = random(&mut seed, (planes * in_h * in_w) as usize);
        let mut memory = Memory::new(64 << 10);
        let request = Pool {
            planes, in_h, in_w, out_h, out_w, kernel_h: kernel.0, kernel_w: kernel.1, stride_h: stride.0,
            stride_w: stride.1, pad_top: pad.0, pad_left: pad.1, mode, input: memory.place(&input),
            output: memory.place(&vec![0.0; (planes * out_h * out_w) as usize]),
        };
        let mut expected = Vec::new();
        for at in 0..planes * out_h * out_w {
            let (x, y, plane) = (at % out_w, at / out_w % out_h, at / out_w / out_h);
            let mut seen = Vec::new();
            for (ky, kx) in (0..kernel.0).flat_map(|ky| (0..kernel.1).map(move |kx| (ky, kx))) {
                let row = (y * stride.0 + ky).wrapping_sub(pad.0);
                let column = (x * stride.1 + kx).wrapping_sub(pad.1);
                if row < in_h && column < in_w {
                    seen.push(f64::from(input[((plane * in_h + row) * in_w + column) as usize]));
                }
            }
            let sum: f64 = seen.iter().sum();
            expected.push(match mode {
                0 => seen.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                1 => sum,
                2 => sum / seen.len() as f64,
                _ => sum / f64::from(kernel.0 * kernel.1),
            });
        }
        memory.check(&Kernel::Pool(request), request.output, &expected, 1e-5);
    }

    #[test]
    fn reductions_and_softmax_are_right(
        outer in 1..6u32, middle in 1..70u32, inner in prop_oneof![Just(1u32), 1..40u32, 500..530u32],
        mode in 0..4u32, mut seed in 1..u64::MAX,
    ) {
        let input = random(&mut seed, (outer * middle * inner) as usize);
        let mut memory = Memory::new(512 << 10);
        let place = memory.place(&input);
        let output = memory.place(&vec![0.0; (outer * inner) as usize]);
        let expected: Vec<f64> = (0..outer * inner).map(|at| {
            let (o, i) = (at / inner, at % inner);
            let each = (0..middle).map(|m| f64::from(input[((o * middle + m) * inner + i) as usize]));
            match mode {
                0 => each.sum(),
                1 => each.fold(f64::NEG_INFINITY, f64::max),
                2 => each.fold(f64::INFINITY, f64::min),
                _ => each.map(|value| value * value).sum::<f64>() / f64::from(middle),
            }
        }).collect();
        let request = Reduce { outer, middle, inner, mode, input: place, output };
        memory.check(&Kernel::Reduce(request), output, &expected, 1e-5);

        let rows: Vec<f64> = input.chunks(middle as usize).flat_map(|row| {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exps: Vec<f64> = row.iter().map(|v| f64::from(v - max).exp()).collect();
            let sum: f64 = exps.iter().sum();
            exps.into_iter().map(move |e| e / sum).collect::<Vec<_>>()
        }).collect();
        let output = memory.place(&vec![0.0; rows.len()]);
        let request = Softmax { outer: outer * inner, middle, inner: 1, input: place, output };
        memory.check(&Kernel::Softmax(request), output, &rows, 1e-6);
    }

    #[test]
    fn permutations_are_right(dims in prop::array::uniform5(1..7u32), order in Just([0usize, 1, 2, 3, 4]).prop_shuffle(), mut seed in 1..u64::MAX) {
        let input = random(&mut seed, dims.iter().product::<u32>() as usize);
        let mut memory = Memory::new(64 << 10);
        let mut strides = [1u32; 5];
        for axis in (0..4).rev() { strides[axis] = strides[axis + 1] * dims[axis + 1]; }
        let request = Permute {
            dims: order.map(|axis| dims[axis]), strides: order.map(|axis| strides[axis]),
            input: memory.place(&input), output: memory.place(&vec![0.0; input.len()]),
        };
        let expected: Vec<f64> = (0..input.len() as u32).map(|at| {
            let (mut rest, mut from) = (at, 0);
            for axis in (0..5).rev() {
                from += rest % request.dims[axis] * request.strides[axis];
                rest /= request.dims[axis];
            }
            f64::from(input[from as usize])
        }).collect();
        memory.check(&Kernel::Permute(request), request.output, &expected, 0.0);
    }

    /// No request panics or writes outside of memory.
    #[test]
    fn invalid_requests_neither_panic_nor_write_outside_memory(
        kind in 1..8u32,
        words in prop::collection::vec(prop_oneof![0..5u32, 0..70u32, 0..4096u32, any::<u32>(), Just(4096u32)], 0..80),
    ) {
        let mut memory = Memory::new(4096);
        memory.words[0] = kind;
        memory.words[1..=words.len()].copy_from_slice(&words);
        let count = words.len() as u32 + 1;
        let mut watch = Watch::new(InstructionSet::best(), 1).unwrap();
        watch.until(Some(std::time::Instant::now() + std::time::Duration::from_millis(200)));
        let _ = compute(bytemuck::cast_slice_mut(&mut memory.words), 0, count, &watch);
    }
}

/// Shapes that cover every path of the product: more than one block of steps, tails of every width,
/// a single row.
#[test]
fn convolutions_of_real_models_are_right() {
    let mut seed = 11;
    for (channels_in, channels_out, size, kernel, stride) in [
        (3, 24, 30, 3, 2),
        (400, 9, 7, 1, 1),
        (90, 17, 13, 3, 1),
        (64, 1, 5, 1, 1),
        (1, 70, 24, 7, 3),
    ] {
        let pad = kernel / 2;
        let out = (size + 2 * pad - kernel) / stride + 1;
        let (low, high) = infinite();
        let conv = Conv {
            batch: 1,
            groups: 2,
            channels_in,
            channels_out,
            in_h: size,
            in_w: size,
            out_h: out,
            out_w: out,
            kernel_h: kernel,
            kernel_w: kernel,
            stride_h: stride,
            stride_w: stride,
            dilation_h: 1,
            dilation_w: 1,
            pad_top: pad,
            pad_left: pad,
            batch_stride: 2 * channels_in * size * size,
            channel_stride: size * size,
            row_stride: size,
            column_stride: 1,
            low,
            high,
            ..Conv::default()
        };
        check_convolution(&conv, &mut seed, (true, true, true));
    }
}

fn one_step(step: Step, a: &[f32], b: &[f32]) -> (Memory, Pointwise) {
    let mut memory = Memory::new(16 << 10);
    let input = |address| PointwiseInput { address, strides: [0, 0, 0, 0, 1] };
    let program = Pointwise {
        dims: [1, 1, 1, 1, a.len() as u32],
        inputs: vec![input(memory.place(a)), input(memory.place(b))],
        output: memory.place(&vec![0.0; a.len()]),
        steps: vec![PointwiseStep { step, a: 0, b: 1 }],
    };
    (memory, program)
}

/// The definition of a step.
fn defined(step: Step, a: f64, b: f64) -> f64 {
    let nan = a.is_nan() || b.is_nan();
    match step {
        Step::Add => a + b,
        Step::Sub => a - b,
        Step::Mul => a * b,
        Step::Div => a / b,
        Step::Min | Step::Max if nan => f64::NAN,
        Step::Min => a.min(b),
        Step::Max => a.max(b),
        Step::Square => a * a,
        Step::Sqrt => a.sqrt(),
        Step::Rsqrt => 1.0 / a.sqrt(),
        Step::Recip => 1.0 / a,
        Step::Neg => -a,
        Step::Abs => a.abs(),
        Step::Exp => f64::from(a.exp() as f32),
        Step::Tanh => a.tanh(),
        Step::Sigmoid => 1.0 / (1.0 + (-a).exp()),
        Step::RoundF16 => half::f16::from_f32(a as f32).to_f64(),
        Step::RoundBf16 => half::bf16::from_f32(a as f32).to_f64(),
        Step::Erf => exact::erf(a),
        Step::Gelu => exact::gelu(a),
        Step::GeluByTanh => exact::gelu_by_tanh(a),
    }
}

#[test]
fn every_step_is_correct_for_every_class_of_float() {
    let mut seed = 5;
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        1e-3,
        -1e-3,
        1e-30,
        20.0,
        -20.0,
        87.0,
        -87.0,
        88.8,
        90.0,
        -104.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    let mut a: Vec<f32> = special.iter().flat_map(|a| special.map(|_| *a)).collect();
    let mut b: Vec<f32> = special.iter().flat_map(|_| special).collect();
    a.extend(random(&mut seed, 700).iter().map(|value| value * 10.0));
    b.extend(random(&mut seed, 700));
    for step in Step::ALL {
        let (mut memory, program) = one_step(step, &a, &b);
        let expected: Vec<f64> = a
            .iter()
            .zip(&b)
            .map(|(a, b)| defined(step, f64::from(*a), f64::from(*b)))
            // A value beyond the range of f32 becomes infinite.
            .map(|value| {
                if value.abs() > f64::from(f32::MAX) {
                    value.signum() * f64::INFINITY
                } else {
                    value
                }
            })
            .collect();
        memory.check(&Kernel::Pointwise(program.clone()), program.output, &expected, 5e-7);
    }
}

/// The tanh form of GELU on a tensor, a row and a column: every kind of broadcast.
#[test]
fn a_program_with_broadcast_operands_is_correct() {
    let mut seed = 3;
    let (rows, columns) = (37u32, 600u32);
    let x = random(&mut seed, (rows * columns) as usize);
    let (row, column) = (random(&mut seed, columns as usize), random(&mut seed, rows as usize));
    let mut memory = Memory::new(128 << 10);
    let result = |at: u32| MAX_POINTWISE_INPUTS as u32 + at;
    let step = |step, a, b| PointwiseStep { step, a, b };
    let program = Pointwise {
        dims: [1, 1, 1, rows, columns],
        inputs: vec![
            PointwiseInput { address: memory.place(&x), strides: [0, 0, 0, columns, 1] },
            PointwiseInput { address: memory.place(&row), strides: [0, 0, 0, 0, 1] },
            PointwiseInput { address: memory.place(&column), strides: [0, 0, 0, 1, 0] },
            PointwiseInput { address: memory.place(&[0.5]), strides: [0; 5] },
        ],
        output: memory.place(&vec![0.0; x.len()]),
        steps: vec![
            step(Step::Add, 0, 1),
            step(Step::Mul, result(0), 2),
            step(Step::Tanh, result(1), result(1)),
            step(Step::Mul, 3, result(2)),
            step(Step::Mul, 3, 3),
            step(Step::Add, result(3), result(4)),
            step(Step::Mul, result(0), result(5)),
        ],
    };
    let expected: Vec<f64> = (0..rows * columns)
        .map(|at| {
            let sum = f64::from(x[at as usize]) + f64::from(row[(at % columns) as usize]);
            let column = f64::from(column[(at / columns) as usize]);
            sum * (0.5 * (sum * column).tanh() + 0.25)
        })
        .collect();
    memory.check(&Kernel::Pointwise(program.clone()), program.output, &expected, 1e-6);
}

fn product(output: u32) -> Gemm {
    let (low, high) = infinite();
    Gemm {
        batch: 1,
        m: 8,
        n: 8,
        k: 8,
        a: 4096,
        a_row_stride: 8,
        a_step_stride: 1,
        b: 8192,
        b_step_stride: 8,
        b_column_stride: 1,
        low,
        high,
        output,
        ..Gemm::default()
    }
}

#[test]
fn out_of_bounds_overlapping_and_malformed_requests_are_refused() {
    let watch = Watch::new(InstructionSet::best(), 1).unwrap();
    let mut memory = Memory::new(4096);
    let end = 4 * 4096;
    let mut ask = |request: Gemm| memory.run(&Kernel::Gemm(request), &watch);
    assert_eq!(ask(product(12288)), Ok(()));
    assert_eq!(ask(product(end - 256)), Ok(()));
    assert_eq!(ask(product(end - 252)), Err(Refused::OutOfBounds));
    assert_eq!(ask(product(u32::MAX - 3)), Err(Refused::OutOfBounds));
    assert_eq!(ask(product(12289)), Err(Refused::Malformed));
    // Outputs that overlap an operand.
    for output in [4096, 4096 + 252, 4096 - 252, 8192, 8192 + 4] {
        assert_eq!(ask(product(output)), Err(Refused::Overlapping), "{output}");
    }
    assert_eq!(ask(product(4096 + 256)), Ok(()));
    let ok = product(12288);
    for request in
        [Gemm { m: 0, ..ok }, Gemm { n: 0, ..ok }, Gemm { k: 0, ..ok }, Gemm { batch: 0, ..ok }]
    {
        assert_eq!(ask(request), Err(Refused::Malformed));
    }
    for request in [
        Gemm { a_row_stride: u32::MAX, ..ok },
        Gemm { b_step_stride: u32::MAX, ..ok },
        Gemm { a_batch_stride: u32::MAX, b_batch_stride: 1, batch: u32::MAX, ..ok },
        Gemm { k: u32::MAX, ..ok },
        Gemm { m: u32::MAX, n: u32::MAX, ..ok },
        Gemm { bias: end - 28, ..ok },
        Gemm { b_step_stride: 0, n: 4000, ..ok },
    ] {
        assert_eq!(ask(request), Err(Refused::OutOfBounds), "{request:?}");
    }
    // The request itself is out of bounds.
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut memory.words);
    assert_eq!(compute(bytes, 16380, 2, &watch), Err(Refused::OutOfBounds));
    assert_eq!(compute(bytes, u32::MAX, 1, &watch), Err(Refused::OutOfBounds));
    assert_eq!(compute(bytes, 0, 257, &watch), Err(Refused::TooMuch));
    assert_eq!(compute(bytes, 0, 0, &watch), Err(Refused::Malformed));
}

/// A window can be padded far beyond its image, which must not exhaust the host's memory.
#[test]
fn scratch_is_bounded() {
    let watch = Watch::new(InstructionSet::best(), 1).unwrap();
    let mut memory = Memory::new(4096);
    let (low, high) = infinite();
    let small = Conv {
        batch: 1,
        groups: 1,
        channels_in: 1,
        channels_out: 2,
        in_h: 1,
        in_w: 1,
        out_h: 1,
        out_w: 1,
        kernel_h: 1,
        kernel_w: 1,
        stride_h: 1,
        stride_w: 1,
        dilation_h: 1,
        dilation_w: 1,
        batch_stride: 1,
        channel_stride: 1,
        row_stride: 1,
        column_stride: 1,
        input: 4096,
        weights: 8192,
        output: 12288,
        low,
        high,
        ..Conv::default()
    };
    let far = Conv { kernel_h: 2, kernel_w: 2, dilation_h: 1 << 20, dilation_w: 1 << 20, ..small };
    for conv in [far, Conv { channels_out: 1, ..far }] {
        assert_eq!(memory.run(&Kernel::Conv(conv), &watch), Err(Refused::TooMuch));
    }
    assert_eq!(memory.run(&Kernel::Conv(small), &watch), Ok(()));
    let huge = Conv { dilation_h: u32::MAX, stride_w: u32::MAX, out_w: 3, kernel_h: 3, ..small };
    assert_eq!(memory.run(&Kernel::Conv(huge), &watch), Err(Refused::TooMuch));
    let pool = Pool {
        planes: 1,
        in_h: 60000,
        in_w: 1,
        out_h: 1,
        out_w: 1,
        kernel_h: 60000,
        kernel_w: 60000,
        stride_h: 1,
        stride_w: 1,
        input: 0,
        output: 0,
        ..Pool::default()
    };
    assert_eq!(memory.run(&Kernel::Pool(pool), &watch), Err(Refused::TooMuch));
}

#[test]
fn a_deadline_ends_every_kernel() {
    let mut watch = Watch::new(InstructionSet::best(), 1).unwrap();
    watch.until(Some(std::time::Instant::now()));
    let mut memory = Memory::new(64 << 10);
    let mut asked = vec![Kernel::Gemm(product(12288))];
    asked.push(Kernel::Reduce(Reduce {
        outer: 1,
        middle: 8,
        inner: 1,
        mode: 0,
        input: 4096,
        output: 8192,
    }));
    asked.push(Kernel::Softmax(Softmax {
        outer: 1,
        middle: 8,
        inner: 1,
        input: 4096,
        output: 8192,
    }));
    asked.push(Kernel::Permute(Permute {
        dims: [1, 1, 1, 8, 8],
        strides: [0, 0, 0, 1, 8],
        input: 4096,
        output: 8192,
    }));
    asked.push(Kernel::Pool(Pool {
        planes: 1,
        in_h: 4,
        in_w: 4,
        out_h: 2,
        out_w: 2,
        kernel_h: 2,
        kernel_w: 2,
        stride_h: 2,
        stride_w: 2,
        input: 4096,
        output: 8192,
        ..Pool::default()
    }));
    // A program checks the deadline after some tens of thousands of elements.
    let strides = [0; 5];
    asked.push(Kernel::Pointwise(Pointwise {
        dims: [1, 1, 1, 1, 50_000],
        output: 8192,
        inputs: vec![PointwiseInput { address: 4096, strides }],
        steps: vec![PointwiseStep { step: Step::Exp, a: 0, b: 0 }],
    }));
    for request in asked {
        assert_eq!(memory.run(&request, &watch), Err(Refused::Interrupted), "{request:?}");
    }
}

/// One channel can be hours of work, so its computation must check the deadline.
#[test]
fn a_deadline_ends_large_windows_on_one_channel() {
    let mut memory = Memory::new(8 << 20);
    let pool = |mode| {
        Kernel::Pool(Pool {
            planes: 1,
            in_h: 1,
            in_w: 1,
            out_h: 16,
            out_w: 1,
            kernel_h: 16,
            kernel_w: 1 << 16,
            stride_h: 1,
            stride_w: 1,
            pad_top: 15,
            pad_left: (1 << 16) - 1,
            mode,
            input: 4096,
            output: 8192,
        })
    };
    let conv = Kernel::Conv(Conv {
        batch: 1,
        groups: 1,
        channels_in: 1,
        channels_out: 1,
        in_h: 1,
        in_w: 1,
        out_h: 4096,
        out_w: 1,
        kernel_h: 1024,
        kernel_w: 1024,
        stride_h: 1,
        stride_w: 1,
        dilation_h: 1,
        dilation_w: 1,
        input: 4096,
        weights: 1 << 20,
        high: f32::INFINITY.to_bits(),
        output: 8192,
        ..Conv::default()
    });
    for request in [pool(0), pool(1), pool(2), conv] {
        let mut watch = Watch::new(InstructionSet::best(), 1).unwrap();
        watch.until(Some(std::time::Instant::now() + std::time::Duration::from_millis(50)));
        assert_eq!(memory.run(&request, &watch), Err(Refused::Interrupted), "{request:?}");
    }
}
