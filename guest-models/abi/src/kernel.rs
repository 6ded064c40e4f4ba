//! The guest's requests to the host's native kernels.
//!
//! A request is a list of 32-bit words: the number of the operation, its fields in the order they
//! are written here, and for a pointwise program its inputs and steps. Addresses are bytes from the
//! start of linear memory, `0` where an operand may be missing; sizes and strides count `f32`
//! elements. The host must not trust any of it.

use alloc::vec::Vec;

/// Rows of a panel of packed weights, see [`Conv`].
pub const PANEL_ROWS: usize = 8;

/// Columns of a panel of packed operands, see [`Gemm`].
pub const PANEL_COLUMNS: usize = 48;

/// Maximum number of dimensions of a pointwise program, a reduction or a permutation.
pub const KERNEL_RANK: usize = 5;

/// Maximum number of inputs of a pointwise program.
pub const MAX_POINTWISE_INPUTS: usize = 12;

/// Maximum number of steps of a pointwise program.
pub const MAX_POINTWISE_STEPS: usize = 32;

/// Maximum number of elements of a window; those of real models have 49 to a few thousand.
pub const MAX_TAPS: usize = 1 << 20;

/// Maximum size of an image, a window or a stride of a pooling, along one dimension.
pub const MAX_POOL_SIZE: u32 = 1 << 16;

/// Declares structs whose fields are all words, with their encoding and decoding.
macro_rules! words {
    ($($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $field:ident,)* })*) => {$(
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $name { $($(#[$doc])* pub $field: u32,)* }

        impl $name {
            fn write(&self, words: &mut Vec<u32>) {
                words.extend_from_slice(&[$(self.$field),*]);
            }

            fn read(words: &mut impl Iterator<Item = u32>) -> Option<Self> {
                Some($name { $($field: words.next()?,)* })
            }
        }
    )*};
}

words! {
    /// A convolution of `max(input · scale + shift, least)` in the layout NCHW, or the special case
    /// of it in which every channel has a filter of its own (`channels_in` and `channels_out` both
    /// 1), with a bias, the addition of another tensor and clamping of the result to `low..=high`.
    Conv {
        /// Images.
        batch,
        /// Groups of channels that are convolved separately.
        groups,
        /// Channels of the input in a group.
        channels_in,
        /// Channels of the output in a group.
        channels_out,
        /// Rows of the input.
        in_h,
        /// Columns of the input.
        in_w,
        /// Rows of the output.
        out_h,
        /// Columns of the output.
        out_w,
        /// Rows of the filter.
        kernel_h,
        /// Columns of the filter.
        kernel_w,
        /// Rows of the input for each row of the output.
        stride_h,
        /// Columns of the input for each column of the output.
        stride_w,
        /// Rows of the input for each row of the filter.
        dilation_h,
        /// Columns of the input for each column of the filter.
        dilation_w,
        /// Rows of zeros before the first row.
        pad_top,
        /// Columns of zeros before the first column.
        pad_left,
        /// Elements from one image to the next.
        batch_stride,
        /// Elements from one channel to the next.
        channel_stride,
        /// Elements from one row to the next.
        row_stride,
        /// Elements from one column to the next.
        column_stride,
        /// The input.
        input,
        /// One factor for each channel of the input, or 0 if the input is not scaled.
        scale,
        /// One summand for each channel of the input; present if `scale` is.
        shift,
        /// Bits of the minimum of the scaled input.
        least,
        /// The weights: for each group, panels of [`PANEL_ROWS`] output channels (the last one
        /// filled up with zeros), in each the `channels_in × kernel_h × kernel_w` steps, at each
        /// step one weight for each row. Where every channel has a filter of its own: filter after
        /// filter.
        weights,
        /// One number for each output channel, or 0 for none.
        bias,
        /// A tensor of the output's shape that is added to it, or 0 for none.
        residual,
        /// Bits of the lower bound of the result; negative infinity for none.
        low,
        /// Bits of the upper bound of the result; infinity for none.
        high,
        /// The output, its elements in order.
        output,
    }

    /// `batch` matrix products `a · b` of `m × k` by `k × n` elements, with a bias and clamping.
    Gemm {
        /// Products.
        batch,
        /// Rows.
        m,
        /// Columns.
        n,
        /// Steps.
        k,
        /// The left operand.
        a,
        /// Elements from one product's left operand to the next.
        a_batch_stride,
        /// Elements from one row to the next.
        a_row_stride,
        /// Elements from one step to the next.
        a_step_stride,
        /// The right operand.
        b,
        /// Elements from one product's right operand to the next.
        b_batch_stride,
        /// Elements from one step to the next; 0 if the operand is packed: panels of
        /// [`PANEL_COLUMNS`] columns, the last one filled up with zeros to a multiple of 16, in
        /// each the steps, at each step one element for each column.
        b_step_stride,
        /// Elements from one column to the next.
        b_column_stride,
        /// One number for each column, or 0 for none.
        bias,
        /// Bits of the lower bound of the result.
        low,
        /// Bits of the upper bound of the result.
        high,
        /// The output, its elements in order: product, row, column.
        output,
    }

    /// A pooling over the last two dimensions of a contiguous tensor.
    Pool {
        /// Images times channels.
        planes,
        /// Rows of the input.
        in_h,
        /// Columns of the input.
        in_w,
        /// Rows of the output.
        out_h,
        /// Columns of the output.
        out_w,
        /// Rows of the window.
        kernel_h,
        /// Columns of the window.
        kernel_w,
        /// Rows of the input for each row of the output.
        stride_h,
        /// Columns of the input for each column of the output.
        stride_w,
        /// Rows of padding before the first row.
        pad_top,
        /// Columns of padding before the first column.
        pad_left,
        /// 0: the maximum. 1: the sum. 2: the mean of the elements that are not padding. 3: the
        /// mean over the whole window.
        mode,
        /// The input.
        input,
        /// The output.
        output,
    }

    /// A reduction of the middle one of three dimensions.
    Reduce {
        /// Outer dimension.
        outer,
        /// The reduced dimension.
        middle,
        /// Inner dimension.
        inner,
        /// 0: sum. 1: maximum. 2: minimum. 3: mean of squares.
        mode,
        /// The input.
        input,
        /// The output.
        output,
    }

    /// `softmax` along the middle one of three dimensions.
    Softmax {
        /// Outer dimension.
        outer,
        /// The dimension along which the results add up to one.
        middle,
        /// Inner dimension.
        inner,
        /// The input.
        input,
        /// The output.
        output,
    }
}

/// Dimensions, outermost first; missing ones are 1.
pub type Dims = [u32; KERNEL_RANK];

/// The elements of a tensor in another order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Permute {
    /// Dimensions of the output.
    pub dims: Dims,
    /// The stride of the input for each of them, in elements.
    pub strides: Dims,
    /// The input.
    pub input: u32,
    /// The output.
    pub output: u32,
}

/// An input of a pointwise program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PointwiseInput {
    /// Its first element.
    pub address: u32,
    /// Elements from one to the next along each dimension; 0 where it is repeated.
    pub strides: Dims,
}

