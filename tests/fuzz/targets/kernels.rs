//! Native kernels: any request, on any memory, with a secret in the kernels' scratch memory. Two
//! secrets must give the same bytes, and nothing of either may be written.
#![no_main]

#[path = "../../support/kernel_requests.rs"]
mod requests;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use requests::{Bytes, MEMORY, REQUEST};

/// How a request ended.
#[derive(Debug, PartialEq)]
enum Ended {
    Done,
    Refused,
    /// At the deadline, which may be anywhere in the work.
    Late,
}

/// Maximum bytes of scratch memory that are kept from one input to the next: checking more takes
/// longer than most requests.
const KEPT: usize = 1 << 20;

thread_local! {
    static WATCHES: RefCell<[Option<belljar_kernels::Watch>; 2]> = const { RefCell::new([None, None]) };
}

/// Computes a request with `secret` in all scratch memory, then clears it.
fn compute(memory: &mut [u32], words: u32, until: Instant, best: bool, secret: f32) -> Ended {
    WATCHES.with_borrow_mut(|watches| {
        let watch = watches[usize::from(best)].get_or_insert_with(|| watch(best));
        watch.until(Some(until));
        watch.scratch().plant(secret);
        let memory = bytemuck::cast_slice_mut(memory);
        let ended = match belljar_kernels::compute(memory, REQUEST, words, watch) {
            Ok(()) => Ended::Done,
            Err(belljar_kernels::Refused::Interrupted) => Ended::Late,
            Err(_) => Ended::Refused,
        };
        watch.scratch().clear();
        assert!(watch.scratch().is_clear());
        if watch.scratch().bytes() > KEPT {
            watch.scratch().release();
        }
        ended
    })
}

fn watch(best: bool) -> belljar_kernels::Watch {
    let set = if best {
        belljar_kernels::InstructionSet::best()
    } else {
        belljar_kernels::InstructionSet::PORTABLE
    };
    belljar_kernels::Watch::new(set, 1).expect("one thread needs no others")
}

/// A number and a NaN: results computed from either would differ.
const SECRETS: [u32; 2] = [0x5ec2_e7a5, 0x7fc5_ec2e];

/// Whether a secret was written over another value. Compares pieces before words, since every
/// comparison is instrumented by the fuzzer.
fn shows_a_secret(before: &[u32], after: &[u32]) -> bool {
    let pieces = before.chunks(64).zip(after.chunks(64)).filter(|(before, after)| before != after);
    let mut words = pieces.flat_map(|(before, after)| before.iter().zip(after));
    words.any(|(before, after)| before != after && SECRETS.contains(after))
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes::new(data);
    let best = bytes.byte() & 3 != 0;
    let words = requests::request(&mut bytes);
    let before = requests::memory(&words, &mut bytes);
    let run = |secret: u32| {
        let mut memory = before.clone();
        let until = Instant::now() + Duration::from_millis(20);
        let secret = f32::from_bits(secret);
        let ended = compute(&mut memory, words.len() as u32, until, best, secret);
        (memory, ended)
    };
    let (first, ended) = run(SECRETS[0]);
    // Memory before the output must not change, nor any memory if there is no output.
    let output = requests::output(&words);
    let untouched = output.map_or(MEMORY, |output| (output as usize).min(MEMORY)) / 4;
    assert!(first[..untouched] == before[..untouched], "memory before the output was written");
    assert!(ended != Ended::Done || untouched < MEMORY / 4 || output.is_some());
    // The fuzzer may have put the secret into the input itself.
    let in_input = SECRETS.iter().any(|secret| data.windows(4).any(|w| w == secret.to_le_bytes()));
    assert!(in_input || !shows_a_secret(&before, &first), "a secret was written");
    let (second, ended_again) = run(SECRETS[1]);
    if ended != Ended::Late && ended_again != Ended::Late {
        assert_eq!(ended, ended_again);
        assert!(first == second, "the result depends on the content of scratch memory");
    }
});
