//! The instructions by which a machine multiplies bytes. An instruction set for floats may have
//! several, because the extensions for integers came separately.

use super::super::InstructionSet;
#[cfg(target_arch = "x86_64")]
use super::super::Instructions;
#[cfg(target_arch = "x86_64")]
use super::x86;
use super::{Tile, portable};

/// The instructions for a product. Only [`Path::available`] creates values other than
/// [`Path::PORTABLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// AVX-512 VNNI: four products at once, without saturation.
    #[cfg(target_arch = "x86_64")]
    Vnni,
    /// AVX-512BW: pairs of 16-bit numbers.
    #[cfg(target_arch = "x86_64")]
    Wide,
    /// AVX2: pairs of 16-bit numbers.
    #[cfg(target_arch = "x86_64")]
    Half,
    Portable,
}

/// Computes tiles of products. One of the operands is signed, the other one unsigned.
///
/// # Safety
/// Every method must only be called on a machine that has the instructions, from code inlined into
/// one of [`Path::run`]'s entries.
pub(super) unsafe trait Tiles {
    /// Number of words of four steps of one row of a packed left operand.
    const WORDS: usize;

    /// Computes a tile of `groups` groups of four steps. The left operand is the signed one if
    /// `SIGNED_LEFT` is set, and the right one otherwise.
    ///
    /// # Safety
    /// As the trait.
    unsafe fn tile<const SIGNED_LEFT: bool>(
        rows: usize,
        groups: usize,
        a: &[u32],
        b: &[u8],
        width: usize,
        tile: &mut Tile,
    );
}

/// A computation with tiles.
pub(super) trait Job {
    /// Returns whether it finished before the deadline.
    ///
    /// # Safety
    /// Only [`Path::run`] calls it.
    unsafe fn run<T: Tiles>(self) -> bool;
}

impl Path {
    pub(super) const PORTABLE: Path = Path(Kind::Portable);

    /// The paths of an instruction set on this machine, best first.
    pub(super) fn available(set: InstructionSet) -> impl Iterator<Item = Path> {
        #[cfg(target_arch = "x86_64")]
        let kinds = {
            let wide =
                set.0 == Instructions::Avx512 && std::arch::is_x86_feature_detected!("avx512bw");
            let vnni = wide && std::arch::is_x86_feature_detected!("avx512vnni");
            let half = matches!(set.0, Instructions::Avx512 | Instructions::Avx2Fma);
            [vnni.then_some(Kind::Vnni), wide.then_some(Kind::Wide), half.then_some(Kind::Half)]
        };
        #[cfg(not(target_arch = "x86_64"))]
        let kinds = {
            let _ = set;
            [None]
        };
        kinds.into_iter().flatten().map(Path).chain([Path::PORTABLE])
    }

    /// The best path of an instruction set.
    pub(super) fn of(set: InstructionSet) -> Path {
        Path::available(set).next().unwrap_or(Path::PORTABLE)
    }

    /// Runs a job with these instructions.
    pub(super) fn run<J: Job>(self, job: J) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` has found AVX2, AVX-512F, AVX-512BW and AVX-512 VNNI.
            Kind::Vnni => unsafe { x86::with_vnni(job) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` has found AVX2, AVX-512F and AVX-512BW.
            Kind::Wide => unsafe { x86::with_wide(job) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: both instruction sets include AVX2.
            Kind::Half => unsafe { x86::with_half(job) },
            // SAFETY: it needs no instructions in particular.
            Kind::Portable => unsafe { job.run::<portable::Plain>() },
        }
    }
}
