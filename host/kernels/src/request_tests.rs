//! Tests that the random requests of the other tests and of the fuzz target reach every kernel.

use belljar_abi::kernel::Kernel;

use super::requests::{self, Bytes, REQUEST};
use super::{InstructionSet, Watch, compute};

/// Random bytes, the same in every run.
fn random(seed: &mut u64) -> Vec<u8> {
    let byte = || {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (*seed >> 33) as u8
    };
    std::iter::repeat_with(byte).take(300).collect()
}

/// What became of the random requests to a kernel.
#[derive(Clone, Copy, Debug, Default)]
struct Outcomes {
    made: u32,
    decoded: u32,
    computed: u32,
}

#[test]
fn random_requests_are_decoded_and_computed_by_every_kernel() {
    let mut seed = 7;
    let mut watch = Watch::new(InstructionSet::best(), 1).unwrap();
    let mut outcomes = [Outcomes::default(); Kernel::COUNT];
    for _ in 0..1000 * Kernel::COUNT {
        let bytes = random(&mut seed);
        let mut bytes = Bytes::new(&bytes);
        let words = requests::request(&mut bytes);
        let mut memory = requests::memory(&words, &mut bytes);
        let number = words[0];
        // A few requests have another number.
        let Some(at) = Kernel::defaults().iter().position(|kernel| kernel.number() == number)
        else {
            continue;
        };
        outcomes[at].made += 1;
        outcomes[at].decoded += u32::from(Kernel::decode(words.iter().copied()).is_some());
        watch.until(Some(std::time::Instant::now() + std::time::Duration::from_secs(1)));
        let memory = bytemuck::cast_slice_mut(&mut memory);
        let ended = compute(memory, REQUEST, words.len() as u32, &watch);
        outcomes[at].computed += u32::from(ended.is_ok());
    }
    for (kernel, found) in Kernel::defaults().iter().zip(outcomes) {
        let name = Kernel::name_of(kernel.number()).unwrap();
        // Refused requests are tested, too.
        assert!(found.decoded > found.made / 2 && found.decoded < found.made, "{name}: {found:?}");
        assert!(found.computed > found.made / 4, "{name}: {found:?}");
    }
}
