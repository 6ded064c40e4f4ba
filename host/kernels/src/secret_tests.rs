//! Tests that no data of one request reaches the result of another through scratch memory, and that
//! scratch memory is cleared when a request has ended.

use belljar_abi::kernel::*;
use proptest::prelude::*;

use super::operations::Refused;
use super::{InstructionSet, Watch, compute, requests};

/// A number that no computation here produces.
const SECRET: f32 = f32::from_bits(0x5ec2_e7a5);

/// The address of requests, in bytes.
const REQUEST: usize = 0;

fn run(memory: &mut [f32], request: &Kernel, watch: &Watch) -> Result<(), Refused> {
    let words = request.encode();
    for (to, word) in memory[REQUEST / 4..].iter_mut().zip(&words) {
        *to = f32::from_bits(*word);
    }
    compute(bytemuck::cast_slice_mut(memory), REQUEST as u32, words.len() as u32, watch)
}

/// The addresses of operands and outputs, in bytes; 32 KiB apart.
const ADDRESSES: [u32; 6] = [32 << 10, 64 << 10, 96 << 10, 128 << 10, 160 << 10, 192 << 10];

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
        output: ADDRESSES[5],
        ..Gemm::default()
    }
}

fn block_product(m: u32) -> BlockGemm {
    BlockGemm {
        m,
        n: 60,
        k: 40,
        a: ADDRESSES[0],
        a_row_stride: 40,
        bits: 4,
        block: 16,
        b: ADDRESSES[1],
        scales: ADDRESSES[2],
        zeros: ADDRESSES[3],
        low: f32::NEG_INFINITY.to_bits(),
        high: f32::INFINITY.to_bits(),
        output: ADDRESSES[5],
        ..BlockGemm::default()
    }
}

/// A product of bytes whose right operand is packed by the host; four steps of a column are the
/// bytes of one secret.
fn integer_product() -> IntegerGemm {
    IntegerGemm {
        batch: 2,
        m: 12,
        n: 60,
        k: 10,
        signs: 2,
        a: ADDRESSES[0],
        a_batch_stride: 12 * 12,
        a_row_stride: 12,
        a_zeros: ADDRESSES[2],
        a_zero_stride: 1,
        b: ADDRESSES[1],
        b_batch_stride: 60 * 12,
        b_step_stride: 1,
        b_column_stride: 12,
        b_zeros: ADDRESSES[3],
        b_zero_stride: 1,
        output: ADDRESSES[5],
        ..IntegerGemm::default()
    }
}

fn convolution(channels_in: u32, channels_out: u32) -> Conv {
    Conv {
        batch: 2,
        groups: 2,
        channels_in,
        channels_out,
        in_h: 12,
        in_w: 14,
        out_h: 6,
        out_w: 7,
        kernel_h: 3,
        kernel_w: 3,
        stride_h: 2,
        stride_w: 2,
        dilation_h: 1,
        dilation_w: 1,
        pad_top: 1,
        pad_left: 1,
        batch_stride: 2 * channels_in * 12 * 14,
        channel_stride: 12 * 14,
        row_stride: 14,
        column_stride: 1,
        input: ADDRESSES[0],
        weights: ADDRESSES[1],
        low: f32::NEG_INFINITY.to_bits(),
        high: f32::INFINITY.to_bits(),
        output: ADDRESSES[5],
        ..Conv::default()
    }
}

/// Of bytes whose top bit is not flipped, so that secrets are found in scratch memory.
fn integer_convolution(channels_in: u32, channels_out: u32) -> IntegerConv {
    IntegerConv {
        batch: 2,
        groups: 2,
        channels_in,
        channels_out,
        in_h: 12,
        in_w: 16,
        out_h: 12,
        out_w: 16,
        kernel_h: 3,
        kernel_w: 3,
        stride_h: 1,
        stride_w: 1,
        dilation_h: 1,
        dilation_w: 1,
        pad_top: 1,
        pad_left: 4,
        signs: 2,
        input: ADDRESSES[0],
        weights: ADDRESSES[1],
        output: ADDRESSES[5],
        ..IntegerConv::default()
    }
}

fn pooling(mode: u32) -> Pool {
    Pool {
        planes: 3,
        in_h: 12,
        in_w: 14,
        out_h: 6,
        out_w: 7,
        kernel_h: 2,
        kernel_w: 2,
        stride_h: 2,
        stride_w: 2,
        mode,
        input: ADDRESSES[0],
        output: ADDRESSES[5],
        ..Pool::default()
    }
}

fn program() -> Pointwise {
    let result = MAX_POINTWISE_INPUTS as u32;
    Pointwise {
        dims: [1, 1, 1, 5, 700],
        output: ADDRESSES[5],
        inputs: vec![PointwiseInput { address: ADDRESSES[0], strides: [0, 0, 0, 700, 1] }],
        steps: vec![
            PointwiseStep { step: Step::Abs, a: 0, b: 0 },
            PointwiseStep { step: Step::Max, a: 0, b: result },
        ],
    }
}

