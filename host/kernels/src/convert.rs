//! Conversions between `f32` and the narrow floats.

use belljar_abi::kernel::Convert;
use belljar_abi::narrow::Narrow;

use super::regions::{Region, Regions, Stored, narrow_type};
use super::vector::{Job, Vector, narrow, widen};
use super::{Refused, Watch, done};

/// Number of elements between checks of the deadline.
const BETWEEN: usize = 1 << 16;

/// Checks a conversion and computes it.
pub(super) fn convert(memory: &mut [u8], convert: &Convert, watch: &Watch) -> Result<(), Refused> {
    let (from, to) = (narrow_type(convert.from)?, narrow_type(convert.to)?);
    let count = convert.count as usize;
    if count == 0 || from.is_some() == to.is_some() {
        return Err(Refused::Malformed);
    }
    let input = Region::of(memory, convert.input, convert.count.into(), from)?;
    let output = Region::of(memory, convert.output, convert.count.into(), to)?;
    let (output, regions) = Regions::split(memory, output)?;
    let input = regions.get(input)?;
    // Of an odd number of narrow floats, the region has one more.
    done(match (Stored::new(input, from), to) {
        (Stored::Narrow(narrow, input), _) => {
            super::dispatch(watch.set(), Widen { narrow, input: &input[..count], output, watch })
        }
        (Stored::Single(input), Some(narrow)) => {
            let output = &mut bytemuck::cast_slice_mut(output)[..count];
            super::dispatch(watch.set(), Round { narrow, input, output, watch })
        }
        (Stored::Single(_), None) => return Err(Refused::Malformed),
    })
}

struct Widen<'a, 'o> {
    narrow: Narrow,
    input: &'a [u16],
    output: &'o mut [f32],
    watch: &'a Watch,
}

impl Job for Widen<'_, '_> {
    type Output = bool;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> bool {
        for (from, to) in self.input.chunks(BETWEEN).zip(self.output.chunks_mut(BETWEEN)) {
            if self.watch.expired() {
                return false;
            }
            // SAFETY: the caller's.
            unsafe { widen::<V>(self.narrow, from, to) };
        }
        true
    }
}

struct Round<'a, 'o> {
    narrow: Narrow,
    input: &'a [f32],
    output: &'o mut [u16],
    watch: &'a Watch,
}

impl Job for Round<'_, '_> {
    type Output = bool;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> bool {
        for (from, to) in self.input.chunks(BETWEEN).zip(self.output.chunks_mut(BETWEEN)) {
            if self.watch.expired() {
                return false;
            }
            // SAFETY: the caller's.
            unsafe { narrow::<V>(self.narrow, from, to) };
        }
        true
    }
}
