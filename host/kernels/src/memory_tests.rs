//! Counts what kernels allocate: never more than the bound that they compute beforehand.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use belljar_abi::kernel::*;
use belljar_abi::scratch::MAX_SCRATCH_BYTES;
use proptest::prelude::*;

use super::operations::Refused;
use super::{InstructionSet, Watch, compute, requests};

/// The system's allocator, with a count of the allocations of selected threads.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

static LIVE: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);

fn count(bytes: isize) {
    if COUNTED.try_with(Cell::get).unwrap_or_default() {
        let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
        PEAK.fetch_max(live, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, from: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may exist at the same time.
        count(size as isize);
        // SAFETY: the caller's.
        let to = unsafe { System.realloc(from, layout, size) };
        count(-(layout.size() as isize));
        to
    }

    unsafe fn dealloc(&self, from: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(from, layout) };
        count(-(layout.size() as isize));
    }
}

/// One measurement at a time.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The result of a function, and the peak of bytes allocated by this thread and its kernels'
/// threads.
fn measured<T>(watch: &Watch, something: impl FnOnce() -> T) -> (T, u64) {
    let all = |counted| {
        COUNTED.set(counted);
        watch.on_other_threads(|| COUNTED.set(counted));
    };
    all(true);
    LIVE.store(0, Ordering::Relaxed);
    PEAK.store(0, Ordering::Relaxed);
    let result = something();
    let peak = PEAK.load(Ordering::Relaxed);
    all(false);
    (result, u64::try_from(peak).unwrap_or_default())
}

/// Bytes of a decoded request, and of lists with one entry for each thread.
const REQUEST_BYTES: u64 = 16 << 10;

fn run(memory: &mut [f32], request: &Kernel, watch: &Watch) -> (Result<(), Refused>, u64) {
    let words = request.encode();
    for (to, word) in memory.iter_mut().zip(&words) {
        *to = f32::from_bits(*word);
    }
    measured(watch, || compute(bytemuck::cast_slice_mut(memory), 0, words.len() as u32, watch))
}

/// The address of large outputs, in bytes: after all inputs.
const OUTPUT: u32 = 72 << 20;

fn infinite() -> (u32, u32) {
    (f32::NEG_INFINITY.to_bits(), f32::INFINITY.to_bits())
}

fn convolution() -> Conv {
    let (low, high) = infinite();
    Conv {
        batch: 1,
        groups: 1,
        channels_in: 1,
        channels_out: 1,
        in_h: 1,
        in_w: 1,
        out_h: 1,
        out_w: 1,
        kernel_h: 1,
        kernel_w: 1,
        stride_h: 1,
        stride_w: 1,
        dilation_h: 1,
        dilation_w: 1,
        batch_stride: 1,
        channel_stride: 1,
        row_stride: 1,
        column_stride: 1,
        input: 4096,
        weights: 4096,
        output: OUTPUT,
        low,
        high,
        ..Conv::default()
    }
}

fn pooling() -> Pool {
    Pool {
        planes: 1,
        in_h: 1,
        in_w: 1,
        out_h: 1,
        out_w: 1,
        kernel_h: 1,
        kernel_w: 1,
        stride_h: 1,
        stride_w: 1,
        input: 4096,
        output: OUTPUT,
        ..Pool::default()
    }
}

