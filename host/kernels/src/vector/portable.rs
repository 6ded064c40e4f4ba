//! Vectors of four in plain Rust, for any machine.

use super::Vector;

/// Four elements.
#[derive(Clone, Copy)]
pub(in super::super) struct Plain([f32; 4]);

impl Plain {
    #[inline(always)]
    fn both(self, other: Plain, op: impl Fn(f32, f32) -> f32) -> Plain {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        Plain([op(a, e), op(b, f), op(c, g), op(d, h)])
    }
}

// SAFETY: no method requires an instruction set.
unsafe impl Vector for Plain {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Plain {
        // SAFETY: the caller guarantees four elements.
        Plain(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller guarantees four elements.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Plain {
        Plain([value; 4])
    }

    // Rounded twice: without the instruction, rounding once would be a hundred times slower.
    #[inline(always)]
    unsafe fn fma(self, factor: Plain, addend: Plain) -> Plain {
        self.both(factor, |a, b| a * b).both(addend, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn add(self, other: Plain) -> Plain {
        self.both(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Plain) -> Plain {
        self.both(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Plain) -> Plain {
        self.both(other, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn div(self, other: Plain) -> Plain {
        self.both(other, |a, b| a / b)
    }

    #[inline(always)]
    unsafe fn min(self, other: Plain) -> Plain {
        self.both(other, |a, b| if a < b || a.is_nan() { a } else { b })
    }

    #[inline(always)]
    unsafe fn max(self, other: Plain) -> Plain {
        self.both(other, |a, b| if a > b || a.is_nan() { a } else { b })
    }

    #[inline(always)]
    unsafe fn sqrt(self) -> Plain {
        Plain(self.0.map(f32::sqrt))
    }

    #[inline(always)]
    unsafe fn abs(self) -> Plain {
        Plain(self.0.map(f32::abs))
    }

    #[inline(always)]
    unsafe fn round(self) -> Plain {
        Plain(self.0.map(f32::round_ties_even))
    }

    #[inline(always)]
    unsafe fn if_less(self, bound: Plain, then: Plain, otherwise: Plain) -> Plain {
        let lane = |at: usize| match self.0[at] < bound.0[at] {
            true => then.0[at],
            false => otherwise.0[at],
        };
        Plain([lane(0), lane(1), lane(2), lane(3)])
    }

    #[inline(always)]
    unsafe fn exp2_of_integer(self) -> Plain {
        Plain(self.0.map(|n| f32::from_bits(((n as i32).wrapping_add(127) << 23) as u32)))
    }
}
