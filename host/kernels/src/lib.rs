//! Native kernels: pure functions over checked ranges of a sandbox's memory.
//!
//! There are two kinds of requests:
//!
//! - one tile of a matrix product with a list of tract's operations ([`matmul_f32`]): `operations`
//!   decodes the list, `tile` computes it, and `x86`, `neon` and `portable` have the product for
//!   each instruction set; `tests` tests them.
//! - a whole operator of a model with a request of our own ([`compute`], `belljar_abi::kernel`):
//!   `conv`, `gemm`, `block`, `pool`, `reduce`, `softmax`, `permute`, `pointwise` and `convert`, each
//!   written once for any `vector`, and `integer` for products, convolutions and conversions of 8-bit
//!   integers; `compute_tests` tests them. `regions` turns the addresses of a request into slices that
//!   do not overlap the output, `product` and `image` are parts of several kernels.
//!
//! The request is copied and every address in it is checked before any computation. It must not be
//! read again, because the kernel's own stores may overwrite it. The work for a tile is bounded;
//! the computation of a whole operator checks the deadline. An invalid request ends the guest's
//! instance. A kernel must never access memory outside of the sandbox.
//!
//! In addition to its operands, a kernel uses `scratch` memory, which is bounded, written before it
//! is read, and cleared when a request has ended.
#![allow(missing_docs, reason = "only for Belljar's own crates")]

mod block;
mod conv;
mod convert;
mod copy;
mod gemm;
mod image;
mod integer;
#[cfg(target_arch = "aarch64")]
mod neon;
mod operations;
mod permute;
mod pointwise;
mod pool;
mod portable;
mod product;
mod reduce;
mod regions;
mod scratch;
mod softmax;
mod tile;
mod vector;
mod watch;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
mod compute_tests;
#[cfg(test)]
mod memory_tests;
#[cfg(test)]
mod request_tests;
/// Random and hostile requests, which the fuzz target uses too.
#[cfg(test)]
#[path = "../../../tests/support/kernel_requests.rs"]
mod requests;
#[cfg(test)]
mod secret_tests;
#[cfg(test)]
mod tests;

use belljar_abi::kernel::{Kernel, MAX_KERNEL_WORDS};

pub use operations::Refused;
use operations::decode;
pub use scratch::ScratchPool;
use tile::Tile;
use vector::dispatch;
pub use watch::Watch;
use watch::{Clock, Rows, done, in_parallel, split_rows};

/// An instruction set of this machine for which there are kernels. Only
/// [`InstructionSet::available`] creates values other than [`InstructionSet::PORTABLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstructionSet(Instructions);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instructions {
    /// AVX-512F, AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2, FMA and F16C, which all processors with AVX2 have.
    #[cfg(target_arch = "x86_64")]
    Avx2Fma,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Portable,
}

impl InstructionSet {
    /// Plain Rust, for any machine.
    pub const PORTABLE: InstructionSet = InstructionSet(Instructions::Portable);

    /// The instruction sets of this machine, best first.
    pub fn available() -> Vec<InstructionSet> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("f16c")
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                found.push(InstructionSet(Instructions::Avx512));
            }
            found.push(InstructionSet(Instructions::Avx2Fma));
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            found.push(InstructionSet(Instructions::Neon));
        }
        found.push(InstructionSet::PORTABLE);
        found
    }

    /// Its name; `None` for plain Rust.
    pub fn name(self) -> Option<&'static str> {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => Some("AVX-512"),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2Fma => Some("AVX2 and FMA"),
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => Some("NEON"),
            Instructions::Portable => None,
        }
    }

    /// The best instruction set of this machine.
    pub fn best() -> InstructionSet {
        static BEST: std::sync::OnceLock<InstructionSet> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| {
            InstructionSet::available().into_iter().next().unwrap_or(InstructionSet::PORTABLE)
        })
    }
}

/// Computes one tile of `rows` × 32 elements by the `count` operations at `address`.
pub fn matmul_f32(
    set: InstructionSet,
    memory: &mut [u8],
    rows: u32,
    address: u32,
    count: u32,
) -> Result<(), Refused> {
    let operations = decode(memory, rows, address, count)?;
    let mut tile = Tile::new(rows as usize);
    match set.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `InstructionSet::available` has found AVX-512F, AVX2 and FMA on this machine.
        Instructions::Avx512 => unsafe { x86::run_avx512(&mut tile, memory, &operations) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `InstructionSet::available` has found AVX2 and FMA on this machine.
        Instructions::Avx2Fma => unsafe { x86::run_avx2(&mut tile, memory, &operations) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: `InstructionSet::available` has found NEON on this machine.
        Instructions::Neon => unsafe { neon::run(&mut tile, memory, &operations) },
        Instructions::Portable => portable::run(&mut tile, memory, &operations),
    }
    Ok(())
}

/// Computes the request of `count` words at `address`.
pub fn compute(memory: &mut [u8], address: u32, count: u32, watch: &Watch) -> Result<(), Refused> {
    if count as usize > MAX_KERNEL_WORDS {
        return Err(Refused::TooMuch);
    }
    let request = memory
        .get(address as usize..)
        .and_then(|rest| rest.get(..4 * count as usize))
        .ok_or(Refused::OutOfBounds)?;
    let words = request.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
    match Kernel::decode(words).ok_or(Refused::Malformed)? {
        Kernel::Conv(conv) => conv::conv(memory, &conv, watch),
        Kernel::Gemm(gemm) => gemm::gemm(memory, &gemm, watch),
        Kernel::IntegerGemm(gemm) => integer::gemm(memory, &gemm, watch),
        Kernel::IntegerConv(conv) => integer::conv(memory, &conv, watch),
        Kernel::Pool(pool) => pool::pool(memory, &pool, watch),
        Kernel::Reduce(reduce) => reduce::reduce(memory, &reduce, watch),
        Kernel::Softmax(softmax) => softmax::softmax(memory, &softmax, watch),
        Kernel::Permute(permute) => permute::permute(memory, &permute, watch),
        Kernel::Pointwise(program) => pointwise::pointwise(memory, &program, watch),
        Kernel::BlockGemm(gemm) => block::block_gemm(memory, &gemm, watch),
        Kernel::Convert(convert) => convert::convert(memory, &convert, watch),
        Kernel::Quantize(quantize) => integer::quantize(memory, &quantize, watch),
        Kernel::Dequantize(numbers) => integer::dequantize(memory, &numbers, watch),
    }
}
