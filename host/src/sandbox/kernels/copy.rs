//! Short copies: rows of images are often shorter than a call takes.

use super::vector::Vector;

/// Copies elements side by side, as many as both have.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn copy<V: Vector>(from: &[f32], to: &mut [f32]) {
    let len = from.len().min(to.len());
    let (from, to) = (from.as_ptr(), to.as_mut_ptr());
    // SAFETY: the caller's; nothing at or beyond `len` is touched.
    unsafe {
        let mut at = 0;
        while at + V::LANES <= len {
            V::load(from.add(at)).store(to.add(at));
            at += V::LANES;
        }
        // Less than a vector is left: by halves.
        if V::LANES > 8 && at + 8 <= len {
            some::<8>(from.add(at), to.add(at));
            at += 8;
        }
        if V::LANES > 4 && at + 4 <= len {
            some::<4>(from.add(at), to.add(at));
            at += 4;
        }
        while at < len {
            *to.add(at) = *from.add(at);
            at += 1;
        }
    }
}

/// # Safety
/// `N` elements on both sides.
#[inline(always)]
unsafe fn some<const N: usize>(from: *const f32, to: *mut f32) {
    // SAFETY: the caller's.
    unsafe { to.cast::<[f32; N]>().write_unaligned(from.cast::<[f32; N]>().read_unaligned()) }
}

/// Copies elements that lie apart, as many as fit; `from` has the last of them.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn copy_apart<V: Vector>(from: &[f32], apart: usize, to: &mut [f32]) {
    match apart {
        // SAFETY: the caller's.
        1 => unsafe { copy::<V>(from, to) },
        // The compiler makes shuffles of this.
        2 => {
            let pairs = from.as_chunks::<2>().0;
            let whole = pairs.len().min(to.len());
            to.iter_mut().zip(pairs).for_each(|(to, from)| *to = from[0]);
            if let (Some(to), Some(from)) = (to.get_mut(whole), from.get(2 * whole)) {
                *to = *from;
            }
        }
        _ => {
            let from = from.iter().step_by(apart.max(1));
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }
    }
}
