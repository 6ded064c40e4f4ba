//! Tests integer products on every path against their definition.

use belljar_abi::kernel::*;
use proptest::prelude::*;

use super::{GRAIN, Path, column_bytes, gemm_by, pack::pack_right, width};
use crate::operations::Refused;
use crate::{InstructionSet, Watch};

/// The addresses of operands and the output, in bytes.
const A: u32 = 4099;
const B: u32 = 24 << 10;
const A_ZEROS: u32 = 129 << 10;
const B_ZEROS: u32 = (130 << 10) + 1;
const OUTPUT: u32 = 132 << 10;
const WORDS: usize = 44 << 10;

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
    for path in all_paths() {
        for threads in [1, 3] {
            let watch = Watch::new(InstructionSet::best(), threads).unwrap();
            watch.scratch().plant(f32::from_bits(u32::MAX));
            let mut memory = words.to_vec();
            gemm_by(path, bytemuck::cast_slice_mut(&mut memory), g, &watch).unwrap();
            let start = g.output as usize / 4;
            let found: &[i32] = bytemuck::cast_slice(&memory[start..][..expected.len()]);
            assert!(found == expected, "{path:?}, {threads}: {g:?}");
            memory[start..][..expected.len()].copy_from_slice(&words[start..][..expected.len()]);
            assert!(memory == words, "{path:?}: something else was written");
        }
    }
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
            output: OUTPUT,
        };
        let expected = expected(&request, bytemuck::cast_slice(&words));
        check(&request, &words, &expected);

        let each = column_bytes(k as usize);
        let one = (n as usize).next_multiple_of(GRAIN) * each;
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
        IntegerGemm { b_zeros: 12288 - 7, b_zero_stride: 1, ..ok },
    ] {
        assert_eq!(ask(request), Err(Refused::Overlapping), "{request:?}");
    }
    for request in [
        IntegerGemm { a: end - 63, ..ok },
        IntegerGemm { a: u32::MAX, ..ok },
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
