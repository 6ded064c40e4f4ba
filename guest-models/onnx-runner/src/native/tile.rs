//! Tiles of matrix products, for tract's products that are not replaced as a whole. tract finds
//! these kernels in its registry, like its own kernels for WebAssembly.
//!
//! A kernel computes one tile. It passes tract's list of operations to the host, which checks every
//! address in it.

use std::sync::LazyLock;

use tract_linalg::isa::{Arch, IsaSet};
use tract_linalg::mmm::{DynKernel, FusedKerSpec, FusedSpec, Query, Suitable};
use tract_linalg::mmm_routines::MmmRoutine;
use tract_linalg::mmm_tiers::MmmTier;
use tract_linalg::pack::PackedFormat;
use tract_onnx::prelude::DatumType;
use tract_onnx::tract_core::tract_linalg;

/// Columns of every tile: two of the widest vectors.
const NR: usize = 32;

/// Maximum number of terms that the host sums for each element of a tile.
const MAX_DEPTH: usize = 1 << 20;

#[link(wasm_import_module = "belljar")]
unsafe extern "C" {
    /// Computes a tile of `mr` × 32 elements by the `count` operations at `operations`. Traps if
    /// an address is outside of this sandbox; returns another value than 0 for invalid operations.
    fn matmul_f32(mr: u32, operations: *const FusedKerSpec<f32>, count: u32) -> i32;
}

/// The host reads an operation as a number and up to four words.
const _: () = assert!(size_of::<FusedKerSpec<f32>>() == 20);

unsafe fn tile<const MR: usize>(operations: &[FusedKerSpec<f32>]) -> isize {
    // SAFETY: address and length are those of a live slice; its operations are those that tract
    // passes to its own kernels.
    unsafe { matmul_f32(MR as u32, operations.as_ptr(), operations.len() as u32) as isize }
}

/// Whether the host's kernels can fuse an operation: all that apply to floating point.
fn can_fuse(spec: &FusedSpec<'_>) -> bool {
    !matches!(
        spec,
        FusedSpec::QScale(..) | FusedSpec::RoundingShiftRight(..) | FusedSpec::ShiftLeft(_)
    )
}

fn kernel<const MR: usize>(name: &str) -> DynKernel<MR, NR, f32> {
    let packing = |rows| PackedFormat::new(DatumType::F32, rows, 64);
    let mut kernel =
        DynKernel::new(name, tile::<MR>, packing(MR), packing(NR)).with_can_fuse(can_fuse);
    kernel.arch = Some(Arch::Wasm32Simd128);
    // Only the tier below chooses these, and only when they are enabled.
    kernel.with_boost(|| tract_linalg::isa::NEVER_PREFERRED)
}

static KERNEL_32: LazyLock<DynKernel<32, NR, f32>> = LazyLock::new(|| kernel("belljar_f32_32x32"));
static KERNEL_16: LazyLock<DynKernel<16, NR, f32>> = LazyLock::new(|| kernel("belljar_f32_16x32"));
static KERNEL_8: LazyLock<DynKernel<8, NR, f32>> = LazyLock::new(|| kernel("belljar_f32_8x32"));

inventory::submit! { MmmRoutine { make: || KERNEL_32.mmm() } }
inventory::submit! { MmmRoutine { make: || KERNEL_16.mmm() } }
inventory::submit! { MmmRoutine { make: || KERNEL_8.mmm() } }

inventory::submit! {
    MmmTier {
        arch: Some(Arch::Wasm32Simd128),
        precedence: 2,
        name: "belljar-native",
        applies: |_| true,
        preferred,
    }
}

fn preferred(_: &IsaSet, dtype: DatumType, query: &Query, _: &[Suitable]) -> Option<&'static str> {
    if !super::enabled() || dtype != DatumType::F32 {
        return None;
    }
    // The host refuses longer sums, to bound its time.
    if query.k.is_none_or(|k| k > MAX_DEPTH) {
        return None;
    }
    // A product with few columns is bound by memory, and the kernels in WebAssembly are as fast.
    if query.n.is_some_and(|n| n < 8) {
        return None;
    }
    Some(match query.m {
        Some(0..=8) => &KERNEL_8.name,
        Some(9..=16) => &KERNEL_16.name,
        _ => &KERNEL_32.name,
    })
}
