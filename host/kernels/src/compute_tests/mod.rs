//! Tests every kernel, on every instruction set of this machine, against an `f64` reference, and
//! with invalid requests.

mod blocks;
mod convolutions;
mod narrow;
mod pointwise;
mod products;
mod refusals;

use belljar_abi::kernel::*;

use super::operations::Refused;
use super::{InstructionSet, Watch, compute};

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