/// Every kernel that uses scratch memory, in each of its variants.
fn with_scratch() -> Vec<Kernel> {
    let mut all = vec![
        Kernel::Gemm(product()),
        Kernel::Gemm(Gemm { b_step_stride: 1, b_column_stride: 9, ..product() }),
        // Narrow panels: on few rows they are not widened in memory.
        Kernel::Gemm(Gemm { b_step_stride: 0, b_type: 1, round: 1, ..product() }),
        Kernel::Gemm(Gemm { b_step_stride: 0, b_type: 2, m: 3, a_step_stride: 12, ..product() }),
        Kernel::BlockGemm(block_product(5)),
        Kernel::BlockGemm(block_product(3)),
        Kernel::IntegerGemm(integer_product()),
        Kernel::IntegerConv(integer_convolution(3, 4)),
        Kernel::IntegerConv(integer_convolution(1, 1)),
        Kernel::Conv(convolution(3, 4)),
        Kernel::Conv(Conv { weights_type: 1, round_sum: 1, ..convolution(3, 4) }),
        Kernel::Conv(convolution(1, 1)),
        Kernel::Pointwise(program()),
    ];
    all.extend((0..4).map(|mode| Kernel::Pool(pooling(mode))));
    all
}

fn each_watch() -> impl Iterator<Item = Watch> {
    let sets = InstructionSet::available().into_iter();
    sets.flat_map(|set| [1, 3].map(|threads| Watch::new(set, threads).unwrap()))
}

#[test]
fn clear_zeroes_all_scratch_memory_of_a_request() {
    for watch in each_watch() {
        for request in with_scratch() {
            let mut memory = vec![SECRET; 64 << 10];
            run(&mut memory, &request, &watch).unwrap();
            let is_secret = |value: f32| value.to_bits() == SECRET.to_bits();
            assert!(watch.scratch().any(is_secret), "{request:?} left no input behind");
            watch.scratch().clear();
            assert!(watch.scratch().is_clear(), "{request:?}");
        }
    }
}

/// A buffer above the limit of kept bytes is returned to the allocator, and one that is too small
/// is replaced by a larger one: the kept bytes stay bounded and are counted.
#[test]
fn kept_scratch_memory_is_bounded_and_counted() {
    let watch = Watch::new(InstructionSet::best(), 1).unwrap();
    let scratch = watch.scratch();
    let (small, large) = (scratch.take(1000), scratch.take(3 << 20));
    assert_eq!(scratch.bytes(), 0);
    drop((small, large));
    assert_eq!(scratch.bytes(), 4000 + (12 << 20));
    drop(scratch.take(8 << 20));
    assert_eq!(scratch.bytes(), 4000, "32 MiB are not kept, and took the place of 12 MiB");
    let mut taken = scratch.take(10);
    assert_eq!((taken.len(), scratch.bytes()), (10, 0));
    taken.fill(SECRET);
    taken.resize(2000);
    assert!(taken.len() == 2000 && taken.iter().all(|value| *value == 0.0));
    drop(taken);
    scratch.clear();
    assert!(scratch.is_clear());
    scratch.release();
    assert_eq!(scratch.bytes(), 0);
}

/// Runs a request directly after one full of secrets, without a reset and with the same scratch
/// memory. Its result must equal the result of running it alone.
#[test]
fn results_do_not_depend_on_the_previous_request() {
    let clean: Vec<f32> = (0..64 << 10).map(|at| (at % 251) as f32 - 125.0).collect();
    for watch in each_watch() {
        for request in with_scratch() {
            let mut alone = clean.clone();
            run(&mut alone, &request, &Watch::new(watch.set(), 1).unwrap()).unwrap();
            for earlier in with_scratch() {
                run(&mut vec![SECRET; 64 << 10], &earlier, &watch).unwrap();
                let mut after = clean.clone();
                run(&mut after, &request, &watch).unwrap();
                let bits = |memory: &[f32]| memory.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert!(bits(&alone) == bits(&after), "{request:?} after {earlier:?}");
            }
        }
    }
}