/// The operation of a step of a pointwise program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Step {
    /// `a + b`
    Add = 0,
    /// `a − b`
    Sub,
    /// `a · b`
    Mul,
    /// `a ÷ b`
    Div,
    /// The lesser; NaN if either is.
    Min,
    /// The greater; NaN if either is.
    Max,
    /// `a²`
    Square,
    /// The square root.
    Sqrt,
    /// `1 ÷ √a`
    Rsqrt,
    /// `1 ÷ a`
    Recip,
    /// `−a`
    Neg,
    /// The absolute value.
    Abs,
    /// `eᵃ`
    Exp,
    /// The hyperbolic tangent.
    Tanh,
    /// `1 ÷ (1 + e⁻ᵃ)`
    Sigmoid,
    /// The nearest number that float16 has (`narrow`).
    RoundF16,
    /// The nearest number that bfloat16 has.
    RoundBf16,
    /// The error function.
    Erf,
    /// `a · ½ · (1 + erf(a ÷ √2))`
    Gelu,
    /// `a · ½ · (1 + tanh(√(2 ÷ π) · (a + 0.044715 · a³)))`
    GeluByTanh,
}

impl Step {
    /// All steps, indexed by their numbers.
    pub const ALL: [Step; 20] = [
        Step::Add,
        Step::Sub,
        Step::Mul,
        Step::Div,
        Step::Min,
        Step::Max,
        Step::Square,
        Step::Sqrt,
        Step::Rsqrt,
        Step::Recip,
        Step::Neg,
        Step::Abs,
        Step::Exp,
        Step::Tanh,
        Step::Sigmoid,
        Step::RoundF16,
        Step::RoundBf16,
        Step::Erf,
        Step::Gelu,
        Step::GeluByTanh,
    ];

    /// Whether it has two operands.
    pub fn is_binary(self) -> bool {
        (self as u32) <= Step::Max as u32
    }
}

/// A step and its operands: an input if below [`MAX_POINTWISE_INPUTS`], otherwise the result of an
/// earlier step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PointwiseStep {
    /// The operation.
    pub step: Step,
    /// First operand.
    pub a: u32,
    /// Second operand; the same as the first for operations with one operand.
    pub b: u32,
}

/// The same computation for every element of a tensor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pointwise {
    /// Dimensions of the contiguous output.
    pub dims: Dims,
    /// The output.
    pub output: u32,
    /// The inputs.
    pub inputs: Vec<PointwiseInput>,
    /// The steps; the result of the last one is the output.
    pub steps: Vec<PointwiseStep>,
}

/// A request to a native kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// A convolution.
    Conv(Conv),
    /// A matrix product.
    Gemm(Gemm),
    /// A pooling.
    Pool(Pool),
    /// A reduction.
    Reduce(Reduce),
    /// A softmax.
    Softmax(Softmax),
    /// A permutation.
    Permute(Permute),
    /// A pointwise program.
    Pointwise(Pointwise),
}

