//! Tests products with numbers of a few bits in blocks against their definition.

use belljar_abi::kernel::*;
use proptest::prelude::*;

use super::products::panels;
use super::{Memory, infinite, random};
use crate::operations::Refused;
use crate::{InstructionSet, Watch};

impl Memory {
    fn place_words(&mut self, words: &[u32]) -> u32 {
        let words: Vec<f32> = words.iter().map(|word| f32::from_bits(*word)).collect();
        self.place(&words)
    }
}

/// Random numbers of this many bits.
fn codes(seed: &mut u64, count: usize, bits: u32) -> Vec<u32> {
    let random = random(seed, count);
    random.iter().map(|value| ((value + 1.0) * 4096.0) as u32 % (1 << bits)).collect()
}

/// Numbers, one for each step and column, in the host's layout.
fn words([n, k]: [u32; 2], codes: &[u32], bits: u32) -> Vec<u32> {
    let per_word = 32 / bits;
    let mut words = Vec::new();
    for first in (0..n).step_by(PANEL_COLUMNS) {
        let width = (n - first).min(PANEL_COLUMNS as u32).next_multiple_of(16);
        for step in (0..k).step_by(per_word as usize) {
            for column in first..first + width {
                let each = (0..per_word).filter(|at| column < n && step + at < k);
                let code = |at: u32| codes[((step + at) * n + column) as usize] << (at * bits);
                words.push(each.map(code).sum());
            }
        }
    }
    words
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn products_with_blocks_are_right(
        m in prop_oneof![1..6u32, 1..20u32], n in 1..120u32, k in prop_oneof![1..70u32, 700..800u32],
        bits in prop::sample::select(vec![2u32, 4, 8]), block in prop::sample::select(vec![16u32, 32, 48, 128, 1024]),
        with in any::<(bool, bool, bool)>(), more in 0..3u32, mut seed in 1..u64::MAX,
    ) {
        let (has_zeros, biased, clamped) = with;
        let blocks = k.div_ceil(block);
        let a = random(&mut seed, (m * (k + more)) as usize);
        let numbers = codes(&mut seed, (k * n) as usize, bits);
        let scales = random(&mut seed, (blocks * n) as usize);
        let zeros = match has_zeros {
            true => codes(&mut seed, (blocks * n) as usize, bits),
            false => vec![1 << (bits - 1); (blocks * n) as usize],
        };
        let bias = random(&mut seed, n as usize);
        let (low, high) = if clamped { ((-0.25f32).to_bits(), 0.5f32.to_bits()) } else { infinite() };
        let mut memory = Memory::new(256 << 10);
        let zero_bytes: Vec<f32> = zeros.iter().map(|zero| *zero as f32).collect();
        let zero_bytes: Vec<u8> = panels([n, blocks], &zero_bytes, [n, 1]).iter().map(|zero| *zero as u8).collect();
        let zero_words: Vec<u32> = zero_bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let request = BlockGemm {
            m, n, k, a: memory.place(&a), a_row_stride: k + more, bits, block,
            b: memory.place_words(&words([n, k], &numbers, bits)),
            scales: memory.place(&panels([n, blocks], &scales, [n, 1])),
            zeros: if has_zeros { memory.place_words(&zero_words) } else { 0 },
            bias: if biased { memory.place(&bias) } else { 0 }, low, high,
            output: memory.place(&vec![0.0; (m * n) as usize]), ..BlockGemm::default()
        };
        let mut expected = Vec::new();
        for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
            let sum: f64 = (0..k).map(|step| {
                let of_block = (step / block * n + column) as usize;
                let number = f64::from(numbers[(step * n + column) as usize]) - f64::from(zeros[of_block]);
                f64::from(a[(row * (k + more) + step) as usize]) * number * f64::from(scales[of_block])
            }).sum();
            let sum = sum + if biased { f64::from(bias[column as usize]) } else { 0.0 };
            expected.push(sum.max(f64::from(f32::from_bits(low))).min(f64::from(f32::from_bits(high))));
        }
        // Sums of hundreds of products of up to 255.
        memory.check(&Kernel::BlockGemm(request), request.output, &expected, 1e-6 * f64::from(1 << bits) * 16.0);
    }
}

#[test]
fn malformed_and_overlapping_products_with_blocks_are_refused() {
    let watch = Watch::new(InstructionSet::best(), 1).unwrap();
    let mut memory = Memory::new(4096);
    let (low, high) = infinite();
    let end = 4 * 4096;
    let ok = BlockGemm {
        m: 4,
        n: 10,
        k: 20,
        a: 4096,
        a_row_stride: 20,
        bits: 4,
        block: 16,
        b: 6144,
        scales: 8192,
        zeros: 10240,
        low,
        high,
        output: 12288,
        ..BlockGemm::default()
    };
    let mut ask = |request: BlockGemm| memory.run(&Kernel::BlockGemm(request), &watch);
    assert_eq!(ask(ok), Ok(()));
    // Panels of 16 columns: three words, two scales and two bytes for each.
    assert_eq!(ask(BlockGemm { b: end - 192, ..ok }), Ok(()));
    assert_eq!(ask(BlockGemm { scales: end - 128, ..ok }), Ok(()));
    assert_eq!(ask(BlockGemm { zeros: end - 32, ..ok }), Ok(()));
    for request in [
        BlockGemm { m: 0, ..ok },
        BlockGemm { n: 0, ..ok },
        BlockGemm { k: 0, ..ok },
        BlockGemm { block: 0, ..ok },
        BlockGemm { block: 12, ..ok },
        BlockGemm { bits: 0, ..ok },
        BlockGemm { bits: 3, ..ok },
        BlockGemm { bits: 16, ..ok },
        BlockGemm { round: 3, ..ok },
        BlockGemm { round_sum: 3, ..ok },
        BlockGemm { a_row_stride: 0, ..ok },
        BlockGemm { zeros: 10241, ..ok },
    ] {
        assert_eq!(ask(request), Err(Refused::Malformed), "{request:?}");
    }
    for request in [
        BlockGemm { b: end - 188, ..ok },
        BlockGemm { scales: end - 124, ..ok },
        BlockGemm { zeros: end - 28, ..ok },
        BlockGemm { bias: end - 36, ..ok },
        BlockGemm { n: u32::MAX, ..ok },
        BlockGemm { k: u32::MAX, ..ok },
        BlockGemm { m: u32::MAX, ..ok },
        BlockGemm { output: end - 156, ..ok },
    ] {
        assert_eq!(ask(request), Err(Refused::OutOfBounds), "{request:?}");
    }
    for request in [
        BlockGemm { b: 12288 - 188, ..ok },
        BlockGemm { scales: 12288 + 156, ..ok },
        BlockGemm { zeros: 12288 - 28, ..ok },
        BlockGemm { bias: 12288, ..ok },
    ] {
        assert_eq!(ask(request), Err(Refused::Overlapping), "{request:?}");
    }
}
