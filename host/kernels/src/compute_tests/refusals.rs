//! Requests that are refused or interrupted: they are malformed, reach outside of memory, need too
//! much scratch memory, or run past their deadline.

use belljar_abi::kernel::*;
use proptest::prelude::*;

use super::{Memory, infinite};
use crate::operations::Refused;
use crate::{InstructionSet, Watch, compute};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// No request panics or writes outside of memory.
    #[test]
    fn invalid_requests_neither_panic_nor_write_outside_memory(
        kind in 1..16u32,
        words in prop::collection::vec(prop_oneof![0..5u32, 0..70u32, 0..4096u32, any::<u32>(), Just(4096u32)], 0..80),
    ) {
        let mut memory = Memory::new(4096);
        memory.words[0] = kind;
        memory.words[1..=words.len()].copy_from_slice(&words);
        let count = words.len() as u32 + 1;
        let mut watch = Watch::new(InstructionSet::best(), 1).unwrap();
        watch.until(Some(std::time::Instant::now() + std::time::Duration::from_millis(200)));
        let _ = compute(bytemuck::cast_slice_mut(&mut memory.words), 0, count, &watch);
    }
}

fn product(output: u32) -> Gemm {
    let (low, high) = infinite();
    Gemm {
        batch: 1,
        m: 8,
        n: 8,
        k: 8,
        a: 4096,
        a_row_stride: 8,
        a_step_stride: 1,
        b: 8192,
        b_step_stride: 8,
        b_column_stride: 1,
        low,
        high,
        output,
        ..Gemm::default()
    }
}

#[test]
fn out_of_bounds_overlapping_and_malformed_requests_are_refused() {
    let watch = Watch::new(InstructionSet::best(), 1).unwrap();
    let mut memory = Memory::new(4096);
    let end = 4 * 4096;
    let mut ask = |request: Gemm| memory.run(&Kernel::Gemm(request), &watch);
    assert_eq!(ask(product(12288)), Ok(()));
    assert_eq!(ask(product(end - 256)), Ok(()));
    assert_eq!(ask(product(end - 252)), Err(Refused::OutOfBounds));
    assert_eq!(ask(product(u32::MAX - 3)), Err(Refused::OutOfBounds));
    assert_eq!(ask(product(12289)), Err(Refused::Malformed));
    // Outputs that overlap an operand.
    for output in [4096, 4096 + 252, 4096 - 252, 8192, 8192 + 4] {
        assert_eq!(ask(product(output)), Err(Refused::Overlapping), "{output}");
    }
    assert_eq!(ask(product(4096 + 256)), Ok(()));
    let ok = product(12288);
    for request in
        [Gemm { m: 0, ..ok }, Gemm { n: 0, ..ok }, Gemm { k: 0, ..ok }, Gemm { batch: 0, ..ok }]
    {
        assert_eq!(ask(request), Err(Refused::Malformed));
    }
    for request in [
        Gemm { a_row_stride: u32::MAX, ..ok },
        Gemm { b_step_stride: u32::MAX, ..ok },
        Gemm { a_batch_stride: u32::MAX, b_batch_stride: 1, batch: u32::MAX, ..ok },
        Gemm { k: u32::MAX, ..ok },
        Gemm { m: u32::MAX, n: u32::MAX, ..ok },
        Gemm { bias: end - 28, ..ok },
        Gemm { b_step_stride: 0, n: 4000, ..ok },
    ] {
        assert_eq!(ask(request), Err(Refused::OutOfBounds), "{request:?}");
    }
    // The request itself is out of bounds.
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut memory.words);
    assert_eq!(compute(bytes, 16380, 2, &watch), Err(Refused::OutOfBounds));
    assert_eq!(compute(bytes, u32::MAX, 1, &watch), Err(Refused::OutOfBounds));
    assert_eq!(compute(bytes, 0, 257, &watch), Err(Refused::TooMuch));
    assert_eq!(compute(bytes, 0, 0, &watch), Err(Refused::Malformed));
}

/// A window can be padded far beyond its image, which must not exhaust the host's memory.
#[test]
fn scratch_is_bounded() {
    let watch = Watch::new(InstructionSet::best(), 1).unwrap();
    let mut memory = Memory::new(4096);
    let (low, high) = infinite();
    let small = Conv {
        batch: 1,
        groups: 1,
        channels_in: 1,
        channels_out: 2,
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
        weights: 8192,
        output: 12288,
        low,
        high,
        ..Conv::default()
    };
    let far = Conv { kernel_h: 2, kernel_w: 2, dilation_h: 1 << 20, dilation_w: 1 << 20, ..small };
    for conv in [far, Conv { channels_out: 1, ..far }] {
        assert_eq!(memory.run(&Kernel::Conv(conv), &watch), Err(Refused::TooMuch));
    }
    assert_eq!(memory.run(&Kernel::Conv(small), &watch), Ok(()));
    let huge = Conv { dilation_h: u32::MAX, stride_w: u32::MAX, out_w: 3, kernel_h: 3, ..small };
    assert_eq!(memory.run(&Kernel::Conv(huge), &watch), Err(Refused::TooMuch));
    let pool = Pool {
        planes: 1,
        in_h: 60000,
        in_w: 1,
        out_h: 1,
        out_w: 1,
        kernel_h: 60000,
        kernel_w: 60000,
        stride_h: 1,
        stride_w: 1,
        input: 0,
        output: 0,
        ..Pool::default()
    };
    assert_eq!(memory.run(&Kernel::Pool(pool), &watch), Err(Refused::TooMuch));
}