/// Maximum number of words of a request.
pub const MAX_KERNEL_WORDS: usize = 256;

impl Kernel {
    /// Its number: the first word of a request.
    pub fn number(&self) -> u32 {
        match self {
            Kernel::Conv(_) => 1,
            Kernel::Gemm(_) => 2,
            Kernel::Pool(_) => 3,
            Kernel::Reduce(_) => 4,
            Kernel::Softmax(_) => 5,
            Kernel::Permute(_) => 6,
            Kernel::Pointwise(_) => 7,
        }
    }

    /// The name of the kernel with a number.
    pub fn name_of(number: u32) -> Option<&'static str> {
        const NAMES: [&str; 7] =
            ["Conv", "Gemm", "Pool", "Reduce", "Softmax", "Permute", "Pointwise"];
        NAMES.get((number as usize).checked_sub(1)?).copied()
    }

    /// The number of multiply-adds of a convolution or matrix product.
    pub fn multiply_adds(&self) -> Option<u64> {
        let product = |sizes: &[u32]| {
            sizes.iter().try_fold(1_u64, |product, size| product.checked_mul(u64::from(*size)))
        };
        match self {
            Kernel::Conv(c) => product(&[
                c.batch,
                c.groups,
                c.channels_out,
                c.out_h,
                c.out_w,
                c.channels_in,
                c.kernel_h,
                c.kernel_w,
            ]),
            Kernel::Gemm(g) => product(&[g.batch, g.m, g.n, g.k]),
            _ => None,
        }
    }

    /// The request as words.
    pub fn encode(&self) -> Vec<u32> {
        let mut words = Vec::with_capacity(64);
        words.push(self.number());
        match self {
            Kernel::Conv(conv) => conv.write(&mut words),
            Kernel::Gemm(gemm) => gemm.write(&mut words),
            Kernel::Pool(pool) => pool.write(&mut words),
            Kernel::Reduce(reduce) => reduce.write(&mut words),
            Kernel::Softmax(softmax) => softmax.write(&mut words),
            Kernel::Permute(permute) => {
                words.extend_from_slice(&permute.dims);
                words.extend_from_slice(&permute.strides);
                words.extend_from_slice(&[permute.input, permute.output]);
            }
            Kernel::Pointwise(program) => {
                words.extend_from_slice(&program.dims);
                words.push(program.output);
                words.push(program.inputs.len() as u32);
                for input in &program.inputs {
                    words.push(input.address);
                    words.extend_from_slice(&input.strides);
                }
                words.push(program.steps.len() as u32);
                for step in &program.steps {
                    words.extend_from_slice(&[step.step as u32, step.a, step.b]);
                }
            }
        }
        words
    }

    /// Decodes a request; `None` if it is malformed. Only its form is checked; the caller must
    /// check addresses and sizes against the memory.
    pub fn decode(words: impl IntoIterator<Item = u32>) -> Option<Kernel> {
        let words = &mut words.into_iter();
        let kernel = match words.next()? {
            1 => Kernel::Conv(Conv::read(words)?),
            2 => Kernel::Gemm(Gemm::read(words)?),
            3 => Kernel::Pool(Pool::read(words)?),
            4 => Kernel::Reduce(Reduce::read(words)?),
            5 => Kernel::Softmax(Softmax::read(words)?),
            6 => Kernel::Permute(Permute {
                dims: dims(words)?,
                strides: dims(words)?,
                input: words.next()?,
                output: words.next()?,
            }),
            7 => Kernel::Pointwise(pointwise(words)?),
            _ => return None,
        };
        words.next().is_none().then_some(kernel)
    }
}

fn dims(words: &mut impl Iterator<Item = u32>) -> Option<Dims> {
    let mut dims = Dims::default();
    for dim in &mut dims {
        *dim = words.next()?;
    }
    Some(dims)
}

fn pointwise(words: &mut impl Iterator<Item = u32>) -> Option<Pointwise> {
    let (dims_, output) = (dims(words)?, words.next()?);
    let mut program = Pointwise { dims: dims_, output, inputs: Vec::new(), steps: Vec::new() };
    for _ in 0..at_most(words.next()?, MAX_POINTWISE_INPUTS)? {
        program.inputs.push(PointwiseInput { address: words.next()?, strides: dims(words)? });
    }
    for at in 0..at_most(words.next()?, MAX_POINTWISE_STEPS)? {
        let step = *Step::ALL.get(words.next()? as usize)?;
        let (a, b) = (words.next()?, words.next()?);
        for operand in [a, b] {
            let known = match (operand as usize).checked_sub(MAX_POINTWISE_INPUTS) {
                None => (operand as usize) < program.inputs.len(),
                Some(result) => result < at,
            };
            if !known {
                return None;
            }
        }
        program.steps.push(PointwiseStep { step, a, b });
    }
    (!program.steps.is_empty()).then_some(program)
}

fn at_most(count: u32, most: usize) -> Option<usize> {
    let count = count as usize;
    (count <= most).then_some(count)
}
