//! A hostile guest. It sends arbitrary requests to the native kernels, in a worker with all layers
//! of confinement, and looks for data of earlier requests.
//!
//! Needs the feature `test-hooks`:
//! `cargo test --release -p belljar-cli --features test-hooks --test breach foreign_guest`. The
//! hook is in the supervisor, which starts the worker with another guest; the worker is the usual
//! one.

use crate::support;

#[path = "../support/kernel_requests.rs"]
mod requests;

use belljar::WorkerProgram;
use belljar::test_hooks::ForeignGuest;
use belljar_abi::kernel::{
    BlockGemm, Conv, Gemm, Kernel, Pointwise, PointwiseInput, PointwiseStep, Pool, Step,
};
use requests::{Bytes, MEMORY, REQUEST};

/// A number that no computation here produces.
const SECRET: u32 = 0x5ec2_e7a5;

/// The address of a second request, in bytes.
const SECOND: usize = 2560;

/// The addresses of operands and outputs, in bytes; 8 KiB apart.
const ADDRESSES: [u32; 6] = [8 << 10, 16 << 10, 24 << 10, 32 << 10, 40 << 10, 48 << 10];

/// A guest whose input replaces its memory from address 4 on, and whose answer is its whole memory.
/// In between it makes the request at [`REQUEST`], with the number of words at address 4, and the
/// one at [`SECOND`], with the number of words at address 8, unless that is 0.
fn guest() -> Vec<u8> {
    let section = |id: u8, content: &[u8]| {
        let len = u8::try_from(content.len()).unwrap();
        assert!(len < 128, "a length of one byte");
        [&[id, len], content].concat()
    };
    let name = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let sized = |code: Vec<u8>| [vec![code.len() as u8], code].concat();
    let constant = |opcode: u8, mut value: i64| {
        let mut bytes = vec![opcode];
        loop {
            let byte = (value & 0x7f) as u8;
            value >>= 7;
            let last = (value == 0 && byte & 0x40 == 0) || (value == -1 && byte & 0x40 != 0);
            bytes.push(if last { byte } else { byte | 0x80 });
            if last {
                return bytes;
            }
        }
    };
    let (i32_const, i64_const) = (0x41, 0x42);
    let word_at = |address: i64| [constant(i32_const, address), vec![0x28, 2, 0]].concat();
    let request =
        |at: i64, words: i64| [constant(i32_const, at), word_at(words), vec![0x10, 0]].concat();
    let answer = constant(i64_const, (MEMORY as i64) << 32);
    let run = [
        vec![0],
        request(REQUEST.into(), 4),
        word_at(8),
        vec![0x04, 0x40],
        request(SECOND as i64, 8),
        vec![0x0b],
        answer,
        vec![0x0b],
    ];
    let alloc = [vec![0], constant(i32_const, 4), vec![0x0b]];
    let types = [3, 0x60, 2, 0x7f, 0x7f, 0, 0x60, 1, 0x7f, 1, 0x7f, 0x60, 2, 0x7f, 0x7f, 1, 0x7e];
    let import = [vec![1], name("belljar"), name("compute"), vec![0, 0]].concat();
    let exports = [
        vec![3],
        name("memory"),
        vec![2, 0],
        name("belljar_alloc"),
        vec![0, 1],
        name("belljar_run"),
        vec![0, 2],
    ];
    let code = [vec![2], sized(alloc.concat()), sized(run.concat())].concat();
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, &types),
        section(2, &import),
        section(3, &[2, 1, 2]),
        section(5, &[1, 0, 1]),
        section(7, &exports.concat()),
        section(10, &code),
    ]
    .concat()
}

/// A guest in a worker, which is started again after a trap.
struct Live {
    module: Vec<u8>,
    threads: u32,
    guest: Option<ForeignGuest>,
}

impl Live {
    fn new(threads: u32) -> Live {
        Live { module: guest(), threads, guest: None }
    }

    /// The guest's memory after its requests, or why it ended.
    fn run(&mut self, memory: &[u32]) -> Result<Vec<u32>, String> {
        let guest = self.guest.get_or_insert_with(|| {
            let program = WorkerProgram::Path(support::BELLJAR.into());
            ForeignGuest::start(&program, &self.module, self.threads).unwrap()
        });
        let input = memory[1..].iter().flat_map(|word| word.to_le_bytes()).collect();
        let answer = guest.run(input).inspect_err(|_| self.guest = None)?;
        assert_eq!(answer.len(), MEMORY);
        let words = answer.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
        Ok(words.collect())
    }
}

/// Memory that contains these requests, and the values of `fill` elsewhere.
fn memory(first: &[u32], second: &[u32], fill: impl Fn(usize) -> u32) -> Vec<u32> {
    let mut memory: Vec<u32> = (0..MEMORY / 4).map(fill).collect();
    memory[1] = first.len() as u32;
    memory[2] = second.len() as u32;
    memory[REQUEST as usize / 4..][..first.len()].copy_from_slice(first);
    memory[SECOND / 4..][..second.len()].copy_from_slice(second);
    memory
}

fn clean(at: usize) -> u32 {
    ((at % 251) as f32 - 125.0).to_bits()
}

fn product() -> Gemm {
    Gemm {
        batch: 2,
        m: 12,
        n: 60,
        k: 9,
        a: ADDRESSES[0],
        a_batch_stride: 12 * 9,
        a_row_stride: 9,
        a_step_stride: 1,
        b: ADDRESSES[1],
        b_batch_stride: 60 * 9,
        b_step_stride: 60,
        b_column_stride: 1,
        low: f32::NEG_INFINITY.to_bits(),
        high: f32::INFINITY.to_bits(),
        output: ADDRESSES[4],
        ..Gemm::default()
    }
}

