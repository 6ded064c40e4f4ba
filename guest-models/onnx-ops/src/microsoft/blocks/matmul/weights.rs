//! Weights in blocks, and products with them.

use super::MatMulNBits;
use crate::microsoft::blocks::code;

/// Columns of the output that are computed together, so that each input is read once for all.
pub(in crate::microsoft) const TOGETHER: usize = 4;

/// Numbers of a row that are unpacked at once, or one block if that is longer. The unpacked rows
/// stay in the processor's cache.
pub(in crate::microsoft) const UNPACKED: usize = 1024;

/// Zero points: numbers, or codes in bytes.
pub(super) enum Zeros<'a> {
    None,
    Floats(&'a [f32]),
    Packed(&'a [u8]),
}

/// The weights and their parameters, whose sizes have been checked.
pub(super) struct Weights<'a> {
    pub(super) op: &'a MatMulNBits,
    pub(super) bytes: &'a [u8],
    pub(super) scales: &'a [f32],
    pub(super) zeros: Zeros<'a>,
    pub(super) groups: Option<&'a [i32]>,
}

impl Weights<'_> {
    /// The zero point and the scale of a block.
    fn parameters(&self, column: usize, block: usize) -> (f32, f32) {
        let at = column * self.op.blocks() + block;
        let zero = match self.zeros {
            Zeros::None => (1u32 << (self.op.bits - 1)) as f32,
            Zeros::Floats(zeros) => zeros[at],
            Zeros::Packed(zeros) => {
                let row = &zeros[column * self.op.packed_zeros()..];
                f32::from(code(row, block, self.op.bits))
            }
        };
        (zero, self.scales[at])
    }

    /// Unpacks the weights of a column from the start of a block, those of 4 bits in halves.
    fn unpack(&self, column: usize, start: usize, to: &mut [f32]) {
        let (block, blob) = (self.op.block, self.op.blob());
        let first = start / block;
        for (at, to) in to.chunks_mut(block).enumerate() {
            let at = first + at;
            let bytes = &self.bytes[(column * self.op.blocks() + at) * blob..][..blob];
            if let Some(groups) = self.groups {
                for (index, to) in to.iter_mut().enumerate() {
                    let (zero, scale) =
                        self.parameters(column, groups[at * block + index] as usize);
                    *to = (f32::from(code(bytes, index, self.op.bits)) - zero) * scale;
                }
                continue;
            }
            let (zero, scale) = self.parameters(column, at);
            if self.op.bits == 8 {
                for (to, byte) in to.iter_mut().zip(bytes) {
                    *to = (f32::from(*byte) - zero) * scale;
                }
                continue;
            }
            if self.op.bits == 2 {
                for (index, to) in to.iter_mut().enumerate() {
                    *to = (f32::from(code(bytes, index, 2)) - zero) * scale;
                }
                continue;
            }
            let (low, high) = to.split_at_mut(block / 2);
            for (to, byte) in low.iter_mut().zip(bytes) {
                *to = (f32::from(byte & 15) - zero) * scale;
            }
            for (to, byte) in high.iter_mut().zip(bytes) {
                *to = (f32::from(byte >> 4) - zero) * scale;
            }
            // Beyond the end there may be anything, and zero times infinity is not a number.
            for index in self.op.depth.saturating_sub(at * block)..block {
                to[index % 2 * (block / 2) + index / 2] = 0.0;
            }
        }
    }

    /// Whether unpacked blocks have the low halves of all bytes first, and then the high ones. The
    /// compiler vectorizes two such loops and not one that alternates.
    fn in_halves(&self) -> bool {
        self.op.bits == 4 && self.groups.is_none()
    }
}

/// The rows in the order of weights in halves, with zeros after the end of each.
fn in_halves(a: &[f32], depth: usize, block: usize) -> Vec<f32> {
    let length = depth.next_multiple_of(block);
    let mut arranged = vec![0f32; a.len() / depth * length];
    for (row, to) in a.chunks_exact(depth).zip(arranged.chunks_exact_mut(length)) {
        for (from, to) in row.chunks(block).zip(to.chunks_exact_mut(block)) {
            let (low, high) = to.split_at_mut(block / 2);
            from.iter().step_by(2).zip(low).for_each(|(from, to)| *to = *from);
            from.iter().skip(1).step_by(2).zip(high).for_each(|(from, to)| *to = *from);
        }
    }
    arranged
}

/// The products of one row with several rows of weights.
pub(in crate::microsoft) fn dots(a: &[f32], rows: &[&[f32]; TOGETHER]) -> [f32; TOGETHER] {
    const LANES: usize = 8;
    let mut sums = [[0f32; LANES]; TOGETHER];
    let (parts, rest) = a.as_chunks::<LANES>();
    for (at, part) in parts.iter().enumerate() {
        for (sums, row) in sums.iter_mut().zip(rows) {
            let row = &row[at * LANES..][..LANES];
            for lane in 0..LANES {
                sums[lane] += part[lane] * row[lane];
            }
        }
    }
    let mut totals = [0f32; TOGETHER];
    for ((total, sums), row) in totals.iter_mut().zip(&sums).zip(rows) {
        let row = &row[parts.len() * LANES..];
        let last: f32 = rest.iter().zip(row).map(|(a, b)| a * b).sum();
        let halves = [0, 1, 2, 3].map(|lane| sums[lane] + sums[lane + 4]);
        *total = (halves[0] + halves[2]) + (halves[1] + halves[3]) + last;
    }
    totals
}

/// Adds the product of the rows of `a` with the weights to the output.
pub(super) fn product(a: &[f32], weights: &Weights<'_>, output: &mut [f32]) {
    let MatMulNBits { depth, columns, block, .. } = *weights.op;
    let padded = depth.next_multiple_of(block);
    let length = block.max(UNPACKED).min(padded);
    let arranged = weights.in_halves().then(|| in_halves(a, depth, block));
    let (a, depth) = arranged.as_ref().map_or((a, depth), |arranged| (&**arranged, padded));
    let mut unpacked = vec![0f32; TOGETHER * length];
    for start in (0..depth).step_by(length) {
        let length = length.min(depth - start);
        for first in (0..columns).step_by(TOGETHER) {
            let count = TOGETHER.min(columns - first);
            for (at, to) in unpacked.chunks_exact_mut(length).take(count).enumerate() {
                weights.unpack(first + at, start, to);
            }
            // Rows beyond the last column are computed and dropped.
            let rows: [&[f32]; TOGETHER] =
                std::array::from_fn(|at| &unpacked[at * length..][..length]);
            for (a, output) in a.chunks_exact(depth).zip(output.chunks_exact_mut(columns)) {
                let totals = dots(&a[start..][..length], &rows);
                let output = &mut output[first..][..count];
                output.iter_mut().zip(totals).for_each(|(output, total)| *output += total);
            }
        }
    }
}
