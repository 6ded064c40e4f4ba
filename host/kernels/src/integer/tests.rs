//! Tests integer products on every path against their definition.

use belljar_abi::kernel::*;
use proptest::prelude::*;

use super::conv::conv_by;
use super::quantize::{dequantize_by, quantize_by};
use super::{Path, column_bytes, gemm_by, pack::pack_right, width};
use crate::operations::Refused;
use crate::{InstructionSet, Watch};

/// The addresses of operands and the output, in bytes.
const A: u32 = 4099;
const B: u32 = 24 << 10;
const A_ZEROS: u32 = 129 << 10;
const B_ZEROS: u32 = (130 << 10) + 1;
/// The scales and biases of rows or columns.
const PARAMETERS: u32 = 131 << 10;
const OUTPUT: u32 = 134 << 10;
const WORDS: usize = 72 << 10;

fn all_paths() -> Vec<Path> {
    let mut all: Vec<Path> = Vec::new();
    for path in InstructionSet::available().into_iter().flat_map(Path::available) {
        if !all.contains(&path) {
            all.push(path);
        }
    }
    all
}

/// Bytes, a quarter of which are the extremes of both types.
fn random(seed: &mut u64, bytes: &mut [u8]) {
    for byte in bytes {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let extremes = [0, 0x7f, 0x80, 0xff];
        let random = (*seed >> 33) as u8;
        *byte = if *seed >> 62 == 0 { extremes[usize::from(random % 4)] } else { random };
    }
}

/// The value of an element.
fn value(byte: u8, signed: bool) -> i32 {
    if signed { i32::from(byte as i8) } else { byte.into() }
}

fn expected(g: &IntegerGemm, bytes: &[u8]) -> Vec<i32> {
    let [a_signed, b_signed] = [g.signs & 1 != 0, g.signs & 2 != 0];
    let zero = |address: u32, at: u32, signed| match address {
        0 => 0,
        _ => value(bytes[(address + at) as usize], signed),
    };
    let mut all = Vec::new();
    for at in 0..g.batch * g.m * g.n {
        let (p, row, column) = (at / g.n / g.m, at / g.n % g.m, at % g.n);
        let (a_zero, b_zero) = (
            zero(g.a_zeros, row * g.a_zero_stride, a_signed),
            zero(g.b_zeros, column * g.b_zero_stride, b_signed),
        );
        let sum = (0..g.k).fold(0i32, |sum, step| {
            let a = g.a + p * g.a_batch_stride + row * g.a_row_stride + step;
            let b =
                g.b + p * g.b_batch_stride + step * g.b_step_stride + column * g.b_column_stride;
            let a = value(bytes[a as usize], a_signed) - a_zero;
            sum.wrapping_add(a * (value(bytes[b as usize], b_signed) - b_zero))
        });
        all.push(sum);
    }
    all
}

/// Computes a request on every path, with scratch memory full of ones.
fn check(g: &IntegerGemm, words: &[u32], expected: &[i32]) {
    let expected = expected.iter().flat_map(|sum| sum.to_le_bytes()).collect::<Vec<u8>>();
    check_bytes(&Kernel::IntegerGemm(*g), g.output, words, &expected);
}

fn check_bytes(request: &Kernel, output: u32, words: &[u32], expected: &[u8]) {
    for path in all_paths() {
        for threads in [1, 3] {
            let watch = Watch::new(InstructionSet::best(), threads).unwrap();
            watch.scratch().plant(f32::from_bits(u32::MAX));
            let mut memory = words.to_vec();
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut memory);
            match request {
                Kernel::IntegerGemm(gemm) => gemm_by(path, bytes, gemm, &watch).unwrap(),
                Kernel::IntegerConv(conv) => conv_by(path, bytes, conv, &watch).unwrap(),
                other => panic!("{other:?}"),
            }
            let place = output as usize..output as usize + expected.len();
            assert!(bytes[place.clone()] == *expected, "{path:?}, {threads}: {request:?}");
            let before: &[u8] = bytemuck::cast_slice(words);
            bytes[place.clone()].copy_from_slice(&before[place]);
            assert!(memory == words, "{path:?}: something else was written");
        }
    }
}

