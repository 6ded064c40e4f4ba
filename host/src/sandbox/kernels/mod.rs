//! Native kernels: pure functions over checked ranges of a sandbox's memory.
//!
//! The guest asks for one tile of a matrix product with a list of operations. The list is copied
//! and every address in it checked before anything is computed; it is never read again, since a
//! store of the kernel itself may overwrite it. The work of one call is bounded. A list that is
//! not acceptable ends the guest's instance; it can never touch memory outside of it.

#[cfg(target_arch = "aarch64")]
mod neon;
mod operations;
mod portable;
mod tile;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
mod tests;

pub(super) use operations::Refused;
use operations::decode;
use tile::Tile;

/// An instruction set with kernels of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InstructionSet {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2Fma,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Portable,
}

impl InstructionSet {
    /// What this machine has, best first.
    pub(super) fn available() -> Vec<InstructionSet> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                found.push(InstructionSet::Avx512);
            }
            if std::arch::is_x86_feature_detected!("avx2")
                && std::arch::is_x86_feature_detected!("fma")
            {
                found.push(InstructionSet::Avx2Fma);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            found.push(InstructionSet::Neon);
        }
        found.push(InstructionSet::Portable);
        found
    }

    /// The best this machine has.
    pub(super) fn best() -> InstructionSet {
        static BEST: std::sync::OnceLock<InstructionSet> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| {
            InstructionSet::available().into_iter().next().unwrap_or(InstructionSet::Portable)
        })
    }
}

/// Computes one tile of `rows` × 32 elements by the `count` operations at `address`.
pub(super) fn matmul_f32(
    set: InstructionSet,
    memory: &mut [u8],
    rows: u32,
    address: u32,
    count: u32,
) -> Result<(), Refused> {
    let operations = decode(memory, rows, address, count)?;
    let mut tile = Tile::new(rows as usize);
    match set {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `InstructionSet::available` has found AVX-512F on this machine.
        InstructionSet::Avx512 => unsafe { x86::run_avx512(&mut tile, memory, &operations) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `InstructionSet::available` has found AVX2 and FMA on this machine.
        InstructionSet::Avx2Fma => unsafe { x86::run_avx2(&mut tile, memory, &operations) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: `InstructionSet::available` has found NEON on this machine.
        InstructionSet::Neon => unsafe { neon::run(&mut tile, memory, &operations) },
        InstructionSet::Portable => portable::run(&mut tile, memory, &operations),
    }
    Ok(())
}
