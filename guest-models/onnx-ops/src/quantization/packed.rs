//! Constant right operands of products in the layout of the host's kernels, so that they are not
//! rearranged in each run.

use std::sync::Arc;

use belljar_abi::kernel::{
    INTEGER_STEPS, IntegerGemm, MAX_INTEGER_STEPS, PANEL_COLUMNS, PANEL_GRAIN,
};
use belljar_abi::scratch::MAX_SCRATCH_BYTES;
use tract_onnx::tract_hir::internal::*;

use super::integers::Bytes;
use crate::framework::native;

/// Matrices of one shape, packed one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    bytes: Arc<Tensor>,
    pub(crate) signed: bool,
    /// The shape that the operand had.
    pub(crate) shape: TVec<usize>,
    /// Bytes of each matrix.
    each: usize,
}

impl Packed {
    /// Packs a constant of this shape, whose last two dimensions are those of a matrix. `transposed`
    /// matrices have their columns as rows. `None` if the host does not take them.
    pub(crate) fn of(tensor: Option<&Arc<Tensor>>, transposed: bool) -> Option<Packed> {
        let tensor = tensor.filter(|_| native::enabled())?;
        let operand = Bytes::of(tensor).ok()?;
        let (depth, columns) = match *tensor.shape() {
            [.., columns, depth] if transposed => (depth, columns),
            [.., depth, columns] => (depth, columns),
            _ => return None,
        };
        let steps = u32::try_from(depth).ok()?;
        let request = IntegerGemm { k: steps, ..IntegerGemm::default() };
        let fits = steps <= MAX_INTEGER_STEPS && request.scratch_bytes() <= MAX_SCRATCH_BYTES;
        if !fits || operand.len() == 0 {
            return None;
        }
        let each = columns.next_multiple_of(PANEL_GRAIN)
            * (size_of::<i32>() + depth.next_multiple_of(INTEGER_STEPS));
        let matrices = operand.len() / (depth * columns);
        let mut bytes = Tensor::zero::<u8>(&[matrices.checked_mul(each)?]).ok()?;
        let mut plain = bytes.try_as_plain_ram_mut().ok()?;
        let all = plain.as_slice_mut::<u8>().ok()?;
        for (at, to) in all.chunks_exact_mut(each).enumerate() {
            let matrix = operand.slice(at * depth * columns, depth * columns);
            pack(matrix, [depth, columns], transposed, to);
        }
        let signed = matches!(operand, Bytes::Signed(_));
        Some(Packed { bytes: bytes.into_arc_tensor(), signed, shape: tensor.shape().into(), each })
    }

    /// One of the matrices.
    pub(crate) fn matrix(&self, at: usize) -> &[u8] {
        &self.bytes.as_bytes()[at * self.each..][..self.each]
    }
}

/// Panels of columns. Each starts with the sums of its columns, followed by groups of steps, in each
/// the steps of one column after those of another, as signed numbers.
fn pack(matrix: Bytes<'_>, [depth, columns]: [usize; 2], transposed: bool, mut to: &mut [u8]) {
    let (bytes, flip): (&dyn Fn(usize) -> u8, u8) = match matrix {
        Bytes::Unsigned(all) => (&|at| all[at], 0x80),
        Bytes::Signed(all) => (&|at| all[at] as u8, 0),
    };
    for first in (0..columns).step_by(PANEL_COLUMNS) {
        let valid = PANEL_COLUMNS.min(columns - first);
        let width = valid.next_multiple_of(PANEL_GRAIN);
        let len = width * (size_of::<i32>() + depth.next_multiple_of(INTEGER_STEPS));
        let (panel, rest) = std::mem::take(&mut to).split_at_mut(len);
        to = rest;
        let (sum_bytes, elements) = panel.split_at_mut(width * size_of::<i32>());
        let mut sums = [0i32; PANEL_COLUMNS];
        for step in 0..depth {
            let place = step / INTEGER_STEPS * width * INTEGER_STEPS + step % INTEGER_STEPS;
            for (column, sum) in sums[..valid].iter_mut().enumerate() {
                let from = match transposed {
                    true => (first + column) * depth + step,
                    false => step * columns + first + column,
                };
                let byte = bytes(from) ^ flip;
                elements[place + column * INTEGER_STEPS] = byte;
                *sum += i32::from(byte as i8);
            }
        }
        for (to, sum) in sum_bytes.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
            *to = sum.to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_matrices_have_panels_of_sums_and_groups_of_steps() {
        let mut panel = vec![0; 16 * 12];
        let bytes = [128, 0, 129, 1, 130, 2, 131, 3, 132, 255];
        pack(Bytes::Unsigned(&bytes), [5, 2], false, &mut panel);
        let mut expected = vec![0u8; 16 * 12];
        expected[0] = 10;
        // -128 - 127 - 126 - 125 + 127
        expected[4..8].copy_from_slice(&(-379i32).to_le_bytes());
        expected[64..72].copy_from_slice(&[0, 1, 2, 3, 128, 129, 130, 131]);
        expected[128] = 4;
        expected[132] = 127;
        assert_eq!(panel, expected);
        let columns = [-128i8, -127, -126, -125, 127];
        let mut turned = vec![0; 16 * 12];
        let both: Vec<i8> = [0, 1, 2, 3, 4].into_iter().chain(columns).collect();
        pack(Bytes::Signed(&both), [5, 2], true, &mut turned);
        assert_eq!(turned, expected);
        // The second panel is narrower.
        let mut wide = vec![0; (48 + 16) * 8];
        pack(Bytes::Signed(&[1; 50]), [1, 50], false, &mut wide);
        assert_eq!(wide[48 * 4..][..8], [1, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(wide[48 * 8..][..12], [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    }
}
