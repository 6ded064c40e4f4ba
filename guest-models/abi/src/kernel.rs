//! The guest's requests to the host's native kernels.
//!
//! A request is a list of 32-bit words: the number of the kernel, the fields of its struct in
//! their order, and for a pointwise program its inputs and steps. Addresses are bytes from the start
//! of linear memory, `0` where an operand may be missing; sizes and strides count elements, which are
//! `f32` unless a request says otherwise. The host must not trust any of it.

mod pointwise;
mod requests;

use alloc::vec::Vec;

pub use pointwise::{
    MAX_POINTWISE_INPUTS, MAX_POINTWISE_STEPS, Pointwise, PointwiseInput, PointwiseStep, Step,
};
pub use requests::{
    BlockGemm, Conv, Convert, Dequantize, Dims, Gemm, INTEGER_STEPS, IntegerConv, IntegerGemm,
    KERNEL_RANK, MAX_INTEGER_STEPS, MAX_POOL_SIZE, MAX_TAPS, PANEL_COLUMNS, PANEL_GRAIN,
    PANEL_ROWS, Permute, Pool, Quantize, Reduce, Softmax,
};

/// Maximum number of words of a request.
pub const MAX_KERNEL_WORDS: usize = 256;

/// Declares all kernels, each with the number that is the first word of its request.
macro_rules! kernels {
    ($($(#[$about:meta])* $name:ident = $number:literal,)*) => {
        /// A request to a native kernel.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum Kernel {
            $($(#[$about])* $name($name),)*
        }

        impl Kernel {
            /// Number of kernels.
            pub const COUNT: usize = [$($number),*].len();

            /// One request of each kernel, with zero in every field and every list empty. Tests
            /// derive from it which kernels exist.
            pub fn defaults() -> [Kernel; Kernel::COUNT] {
                [$(Kernel::$name($name::default()),)*]
            }

            /// Its number: the first word of a request.
            pub fn number(&self) -> u32 {
                match self {
                    $(Kernel::$name(_) => $number,)*
                }
            }

            /// The name of the kernel with a number.
            pub fn name_of(number: u32) -> Option<&'static str> {
                match number {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// The request as words.
            pub fn encode(&self) -> Vec<u32> {
                let mut words = Vec::with_capacity(64);
                words.push(self.number());
                match self {
                    $(Kernel::$name(request) => request.write(&mut words),)*
                }
                words
            }

            /// Decodes a request; `None` if it is malformed. Only its form is checked; the caller
            /// must check addresses and sizes against the memory.
            pub fn decode(words: impl IntoIterator<Item = u32>) -> Option<Kernel> {
                let words = &mut words.into_iter();
                let kernel = match words.next()? {
                    $($number => Kernel::$name($name::read(words)?),)*
                    _ => return None,
                };
                words.next().is_none().then_some(kernel)
            }
        }
    };
}

kernels! {
    /// A convolution.
    Conv = 1,
    /// A matrix product.
    Gemm = 2,
    /// A pooling.
    Pool = 3,
    /// A reduction.
    Reduce = 4,
    /// A softmax.
    Softmax = 5,
    /// A permutation.
    Permute = 6,
    /// A pointwise program.
    Pointwise = 7,
    /// A matrix product of 8-bit integers.
    IntegerGemm = 8,
    /// A convolution of 8-bit integers.
    IntegerConv = 9,
    /// A matrix product with quantized blocks.
    BlockGemm = 10,
    /// A conversion between float32 and a narrow float.
    Convert = 11,
    /// A conversion of float32 to bytes with a scale and a zero point.
    Quantize = 14,
    /// A conversion of bytes with a scale and a zero point to float32.
    Dequantize = 15,
}

impl Kernel {
    /// The number of multiply-adds of a convolution or matrix product.
    pub fn multiply_adds(&self) -> Option<u64> {
        let product = |sizes: &[u32]| {
            sizes.iter().try_fold(1_u64, |product, size| product.checked_mul(u64::from(*size)))
        };
        let convolution = |c: &Conv| {
            product(&[
                c.batch,
                c.groups,
                c.channels_out,
                c.out_h,
                c.out_w,
                c.channels_in,
                c.kernel_h,
                c.kernel_w,
            ])
        };
        match self {
            Kernel::Conv(c) => convolution(c),
            Kernel::IntegerConv(c) => convolution(&c.geometry()),
            Kernel::Gemm(g) => product(&[g.batch, g.m, g.n, g.k]),
            Kernel::IntegerGemm(g) => product(&[g.batch, g.m, g.n, g.k]),
            Kernel::BlockGemm(g) => product(&[g.m, g.n, g.k]),
            Kernel::Pool(_)
            | Kernel::Reduce(_)
            | Kernel::Softmax(_)
            | Kernel::Permute(_)
            | Kernel::Pointwise(_)
            | Kernel::Convert(_)
            | Kernel::Quantize(_)
            | Kernel::Dequantize(_) => None,
        }
    }
}
