//! Philox4x32-10, a generator without a state: each block of 128 random bits is a function of a key
//! and a counter, so any of them can be computed alone, in any order.
//!
//! Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC11, 2011. It is not
//! meant for secrets.

/// Chooses one of the generator's sequences.
pub(crate) type Key = [u32; 2];

const ROUNDS: usize = 10;
const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
/// What is added to the key after each round: the golden ratio, and the square root of 3 minus 1.
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];

/// The block of a counter.
pub(crate) fn block(key: Key, counter: [u32; 4]) -> [u32; 4] {
    let ([mut k0, mut k1], [mut a, mut b, mut c, mut d]) = (key, counter);
    for _ in 0..ROUNDS {
        let first = u64::from(a) * u64::from(MULTIPLIERS[0]);
        let second = u64::from(c) * u64::from(MULTIPLIERS[1]);
        let high = |product: u64| (product >> 32) as u32;
        (a, b, c, d) = (high(second) ^ b ^ k0, second as u32, high(first) ^ d ^ k1, first as u32);
        (k0, k1) = (k0.wrapping_add(WEYL[0]), k1.wrapping_add(WEYL[1]));
    }
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_those_of_the_authors_known_answers() {
        let zeros = [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8];
        assert_eq!(block([0; 2], [0; 4]), zeros);
        let ones = [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd];
        assert_eq!(block([u32::MAX; 2], [u32::MAX; 4]), ones);
        let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let pi = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
        assert_eq!(block([0xa409_3822, 0x299f_31d0], counter), pi);
    }
}
