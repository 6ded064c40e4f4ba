//! Tests convolutions against their definition.

use belljar_abi::kernel::*;
use proptest::prelude::*;

use super::{Memory, infinite, random};

/// Filters in the host's packed layout.
pub(super) fn packed(c: &Conv, weights: &[f32]) -> Vec<f32> {
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
    pub(super) fn convolutions()(
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
