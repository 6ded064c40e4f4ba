//! Tests products, poolings, reductions and permutations against their definitions.

use belljar_abi::kernel::*;
use proptest::prelude::*;

use super::{Memory, infinite, random};

/// A right operand with these strides of steps and columns in the host's packed layout.
pub(super) fn panels([n, k]: [u32; 2], b: &[f32], [step, column]: [u32; 2]) -> Vec<f32> {
    let mut panels = Vec::new();
    for first in (0..n).step_by(PANEL_COLUMNS) {
        let width = (n - first).min(PANEL_COLUMNS as u32).next_multiple_of(16);
        for at in 0..k {
            panels.extend((first..first + width).map(|lane| match lane < n {
                true => b[(at * step + lane * column) as usize],
                false => 0.0,
            }));
        }
    }
    panels
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

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
            output: memory.place(&vec![0.0; (batch * m * n) as usize]), ..Gemm::default()
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
            request.b = memory.place(&panels([n, k], &b, [b_step_stride, b_column_stride]));
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
}