/// Requests that once needed a multiple of the scratch memory limit, for lists with an entry for
/// each row and column, each window, each group, or each element of a window.
fn expensive() -> Vec<(&'static str, Kernel)> {
    let upright = Conv { in_w: 2, kernel_h: 128, kernel_w: 2, dilation_h: 65536, ..convolution() };
    let upright = Conv { row_stride: 2, channel_stride: 1 << 24, batch_stride: 1 << 24, ..upright };
    let wide = Pool { kernel_h: 16, kernel_w: 65536, stride_w: 65536, in_w: 65536, ..pooling() };
    vec![
        ("strides over nothing", Kernel::Conv(Conv { stride_h: 1 << 30, ..convolution() })),
        ("strides over nothing, to the side", {
            Kernel::Conv(Conv { stride_w: 1 << 30, channels_out: 2, ..convolution() })
        }),
        ("a run for each of 8 million rows", {
            let in_h = 8_383_073;
            Kernel::Conv(Conv { in_h, out_h: in_h - 127 * 65536, ..upright })
        }),
        ("a run for each of 7 million rows", {
            let in_h = 7_000_000;
            // With two output channels it is a matrix product, which holds one channel.
            let more = Conv { channels_out: 2, kernel_h: 64, ..upright };
            Kernel::Conv(Conv { in_h, out_h: in_h - 63 * 65536, ..more })
        }),
        ("a run for each column", Kernel::Pool(Pool { in_h: 256, out_h: 241, ..wide })),
        ("fewer columns", {
            let less = Pool { kernel_w: 32768, stride_w: 32768, in_w: 32768, ..wide };
            Kernel::Pool(Pool { in_h: 256, out_h: 241, ..less })
        }),
        ("four planes", {
            let less = Pool { kernel_w: 16384, stride_w: 16384, in_w: 16384, ..wide };
            Kernel::Pool(Pool { planes: 4, in_h: 256, out_h: 241, ..less })
        }),
        ("a factor for each window", {
            Kernel::Pool(Pool {
                in_h: 2000,
                in_w: 2000,
                out_h: 1999,
                out_w: 1999,
                kernel_h: 2,
                kernel_w: 2,
                mode: 2,
                ..pooling()
            })
        }),
        ("a piece for each of 2 million products", {
            let (low, high) = infinite();
            Kernel::Gemm(Gemm {
                batch: 2 << 20,
                m: 1,
                n: 1,
                k: 1,
                a: 4096,
                a_batch_stride: 1,
                b: 4096,
                b_batch_stride: 1,
                b_step_stride: 1,
                low,
                high,
                output: OUTPUT,
                ..Gemm::default()
            })
        }),
        ("words and scales of a million columns", {
            let (low, high) = infinite();
            Kernel::BlockGemm(BlockGemm {
                m: 5,
                n: 1 << 20,
                k: 2,
                a: 4096,
                a_row_stride: 2,
                bits: 8,
                block: 4,
                b: 4096,
                scales: 4096,
                low,
                high,
                output: OUTPUT,
                ..BlockGemm::default()
            })
        }),
        ("narrow weights", {
            let (out_h, in_h) = (64, 64);
            let more = Conv { channels_in: 64, channels_out: 64, weights_type: 1, ..convolution() };
            Kernel::Conv(Conv { kernel_h: 9, in_h: in_h + 8, out_h, ..more })
        }),
        ("a panel of the longest columns of bytes", {
            Kernel::IntegerGemm(IntegerGemm {
                batch: 1,
                m: 8,
                n: 48,
                k: MAX_INTEGER_STEPS,
                a: 4096,
                a_row_stride: MAX_INTEGER_STEPS,
                b: 4096,
                b_step_stride: 1,
                b_column_stride: MAX_INTEGER_STEPS,
                output: OUTPUT,
                ..IntegerGemm::default()
            })
        }),
        ("many packed weights of bytes", {
            Kernel::IntegerConv(IntegerConv {
                batch: 1,
                groups: 1,
                channels_in: 512,
                channels_out: 900,
                in_h: 40,
                in_w: 40,
                out_h: 40,
                out_w: 40,
                kernel_h: 3,
                kernel_w: 3,
                stride_h: 1,
                stride_w: 1,
                dilation_h: 1,
                dilation_w: 1,
                pad_top: 1,
                pad_left: 1,
                input: 4096,
                weights: 4096,
                output: OUTPUT,
                ..IntegerConv::default()
            })
        }),
        ("a piece and a scale for each of 2 million groups", {
            let (groups, in_w) = (1 << 21, 1);
            let scaled = Conv { scale: 4096, shift: 4096, ..convolution() };
            Kernel::Conv(Conv { groups, in_w, ..scaled })
        }),
        ("a piece for each of 2 million images", {
            let batch = 1 << 21;
            Kernel::Conv(Conv { batch, channels_out: 2, ..convolution() })
        }),
    ]
}

