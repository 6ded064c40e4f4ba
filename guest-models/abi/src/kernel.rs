//! The guest's requests to the host's native kernels.
//!
//! A request is a list of 32-bit words: the number of the operation, its fields in the order they
//! are written here, and for a pointwise program its inputs and steps. Addresses are bytes from the
//! start of linear memory, `0` where an operand may be missing; sizes and strides count `f32`
//! elements. The host must not trust any of it.

mod pointwise;
mod requests;

use alloc::vec::Vec;

use pointwise::pointwise;
pub use pointwise::{
    MAX_POINTWISE_INPUTS, MAX_POINTWISE_STEPS, Pointwise, PointwiseInput, PointwiseStep, Step,
};
use requests::dims;
pub use requests::{
    Conv, Dims, Gemm, KERNEL_RANK, MAX_POOL_SIZE, MAX_TAPS, PANEL_COLUMNS, PANEL_ROWS, Permute,
    Pool, Reduce, Softmax,
};

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
