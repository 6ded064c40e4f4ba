//! Short copies: rows of images are often so short that a call to `memcpy` would dominate.

use super::vector::Vector;

/// Copies consecutive elements. Both slices have the same length.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn copy<V: Vector>(from: &[f32], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    let len = to.len();
    let (from, to) = (from.as_ptr(), to.as_mut_ptr());
    // SAFETY: the caller's; nothing at or beyond `len` is accessed.
    unsafe {
        let mut at = 0;
        while at + V::LANES <= len {
            V::load(from.add(at)).store(to.add(at));
            at += V::LANES;
        }
        // Less than a vector remains: copies it by halves.
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

/// Copies elements that are `apart` elements from each other in `from`; 0 is allowed only for a
/// single element. `from` ends with the last of them.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn copy_apart<V: Vector>(from: &[f32], apart: usize, to: &mut [f32]) {
    match apart {
        // SAFETY: the caller's.
        1 => unsafe { copy::<V>(from, to) },
        // The compiler turns this into shuffles.
        2 => {
            let (pairs, last) = from.as_chunks::<2>();
            assert_eq!((pairs.len() + 1, last.len()), (to.len(), 1));
            to.iter_mut().zip(pairs).for_each(|(to, from)| *to = from[0]);
            if let (Some(to), [from]) = (to.last_mut(), last) {
                *to = *from;
            }
        }
        _ => copy_scalars_apart(from, apart, to),
    }
}

/// Fills `to` with elements that have a stride of `apart` elements. `from` begins with the first
/// and contains all of them.
#[inline(always)]
pub(super) fn copy_scalars_apart(from: &[f32], apart: usize, to: &mut [f32]) {
    let Some(more) = to.len().checked_sub(1) else { return };
    assert!(apart > 0 || more == 0, "a stride of 0 cannot store several elements");
    let from = &from[..more * apart + 1];
    to.iter_mut().zip(from.iter().step_by(apart.max(1))).for_each(|(to, from)| *to = *from);
}