/// For requests that are computed and for those that are refused, on one thread and on several.
#[test]
fn kernels_allocate_no_more_than_their_computed_bound() {
    let _turn = turn();
    // Allocated outside of the measurement, because it does not belong to a kernel.
    let mut memory = vec![1.0f32; 24 << 20];
    for threads in [1, 4] {
        let mut watch = Watch::new(InstructionSet::best(), threads).unwrap();
        // Long enough for all allocations; the kernels need not finish.
        for (what, request) in expensive() {
            watch.until(Some(std::time::Instant::now() + std::time::Duration::from_secs(2)));
            let each = request.scratch_bytes();
            let (ended, peak) = run(&mut memory, &request, &watch);
            let bound = if each > MAX_SCRATCH_BYTES { 0 } else { each * u64::from(threads) };
            assert!(peak <= bound + REQUEST_BYTES, "{what}, {threads}: {peak}, {bound}");
            match ended {
                Ok(()) | Err(Refused::Interrupted) => assert!(each <= MAX_SCRATCH_BYTES, "{what}"),
                Err(refused) => {
                    assert_eq!(refused, Refused::TooMuch, "{what}");
                    assert!(each > MAX_SCRATCH_BYTES, "{what}: {each}");
                }
            }
        }
        // The same bound holds together with the memory that is kept between kernels.
        watch.until(None);
        let ((), peak) = measured(&watch, || {
            for side in [100, 900, 2000, 300, 2800, 1200, 2000, 2900] {
                let request = Kernel::Pool(Pool {
                    planes: ((8 << 20) / (side * side)).clamp(1, 4),
                    in_h: side,
                    in_w: side,
                    out_h: side,
                    out_w: side,
                    output: 40 << 20,
                    ..pooling()
                });
                let words = request.encode();
                let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut memory);
                bytes[..4 * words.len()].copy_from_slice(bytemuck::cast_slice(&words));
                let too_much = request.scratch_bytes() > MAX_SCRATCH_BYTES;
                let expected = if too_much { Err(Refused::TooMuch) } else { Ok(()) };
                assert_eq!(compute(bytes, 0, words.len() as u32, &watch), expected, "{side}");
            }
        });
        assert!(peak <= MAX_SCRATCH_BYTES * u64::from(threads) + REQUEST_BYTES, "{peak}");
    }
}

/// The remaining memory bounds all threads together, and kept scratch memory is released for it.
#[test]
fn kernels_that_need_more_than_the_limit_leaves_are_refused_before_they_allocate() {
    let _turn = turn();
    let mut memory = vec![1.0f32; 4 << 20];
    let pool = Pool { in_h: 1000, in_w: 1000, out_h: 999, out_w: 999, ..pooling() };
    let pool = Pool { planes: 3, kernel_h: 2, kernel_w: 2, output: 8 << 20, ..pool };
    let request = Kernel::Pool(Pool { planes: 1, ..pool });
    let each = request.scratch_bytes();
    for threads in [1u32, 3] {
        let request = Kernel::Pool(Pool { planes: 1, ..pool });
        let mut watch = Watch::new(InstructionSet::best(), threads).unwrap();
        watch.room(each - 1);
        let (ended, peak) = run(&mut memory, &request, &watch);
        assert_eq!(ended, Err(Refused::Memory));
        assert!(peak <= REQUEST_BYTES, "{peak}");
        // One plane is computed by one thread.
        watch.room(each);
        let (ended, peak) = run(&mut memory, &request, &watch);
        assert_eq!(ended, Ok(()));
        assert!(peak <= each + REQUEST_BYTES, "{peak}");
        assert!(watch.scratch().bytes() > 4 << 20);
        // Its kept memory is released for the next kernel.
        let other = Kernel::Pool(Pool { in_h: 990, out_h: 989, planes: 1, ..pool });
        watch.room(other.scratch_bytes());
        let (ended, _) = run(&mut memory, &other, &watch);
        assert_eq!(ended, Ok(()));
        assert!(watch.scratch().bytes() as u64 <= other.scratch_bytes());
    }
    let mut watch = Watch::new(InstructionSet::best(), 3).unwrap();
    watch.room(3 * each - 1);
    let three = Kernel::Pool(Pool { planes: 3, in_h: 500, out_h: 499, ..pool });
    watch.room(3 * three.scratch_bytes() - 1);
    assert_eq!(run(&mut memory, &three, &watch).0, Err(Refused::Memory));
    watch.room(3 * three.scratch_bytes());
    assert_eq!(run(&mut memory, &three, &watch).0, Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn random_requests_allocate_no_more_than_their_computed_bound(
        bytes in prop::collection::vec(any::<u8>(), 0..300), threads in 1..4u32,
    ) {
        let _turn = turn();
        let mut bytes = requests::Bytes::new(&bytes);
        let words = requests::request(&mut bytes);
        let mut memory = requests::memory(&words, &mut bytes);
        let mut watch = Watch::new(InstructionSet::best(), threads).unwrap();
        watch.until(Some(std::time::Instant::now() + std::time::Duration::from_millis(100)));
        let each = Kernel::decode(words.iter().copied()).map_or(0, |kernel| kernel.scratch_bytes());
        let bound = if each > MAX_SCRATCH_BYTES { 0 } else { each * u64::from(threads) };
        let (_, peak) = measured(&watch, || {
            let memory = bytemuck::cast_slice_mut(&mut memory);
            compute(memory, requests::REQUEST, words.len() as u32, &watch)
        });
        prop_assert!(peak <= bound + REQUEST_BYTES, "{words:?}: {peak}, {bound}");
    }
}
