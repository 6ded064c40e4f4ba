//! What the host computes for a guest: any request, on any memory.
//!
//! A request is mostly of a form that gets as far as being computed: the number of an operation
//! there is, small sizes, addresses inside of memory, and now and then something else.
#![no_main]
#![allow(dead_code)] // The other way of asking is tested with the host.

/// The host's own, in a module of the name that they know.
#[path = "../../../host/src/sandbox"]
mod sandbox {
    mod kernels;

    pub fn compute(memory: &mut [u8], words: u32, until: std::time::Instant, best: bool) -> bool {
        let set =
            if best { kernels::InstructionSet::best() } else { kernels::InstructionSet::Portable };
        let Ok(mut watch) = kernels::Watch::new(set, 1) else { return false };
        watch.until(Some(until));
        kernels::compute(memory, REQUEST, words, &watch).is_ok()
    }

    /// Where a request is.
    pub const REQUEST: u32 = 1024;
}

use std::time::{Duration, Instant};

use belljar_abi::kernel::{Kernel, MAX_POINTWISE_INPUTS, Step};
use libfuzzer_sys::fuzz_target;
use sandbox::REQUEST;

/// A page of linear memory.
const MEMORY: usize = 64 << 10;

/// What a fuzzer says, byte by byte; nothing more is zeros.
struct Bytes<'a>(std::slice::Iter<'a, u8>);

impl Bytes<'_> {
    fn byte(&mut self) -> u32 {
        self.0.next().copied().unwrap_or(0).into()
    }

    fn word(&mut self) -> u32 {
        self.byte() | self.byte() << 8 | self.byte() << 16 | self.byte() << 24
    }

    /// A size: mostly small, and not nothing.
    fn size(&mut self) -> u32 {
        match self.byte() {
            small @ 0..200 => 1 + small % 8,
            middle @ 200..240 => 1 + middle % 40,
            240..244 => 0,
            244..248 => u32::MAX >> (self.byte() % 32),
            248..252 => 1 << (self.byte() % 32),
            _ => self.word(),
        }
    }

    fn stride(&mut self) -> u32 {
        match self.byte() {
            small @ 0..80 => small % 3,
            _ => self.size(),
        }
    }

    /// An address: mostly one of a few that lie apart, or none.
    fn address(&mut self) -> u32 {
        match self.byte() {
            apart @ 0..180 => 4096 + apart % 15 * 4096,
            180..220 => 0,
            inside @ 220..240 => (inside << 8 | self.byte()) & !3,
            240..248 => MEMORY as u32 - 4 * (1 + self.byte()),
            _ => self.word(),
        }
    }

    fn bound(&mut self) -> u32 {
        let bounds = [f32::NEG_INFINITY, f32::INFINITY, 0.0, -0.0, 1.0, f32::NAN];
        bounds.get(self.byte() as usize % 8).map_or_else(|| self.word(), |bound| bound.to_bits())
    }
}

/// The fields of an operation, by what they are: a size, a stride, an address, bounds, a mode.
fn fields(number: u32) -> &'static [u8] {
    match number {
        1 => b"zzzzzzzzzzzzzzppssssaaabaaabba",
        2 => b"zzzzasssasssabba",
        3 => b"zzzzzzzzzppmaa",
        4 => b"zzzmaa",
        5 => b"zzzaa",
        _ => b"zzzzzsssssaa",
    }
}

fn request(bytes: &mut Bytes<'_>) -> Vec<u32> {
    let number = 1 + bytes.byte() % 7;
    let mut words = vec![number];
    if number < 7 {
        for field in fields(number) {
            words.push(match field {
                b'z' => bytes.size(),
                b's' => bytes.stride(),
                b'a' => bytes.address(),
                b'b' => bytes.bound(),
                b'p' => bytes.size().wrapping_sub(1),
                _ => bytes.byte() % 5,
            });
        }
        return words;
    }
    words.extend([(); 5].map(|()| bytes.size()));
    words.push(bytes.address());
    let inputs = bytes.byte() % (MAX_POINTWISE_INPUTS as u32 + 1);
    words.push(inputs);
    for _ in 0..inputs {
        words.push(bytes.address());
        words.extend([(); 4].map(|()| bytes.stride()));
        words.push(bytes.byte() % 9 % 3);
    }
    let steps = 1 + bytes.byte() % 33;
    words.push(steps);
    for at in 0..steps {
        words.push(bytes.byte() % (Step::ALL.len() as u32));
        for _ in 0..2 {
            // An input, or the result of a step before.
            let operand = bytes.byte() % (inputs + at).max(1);
            let result = operand.checked_sub(inputs).map(|at| at + MAX_POINTWISE_INPUTS as u32);
            words.push(result.unwrap_or(operand));
        }
    }
    words
}

/// The output of a request, if it is one: nothing else may be written.
fn output(words: &[u32]) -> Option<u32> {
    Some(match Kernel::decode(words.iter().copied())? {
        Kernel::Conv(conv) => conv.output,
        Kernel::Gemm(gemm) => gemm.output,
        Kernel::Pool(pool) => pool.output,
        Kernel::Reduce(reduce) => reduce.output,
        Kernel::Softmax(softmax) => softmax.output,
        Kernel::Permute(permute) => permute.output,
        Kernel::Pointwise(program) => program.output,
    })
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data.iter());
    let best = bytes.byte() & 3 != 0;
    let mut words = request(&mut bytes);
    match bytes.byte() {
        250 => words.truncate(words.len() / 2),
        251 => words.push(bytes.word()),
        252.. => {
            let at = bytes.byte() as usize % words.len();
            words[at] = bytes.word();
        }
        _ => {}
    }
    // On a boundary of pages, as linear memory is.
    let mut storage = vec![0f32; MEMORY / 4];
    for (at, element) in storage.iter_mut().enumerate() {
        *element = (at % 251) as f32 - 125.0;
    }
    for element in storage.iter_mut().skip(2048).step_by(97) {
        *element = f32::from_bits(bytes.word());
    }
    let memory: &mut [u8] = bytemuck::cast_slice_mut(&mut storage);
    let from = REQUEST as usize;
    for (to, word) in memory[from..].as_chunks_mut::<4>().0.iter_mut().zip(&words) {
        *to = word.to_le_bytes();
    }
    let before = memory.to_vec();
    let until = Instant::now() + Duration::from_millis(20);
    let done = sandbox::compute(memory, words.len() as u32, until, best);
    // What is before the output stays as it is; all of memory does if there is no output.
    let untouched = output(&words).map_or(MEMORY, |output| (output as usize).min(MEMORY));
    assert_eq!(memory[..untouched], before[..untouched]);
    assert!(!done || untouched < MEMORY || output(&words).is_some());
});
