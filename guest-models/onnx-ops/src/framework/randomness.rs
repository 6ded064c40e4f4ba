//! The random numbers of a run. Each is a function of the seed, the node, the iteration of every
//! loop around it, and its position in the node's output, and of nothing else: neither the order in
//! which nodes run nor how often one is prepared or computed changes it.
//!
//! A node has its own key of the generator. The key is derived by the generator itself: each word
//! that distinguishes a node replaces the key by the block of that word, as jax's `fold_in` does.

use std::cell::{Cell, RefCell};

use tract_onnx::pb::NodeProto;

use crate::framework::philox::{self, Key};

thread_local! {
    /// The seed of the current run.
    static SEED: Cell<u32> = const { Cell::new(0) };
    /// The current iteration of every loop around the node that is being computed, the outermost
    /// first.
    static ITERATIONS: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Runs a model with a seed.
pub fn with_seed<T>(seed: u32, run: impl FnOnce() -> T) -> T {
    struct Restore(u32);
    impl Drop for Restore {
        fn drop(&mut self) {
            SEED.set(self.0);
        }
    }
    let _restore = Restore(SEED.replace(seed));
    run()
}

/// Runs one iteration of a loop.
pub(crate) fn in_iteration<T>(iteration: u64, run: impl FnOnce() -> T) -> T {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            ITERATIONS.with_borrow_mut(Vec::pop);
        }
    }
    ITERATIONS.with_borrow_mut(|iterations| iterations.push(iteration));
    let _leave = Leave;
    run()
}

/// What a word that is folded into a key stands for. It is a word of the counter that the counters of
/// numbers have as zero, so that no key is made of bits that are also numbers.
#[derive(Clone, Copy)]
enum Word {
    Distribution = 1,
    NameLength,
    NamePart,
    SeedOfNode,
    SeedOfRun,
    Iteration,
}

fn fold(key: Key, meaning: Word, word: u64) -> Key {
    let [a, b, ..] = philox::block(key, [word as u32, (word >> 32) as u32, meaning as u32, 0]);
    [a, b]
}

/// What the numbers are used for: nodes of different distributions with the same seed of their own
/// draw different numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distribution {
    Normal = 1,
    Uniform,
    Bernoulli,
    Multinomial,
    Dropout,
}

/// The random numbers of a node in all runs.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    key: Key,
    /// Whether the seed of the run is used, because the node has none of its own.
    of_run: bool,
}

impl Source {
    /// The numbers of a node, by its name, which the gate makes unique. A seed of its own replaces
    /// both the name and the seed of the run: two nodes of one distribution with the same seed draw
    /// the same numbers, as in onnxruntime.
    pub(crate) fn of(node: &NodeProto, what: Distribution, seed: Option<u64>) -> Source {
        let mut key = fold([0; 2], Word::Distribution, what as u64);
        match seed {
            Some(seed) => key = fold(key, Word::SeedOfNode, seed),
            None => {
                key = fold(key, Word::NameLength, node.name.len() as u64);
                for part in node.name.as_bytes().chunks(8) {
                    let word = part.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
                    key = fold(key, Word::NamePart, word);
                }
            }
        }
        Source { key, of_run: seed.is_none() }
    }

    /// The numbers in the current run and iteration.
    pub(crate) fn numbers(&self) -> Numbers {
        let mut key = self.key;
        if self.of_run {
            key = fold(key, Word::SeedOfRun, SEED.get().into());
        }
        ITERATIONS.with_borrow(|iterations| {
            for iteration in iterations {
                key = fold(key, Word::Iteration, *iteration);
            }
        });
        Numbers(key)
    }
}

/// The random numbers of a node in one iteration of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers(Key);

/// 2^-32.
const STEP: f64 = 1.0 / 4_294_967_296.0;
/// 2^-53.
const FINE_STEP: f64 = STEP / 2_097_152.0;

impl Numbers {
    fn block(self, at: usize) -> [u32; 4] {
        let at = at as u64;
        philox::block(self.0, [at as u32, (at >> 32) as u32, 0, 0])
    }

    /// The four numbers from 0 to below 1 at positions 4 `at` and on, with as many bits.
    pub(crate) fn quarters(self, at: usize, bits: u32) -> [f64; 4] {
        let step = 1.0 / (1u64 << bits) as f64;
        self.block(at).map(|word| f64::from(word >> (32 - bits)) * step)
    }

    /// The two numbers of 53 bits from 0 to below 1 at positions 2 `at` and on.
    pub(crate) fn halves(self, at: usize) -> [f64; 2] {
        let [a, b, c, d] = self.block(at);
        [fine(a, b) as f64 * FINE_STEP, fine(c, d) as f64 * FINE_STEP]
    }

