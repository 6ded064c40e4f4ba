//! The layers of experts: a matrix for each expert, of floats or of codes of 2, 4 or 8 bits. Codes
//! are unpacked a few rows at a time, never all of them.

use super::super::blocks::code;
use super::super::blocks::matmul::{TOGETHER, UNPACKED, dots};

/// Matrices of several experts, each with a row of inputs for each output.
pub(super) struct Layer<'a> {
    pub(super) weights: Weights<'a>,
    /// A number for each expert and output.
    pub(super) bias: Option<&'a [f32]>,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
}

pub(super) enum Weights<'a> {
    Floats(&'a [f32]),
    Codes(Codes<'a>),
}

/// Quantized weights, whose sizes have been checked.
pub(super) struct Codes<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) scales: &'a [f32],
    pub(super) zeros: Option<&'a [u8]>,
    pub(super) bits: usize,
    /// The inputs that share a scale, or none if a whole row does.
    pub(super) block: Option<usize>,
}

impl Codes<'_> {
    /// The zero point and the scale of a block of an output, whose row is counted over all experts.
    fn parameters(&self, layer: &Layer<'_>, row: usize, block: usize) -> (f32, f32) {
        let blocks = self.block.map_or(1, |size| layer.inputs / size);
        let zero = |zeros: &[u8]| {
            // Without blocks, the zero points of an expert's outputs are packed together.
            let (of_row, at, row) = match self.block {
                Some(_) => (blocks, block, row),
                None => (layer.outputs, row % layer.outputs, row / layer.outputs),
            };
            code(&zeros[row * packed(of_row, self.bits)..], at, self.bits)
        };
        let zero = self.zeros.map_or(1 << (self.bits - 1), zero);
        (f32::from(zero), self.scales[row * blocks + block])
    }

    /// Unpacks a part of a row. It starts at a multiple of [`UNPACKED`].
    fn unpack(&self, layer: &Layer<'_>, row: usize, start: usize, to: &mut [f32]) {
        // Both are powers of two: no step crosses the end of a block.
        let step = self.block.map_or(UNPACKED, |size| size.min(UNPACKED));
        let bytes = &self.bytes[row * packed(layer.inputs, self.bits)..];
        for (at, to) in (start..).step_by(step).zip(to.chunks_mut(step)) {
            let block = self.block.map_or(0, |size| at / size);
            let (zero, scale) = self.parameters(layer, row, block);
            let bytes = &bytes[at * self.bits / 8..];
            match self.bits {
                8 => expand::<1>(bytes, zero, scale, to),
                4 => expand::<2>(bytes, zero, scale, to),
                _ => expand::<4>(bytes, zero, scale, to),
            }
        }
    }
}

/// The bytes of packed codes.
pub(super) fn packed(count: usize, bits: usize) -> usize {
    (count * bits).div_ceil(8)
}

/// Unpacks bytes of `N` codes each, the lowest bits first.
fn expand<const N: usize>(bytes: &[u8], zero: f32, scale: f32, to: &mut [f32]) {
    let bits = 8 / N;
    for (to, byte) in to.chunks_mut(N).zip(bytes) {
        for (at, to) in to.iter_mut().enumerate() {
            let code = byte >> (at * bits) & (255 >> (8 - bits));
            *to = (f32::from(code) - zero) * scale;
        }
    }
}

impl Layer<'_> {
    /// The products of rows of inputs with the matrix of an expert, plus its bias.
    pub(super) fn apply(&self, expert: usize, x: &[f32], rows: usize) -> Vec<f32> {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let mut result = match self.bias {
            Some(bias) => bias[expert * outputs..][..outputs].repeat(rows),
            None => vec![0.0; rows * outputs],
        };
        let mut unpacked = vec![0f32; TOGETHER * UNPACKED.min(inputs)];
        for start in (0..inputs).step_by(UNPACKED) {
            let length = UNPACKED.min(inputs - start);
            for first in (0..outputs).step_by(TOGETHER) {
                let count = TOGETHER.min(outputs - first);
                let row = |at: usize| expert * outputs + first + at;
                if let Weights::Codes(codes) = &self.weights {
                    for (at, to) in unpacked.chunks_exact_mut(length).take(count).enumerate() {
                        codes.unpack(self, row(at), start, to);
                    }
                }
                // Rows beyond the last output are computed and dropped.
                let matrix: [&[f32]; TOGETHER] = std::array::from_fn(|at| match self.weights {
                    Weights::Floats(floats) => {
                        &floats[row(at.min(count - 1)) * inputs + start..][..length]
                    }
                    Weights::Codes(_) => &unpacked[at * length..][..length],
                });
                for token in 0..rows {
                    let totals = dots(&x[token * inputs + start..][..length], &matrix);
                    let to = &mut result[token * outputs + first..][..count];
                    to.iter_mut().zip(totals).for_each(|(to, total)| *to += total);
                }
            }
        }
        result
    }
}
