//! Makes requests to native kernels from arbitrary bytes, for the fuzz target and for the kernels'
//! own tests on random bytes.
//!
//! Half of the requests mostly fit into memory, so that they are computed. In the others every field
//! is likely but not certain to be valid, so that most of them are refused.
#![allow(dead_code)] // Each user uses a part.

use belljar_abi::kernel::*;

/// Size of the memory in bytes: a page of linear memory.
pub(crate) const MEMORY: usize = 64 << 10;

/// Requests that are made from this byte or a higher one mostly fit into memory, so that they are
/// computed. It is a multiple of the number of kernels, so that all kernels are equally likely.
const FITTING: u32 = (128 / Kernel::COUNT * Kernel::COUNT) as u32;

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
pub(crate) struct Bytes<'a> {
    rest: std::slice::Iter<'a, u8>,
    /// Whether the sizes, strides and addresses of a request fit into memory.
    fitting: bool,
}

impl<'a> Bytes<'a> {
    /// Starts at the first byte.
    pub(crate) fn new(bytes: &'a [u8]) -> Bytes<'a> {
        Bytes { rest: bytes.iter(), fitting: false }
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> u32 {
        self.rest.next().copied().unwrap_or(0).into()
    }

    /// Any word.
    pub(crate) fn word(&mut self) -> u32 {
        self.byte() | self.byte() << 8 | self.byte() << 16 | self.byte() << 24
    }

    /// A size: mostly small and not zero.
    fn size(&mut self) -> u32 {
        if self.fitting {
            return match self.byte() {
                small @ 0..240 => 1 + small % 5,
                // Several vectors and panels.
                _ => 1 + self.byte() % 64,
            };
        }
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
        if self.fitting {
            return self.byte() % 40;
        }
        match self.byte() {
            small @ 0..80 => small % 3,
            _ => self.size(),
        }
    }

    /// An address: mostly one of a few that are far apart, or zero for none.
    fn address(&mut self) -> u32 {
        if self.fitting {
            return match self.byte() {
                0..64 => 0,
                apart => 4096 + apart % 5 * 4096,
            };
        }
        match self.byte() {
            apart @ 0..180 => 4096 + apart % 15 * 4096,
            180..220 => 0,
            inside @ 220..240 => (inside << 8 | self.byte()) & !3,
            240..248 => MEMORY as u32 - 4 * (1 + self.byte()),
            _ => self.word(),
        }
    }

    /// The address of an output.
    fn output(&mut self) -> u32 {
        let address = self.address();
        // After all inputs, which may be long.
        if self.fitting { MEMORY as u32 / 4 * 3 } else { address }
    }

    fn padding(&mut self) -> u32 {
        self.size().wrapping_sub(1)
    }

    /// A mode: also one more than the most that a kernel has.
    fn mode(&mut self) -> u32 {
        self.byte() % 5
    }

    /// A narrow type: mostly none.
    fn narrow(&mut self) -> u32 {
        let narrow = (self.byte() / 8).saturating_sub(24);
        // 3 stands for no type.
        if self.fitting { narrow % 3 } else { narrow % 4 }
    }

    fn bound(&mut self) -> u32 {
        let bounds = [f32::NEG_INFINITY, f32::INFINITY, 0.0, -0.0, 1.0, f32::NAN];
        bounds.get(self.byte() as usize % 8).map_or_else(|| self.word(), |bound| bound.to_bits())
    }
}

/// The words of a request.
pub(crate) fn request(bytes: &mut Bytes<'_>) -> Vec<u32> {
    let mut words = well_formed(bytes).encode();
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

/// A request of any kernel. A new kernel or field does not compile until it is here.
fn well_formed(bytes: &mut Bytes<'_>) -> Kernel {
    let first = bytes.byte();
    bytes.fitting = first >= FITTING;
    let mut kernel = match &Kernel::defaults()[first as usize % Kernel::COUNT] {
        Kernel::Conv(_) => Kernel::Conv(Conv {
            batch: bytes.size(),
            groups: bytes.size(),
            channels_in: bytes.size(),
            channels_out: bytes.size(),
            in_h: bytes.size(),
            in_w: bytes.size(),
            out_h: bytes.size(),
            out_w: bytes.size(),
            kernel_h: bytes.size(),
            kernel_w: bytes.size(),
            stride_h: bytes.size(),
            stride_w: bytes.size(),
            dilation_h: bytes.size(),
            dilation_w: bytes.size(),
            pad_top: bytes.padding(),
            pad_left: bytes.padding(),
            batch_stride: bytes.stride(),
            channel_stride: bytes.stride(),
            row_stride: bytes.stride(),
            column_stride: bytes.stride(),
            input: bytes.address(),
            scale: bytes.address(),
            shift: bytes.address(),
            round_scaled: bytes.narrow(),
            least: bytes.bound(),
            weights: bytes.address(),
            weights_type: bytes.narrow(),
            bias: bytes.address(),
            round_sum: bytes.narrow(),
            residual: bytes.address(),
            round: bytes.narrow(),
            low: bytes.bound(),
            high: bytes.bound(),
            output: bytes.output(),
        }),
        Kernel::Gemm(_) => Kernel::Gemm(Gemm {
            batch: bytes.size(),
            m: bytes.size(),
            n: bytes.size(),
            k: bytes.size(),
            a: bytes.address(),
            a_batch_stride: bytes.stride(),
            a_row_stride: bytes.stride(),
            a_step_stride: bytes.stride(),
            b: bytes.address(),
            b_batch_stride: bytes.stride(),
            b_step_stride: bytes.stride(),
            b_column_stride: bytes.stride(),
            b_type: bytes.narrow(),
            round_sum: bytes.narrow(),
            bias: bytes.address(),
            round: bytes.narrow(),
            low: bytes.bound(),
            high: bytes.bound(),
            output: bytes.output(),
        }),
        Kernel::IntegerGemm(_) => Kernel::IntegerGemm(IntegerGemm {
            batch: bytes.size(),
            m: bytes.size(),
            n: bytes.size(),
            k: bytes.size(),
            signs: bytes.mode(),
            a: bytes.address(),
            a_batch_stride: bytes.stride(),
            a_row_stride: bytes.stride(),
            a_zeros: bytes.address(),
            a_zero_stride: bytes.byte() % 3,
            b: bytes.address(),
            b_batch_stride: bytes.stride(),
            b_step_stride: bytes.stride(),
            b_column_stride: bytes.stride(),
            b_zeros: bytes.address(),
            b_zero_stride: bytes.byte() % 3,
            output_type: bytes.mode(),
            scales: bytes.address(),
            scale_stride: bytes.mode() % 3,
            bias: bytes.address(),
            zero: bytes.byte() % 130,
            output: bytes.output(),
        }),
        Kernel::IntegerConv(_) => Kernel::IntegerConv(IntegerConv {
            batch: bytes.size(),
            groups: bytes.size(),
            channels_in: bytes.size(),
            channels_out: bytes.size(),
            in_h: bytes.size(),
            in_w: bytes.size(),
            out_h: bytes.size(),
            out_w: bytes.size(),
            kernel_h: bytes.size(),
            kernel_w: bytes.size(),
            stride_h: bytes.size(),
            stride_w: bytes.size(),
            dilation_h: bytes.size(),
            dilation_w: bytes.size(),
            pad_top: bytes.padding(),
            pad_left: bytes.padding(),
            signs: bytes.mode(),
            input: bytes.address(),
            input_zero: bytes.byte(),
            weights: bytes.address(),
            weight_zeros: bytes.address(),
            weight_zero_stride: bytes.mode() % 3,
            output_type: bytes.mode(),
            scales: bytes.address(),
            scale_stride: bytes.mode() % 3,
            bias: bytes.address(),
            zero: bytes.byte() % 130,
            output: bytes.output(),
        }),
        Kernel::Pool(_) => Kernel::Pool(Pool {
            planes: bytes.size(),
            in_h: bytes.size(),
            in_w: bytes.size(),
            out_h: bytes.size(),
            out_w: bytes.size(),
            kernel_h: bytes.size(),
            kernel_w: bytes.size(),
            stride_h: bytes.size(),
            stride_w: bytes.size(),
            pad_top: bytes.padding(),
            pad_left: bytes.padding(),
            mode: bytes.mode(),
            input: bytes.address(),
            output: bytes.output(),
        }),
        Kernel::Reduce(_) => Kernel::Reduce(Reduce {
            outer: bytes.size(),
            middle: bytes.size(),
            inner: bytes.size(),
            mode: bytes.mode(),
            input: bytes.address(),
            output: bytes.output(),
        }),
        Kernel::Softmax(_) => Kernel::Softmax(Softmax {
            outer: bytes.size(),
            middle: bytes.size(),
            inner: bytes.size(),
            input: bytes.address(),
            output: bytes.output(),
        }),
        Kernel::Permute(_) => Kernel::Permute(Permute {
            dims: [(); KERNEL_RANK].map(|()| bytes.size()),
            strides: [(); KERNEL_RANK].map(|()| bytes.stride()),
            input: bytes.address(),
            output: bytes.output(),
        }),
        Kernel::Pointwise(_) => Kernel::Pointwise(program(bytes)),
        Kernel::BlockGemm(_) => Kernel::BlockGemm(BlockGemm {
            m: bytes.size(),
            n: bytes.size(),
            k: bytes.size(),
            a: bytes.address(),
            a_row_stride: bytes.stride(),
            bits: 1 << bytes.mode(),
            block: bytes.size().wrapping_mul(8),
            b: bytes.address(),
            scales: bytes.address(),
            zeros: bytes.address(),
            round_sum: bytes.narrow(),
            bias: bytes.address(),
            round: bytes.narrow(),
            low: bytes.bound(),
            high: bytes.bound(),
            output: bytes.output(),
        }),
        Kernel::Quantize(_) => Kernel::Quantize(Quantize {
            count: bytes.size(),
            input: bytes.address(),
            scale: bytes.bound(),
            zero: bytes.byte() % 130,
            nan: bytes.byte(),
            signed: bytes.mode() % 3,
            output: bytes.output(),
        }),
        Kernel::Dequantize(_) => Kernel::Dequantize(Dequantize {
            count: bytes.size(),
            signed: bytes.mode() % 3,
            input: bytes.address(),
            scale: bytes.bound(),
            zero: bytes.byte() % 130,
            output: bytes.output(),
        }),
        Kernel::Convert(_) => Kernel::Convert(Convert {
            count: bytes.size(),
            from: bytes.narrow(),
            to: bytes.narrow(),
            input: bytes.address(),
            output: bytes.output(),
        }),
    };
    if bytes.fitting {
        fit(&mut kernel);
    }
    kernel
}

/// Makes those fields valid whose bounds depend on other fields or on the kernel.
fn fit(kernel: &mut Kernel) {
    match kernel {
        Kernel::Conv(conv) => {
            if conv.scale == 0 || conv.shift == 0 {
                (conv.scale, conv.shift) = (0, 0);
            }
            if conv.channels_in == 1 && conv.channels_out == 1 {
                conv.weights_type = 0;
            }
        }
        Kernel::Pool(pool) => {
            pool.mode %= 4;
            pool.pad_top %= pool.kernel_h;
            pool.pad_left %= pool.kernel_w;
            // Every window contains an element.
            let most = |size: u32, pad: u32, stride: u32| (size + pad).div_ceil(stride);
            pool.out_h = pool.out_h.min(most(pool.in_h, pool.pad_top, pool.stride_h));
            pool.out_w = pool.out_w.min(most(pool.in_w, pool.pad_left, pool.stride_w));
        }
        Kernel::Reduce(reduce) => reduce.mode %= 4,
        Kernel::Pointwise(program) => {
            for input in &mut program.inputs {
                input.strides[KERNEL_RANK - 1] %= 2;
            }
        }
        Kernel::IntegerGemm(gemm) => {
            gemm.signs %= 4;
            gemm.a_zero_stride %= 2;
            gemm.b_zero_stride %= 2;
            gemm.scale_stride %= 2;
            fit_output(&mut gemm.output_type, &mut gemm.scales, &mut gemm.bias, &mut gemm.zero);
        }
        Kernel::IntegerConv(conv) => {
            conv.signs %= 4;
            conv.weight_zero_stride %= 2;
            conv.scale_stride %= 2;
            fit_output(&mut conv.output_type, &mut conv.scales, &mut conv.bias, &mut conv.zero);
        }
        Kernel::Gemm(gemm) => {
            if gemm.b_step_stride != 0 {
                gemm.b_type = 0;
            }
        }
        Kernel::BlockGemm(gemm) => {
            gemm.bits = [2, 4, 8][gemm.bits as usize % 3];
            gemm.block = gemm.block.next_multiple_of(16);
        }
        Kernel::Convert(convert) => match convert.from {
            0 => convert.to = convert.to.max(1),
            _ => convert.to = 0,
        },
        Kernel::Quantize(quantize) => {
            quantize.signed %= 2;
            quantize.zero %= 128;
        }
        Kernel::Dequantize(dequantize) => {
            dequantize.signed %= 2;
            dequantize.zero %= 128;
        }
        Kernel::Softmax(_) | Kernel::Permute(_) => {}
    }
}

fn fit_output(output_type: &mut u32, scales: &mut u32, bias: &mut u32, zero: &mut u32) {
    *output_type %= 4;
    match output_type {
        0 => (*scales, *bias, *zero) = (0, 0, 0),
        1 => *zero = 0,
        _ => *zero %= 128,
    }
}

fn program(bytes: &mut Bytes<'_>) -> Pointwise {
    let dims = [(); KERNEL_RANK].map(|()| bytes.size());
    let output = bytes.output();
    let inputs = bytes.byte() % (MAX_POINTWISE_INPUTS as u32 + 1);
    let input = |_| {
        let address = bytes.address();
        let mut strides = [(); KERNEL_RANK].map(|()| 0);
        let (last, others) = strides.split_last_mut().expect("at least one dimension");
        others.fill_with(|| bytes.stride());
        *last = bytes.byte() % 9 % 3;
        PointwiseInput { address, strides }
    };
    let inputs: Vec<_> = (0..inputs).map(input).collect();
    // Sometimes one more than is allowed.
    let steps = 1 + bytes.byte() % (MAX_POINTWISE_STEPS as u32 + 1);
    let step = |at: u32| {
        let step = Step::ALL[bytes.byte() as usize % Step::ALL.len()];
        let mut operand = || {
            // An input, or the result of an earlier step.
            let inputs = inputs.len() as u32;
            let operand = bytes.byte() % (inputs + at).max(1);
            let result = operand.checked_sub(inputs).map(|at| at + MAX_POINTWISE_INPUTS as u32);
            result.unwrap_or(operand)
        };
        PointwiseStep { step, a: operand(), b: operand() }
    };
    let steps = (0..steps).map(step).collect();
    Pointwise { dims, output, inputs, steps }
}

/// The address of the output of a valid request: nothing before it may be written.
pub(crate) fn output(words: &[u32]) -> Option<u32> {
    Some(match Kernel::decode(words.iter().copied())? {
        Kernel::Conv(conv) => conv.output,
        Kernel::Gemm(gemm) => gemm.output,
        Kernel::IntegerGemm(gemm) => gemm.output,
        Kernel::IntegerConv(conv) => conv.output,
        Kernel::Pool(pool) => pool.output,
        Kernel::Reduce(reduce) => reduce.output,
        Kernel::Softmax(softmax) => softmax.output,
        Kernel::Permute(permute) => permute.output,
        Kernel::Pointwise(program) => program.output,
        Kernel::BlockGemm(gemm) => gemm.output,
        Kernel::Convert(convert) => convert.output,
        Kernel::Quantize(quantize) => quantize.output,
        Kernel::Dequantize(dequantize) => dequantize.output,
    })
}