/// Requests whose kernels write to scratch memory.
fn filling() -> Vec<Vec<u32>> {
    let convolution = Conv {
        batch: 2,
        groups: 2,
        channels_in: 3,
        channels_out: 4,
        in_h: 8,
        in_w: 10,
        out_h: 4,
        out_w: 5,
        kernel_h: 3,
        kernel_w: 3,
        stride_h: 2,
        stride_w: 2,
        dilation_h: 1,
        dilation_w: 1,
        pad_top: 1,
        pad_left: 1,
        batch_stride: 2 * 3 * 80,
        channel_stride: 80,
        row_stride: 10,
        column_stride: 1,
        input: ADDRESSES[0],
        weights: ADDRESSES[1],
        low: f32::NEG_INFINITY.to_bits(),
        high: f32::INFINITY.to_bits(),
        output: ADDRESSES[4],
        ..Conv::default()
    };
    let pooling = Pool {
        planes: 3,
        in_h: 12,
        in_w: 14,
        out_h: 6,
        out_w: 7,
        kernel_h: 2,
        kernel_w: 2,
        stride_h: 2,
        stride_w: 2,
        mode: 1,
        input: ADDRESSES[0],
        output: ADDRESSES[4],
        ..Pool::default()
    };
    let program = Pointwise {
        dims: [1, 1, 1, 5, 300],
        output: ADDRESSES[4],
        inputs: vec![PointwiseInput { address: ADDRESSES[0], strides: [0, 0, 0, 300, 1] }],
        steps: vec![PointwiseStep { step: Step::Abs, a: 0, b: 0 }],
    };
    let blocks = BlockGemm {
        m: 6,
        n: 60,
        k: 40,
        a: ADDRESSES[0],
        a_row_stride: 40,
        bits: 4,
        block: 16,
        b: ADDRESSES[1],
        scales: ADDRESSES[2],
        low: f32::NEG_INFINITY.to_bits(),
        high: f32::INFINITY.to_bits(),
        output: ADDRESSES[4],
        ..BlockGemm::default()
    };
    let all = [
        Kernel::Gemm(product()),
        Kernel::Gemm(Gemm { b_step_stride: 0, b_type: 1, ..product() }),
        Kernel::BlockGemm(blocks),
        Kernel::Gemm(Gemm { b_step_stride: 1, b_column_stride: 9, ..product() }),
        Kernel::Conv(convolution),
        Kernel::Conv(Conv { weights_type: 1, ..convolution }),
        Kernel::Pool(pooling),
        Kernel::Pointwise(program),
    ];
    all.iter().map(Kernel::encode).collect()
}

/// Hostile requests, each in memory without a secret.
fn hostile() -> Vec<Vec<u32>> {
    let mut all = Vec::new();
    // Replaces each word of a valid request in turn: strides of 0, strides and sizes beyond memory,
    // and outputs that overlap operands, each other or the request.
    let values = [0, 1 << 31, u32::MAX, ADDRESSES[0], ADDRESSES[4] + 4, REQUEST];
    for good in filling() {
        for at in 1..good.len() {
            for value in values.into_iter().filter(|value| *value != good[at]) {
                let mut words = good.clone();
                words[at] = value;
                all.push(memory(&words, &[], clean));
            }
        }
        // A valid request followed by a refused one, and vice versa.
        let refused = Kernel::Gemm(Gemm { b_column_stride: 0, ..product() }).encode();
        all.push(memory(&good, &refused, clean));
        all.push(memory(&refused, &good, clean));
        // A request that reads the output of the previous one.
        all.push(memory(&good, &good, clean));
    }
    // Random requests.
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..300 {
        let bytes: Vec<u8> = (0..200)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 33) as u8
            })
            .collect();
        let mut bytes = Bytes::new(&bytes);
        let words = requests::request(&mut bytes);
        let mut memory = requests::memory(&words, &mut bytes);
        (memory[1], memory[2]) = (words.len() as u32, 0);
        all.push(memory);
    }
    all
}

#[test]
fn a_hostile_guest_reads_no_data_of_another_request() {
    let refused = Kernel::Gemm(Gemm { a_row_stride: 0, ..product() }).encode();
    for threads in [1, 2] {
        // `alone` only makes the hostile requests.
        let (mut live, mut alone) = (Live::new(threads), Live::new(threads));
        let (mut answered, mut ended) = (0, 0);
        let filling = filling();
        for (at, request) in hostile().into_iter().enumerate() {
            // An earlier request with secret numbers; some of these requests end halfway.
            let earlier = &filling[at % filling.len()];
            let half_way = at % 16 == 15;
            let second = if half_way { &refused[..] } else { &[] };
            let other = live.run(&memory(earlier, second, |_| SECRET));
            assert_eq!(other.is_err(), half_way, "{other:?}");
            let found = live.run(&request);
            let expected = alone.run(&request);
            let words = &request[REQUEST as usize / 4..][..request[1] as usize];
            match (&found, &expected) {
                (Ok(found), Ok(expected)) => {
                    answered += 1;
                    assert!(!found.contains(&SECRET), "a secret was read by {words:?}");
                    assert!(found == expected, "an earlier request affects {words:?}");
                }
                (Err(_), Err(_)) => ended += 1,
                _ => panic!("{words:?}: {found:?} after another request, {expected:?} alone"),
            }
        }
        // Both outcomes must occur.
        assert!(answered > 150 && ended > 300, "{answered} answered, {ended} ended");
    }
}