/// Puts scales and biases of such an output into memory, and returns the bytes of the results.
fn finished(
    words: &mut [u32],
    [output_type, scales, bias, zero]: [u32; 4],
    scale_stride: u32,
    sums: &[i32],
    which: impl Fn(usize) -> usize,
) -> Vec<u8> {
    let count = (0..sums.len()).map(&which).max().unwrap_or(0) + 1;
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(words);
    for at in 0..count {
        let scale = 0.3 / (at + 1) as f32;
        let (to, bias_to) = (scales as usize, bias as usize + 4 * at);
        if output_type == 1 {
            bytes[to + 4 * at..][..4].copy_from_slice(&scale.to_le_bytes());
            bytes[bias_to..][..4].copy_from_slice(&(at as f32 - 7.3).to_le_bytes());
        } else {
            let scale = f64::from(scale) / 64.0;
            bytes[to + 8 * at..][..8].copy_from_slice(&scale.to_le_bytes());
            bytes[bias_to..][..4].copy_from_slice(&(at as i32 * 1000 - 7000).to_le_bytes());
        }
    }
    let mut all = Vec::new();
    for (at, sum) in sums.iter().enumerate() {
        let column = which(at);
        let place = column as u32 * scale_stride;
        let four = |address: u32| {
            <[u8; 4]>::try_from(&bytes[address as usize + 4 * column..][..4]).unwrap()
        };
        if output_type == 1 {
            let from = (scales + 4 * place) as usize;
            let scale = f32::from_le_bytes(bytes[from..][..4].try_into().unwrap());
            let mut value = *sum as f32 * scale;
            if bias != 0 {
                value += f32::from_le_bytes(four(bias));
            }
            all.extend(value.to_le_bytes());
        } else {
            let from = (scales + 8 * place) as usize;
            let scale = f64::from_le_bytes(bytes[from..][..8].try_into().unwrap());
            let bias = if bias == 0 { 0 } else { i32::from_le_bytes(four(bias)) };
            let value = (i64::from(*sum) + i64::from(bias)) as f64 * scale;
            let value = value.round_ties_even() + f64::from(zero.cast_signed());
            let (low, high) = if output_type == 2 { (0.0, 255.0) } else { (-128.0, 127.0) };
            all.push(value.clamp(low, high) as i16 as u8);
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn integer_products_are_exact(
        batch in 1..3u32, m in 1..20u32, n in 1..120u32, k in prop_oneof![1..30u32, 100..130u32],
        signs in 0..4u32, layout in 0..32u32, mut seed in any::<u64>(),
    ) {
        let bit = |at: u32| layout >> at & 1;
        let mut words = vec![0u32; WORDS];
        random(&mut seed, bytemuck::cast_slice_mut(&mut words));
        let (b_step_stride, b_column_stride) = if bit(0) == 0 { (n, 1) } else { (1, k) };
        let mut request = IntegerGemm {
            batch, m, n, k, signs, a: A, a_batch_stride: m * (k + 3), a_row_stride: k + 3,
            a_zeros: A_ZEROS * bit(1), a_zero_stride: bit(2), b: B, b_batch_stride: k * n,
            b_step_stride, b_column_stride, b_zeros: B_ZEROS * bit(3), b_zero_stride: bit(4),
            output: OUTPUT, ..Default::default()
        };
        let expected = expected(&request, bytemuck::cast_slice(&words));
        check(&request, &words, &expected);

        let each = column_bytes(k as usize);
        let one = (n as usize).next_multiple_of(PANEL_GRAIN) * each;
        let mut packed = vec![0; one * batch as usize];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        for (product, panels) in packed.chunks_mut(one).enumerate() {
            let b = &bytes[B as usize + product * (k * n) as usize..];
            for column in (0..n as usize).step_by(PANEL_COLUMNS) {
                let width = width(n as usize, column);
                let panel = &mut panels[column * each..][..width * each];
                pack_right(&request, b, column, width, panel);
            }
        }
        bytes[B as usize..][..packed.len()].copy_from_slice(&packed);
        request.b_batch_stride = one as u32;
        (request.b_step_stride, request.b_column_stride) = (0, 0);
        check(&request, &words, &expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn integer_products_are_scaled_and_rounded_as_documented(
        m in 1..20u32, n in 1..70u32, k in 1..30u32, signs in 0..4u32, output_type in 1..4u32,
        scale_stride in 0..2u32, has_bias in 0..2u32, mut seed in any::<u64>(),
    ) {
        let mut words = vec![0u32; WORDS];
        random(&mut seed, bytemuck::cast_slice_mut(&mut words));
        let zero = [0, 0, 131, (-17i32).cast_unsigned()][output_type as usize];
        let (scales, bias) = (PARAMETERS, (PARAMETERS + 1025) * has_bias);
        let request = IntegerGemm {
            batch: 1, m, n, k, signs, a: A, a_row_stride: k, b: B, b_step_stride: n,
            b_column_stride: 1, output: OUTPUT, output_type, scales, scale_stride, bias, zero,
            ..Default::default()
        };
        let sums = expected(&request, bytemuck::cast_slice(&words));
        let parameters = [output_type, scales, bias, zero];
        let bytes = finished(&mut words, parameters, scale_stride, &sums, |at| at % n as usize);
        check_bytes(&Kernel::IntegerGemm(request), OUTPUT, &words, &bytes);
    }

    #[test]
    fn integer_convolutions_are_exact(
        batch in 1..3u32, groups in 1..4u32, (channels_in, channels_out) in
            prop_oneof![Just((1, 1)), (1..7u32, 1..12u32)],
        size in (1..9u32, 1..40u32), kernel in (1..4u32, 1..4u32), stride in (1..4u32, 1..4u32),
        dilation in (1..3u32, 1..3u32), pad in (0..3u32, 0..3u32), out in (1..8u32, 1..20u32),
        signs in 0..4u32, output_type in 0..4u32, layout in 0..16u32, mut seed in any::<u64>(),
    ) {
        let bit = |at: u32| layout >> at & 1;
        let mut words = vec![0u32; WORDS];
        random(&mut seed, bytemuck::cast_slice_mut(&mut words));
        let zero = [0, 0, 131, (-17i32).cast_unsigned()][output_type as usize];
        let one_element = bit(3) != 0 && batch == 1;
        let (kernel, stride, pad) =
            if one_element { ((1, 1), (1, 1), (0, 0)) } else { (kernel, stride, pad) };
        let out = if one_element { size } else { out };
        let (scales, bias) = (PARAMETERS, (PARAMETERS + 1025) * bit(0));
        let (scales, bias) = if output_type == 0 { (0, 0) } else { (scales, bias) };
        let request = IntegerConv {
            batch, groups, channels_in, channels_out, in_h: size.0, in_w: size.1, out_h: out.0,
            out_w: out.1, kernel_h: kernel.0, kernel_w: kernel.1, stride_h: stride.0,
            stride_w: stride.1, dilation_h: dilation.0, dilation_w: dilation.1, pad_top: pad.0,
            pad_left: pad.1, signs, input: A, input_zero: (seed >> 5) as u32 & 0xff, weights: B,
            weight_zeros: B_ZEROS * bit(1), weight_zero_stride: bit(2), output_type, scales,
            scale_stride: bit(2), bias, zero, output: OUTPUT,
        };
        let sums = convolved(&request, bytemuck::cast_slice(&words));
        let bytes = match output_type {
            0 => sums.iter().flat_map(|sum| sum.to_le_bytes()).collect(),
            _ => {
                let (plane, outputs) = ((out.0 * out.1) as usize, (groups * channels_out) as usize);
                let which = |at: usize| at / plane % outputs;
                finished(&mut words, [output_type, scales, bias, zero], bit(2), &sums, which)
            }
        };
        check_bytes(&Kernel::IntegerConv(request), OUTPUT, &words, &bytes);
    }
}

/// The sums of a convolution by its definition.
fn convolved(c: &IntegerConv, bytes: &[u8]) -> Vec<i32> {
    let [signed, weights_signed] = [c.signs & 1 != 0, c.signs & 2 != 0];
    let zero = value(c.input_zero as u8, signed);
    let (kernel, outputs) = (c.kernel_h * c.kernel_w, c.groups * c.channels_out);
    let mut all = Vec::new();
    for at in 0..c.batch * outputs * c.out_h * c.out_w {
        let (x, y) = (at % c.out_w, at / c.out_w % c.out_h);
        let (channel, image) = (at / c.out_w / c.out_h % outputs, at / c.out_w / c.out_h / outputs);
        let weight_zero = match c.weight_zeros {
            0 => 0,
            from => value(bytes[(from + channel * c.weight_zero_stride) as usize], weights_signed),
        };
        let mut sum = 0;
        for step in 0..c.channels_in * kernel {
            let (of, ky, kx) = (step / kernel, step / c.kernel_w % c.kernel_h, step % c.kernel_w);
            let weight = bytes[(c.weights + channel * c.channels_in * kernel + step) as usize];
            let row = (y * c.stride_h + ky * c.dilation_h).wrapping_sub(c.pad_top);
            let column = (x * c.stride_w + kx * c.dilation_w).wrapping_sub(c.pad_left);
            if row < c.in_h && column < c.in_w {
                let group = channel / c.channels_out;
                let plane = (image * c.groups + group) * c.channels_in + of;
                let from = c.input + (plane * c.in_h + row) * c.in_w + column;
                let element = value(bytes[from as usize], signed) - zero;
                sum += element * (value(weight, weights_signed) - weight_zero);
            }
        }
        all.push(sum);
    }
    all
}

/// The layout of packed operands is part of the interface to the guest.
#[test]
fn packed_operands_have_the_documented_layout() {
    let request =
        IntegerGemm { n: 2, k: 5, b_step_stride: 2, b_column_stride: 1, ..Default::default() };
    let mut panel = vec![1; 16 * column_bytes(5)];
    pack_right(&request, &[128, 0, 129, 1, 130, 2, 131, 3, 132, 255], 0, 16, &mut panel);
    let mut expected = vec![0u8; 16 * 12];
    expected[0] = 10;
    // -128 - 127 - 126 - 125 + 127
    expected[4..8].copy_from_slice(&(-379i32).to_le_bytes());
    expected[64..72].copy_from_slice(&[0, 1, 2, 3, 128, 129, 130, 131]);
    expected[128] = 4;
    expected[132] = 127;
    assert_eq!(panel, expected);
}

/// The largest products do not saturate, also where their sum exceeds 31 bits.
#[test]
fn extreme_sums_neither_saturate_nor_depend_on_the_path() {
    for (signs, a, b) in [(2, 255u8, 128u8), (0, 255, 255), (3, 128, 128), (1, 128, 255)] {
        let (m, n, k) = (9, 1, 40_000);
        let mut words = vec![0u32; 128 << 10];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        bytes[4096..4096 + m * k].fill(a);
        bytes[400_000..400_000 + k].fill(b);
        let request = IntegerGemm {
            batch: 1,
            m: m as u32,
            n,
            k: k as u32,
            signs,
            a: 4096,
            a_row_stride: k as u32,
            b: 400_000,
            b_step_stride: 1,
            b_column_stride: k as u32,
            output: 500_000,
            ..Default::default()
        };
        let one = i64::from(value(a, signs & 1 != 0)) * i64::from(value(b, signs & 2 != 0));
        check(&request, &words, &vec![(one * k as i64) as i32; m]);
    }
}

#[test]
fn invalid_integer_products_are_refused() {
    let watch = Watch::new(InstructionSet::best(), 1).unwrap();
    let end = 4 * WORDS as u32;
    let ok = IntegerGemm {
        batch: 1,
        m: 8,
        n: 8,
        k: 8,
        a: 4099,
        a_row_stride: 8,
        b: 8192,
        b_step_stride: 8,
        b_column_stride: 1,
        output: 12288,
        ..Default::default()
    };
    let mut memory = vec![0u32; WORDS];
    let mut ask = |request| {
        let memory = bytemuck::cast_slice_mut(&mut memory);
        super::gemm(memory, &request, &watch)
    };
    for request in [
        ok,
        IntegerGemm { a: 12288 - 64, ..ok },
        IntegerGemm { a: 12288 + 256, ..ok },
        IntegerGemm { a: end - 64, ..ok },
        IntegerGemm { b_zeros: end - 1, ..ok },
        IntegerGemm { output: end - 256, ..ok },
    ] {
        assert_eq!(ask(request), Ok(()), "{request:?}");
    }
    for request in [
        IntegerGemm { m: 0, ..ok },
        IntegerGemm { k: 0, ..ok },
        IntegerGemm { output_type: 4, ..ok },
        IntegerGemm { scales: 4096, ..ok },
        IntegerGemm { bias: 4096, ..ok },
        IntegerGemm { output_type: 1, zero: 1, ..ok },
        IntegerGemm { output_type: 2, zero: 256, ..ok },
        IntegerGemm { output_type: 2, zero: u32::MAX, ..ok },
        IntegerGemm { output_type: 3, zero: 128, ..ok },
        IntegerGemm { output_type: 3, scale_stride: 2, ..ok },
        IntegerGemm { signs: 4, ..ok },
        IntegerGemm { a_zero_stride: 2, ..ok },
        IntegerGemm { b_zero_stride: 2, ..ok },
        IntegerGemm { output: 12289, ..ok },
        IntegerGemm { a_row_stride: 0, ..ok },
        IntegerGemm { batch: 2, a_batch_stride: 64, b_step_stride: 0, ..ok },
    ] {
        assert_eq!(ask(request), Err(Refused::Malformed), "{request:?}");
    }
    for request in [
        IntegerGemm { a: 12288 - 63, ..ok },
        IntegerGemm { a: 12288 + 255, ..ok },
        IntegerGemm { b: 12288 - 63, ..ok },
        IntegerGemm { a_zeros: 12288, ..ok },
        IntegerGemm { output_type: 1, scales: 12288 - 2, ..ok },
        IntegerGemm { output_type: 2, scales: 12288 + 63, ..ok },
        IntegerGemm { output_type: 2, bias: 12288 - 31, ..ok },
        IntegerGemm { b_zeros: 12288 - 7, b_zero_stride: 1, ..ok },
    ] {
        assert_eq!(ask(request), Err(Refused::Overlapping), "{request:?}");
    }
    for request in [
        IntegerGemm { a: end - 63, ..ok },
        IntegerGemm { a: u32::MAX, ..ok },
        IntegerGemm { output_type: 2, scales: end - 7, ..ok },
        IntegerGemm { output_type: 2, scales: end - 63, scale_stride: 1, ..ok },
        IntegerGemm { output_type: 1, bias: end - 31, ..ok },
        IntegerGemm { a_row_stride: u32::MAX, ..ok },
        IntegerGemm { b_zeros: end - 7, b_zero_stride: 1, ..ok },
        IntegerGemm { b: end - 100, b_step_stride: 0, ..ok },
        IntegerGemm { output: end - 252, ..ok },
        IntegerGemm { n: u32::MAX, b_step_stride: 0, ..ok },
    ] {
        assert_eq!(ask(request), Err(Refused::OutOfBounds), "{request:?}");
    }
    assert_eq!(ask(IntegerGemm { k: MAX_INTEGER_STEPS + 1, ..ok }), Err(Refused::TooMuch));
}

#[test]
fn invalid_integer_convolutions_are_refused() {
    let watch = Watch::new(InstructionSet::best(), 1).unwrap();
    let end = 4 * WORDS as u32;
    let ok = IntegerConv {
        batch: 1,
        groups: 2,
        channels_in: 2,
        channels_out: 3,
        in_h: 4,
        in_w: 4,
        out_h: 4,
        out_w: 4,
        kernel_h: 3,
        kernel_w: 3,
        stride_h: 1,
        stride_w: 1,
        dilation_h: 1,
        dilation_w: 1,
        pad_top: 1,
        pad_left: 1,
        input: 4099,
        weights: 8193,
        output_type: 2,
        scales: 16384,
        output: 12288,
        ..Default::default()
    };
    let mut memory = vec![0u32; WORDS];
    let mut ask = |request| {
        let memory = bytemuck::cast_slice_mut(&mut memory);
        super::conv(memory, &request, &watch)
    };
    let ones = IntegerConv { channels_in: 1, channels_out: 1, ..ok };
    for request in [
        ok,
        ones,
        IntegerConv { input: end - 64, ..ok },
        IntegerConv { weights: end - 108, ..ok },
        IntegerConv { input: 12288 - 64, ..ok },
        IntegerConv { input: 12288 + 96, ..ok },
        IntegerConv { scale_stride: 1, scales: end - 48, ..ok },
        IntegerConv { output: end - 96, ..ok },
    ] {
        assert_eq!(ask(request), Ok(()), "{request:?}");
    }
    for request in [
        IntegerConv { groups: 0, ..ok },
        IntegerConv { channels_in: 0, ..ok },
        IntegerConv { kernel_h: 0, ..ok },
        IntegerConv { stride_w: 0, ..ok },
        IntegerConv { signs: 4, ..ok },
        IntegerConv { input_zero: 256, ..ok },
        IntegerConv { weight_zero_stride: 2, ..ok },
        IntegerConv { scale_stride: 2, ..ok },
        IntegerConv { output_type: 4, ..ok },
        IntegerConv { zero: 256, ..ok },
        IntegerConv { output: 12289, ..ok },
    ] {
        assert_eq!(ask(request), Err(Refused::Malformed), "{request:?}");
    }
    for request in [
        IntegerConv { input: 12288 - 63, ..ok },
        IntegerConv { input: 12288 + 95, ..ok },
        IntegerConv { weights: 12288 - 107, ..ok },
        IntegerConv { weight_zeros: 12288, ..ok },
        IntegerConv { scales: 12288 - 7, ..ok },
        IntegerConv { bias: 12288 - 23, ..ok },
    ] {
        assert_eq!(ask(request), Err(Refused::Overlapping), "{request:?}");
    }
    for request in [
        IntegerConv { input: end - 63, ..ok },
        IntegerConv { weights: end - 107, ..ok },
        IntegerConv { weight_zeros: end - 5, weight_zero_stride: 1, ..ok },
        IntegerConv { scale_stride: 1, scales: end - 47, ..ok },
        IntegerConv { bias: end - 23, ..ok },
        IntegerConv { output: end - 92, ..ok },
        IntegerConv { batch: u32::MAX, ..ok },
        IntegerConv { groups: u32::MAX, ..ok },
    ] {
        assert_eq!(ask(request), Err(Refused::OutOfBounds), "{request:?}");
    }
    for request in [
        IntegerConv { channels_in: MAX_INTEGER_STEPS / 9 + 1, ..ok },
        IntegerConv { stride_h: u32::MAX, ..ok },
        IntegerConv { pad_top: u32::MAX, ..ok },
    ] {
        assert_eq!(ask(request), Err(Refused::TooMuch), "{request:?}");
    }
    let mut watch = Watch::new(InstructionSet::best(), 1).unwrap();
    watch.until(Some(std::time::Instant::now()));
    for request in [ok, ones] {
        let memory = bytemuck::cast_slice_mut(&mut memory);
        assert_eq!(super::conv(memory, &request, &watch), Err(Refused::Interrupted));
    }
}

#[test]
fn integer_products_end_at_the_deadline() {
    let mut watch = Watch::new(InstructionSet::best(), 1).unwrap();
    watch.until(Some(std::time::Instant::now()));
    let request = IntegerGemm {
        batch: 1,
        m: 8,
        n: 8,
        k: 8,
        a: 4096,
        a_row_stride: 8,
        b: 8192,
        b_step_stride: 0,
        output: 12288,
        ..Default::default()
    };
    let mut memory = vec![0u32; WORDS];
    let memory = bytemuck::cast_slice_mut(&mut memory);
    assert_eq!(super::gemm(memory, &request, &watch), Err(Refused::Interrupted));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn numbers_are_quantized_as_documented(
        count in 1..200usize, signed in 0..2u32, zero in any::<u8>(), scale in 0.001f32..10.0,
        seed in any::<u64>(),
    ) {
        let (min, max) = if signed == 1 { (-128i64, 127) } else { (0, 255) };
        let zero = if signed == 1 { i64::from(zero as i8) } else { i64::from(zero) };
        let ugly = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -0.0, 1e-45];
        let number = |at: usize| {
            let bits = (seed ^ at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            match at % 7 {
                0 => ugly[bits as usize % ugly.len()],
                // Halfway between two integers.
                1 => (bits as i32 % 300) as f32 * scale + scale / 2.0,
                _ => (bits as i32 as f32) * 1e-7 * scale,
            }
        };
        let numbers: Vec<f32> = (0..count).map(number).collect();
        let expected: Vec<u8> = numbers.iter().map(|number| {
            let quotient = number / scale;
            match quotient.is_nan() {
                true => 77,
                false => (quotient.round_ties_even() as i64).saturating_add(zero).clamp(min, max) as u8,
            }
        }).collect();
        let request = Quantize {
            count: count as u32, input: 4096, scale: scale.to_bits(),
            zero: (zero as i32).cast_unsigned(), nan: 77, signed, output: 8192,
        };
        for path in all_paths() {
            let watch = Watch::new(InstructionSet::best(), 1).unwrap();
            let mut memory = vec![u32::MAX; 4096];
            memory[1024..1024 + count].copy_from_slice(bytemuck::cast_slice(&numbers));
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut memory);
            quantize_by(path, bytes, &request, &watch).unwrap();
            prop_assert_eq!(&bytes[8192..8192 + count], &expected[..], "{:?}", path);
            prop_assert!(bytes[8192 + count..].iter().all(|byte| *byte == 255), "{:?}", path);
        }
    }
}

#[test]
fn all_bytes_are_dequantized_as_documented() {
    for (signed, zero) in [(0, 0), (0, 131), (0, 255), (1, 0), (1, -128), (1, 127)] {
        let expected: Vec<f32> =
            (0..=255u8).map(|byte| (value(byte, signed == 1) - zero) as f32 * 0.37).collect();
        for path in all_paths() {
            let watch = Watch::new(InstructionSet::best(), 1).unwrap();
            let mut memory = vec![0u32; 4096];
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut memory);
            (0..=255u8).for_each(|byte| bytes[4099 + usize::from(byte)] = byte);
            let request = Dequantize {
                count: 256,
                signed,
                input: 4099,
                scale: 0.37f32.to_bits(),
                zero: zero.cast_unsigned(),
                output: 8192,
            };
            dequantize_by(path, bytes, &request, &watch).unwrap();
            let found: &[f32] = bytemuck::cast_slice(&bytes[8192..9216]);
            assert_eq!(found, &expected[..], "{path:?}, {signed}, {zero}");
            assert!(bytes[9216..].iter().all(|byte| *byte == 0));
        }
    }
}

#[test]
fn invalid_dequantizations_are_refused() {
    let watch = Watch::new(InstructionSet::best(), 1).unwrap();
    let ok = Dequantize { count: 9, input: 4097, output: 8192, ..Default::default() };
    let mut memory = vec![0u32; 4096];
    let mut ask =
        |request| super::dequantize(bytemuck::cast_slice_mut(&mut memory), &request, &watch);
    for request in [ok, Dequantize { input: 8183, ..ok }, Dequantize { input: 8228, ..ok }] {
        assert_eq!(ask(request), Ok(()), "{request:?}");
    }
    for request in [
        Dequantize { count: 0, ..ok },
        Dequantize { signed: 2, ..ok },
        Dequantize { zero: 256, ..ok },
        Dequantize { zero: u32::MAX, ..ok },
        Dequantize { output: 8193, ..ok },
    ] {
        assert_eq!(ask(request), Err(Refused::Malformed), "{request:?}");
    }
    assert_eq!(ask(Dequantize { input: 8184, ..ok }), Err(Refused::Overlapping));
    assert_eq!(ask(Dequantize { input: 8227, ..ok }), Err(Refused::Overlapping));
    assert_eq!(ask(Dequantize { input: 16384 - 8, ..ok }), Err(Refused::OutOfBounds));
    assert_eq!(ask(Dequantize { output: 16384 - 32, ..ok }), Err(Refused::OutOfBounds));
}

#[test]
fn invalid_quantizations_are_refused() {
    let watch = Watch::new(InstructionSet::best(), 1).unwrap();
    let ok = Quantize { count: 9, input: 4096, scale: 0, output: 8192, ..Default::default() };
    let mut memory = vec![0u32; 4096];
    let mut ask =
        |request| super::quantize(bytemuck::cast_slice_mut(&mut memory), &request, &watch);
    for request in
        [ok, Quantize { output: 4132, ..ok }, Quantize { signed: 1, zero: u32::MAX, ..ok }]
    {
        assert_eq!(ask(request), Ok(()), "{request:?}");
    }
    for request in [
        Quantize { count: 0, ..ok },
        Quantize { signed: 2, ..ok },
        Quantize { zero: 256, ..ok },
        Quantize { zero: 128, signed: 1, ..ok },
        Quantize { nan: 256, ..ok },
        Quantize { input: 4097, ..ok },
        Quantize { output: 8193, ..ok },
    ] {
        assert_eq!(ask(request), Err(Refused::Malformed), "{request:?}");
    }
    assert_eq!(ask(Quantize { output: 4128, ..ok }), Err(Refused::Overlapping));
    assert_eq!(ask(Quantize { input: 16384 - 32, ..ok }), Err(Refused::OutOfBounds));
    assert_eq!(ask(Quantize { output: 16384 - 8, ..ok }), Err(Refused::OutOfBounds));
    assert_eq!(ask(Quantize { count: u32::MAX, ..ok }), Err(Refused::OutOfBounds));
}

/// Prints the speed of each path. Run it with `--ignored --nocapture`, in a release build.
#[test]
#[ignore = "a benchmark"]
fn speed_of_integer_products() {
    for (m, n, k) in [(128u32, 768u32, 768u32), (128, 3072, 768), (1, 768, 768)] {
        let b = m * k;
        let output = (b + n * column_bytes(k as usize) as u32).next_multiple_of(64);
        let mut memory = vec![0u32; (output / 4 + m * n) as usize];
        let g = IntegerGemm { batch: 1, m, n, k, a_row_stride: k, b, output, ..Default::default() };
        let float = Gemm {
            batch: 1,
            m,
            n,
            k,
            a_row_stride: k,
            a_step_stride: 1,
            b: 4 * m * k,
            output: 4 * k * (m + n),
            low: f32::NEG_INFINITY.to_bits(),
            high: f32::INFINITY.to_bits(),
            ..Default::default()
        };
        let mut floats = vec![0u32; (k * (m + n) + m * n) as usize];
        let mut best = vec![f64::INFINITY; all_paths().len()];
        let sets = InstructionSet::available();
        let mut best_float = vec![f64::INFINITY; sets.len()];
        let least = |best: &mut f64, run: &mut dyn FnMut()| {
            let start = std::time::Instant::now();
            run();
            *best = best.min(start.elapsed().as_secs_f64());
        };
        for _ in 0..15 {
            for (path, best) in all_paths().into_iter().zip(&mut best) {
                let watch = Watch::new(InstructionSet::best(), 1).unwrap();
                let memory = bytemuck::cast_slice_mut(&mut memory);
                least(best, &mut || gemm_by(path, memory, &g, &watch).unwrap());
            }
            for (set, best) in sets.iter().zip(&mut best_float) {
                let watch = Watch::new(*set, 1).unwrap();
                let memory = bytemuck::cast_slice_mut(&mut floats);
                least(best, &mut || crate::gemm::gemm(memory, &float, &watch).unwrap());
            }
        }
        let work = f64::from(m) * f64::from(n) * f64::from(k) / 1e9;
        for (path, seconds) in all_paths().into_iter().zip(best) {
            println!("{m} x {n} x {k}, {path:?}: {:.1} billion products/s", work / seconds);
        }
        for (set, seconds) in sets.iter().zip(best_float) {
            println!("{m} x {n} x {k}, float, {set:?}: {:.1} billion/s", work / seconds);
        }
    }
}

/// As [`speed_of_integer_products`], for convolutions and packing.
#[test]
#[ignore = "a benchmark"]
fn speed_of_integer_convolutions() {
    for (groups, channels_in, channels_out, side, kernel, stride) in [
        (1u32, 64u32, 64u32, 56u32, 3u32, 1u32),
        (1, 3, 64, 224, 7, 2),
        (1, 512, 512, 7, 3, 1),
        (1, 64, 256, 56, 1, 1),
        (1, 1024, 256, 14, 1, 1),
        (96, 1, 1, 56, 3, 1),
    ] {
        let out = side.div_ceil(stride);
        let c = IntegerConv {
            batch: 1,
            groups,
            channels_in,
            channels_out,
            in_h: side,
            in_w: side,
            out_h: out,
            out_w: out,
            kernel_h: kernel,
            kernel_w: kernel,
            stride_h: stride,
            stride_w: stride,
            dilation_h: 1,
            dilation_w: 1,
            pad_top: kernel / 2,
            pad_left: kernel / 2,
            signs: 2,
            input: 4096,
            weights: 8 << 20,
            output_type: 2,
            scales: 16 << 20,
            output: 17 << 20,
            ..Default::default()
        };
        let mut memory = vec![0u32; 16 << 20];
        let mut best = vec![f64::INFINITY; all_paths().len()];
        for _ in 0..15 {
            for (path, best) in all_paths().into_iter().zip(&mut best) {
                let watch = Watch::new(InstructionSet::best(), 1).unwrap();
                let memory = bytemuck::cast_slice_mut(&mut memory);
                let start = std::time::Instant::now();
                conv_by(path, memory, &c, &watch).unwrap();
                *best = best.min(start.elapsed().as_secs_f64());
            }
        }
        let work = Kernel::IntegerConv(c).multiply_adds().unwrap() as f64 / 1e9;
        for (path, seconds) in all_paths().into_iter().zip(best) {
            let speed = work / seconds;
            println!(
                "{groups}x{channels_in}->{channels_out} {side} {kernel}x{kernel}/{stride}, \
                 {path:?}: {:.3} ms, {speed:.1} billion products/s",
                seconds * 1e3
            );
        }
    }
}

/// As [`speed_of_integer_products`], with a right operand that the kernel packs.
#[test]
#[ignore = "a benchmark"]
fn speed_of_packing() {
    for (k, n, transposed) in [(768u32, 768u32, false), (768, 3072, false), (768, 768, true)] {
        let (step, column) = if transposed { (1, k) } else { (n, 1) };
        let g = IntegerGemm {
            batch: 1,
            m: 1,
            n,
            k,
            signs: 2,
            a: 4096,
            a_row_stride: k,
            b: 1 << 20,
            b_step_stride: step,
            b_column_stride: column,
            output: 8 << 20,
            ..Default::default()
        };
        let mut memory = vec![0u32; 3 << 20];
        for path in all_paths() {
            let mut best = f64::INFINITY;
            for _ in 0..15 {
                let watch = Watch::new(InstructionSet::best(), 1).unwrap();
                let start = std::time::Instant::now();
                gemm_by(path, bytemuck::cast_slice_mut(&mut memory), &g, &watch).unwrap();
                best = best.min(start.elapsed().as_secs_f64());
            }
            let speed = f64::from(n * k) / 1e9 / best;
            println!("{k} x {n}, {transposed}, {path:?}: {:.3} ms, {speed:.2} GB/s", best * 1e3);
        }
    }
}
