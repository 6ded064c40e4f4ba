//! Makes requests to native kernels from arbitrary bytes, for the fuzz target and for the kernels'
//! own tests on random bytes.
//!
//! Most requests are valid enough to be computed: an existing operation, small sizes, addresses
//! inside of memory. A few are not.
#![allow(dead_code)] // Each user uses a part.

use belljar_abi::kernel::{Kernel, MAX_POINTWISE_INPUTS, Step};

/// Size of the memory in bytes: a page of linear memory.
pub(crate) const MEMORY: usize = 64 << 10;

/// The address of the request.
pub(crate) const REQUEST: u32 = 1024;

/// Memory with a request in it, and the bits of floats everywhere else. It is aligned for floats,
/// as linear memory is.
pub(crate) fn memory(words: &[u32], bytes: &mut Bytes<'_>) -> Vec<u32> {
    static NUMBERS: std::sync::OnceLock<Vec<u32>> = std::sync::OnceLock::new();
    let numbers = || (0..MEMORY / 4).map(|at| ((at % 251) as f32 - 125.0).to_bits()).collect();
    let mut memory = NUMBERS.get_or_init(numbers).clone();
    for element in memory.iter_mut().skip(2048).step_by(97) {
        *element = bytes.word();
    }
    memory[REQUEST as usize / 4..][..words.len()].copy_from_slice(words);
    memory
}

/// The bytes from which requests are made. After the last byte it returns zeros.
pub(crate) struct Bytes<'a>(std::slice::Iter<'a, u8>);

impl<'a> Bytes<'a> {
    /// Starts at the first byte.
    pub(crate) fn new(bytes: &'a [u8]) -> Bytes<'a> {
        Bytes(bytes.iter())
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> u32 {
        self.0.next().copied().unwrap_or(0).into()
    }

    /// Any word.
    pub(crate) fn word(&mut self) -> u32 {
        self.byte() | self.byte() << 8 | self.byte() << 16 | self.byte() << 24
    }

    /// A size: mostly small and not zero.
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

    /// An address: mostly one of a few that are far apart, or zero for none.
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

/// The fields of an operation by kind: size (z), stride (s), address (a), bound (b), pad (p), mode
/// (m).
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

/// The words of a request.
pub(crate) fn request(bytes: &mut Bytes<'_>) -> Vec<u32> {
    let mut words = well_formed(bytes);
    match bytes.byte() {
        250 => words.truncate(words.len() / 2),
        251 => words.push(bytes.word()),
        252.. => {
            let at = bytes.byte() as usize % words.len();
            words[at] = bytes.word();
        }
        _ => {}
    }
    words
}

fn well_formed(bytes: &mut Bytes<'_>) -> Vec<u32> {
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
            // An input, or the result of an earlier step.
            let operand = bytes.byte() % (inputs + at).max(1);
            let result = operand.checked_sub(inputs).map(|at| at + MAX_POINTWISE_INPUTS as u32);
            words.push(result.unwrap_or(operand));
        }
    }
    words
}

/// The address of the output of a valid request: nothing before it may be written.
pub(crate) fn output(words: &[u32]) -> Option<u32> {
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