    /// The four standard normal numbers at positions 4 `at` and on, from 32 bits each: up to 6.7.
    pub(crate) fn normal_quarters(self, at: usize) -> [f64; 4] {
        let [a, b, c, d] = self.block(at).map(f64::from);
        let [first, second] = box_muller((a + 1.0) * STEP, b * STEP);
        let [third, fourth] = box_muller((c + 1.0) * STEP, d * STEP);
        [first, second, third, fourth]
    }

    /// The two standard normal numbers at positions 2 `at` and on, from 53 bits each: up to 8.6.
    pub(crate) fn normal_halves(self, at: usize) -> [f64; 2] {
        let [a, b, c, d] = self.block(at);
        box_muller((fine(a, b) as f64 + 1.0) * FINE_STEP, fine(c, d) as f64 * FINE_STEP)
    }
}

/// The highest 53 bits of two words.
fn fine(high: u32, low: u32) -> u64 {
    (u64::from(high) << 32 | u64::from(low)) >> 11
}

/// Two standard normal numbers, of a number from above 0 to 1 and one from 0 to below 1. Box, Muller:
/// "A note on the generation of random normal deviates", 1958. The functions are those of the crate
/// libm, which has the same bits on every machine; a square root is exact everywhere.
fn box_muller(radius: f64, turn: f64) -> [f64; 2] {
    let length = (-2.0 * libm::log(radius)).sqrt();
    let angle = std::f64::consts::TAU * turn;
    [length * libm::cos(angle), length * libm::sin(angle)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Source {
        let node = NodeProto { name: name.into(), ..NodeProto::default() };
        Source::of(&node, Distribution::Uniform, None)
    }

    fn seeded(name: &str, what: Distribution, seed: u64) -> Source {
        Source::of(&NodeProto { name: name.into(), ..NodeProto::default() }, what, Some(seed))
    }

    fn bits(source: &Source) -> [u32; 4] {
        source.numbers().block(0)
    }

    #[test]
    fn names_seeds_and_iterations_each_give_other_numbers() {
        let node = named("node");
        let mut all = vec![
            bits(&node),
            bits(&named("other")),
            bits(&named("")),
            bits(&named("\0")),
            bits(&named("a name of more than eight bytes")),
            bits(&named("a name of more than eight bytez")),
            node.numbers().block(1),
            node.numbers().block(1 << 20),
            with_seed(1, || bits(&node)),
            with_seed(u32::MAX, || bits(&node)),
            in_iteration(0, || bits(&node)),
            in_iteration(1, || bits(&node)),
            in_iteration(1 << 32, || bits(&node)),
            in_iteration(0, || in_iteration(1, || bits(&node))),
            in_iteration(1, || in_iteration(0, || bits(&node))),
            bits(&seeded("node", Distribution::Uniform, 0)),
            bits(&seeded("node", Distribution::Uniform, 1)),
            bits(&seeded("node", Distribution::Normal, 1)),
        ];
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn seed_of_a_node_replaces_its_name_and_the_seed_of_the_run() {
        let first = bits(&seeded("first", Distribution::Uniform, 7));
        let second = with_seed(5, || bits(&seeded("second", Distribution::Uniform, 7)));
        assert_eq!(first, second);
        let later = in_iteration(1, || bits(&seeded("first", Distribution::Uniform, 7)));
        assert_ne!(first, later);
    }

    #[test]
    fn seed_and_iterations_end_with_their_run_even_if_it_panics() {
        let node = named("node");
        let before = bits(&node);
        #[cfg(not(target_family = "wasm"))]
        std::panic::catch_unwind(|| with_seed(1, || in_iteration(2, || panic!("oh")))).unwrap_err();
        with_seed(3, || in_iteration(4, || ()));
        assert_eq!(bits(&node), before);
    }

    #[test]
    fn bits_of_numbers_are_fixed() {
        // A change of these numbers changes the answers of every model that draws some. A program in
        // Python gives the same ones.
        let numbers = named("node").numbers();
        let quarters = numbers.quarters(0, 24);
        let normal = numbers.normal_quarters(0).map(f64::to_bits);
        assert_eq!((quarters.map(f64::to_bits), normal), EXPECTED);
    }

    const EXPECTED: ([u64; 4], [u64; 4]) = (
        [
            4_601_053_835_476_074_496,
            4_603_021_032_503_115_776,
            4_605_179_154_785_107_968,
            4_603_046_351_335_325_696,
        ],
        [
            13_831_895_889_800_370_017,
            13_822_733_441_313_565_125,
            13_827_727_223_105_442_706,
            13_819_020_367_971_949_312,
        ],
    );
}