/// With a stride of 0, these kernels would leave elements of a panel unwritten. Programs and
/// permutations support repeated elements.
#[test]
fn a_stride_of_zero_over_more_than_one_element_is_refused() {
    let (g, c, d) = (product(), convolution(3, 4), convolution(1, 1));
    let packed = Gemm { b_step_stride: 0, ..g };
    let mut refused = vec![
        Kernel::Gemm(Gemm { a_batch_stride: 0, ..g }),
        Kernel::Gemm(Gemm { a_row_stride: 0, ..g }),
        Kernel::Gemm(Gemm { a_step_stride: 0, ..g }),
        Kernel::Gemm(Gemm { b_batch_stride: 0, ..g }),
        Kernel::Gemm(Gemm { b_column_stride: 0, ..g }),
        Kernel::Gemm(Gemm { b_batch_stride: 0, ..packed }),
        Kernel::IntegerGemm(IntegerGemm { a_batch_stride: 0, ..integer_product() }),
        Kernel::IntegerGemm(IntegerGemm { a_row_stride: 0, ..integer_product() }),
        Kernel::IntegerGemm(IntegerGemm { b_batch_stride: 0, ..integer_product() }),
        Kernel::IntegerGemm(IntegerGemm { b_column_stride: 0, ..integer_product() }),
    ];
    for c in [c, d] {
        refused.extend([
            Kernel::Conv(Conv { batch_stride: 0, ..c }),
            Kernel::Conv(Conv { channel_stride: 0, ..c }),
            Kernel::Conv(Conv { row_stride: 0, ..c }),
            Kernel::Conv(Conv { column_stride: 0, ..c }),
        ]);
        // A signal along the rows.
        let upright = Conv { in_w: 1, out_w: 1, kernel_w: 1, pad_left: 0, row_stride: 1, ..c };
        refused.push(Kernel::Conv(Conv { row_stride: 0, ..upright }));
        for watch in each_watch() {
            assert_eq!(run(&mut vec![1.0; 64 << 10], &Kernel::Conv(upright), &watch), Ok(()));
        }
    }
    let one = Gemm {
        batch: 1,
        m: 1,
        n: 1,
        k: 1,
        a_batch_stride: 0,
        a_row_stride: 0,
        a_step_stride: 0,
        b_batch_stride: 0,
        b_column_stride: 0,
        ..g
    };
    for watch in each_watch() {
        for request in &refused {
            let mut memory = vec![1.0; 64 << 10];
            assert_eq!(run(&mut memory, request, &watch), Err(Refused::Malformed), "{request:?}");
        }
        for request in [Kernel::Gemm(packed), Kernel::Gemm(one)] {
            assert_eq!(run(&mut vec![1.0; 64 << 10], &request, &watch), Ok(()), "{request:?}");
        }
    }
}

#[test]
fn programs_and_permutations_repeat_elements_exactly() {
    let input: Vec<f32> = (0..64).map(|at| at as f32).collect();
    for watch in each_watch() {
        watch.scratch().plant(SECRET);
        for strides in [[0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [0, 0, 3, 0, 1]] {
            let dims = [1, 1, 2, 5, 37];
            let expected = |at: u32| {
                let (x, y, z) = (at % 37, at / 37 % 5, at / 37 / 5);
                (x * strides[4] + y * strides[3] + z * strides[2]) as f32
            };
            let permute = Permute { dims, strides, input: ADDRESSES[0], output: ADDRESSES[5] };
            let program = Pointwise {
                dims,
                output: ADDRESSES[5],
                inputs: vec![PointwiseInput { address: ADDRESSES[0], strides }],
                steps: vec![PointwiseStep { step: Step::Abs, a: 0, b: 0 }],
            };
            for request in [Kernel::Permute(permute), Kernel::Pointwise(program)] {
                let mut memory = vec![SECRET; 64 << 10];
                memory[ADDRESSES[0] as usize / 4..][..64].copy_from_slice(&input);
                run(&mut memory, &request, &watch).unwrap();
                let found = &memory[ADDRESSES[5] as usize / 4..][..370];
                let right = found.iter().enumerate().all(|(at, v)| *v == expected(at as u32));
                assert!(right, "{request:?}: {found:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// For any request, different secrets in scratch memory lead to the same bits, and the secrets
    /// do not occur in memory.
    #[test]
    fn results_do_not_depend_on_the_content_of_scratch_memory(
        bytes in prop::collection::vec(any::<u8>(), 0..300), threads in 1..4u32,
    ) {
        let mut bytes = requests::Bytes::new(&bytes);
        let words = requests::request(&mut bytes);
        let before = requests::memory(&words, &mut bytes);
        for set in InstructionSet::available() {
            let ended: Vec<_> = [SECRET, f32::NAN].map(|secret| {
                let mut watch = Watch::new(set, threads).unwrap();
                let soon = std::time::Duration::from_millis(500);
                watch.until(Some(std::time::Instant::now() + soon));
                watch.scratch().plant(secret);
                let mut memory = before.clone();
                let bytes = bytemuck::cast_slice_mut(&mut memory);
                let ended = compute(bytes, requests::REQUEST, words.len() as u32, &watch);
                watch.scratch().clear();
                assert!(watch.scratch().is_clear());
                (ended, memory)
            }).into();
            // Two interrupted runs may have stopped at different points.
            if ended.iter().all(|(ended, _)| *ended != Err(Refused::Interrupted)) {
                prop_assert!(ended[0] == ended[1], "{words:?}");
            }
            let secret = ended[0].1.iter().zip(&before).any(|(after, before)| {
                *after == SECRET.to_bits() && before != after
            });
            prop_assert!(!secret, "{words:?}");
        }
    }
}
