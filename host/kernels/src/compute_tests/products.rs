//! Tests products, poolings, reductions, softmax and permutations against their definitions.

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

        let output = memory.place(&vec![0.0; input.len()]);
        for (outer, inner) in [(outer, inner), (outer * inner, 1)] {
            let expected = softmax(&input, middle as usize, inner as usize);
            let request = Softmax { outer, middle, inner, input: place, output };
            memory.check(&Kernel::Softmax(request), output, &expected, 1e-6);
        }
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

/// The softmax of the columns of planes of `middle` rows.
fn softmax(input: &[f32], middle: usize, inner: usize) -> Vec<f64> {
    let mut output = vec![0.0; input.len()];
    for column in 0..input.len() / middle {
        let (plane, column) = (column / inner, column % inner);
        let places = (0..middle).map(|row| (plane * middle + row) * inner + column);
        let max = places.clone().map(|at| input[at]).fold(f32::NEG_INFINITY, f32::max);
        let power = |at: usize| f64::from(input[at] - max).exp();
        let sum: f64 = places.clone().map(power).sum();
        places.for_each(|at| output[at] = power(at) / sum);
    }
    output
}

/// Sums of many numbers, in pieces between which the deadline is checked.
#[test]
fn softmax_of_long_rows_and_columns_is_right() {
    let mut seed = 7;
    for (outer, middle, inner) in [(1, 40_000, 1), (1, 700, 37), (2, 3000, 3), (1, 129, 64)] {
        let mut input = random(&mut seed, (outer * middle * inner) as usize);
        // Exponentials of all sizes, also ones that vanish.
        input.iter_mut().for_each(|value| *value *= 60.0);
        let mut memory = Memory::new(256 << 10);
        let place = memory.place(&input);
        let output = memory.place(&vec![0.0; input.len()]);
        let expected = softmax(&input, middle as usize, inner as usize);
        let request = Softmax { outer, middle, inner, input: place, output };
        memory.check(&Kernel::Softmax(request), output, &expected, 1e-6);
    }
}

/// A NaN makes its own column NaN and no other, and large numbers do not overflow.
#[test]
fn nan_stays_in_the_column_of_a_softmax() {
    for inner in [1u32, 3, 16, 21, 70] {
        let mut input = vec![3.0e38; 2 * 9 * inner as usize];
        input[4 * inner as usize + inner as usize / 2] = f32::NAN;
        let mut memory = Memory::new(16 << 10);
        let place = memory.place(&input);
        let output = memory.place(&vec![0.0; input.len()]);
        let expected: Vec<f64> = (0..input.len() as u32)
            .map(|at| at < 9 * inner && at % inner == inner / 2)
            .map(|nan| if nan { f64::NAN } else { 1.0 / 9.0 })
            .collect();
        let request = Softmax { outer: 2, middle: 9, inner, input: place, output };
        for set in crate::InstructionSet::available() {
            let watch = crate::Watch::new(set, 1).unwrap();
            memory.run(&Kernel::Softmax(request), &watch).unwrap();
            let found = &memory.words[output as usize / 4..][..expected.len()];
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let value = f64::from(f32::from_bits(*found));
                let right = (value - expected).abs() < 1e-7 || value.is_nan() && expected.is_nan();
                assert!(right, "{set:?}, {inner}, {at}: {value}, {expected}");
            }
        }
    }
}

/// Matrices of all sizes around those that are transposed together, between other dimensions, from
/// which elements may also be left out.
#[test]
fn permutations_of_matrices_are_right() {
    for (rows, columns) in [(1, 70), (3, 33), (4, 4), (15, 17), (16, 16), (21, 50), (64, 5)] {
        for (dims, strides) in [
            ([2, 1, 3, rows, columns], [3 * rows * columns, 9, rows * columns, 1, rows]),
            ([2, rows, 1, 3, columns], [3 * rows * columns, 1, 9, rows * columns, rows]),
            ([rows, 2, 3, 1, columns], [1, 3 * rows * columns, rows * columns, 9, rows]),
            ([1, 2, rows, 3, columns], [0, 3, 1, 5, rows + 2]),
            ([2, rows, 3, 2, columns], [0, 1, 1, 2, 2]),
        ] {
            let index = |at: u32| {
                let (mut rest, mut from) = (at, 0);
                for axis in (0..5).rev() {
                    from += rest % dims[axis] * strides[axis];
                    rest /= dims[axis];
                }
                from
            };
            let count = dims.iter().product();
            let input = random(&mut 3, 6 * 70 * 64);
            let expected: Vec<f64> =
                (0..count).map(|at| f64::from(input[index(at) as usize])).collect();
            let mut memory = Memory::new(128 << 10);
            let (input, output) = (memory.place(&input), memory.place(&vec![0.0; count as usize]));
            let request = Permute { dims, strides, input, output };
            memory.check(&Kernel::Permute(request), output, &expected, 0.0);
        }
    }
}

/// The time of softmax on each instruction set, along the last dimension and along another, and of
/// permutations next to a copy.
#[test]
#[ignore = "a measurement"]
fn time_of_softmax_and_permutations() {
    let mut memory = Memory::new(5 << 20);
    let input = memory.place(&random(&mut 5, 2 << 20));
    let output = memory.place(&vec![0.0; 2 << 20]);
    for set in crate::InstructionSet::available() {
        let watch = crate::Watch::new(set, 1).unwrap();
        for (outer, middle, inner) in [(4096, 512, 1), (16, 256, 512), (1 << 16, 4, 8)] {
            let request = Kernel::Softmax(Softmax { outer, middle, inner, input, output });
            let time = |_| {
                let begun = std::time::Instant::now();
                memory.run(&request, &watch).unwrap();
                begun.elapsed()
            };
            let least = (0..9).map(time).min().unwrap();
            eprintln!("{set:?} {outer}x{middle}x{inner}: {least:?}");
        }
    }
    let watch = crate::Watch::new(crate::InstructionSet::best(), 1).unwrap();
    for (dims, strides) in [
        ([1, 1, 1, 1, 2 << 20], [0, 0, 0, 0, 1]),
        ([1, 16, 12, 160, 64], [0, 12 * 160 * 64, 64, 12 * 64, 1]),
        ([1, 1, 16, 4096, 32], [0, 0, 4096 * 32, 1, 4096]),
        ([1, 1, 8, 3136, 64], [0, 0, 3136 * 64, 1, 3136]),
        ([1, 1, 8, 64, 3136], [0, 0, 3136 * 64, 1, 64]),
        ([1, 8, 64, 56, 56], [0, 3136 * 64, 1, 64, 56 * 64]),
        ([1, 8, 56, 64, 56], [0, 3136 * 64, 56, 3136, 1]),
        ([1, 8, 64, 100, 3], [0, 19_200, 1, 192, 64]),
    ] {
        let request = Kernel::Permute(Permute { dims, strides, input, output });
        let time = |_| {
            let begun = std::time::Instant::now();
            memory.run(&request, &watch).unwrap();
            begun.elapsed()
        };
        let least = (0..9).map(time).min().unwrap();
        let count: u32 = dims.iter().product();
        let each = least.as_secs_f64() * 1e9 / f64::from(count);
        eprintln!("{dims:?} {strides:?}: {least:?}, {each:.2} ns an element");
    }
}
