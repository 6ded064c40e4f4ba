//! Converts untrusted addresses in a sandbox's memory to checked slices.

use super::Refused;

use belljar_abi::narrow::Narrow;

const F32: u64 = 4;

/// A range of elements inside of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    start: usize,
    len: usize,
}

impl Region {
    /// `count` elements at `address` of a memory of `memory` bytes.
    pub(super) fn new(memory: &[u8], address: u32, count: u64) -> Result<Region, Refused> {
        if !address.is_multiple_of(4) {
            return Err(Refused::Malformed);
        }
        let end = count
            .checked_mul(F32)
            .and_then(|bytes| bytes.checked_add(address.into()))
            .filter(|end| *end <= memory.len() as u64)
            .ok_or(Refused::OutOfBounds)?;
        // Both values are at most the length of memory.
        Ok(Region { start: address as usize / 4, len: (end - u64::from(address)) as usize / 4 })
    }

    /// `count` elements of a type at `address`; narrow floats take whole elements of `f32`.
    pub(super) fn of(
        memory: &[u8],
        address: u32,
        count: u64,
        narrow: Option<Narrow>,
    ) -> Result<Region, Refused> {
        Region::new(memory, address, if narrow.is_some() { count.div_ceil(2) } else { count })
    }

    fn end(&self) -> usize {
        self.start.saturating_add(self.len)
    }

    fn is_apart_from(&self, other: &Region) -> bool {
        self.end() <= other.start || other.end() <= self.start || self.len == 0 || other.len == 0
    }
}

/// The inputs and the output of a kernel, which do not overlap.
pub(super) struct Regions<'a> {
    before: &'a [f32],
    after: &'a [f32],
    /// Offset of `after`.
    from: usize,
}

impl<'a> Regions<'a> {
    /// Splits a memory into the range of the output and everything else.
    pub(super) fn split(
        memory: &'a mut [u8],
        output: Region,
    ) -> Result<(&'a mut [f32], Regions<'a>), Refused> {
        // A linear memory starts at a page boundary and is a whole number of pages long.
        let memory: &mut [f32] =
            bytemuck::try_cast_slice_mut(memory).map_err(|_| Refused::Malformed)?;
        let (before, rest) =
            memory.split_at_mut_checked(output.start).ok_or(Refused::OutOfBounds)?;
        let (output_, after) = rest.split_at_mut_checked(output.len).ok_or(Refused::OutOfBounds)?;
        Ok((output_, Regions { before, after, from: output.end() }))
    }

    /// An input of bytes at any address. Refused if it overlaps the output.
    pub(super) fn bytes(&self, address: u32, count: u64) -> Result<&'a [u8], Refused> {
        let before: &'a [u8] = bytemuck::cast_slice(self.before);
        let after: &'a [u8] = bytemuck::cast_slice(self.after);
        let from = self.from.checked_mul(size_of::<f32>()).ok_or(Refused::OutOfBounds)?;
        let start = address as usize;
        let end = usize::try_from(count).ok().and_then(|count| start.checked_add(count));
        let end = end.filter(|end| end.checked_sub(from).is_none_or(|end| end <= after.len()));
        let end = end.ok_or(Refused::OutOfBounds)?;
        if end <= before.len() {
            return before.get(start..end).ok_or(Refused::OutOfBounds);
        }
        if start == end {
            return Ok(Default::default());
        }
        let start = start.checked_sub(from).ok_or(Refused::Overlapping)?;
        after.get(start..end - from).ok_or(Refused::OutOfBounds)
    }

    /// An input. Refused if it overlaps the output.
    pub(super) fn get(&self, region: Region) -> Result<&'a [f32], Refused> {
        let here = Region { start: self.before.len(), len: self.from - self.before.len() };
        if !region.is_apart_from(&here) {
            return Err(Refused::Overlapping);
        }
        let found = if region.end() <= self.before.len() {
            self.before.get(region.start..region.end())
        } else if region.len == 0 {
            Some(Default::default())
        } else {
            let start = region.start.checked_sub(self.from).ok_or(Refused::Overlapping)?;
            self.after.get(start..).and_then(|rest| rest.get(..region.len))
        };
        found.ok_or(Refused::OutOfBounds)
    }
}

/// A narrow type, or `None` for `f32`, from a word of a request.
pub(super) fn narrow_type(word: u32) -> Result<Option<Narrow>, Refused> {
    Narrow::from_word(word).ok_or(Refused::Malformed)
}

/// Elements that are stored as `f32` or as narrow floats.
#[derive(Clone, Copy)]
pub(super) enum Stored<'a> {
    Single(&'a [f32]),
    Narrow(Narrow, &'a [u16]),
}

impl<'a> Stored<'a> {
    /// The elements of a checked region.
    pub(super) fn new(elements: &'a [f32], narrow: Option<Narrow>) -> Stored<'a> {
        match narrow {
            None => Stored::Single(elements),
            Some(narrow) => Stored::Narrow(narrow, bytemuck::cast_slice(elements)),
        }
    }

    /// The elements from one on.
    pub(super) fn from(self, start: usize) -> Stored<'a> {
        match self {
            Stored::Single(elements) => Stored::Single(&elements[start..]),
            Stored::Narrow(narrow, elements) => Stored::Narrow(narrow, &elements[start..]),
        }
    }
}

/// Like [`extent_with_repeats`], for kernels that cannot repeat elements: a stride of 0 over more
/// than one element is refused.
pub(super) fn extent(dims: &[(u32, u32)]) -> Result<u64, Refused> {
    if dims.iter().any(|(count, stride)| *count > 1 && *stride == 0) {
        return Err(Refused::Malformed);
    }
    extent_with_repeats(dims)
}

/// The number of elements from the first to the last element of a tensor with these dimensions, as
/// `(count, stride)`; 0 if it is empty. A stride of 0 repeats an element.
pub(super) fn extent_with_repeats(dims: &[(u32, u32)]) -> Result<u64, Refused> {
    let mut last = 0u64;
    for (count, stride) in dims {
        let Some(steps) = count.checked_sub(1) else { return Ok(0) };
        let more = u64::from(steps).checked_mul((*stride).into()).ok_or(Refused::OutOfBounds)?;
        last = last.checked_add(more).ok_or(Refused::OutOfBounds)?;
    }
    last.checked_add(1).ok_or(Refused::OutOfBounds)
}

/// The number of elements of a tensor with these dimensions.
pub(super) fn volume(dims: &[u32]) -> Result<u64, Refused> {
    if dims.contains(&0) {
        return Ok(0);
    }
    dims.iter()
        .try_fold(1u64, |product, dim| product.checked_mul((*dim).into()))
        .filter(|volume| *volume <= 1 << 32)
        .ok_or(Refused::OutOfBounds)
}