#[test]
fn a_deadline_ends_every_kernel() {
    let mut watch = Watch::new(InstructionSet::best(), 1).unwrap();
    watch.until(Some(std::time::Instant::now()));
    let mut memory = Memory::new(64 << 10);
    let mut asked = vec![Kernel::Gemm(product(12288))];
    asked.push(Kernel::Reduce(Reduce {
        outer: 1,
        middle: 8,
        inner: 1,
        mode: 0,
        input: 4096,
        output: 8192,
    }));
    asked.push(Kernel::Softmax(Softmax {
        outer: 1,
        middle: 8,
        inner: 1,
        input: 4096,
        output: 8192,
    }));
    asked.push(Kernel::Permute(Permute {
        dims: [1, 1, 1, 8, 8],
        strides: [0, 0, 0, 1, 8],
        input: 4096,
        output: 8192,
    }));
    asked.push(Kernel::Pool(Pool {
        planes: 1,
        in_h: 4,
        in_w: 4,
        out_h: 2,
        out_w: 2,
        kernel_h: 2,
        kernel_w: 2,
        stride_h: 2,
        stride_w: 2,
        input: 4096,
        output: 8192,
        ..Pool::default()
    }));
    asked.push(Kernel::IntegerGemm(IntegerGemm {
        batch: 1,
        m: 8,
        n: 8,
        k: 8,
        a: 4096,
        a_row_stride: 8,
        b: 4096,
        output: 8192,
        ..IntegerGemm::default()
    }));
    asked.push(Kernel::Dequantize(Dequantize {
        count: 8,
        input: 4096,
        output: 8192,
        ..Dequantize::default()
    }));
    asked.push(Kernel::Quantize(Quantize {
        count: 8,
        input: 4096,
        output: 8192,
        ..Quantize::default()
    }));
    asked.push(Kernel::IntegerConv(IntegerConv {
        batch: 1,
        groups: 1,
        channels_in: 2,
        channels_out: 2,
        in_h: 8,
        in_w: 8,
        out_h: 8,
        out_w: 8,
        kernel_h: 1,
        kernel_w: 1,
        stride_h: 1,
        stride_w: 1,
        dilation_h: 1,
        dilation_w: 1,
        input: 4096,
        weights: 4096,
        output: 8192,
        ..IntegerConv::default()
    }));
    // A program checks the deadline after some tens of thousands of elements.
    let strides = [0; 5];
    asked.push(Kernel::Pointwise(Pointwise {
        dims: [1, 1, 1, 1, 50_000],
        output: 8192,
        inputs: vec![PointwiseInput { address: 4096, strides }],
        steps: vec![PointwiseStep { step: Step::Exp, a: 0, b: 0 }],
    }));
    asked.push(Kernel::Conv(Conv {
        batch: 1,
        groups: 1,
        channels_in: 1,
        channels_out: 2,
        in_h: 4,
        in_w: 4,
        out_h: 4,
        out_w: 4,
        kernel_h: 1,
        kernel_w: 1,
        stride_h: 1,
        stride_w: 1,
        dilation_h: 1,
        dilation_w: 1,
        row_stride: 4,
        column_stride: 1,
        input: 4096,
        weights: 4096,
        output: 8192,
        ..Conv::default()
    }));
    asked.push(Kernel::BlockGemm(BlockGemm {
        m: 8,
        n: 8,
        k: 8,
        a: 4096,
        a_row_stride: 8,
        bits: 4,
        block: 16,
        b: 4096,
        scales: 4096,
        output: 12288,
        ..BlockGemm::default()
    }));
    asked.push(Kernel::Convert(Convert { count: 8, from: 1, to: 0, input: 4096, output: 8192 }));
    for kernel in Kernel::defaults() {
        let number = kernel.number();
        assert!(asked.iter().any(|asked| asked.number() == number), "no request like {kernel:?}");
    }
    for request in asked {
        assert_eq!(memory.run(&request, &watch), Err(Refused::Interrupted), "{request:?}");
    }
}

/// One channel can be hours of work, so its computation must check the deadline.
#[test]
fn a_deadline_ends_large_windows_on_one_channel() {
    let mut memory = Memory::new(8 << 20);
    let pool = |mode| {
        Kernel::Pool(Pool {
            planes: 1,
            in_h: 1,
            in_w: 1,
            out_h: 16,
            out_w: 1,
            kernel_h: 16,
            kernel_w: 1 << 16,
            stride_h: 1,
            stride_w: 1,
            pad_top: 15,
            pad_left: (1 << 16) - 1,
            mode,
            input: 4096,
            output: 8192,
        })
    };
    let conv = Kernel::Conv(Conv {
        batch: 1,
        groups: 1,
        channels_in: 1,
        channels_out: 1,
        in_h: 1,
        in_w: 1,
        out_h: 4096,
        out_w: 1,
        kernel_h: 1024,
        kernel_w: 1024,
        stride_h: 1,
        stride_w: 1,
        dilation_h: 1,
        dilation_w: 1,
        input: 4096,
        weights: 1 << 20,
        high: f32::INFINITY.to_bits(),
        output: 8192,
        ..Conv::default()
    });
    for request in [pool(0), pool(1), pool(2), conv] {
        let mut watch = Watch::new(InstructionSet::best(), 1).unwrap();
        watch.until(Some(std::time::Instant::now() + std::time::Duration::from_millis(50)));
        assert_eq!(memory.run(&request, &watch), Err(Refused::Interrupted), "{request:?}");
    }
}
