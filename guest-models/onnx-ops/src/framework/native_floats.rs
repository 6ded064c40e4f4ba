//! Requests to the host's kernels for float32: products with packed matrices, and pointwise programs.
//! Their operands are slices, so that the addresses in them are valid.

use std::sync::Arc;

use belljar_abi::kernel::{
    Dims, Gemm, KERNEL_RANK, Kernel, MAX_POINTWISE_INPUTS, PANEL_COLUMNS, PANEL_GRAIN, Pointwise,
    PointwiseInput, PointwiseStep, Step,
};
use tract_onnx::tract_hir::internal::*;

use super::native::{address, address_mut, compute};

/// Right operands of products in the layout of the host's kernels: panels of columns, in each the
/// columns of one step after those of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Matrices {
    elements: Arc<Tensor>,
    pub(crate) depth: usize,
    pub(crate) columns: usize,
    /// Elements of each matrix.
    each: usize,
}

impl Matrices {
    /// Packs matrices whose columns are the rows of a tensor of float32 of three dimensions.
    pub(crate) fn of_rows(tensor: &Tensor) -> Option<Matrices> {
        let [count, columns, depth] = *tensor.shape() else { return None };
        if tensor.datum_type() != f32::datum_type() || tensor.len() == 0 {
            return None;
        }
        let plain = tensor.try_as_plain_ram().ok()?;
        let from = plain.as_slice::<f32>().ok()?;
        let each = columns.next_multiple_of(PANEL_GRAIN).checked_mul(depth)?;
        let mut packed = Tensor::zero::<f32>(&[count.checked_mul(each)?]).ok()?;
        let mut view = packed.try_as_plain_ram_mut().ok()?;
        let matrices = view.as_slice_mut::<f32>().ok()?.chunks_exact_mut(each);
        for (from, to) in from.chunks_exact(columns * depth).zip(matrices) {
            for first in (0..columns).step_by(PANEL_COLUMNS) {
                let valid = PANEL_COLUMNS.min(columns - first);
                let width = valid.next_multiple_of(PANEL_GRAIN);
                let panel = &mut to[first * depth..][..width * depth];
                let rows = from[first * depth..].chunks_exact(depth).take(valid);
                for (column, row) in rows.enumerate() {
                    let places = panel[column..].iter_mut().step_by(width);
                    places.zip(row).for_each(|(to, from)| *to = *from);
                }
            }
        }
        Some(Matrices { elements: packed.into_arc_tensor(), depth, columns, each })
    }

    /// Multiplies rows with one of the matrices, and adds a bias to each column. Returns whether the
    /// host did.
    pub(crate) fn times(
        &self,
        matrix: usize,
        rows: &[f32],
        bias: Option<&[f32]>,
        to: &mut [f32],
    ) -> bool {
        let count = rows.len() / self.depth;
        let sizes = rows.len() == count * self.depth
            && to.len() == count * self.columns
            && bias.is_none_or(|bias| bias.len() == self.columns);
        let Ok(plain) = self.elements.try_as_plain_ram() else { return false };
        let Ok(all) = plain.as_slice::<f32>() else { return false };
        let Some(b) = all.get(matrix * self.each..).and_then(|rest| rest.get(..self.each)) else {
            return false;
        };
        if !sizes || count == 0 {
            return false;
        }
        compute(&Kernel::Gemm(Gemm {
            batch: 1,
            m: count as u32,
            n: self.columns as u32,
            k: self.depth as u32,
            a: address(rows),
            a_row_stride: self.depth as u32,
            a_step_stride: 1,
            b: address(b),
            bias: bias.map_or(0, address),
            low: f32::NEG_INFINITY.to_bits(),
            high: f32::INFINITY.to_bits(),
            output: address_mut(to),
            ..Gemm::default()
        }))
    }
}

/// An operand of a step of a program.
#[derive(Clone, Copy)]
pub(crate) struct Operand(u32);

/// Steps that are computed for every element of a matrix.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    inputs: u32,
    steps: Vec<PointwiseStep>,
}

/// An input of a program: a matrix in memory, from its first element on.
#[derive(Clone, Copy)]
pub(crate) struct Input<'t> {
    pub(crate) elements: &'t [f32],
    /// Elements from one row to the next; 0 if there is only one.
    pub(crate) row_stride: usize,
    /// Whether all columns have the same element.
    pub(crate) repeated: bool,
}

impl Program {
    /// The next input.
    pub(crate) fn input(&mut self) -> Operand {
        self.inputs += 1;
        Operand(self.inputs - 1)
    }

    /// The next step of two operands.
    pub(crate) fn two(&mut self, step: Step, a: Operand, b: Operand) -> Operand {
        self.steps.push(PointwiseStep { step, a: a.0, b: b.0 });
        Operand((MAX_POINTWISE_INPUTS + self.steps.len() - 1) as u32)
    }

    /// The next step of one operand.
    pub(crate) fn one(&mut self, step: Step, a: Operand) -> Operand {
        self.two(step, a, a)
    }

    /// Computes the rows of an output of so many columns. Returns whether the host did.
    pub(crate) fn run(&self, inputs: &[Input<'_>], columns: usize, to: &mut [f32]) -> bool {
        let rows = to.len() / columns.max(1);
        let reaches = |input: &Input<'_>| {
            let row = if input.repeated { 1 } else { columns };
            let last = (rows.max(1) - 1).checked_mul(input.row_stride);
            last.and_then(|last| last.checked_add(row))
                .is_some_and(|end| end <= input.elements.len())
        };
        let sizes = rows > 0 && to.len() == rows * columns && inputs.iter().all(reaches);
        if !sizes || inputs.len() != self.inputs as usize {
            return false;
        }
        let mut dims: Dims = [1; KERNEL_RANK];
        (dims[KERNEL_RANK - 2], dims[KERNEL_RANK - 1]) = (rows as u32, columns as u32);
        let placed = |input: &Input<'_>| {
            let mut strides = [0; KERNEL_RANK];
            strides[KERNEL_RANK - 2] = input.row_stride as u32;
            strides[KERNEL_RANK - 1] = u32::from(!input.repeated);
            PointwiseInput { address: address(input.elements), strides }
        };
        let inputs = inputs.iter().map(placed).collect();
        let steps = self.steps.clone();
        compute(&Kernel::Pointwise(Pointwise { dims, output: address_mut(to), inputs, steps }))
    }
}
