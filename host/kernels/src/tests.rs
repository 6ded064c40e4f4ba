//! Tests tiles on every instruction set of this machine against an `f64` reference, on random and
//! on hostile lists.

use proptest::prelude::*;

use super::operations::{COLUMNS, Refused};
use super::{InstructionSet, matmul_f32};

const ROWS: [u32; 3] = [8, 16, 32];

/// Memory with a list of operations at its start, and data after it.
struct Memory {
    bytes: Vec<u8>,
    list: usize,
    free: usize,
}

impl Memory {
    fn new(len: usize) -> Memory {
        Memory { bytes: vec![0; len], list: 0, free: 64 * 20 }
    }

    fn place(&mut self, values: &[f32]) -> u32 {
        let at = self.free;
        for (to, value) in self.bytes[at..].as_chunks_mut::<4>().0.iter_mut().zip(values) {
            *to = value.to_le_bytes();
        }
        self.free += 4 * values.len();
        at as u32
    }

    fn push(&mut self, words: &[u32]) {
        for (to, word) in self.bytes[20 * self.list..].as_chunks_mut::<4>().0.iter_mut().zip(words)
        {
            *to = word.to_le_bytes();
        }
        self.list += 1;
    }

    fn floats(&self, at: u32, count: usize) -> Vec<f32> {
        let bytes = &self.bytes[at as usize..at as usize + 4 * count];
        bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    fn run(&mut self, set: InstructionSet, rows: u32) -> Result<(), Refused> {
        matmul_f32(set, &mut self.bytes, rows, 0, self.list as u32)
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

fn assert_close(found: &[f32], expected: &[f64], depth: usize, what: &str) {
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let bound = 1e-6 * (depth as f64 + 4.0) + 1e-6 * expected.abs();
        assert!((f64::from(*found) - expected).abs() <= bound, "{what}, {at}: {found}, {expected}");
    }
}

#[test]
fn a_product_with_fused_operations_is_correct_on_every_instruction_set() {
    let mut seed = 7;
    for set in InstructionSet::available() {
        for rows in ROWS {
            for depth in [0usize, 1, 2, 7, 64, 577] {
                for row_major in [true, false] {
                    let height = rows as usize;
                    let mut memory = Memory::new(1 << 18);
                    let a = random(&mut seed, depth * height);
                    let b = random(&mut seed, depth * COLUMNS);
                    let bias = random(&mut seed, height);
                    let scale = random(&mut seed, COLUMNS);
                    let more = random(&mut seed, height * COLUMNS);
                    let (pa, pb) = (memory.place(&a), memory.place(&b));
                    let (p_bias, p_scale) = (memory.place(&bias), memory.place(&scale));
                    let p_more = memory.place(&more);
                    let out = memory.place(&vec![9.0; height * COLUMNS]);
                    let (row, column) =
                        if row_major { (4 * COLUMNS as u32, 4) } else { (4, 4 * rows) };
                    memory.push(&[1, 0, 0, 0, 0]);
                    memory.push(&[28, depth as u32, pa, pb, 0]);
                    memory.push(&[12, p_bias, 0, 0, 0]); // add a bias for each row
                    memory.push(&[19, p_scale, 0, 0, 0]); // scale each column
                    memory.push(&[25, p_more, 4 * COLUMNS as u32, 4, 4]); // add a tile
                    memory.push(&[26, p_bias, p_scale, 0, 0]); // add an outer product
                    memory.push(&[9, 0.25f32.to_bits(), 0, 0, 0]); // leaky relu
                    memory.push(&[3, 3.0f32.to_bits(), 0, 0, 0]); // at most 3
                    memory.push(&[27, out, row, column, 4]);
                    memory.push(&[0, 0, 0, 0, 0]);
                    memory.run(set, rows).unwrap();

                    let mut expected = Vec::new();
                    for r in 0..height {
                        for c in 0..COLUMNS {
                            let product = |k: usize| {
                                f64::from(a[k * height + r]) * f64::from(b[k * COLUMNS + c])
                            };
                            let sum: f64 = (0..depth).map(product).sum();
                            let (bias, scale) = (f64::from(bias[r]), f64::from(scale[c]));
                            let value = (sum + bias) * scale
                                + f64::from(more[r * COLUMNS + c])
                                + bias * scale;
                            expected.push(if value > 0.0 { value } else { value * 0.25 }.min(3.0));
                        }
                    }
                    let mut found = memory.floats(out, height * COLUMNS);
                    if !row_major {
                        found = (0..height * COLUMNS)
                            .map(|at| found[at % COLUMNS * height + at / COLUMNS])
                            .collect();
                    }
                    assert_close(&found, &expected, depth, &format!("{set:?}, {rows}, {depth}"));
                }
            }
        }
    }
}

#[test]
fn all_instruction_sets_with_fused_products_give_the_same_bits() {
    let mut seed = 3;
    let (a, b) = (random(&mut seed, 300 * 32), random(&mut seed, 300 * 32));
    let mut found: Vec<Vec<f32>> = Vec::new();
    for set in InstructionSet::available() {
        if set == InstructionSet::PORTABLE {
            continue;
        }
        let mut memory = Memory::new(1 << 18);
        let (pa, pb) = (memory.place(&a), memory.place(&b));
        let out = memory.place(&[0.0; 1024]);
        memory.push(&[28, 300, pa, pb, 0]);
        memory.push(&[27, out, 128, 4, 4]);
        memory.push(&[0; 5]);
        memory.run(set, 32).unwrap();
        found.push(memory.floats(out, 1024));
    }
    assert!(found.windows(2).all(|pair| pair[0] == pair[1]));
}

/// For each operation with one operand on the left, the result of WebAssembly's own kernels.
#[test]
fn operands_are_on_the_left_and_nan_stays_nan() {
    let values = [1.0f32, -2.0, f32::NAN, f32::INFINITY, 0.0];
    let operand = 0.5f32;
    let expected: [fn(f32, f32) -> f32; 6] = [
        |o, v| if v.is_nan() { v } else { o.min(v) },
        |o, v| if v.is_nan() { v } else { o.max(v) },
        |o, v| o + v,
        |o, v| o * v,
        |o, v| o - v,
        |o, v| v - o,
    ];
    for set in InstructionSet::available() {
        for (number, expected) in expected.iter().enumerate() {
            for first in [3, 10, 16] {
                let mut memory = Memory::new(1 << 16);
                let tile: Vec<f32> = values.iter().copied().cycle().take(8 * 32).collect();
                let from = memory.place(&tile);
                let operands = memory.place(&[operand; 32]);
                let out = memory.place(&[0.0; 8 * 32]);
                let word = if first == 3 { operand.to_bits() } else { operands };
                memory.push(&[2, 0, from, 0, 0]);
                memory.push(&[first + number as u32, word, 0, 0, 0]);
                memory.push(&[27, out, 128, 4, 4]);
                memory.push(&[0; 5]);
                memory.run(set, 8).unwrap();
                for (found, value) in memory.floats(out, 8 * 32).into_iter().zip(&tile) {
                    let expected = expected(operand, *value);
                    assert!(found == expected || (found.is_nan() && expected.is_nan()));
                }
            }
        }
    }
}

#[test]
fn a_store_over_the_list_itself_does_not_change_the_operations() {
    for set in InstructionSet::available() {
        let mut memory = Memory::new(1 << 16);
        let out = memory.place(&[0.0; 8 * 32]);
        memory.push(&[1, 0, 0, 0, 0]);
        memory.push(&[5, 2.0f32.to_bits(), 0, 0, 0]);
        memory.push(&[27, 0, 128, 4, 4]); // over the list
        memory.push(&[5, 1.0f32.to_bits(), 0, 0, 0]);
        memory.push(&[27, out, 128, 4, 4]);
        memory.push(&[0; 5]);
        memory.run(set, 8).unwrap();
        assert_eq!(memory.floats(out, 8 * 32)[255], 3.0);
        assert_eq!(memory.floats(0, 1), [2.0]);
    }
}

#[test]
fn out_of_bounds_and_malformed_lists_are_refused() {
    const LEN: u32 = 1 << 16;
    let minus = |value: i32| value as u32;
    let cases: [(&str, u32, &[u32], Refused); 18] = [
        ("rows", 7, &[1, 0, 0, 0, 0], Refused::Malformed),
        ("an unknown operation", 8, &[29, 0, 0, 0, 0], Refused::Malformed),
        ("an integer's operation", 8, &[22, 0, 0, 0, 0], Refused::Malformed),
        ("a load over the end", 8, &[2, 0, LEN - 1023, 0, 0], Refused::OutOfBounds),
        ("rows over the end", 8, &[10, LEN - 31, 0, 0, 0], Refused::OutOfBounds),
        ("columns over the end", 8, &[16, LEN - 127, 0, 0, 0], Refused::OutOfBounds),
        ("columns at the end of 32 bits", 8, &[16, u32::MAX, 0, 0, 0], Refused::OutOfBounds),
        ("the one product operand", 8, &[28, 10, LEN - 319, 0, 0], Refused::OutOfBounds),
        ("the other product operand", 8, &[28, 10, 0, LEN - 1279, 0], Refused::OutOfBounds),
        ("a product as deep as 32 bits", 8, &[28, u32::MAX, 0, 0, 0], Refused::OutOfBounds),
        ("a store over the end", 8, &[27, LEN - 1023, 128, 4, 4], Refused::OutOfBounds),
        ("a store before the start", 8, &[27, 100, minus(-128), 4, 4], Refused::OutOfBounds),
        ("columns before the start", 8, &[27, 100, 128, minus(-4), 4], Refused::OutOfBounds),
        (
            "strides of 2 GiB",
            8,
            &[27, 0, i32::MAX as u32, i32::MAX as u32, 4],
            Refused::OutOfBounds,
        ),
        ("strides of minus 2 GiB", 8, &[25, 0, minus(i32::MIN), 4, 4], Refused::OutOfBounds),
        ("elements of another size", 8, &[27, 0, 128, 4, 8], Refused::Malformed),
        ("an outer product over the end", 8, &[26, 0, LEN - 127, 0, 0], Refused::OutOfBounds),
        ("an outer product's rows", 8, &[26, LEN - 31, 0, 0, 0], Refused::OutOfBounds),
    ];
    for set in InstructionSet::available() {
        for (what, rows, words, expected) in cases {
            let mut memory = Memory::new(LEN as usize);
            memory.push(words);
            memory.push(&[0; 5]);
            let before = memory.bytes.clone();
            assert_eq!(memory.run(set, rows), Err(expected), "{what}");
            assert!(memory.bytes == before, "{what}");
        }
        let mut memory = Memory::new(LEN as usize);
        memory.push(&[1, 0, 0, 0, 0]);
        assert_eq!(memory.run(set, 8), Err(Refused::Malformed), "a list without an end");
        assert_eq!(matmul_f32(set, &mut memory.bytes, 8, 0, 0), Err(Refused::TooMuch));
        assert_eq!(matmul_f32(set, &mut memory.bytes, 8, 0, 65), Err(Refused::TooMuch));
        let end = LEN - 19;
        assert_eq!(matmul_f32(set, &mut memory.bytes, 8, end, 1), Err(Refused::OutOfBounds));
    }
}

#[test]
fn the_work_of_one_call_is_bounded() {
    let depth = 1 << 19;
    let mut memory = Memory::new(4 * 32 * depth + (1 << 16));
    let list: &[u32] = &[28, depth as u32, 0, 0, 0];
    for _ in 0..3 {
        memory.push(list);
    }
    memory.push(&[0; 5]);
    assert_eq!(memory.run(InstructionSet::best(), 32), Err(Refused::TooMuch));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// No list accesses anything outside of memory, and every instruction set reaches the same
    /// verdict.
    #[test]
    fn hostile_lists_stay_inside_memory(
        rows in prop::sample::select(&[8u32, 16, 32, 0, 33][..]),
        words in prop::collection::vec(
            (0u32..31, prop::array::uniform4(prop_oneof![
                any::<u32>(),
                0u32..5000,
                60_000u32..66_000,
                Just(4),
                Just(128),
                Just(-4i32 as u32),
            ])),
            1..8,
        ),
        count in 0u32..70,
    ) {
        let mut verdicts = Vec::new();
        for set in InstructionSet::available() {
            let mut memory = Memory::new(1 << 16);
            for (number, operands) in &words {
                memory.push(&[*number, operands[0], operands[1], operands[2], operands[3]]);
            }
            verdicts.push(matmul_f32(set, &mut memory.bytes, rows, 0, count));
        }
        prop_assert!(verdicts.windows(2).all(|pair| pair[0] == pair[1]), "{verdicts:?}");
    }
}
