//! Checks of the inputs of MatMulNBits, before any is read.

use tract_onnx::tract_hir::internal::*;

use super::{A, B, BIAS, GROUPS, MatMulNBits, SCALES, ZERO_POINTS};
use crate::framework::assumptions;
use crate::framework::dims;
use crate::framework::errors::{OrUserError, ensure};
use crate::framework::facts::{InputFact, optional, required};
use crate::microsoft::blocks::expect_shape;

impl MatMulNBits {
    /// Checks the parameters of blocks, which may also be in one row.
    fn check_parameters(&self, input: &InputFact, of_row: usize, what: &str) -> TractResult<()> {
        let shape = match input.rank() {
            1 => vec![(self.columns * of_row).to_dim()],
            _ => vec![self.columns.to_dim(), of_row.to_dim()],
        };
        expect_shape(&input.shape, &shape, what)
    }

    /// Checks the inputs; returns whether the weights are omitted, so that the product is zero.
    pub(super) fn check(&self, inputs: &[Option<InputFact>]) -> TractResult<bool> {
        let (a, b) = (required(inputs, A)?, required(inputs, B)?);
        let last = a.shape.last().or_user_error("the first input has no dimensions")?;
        let depth = self.depth.to_dim();
        ensure!(
            assumptions::equal(last, &depth)?,
            "the last dimension of the first input is {last}, expected K = {depth}"
        );
        if let Some(bias) = optional(inputs, BIAS) {
            expect_shape(&bias.shape, &[self.columns.to_dim()], "a bias")?;
        }
        let shape = [self.columns, self.blocks(), self.blob()].map(|size| size.to_dim());
        if b.rank() == 3 && b.shape.iter().any(|dim| *dim == 0.to_dim()) {
            let expected: Vec<TDim> = shape
                .iter()
                .zip(&b.shape)
                .map(|(expected, found)| if *found == 0.to_dim() { found } else { expected })
                .cloned()
                .collect();
            expect_shape(&b.shape, &expected, "weights")?;
            return Ok(true);
        }
        expect_shape(&b.shape, &shape, "weights")?;
        self.check_parameters(required(inputs, SCALES)?, self.blocks(), "scales")?;
        if let Some(zeros) = optional(inputs, ZERO_POINTS) {
            let packed = zeros.dtype == u8::datum_type();
            let of_row = if packed { self.packed_zeros() } else { self.blocks() };
            self.check_parameters(zeros, of_row, "zero points")?;
        }
        if let Some(groups) = optional(inputs, GROUPS) {
            let padded = self.blocks() * self.block;
            let length = groups.shape.iter().product::<TDim>().as_i64();
            let fits = length.is_some_and(|length| {
                [self.depth, padded].contains(&usize::try_from(length).unwrap_or(0))
            });
            ensure!(
                groups.rank() == 1 && fits,
                "expected {} or {padded} group indices, found the shape {}",
                self.depth,
                dims::shown(&groups.shape)
            );
            if let Some(groups) = groups.ints()? {
                self.check_groups(groups.into_iter())?;
            }
        }
        Ok(false)
    }

    pub(super) fn check_groups(&self, groups: impl Iterator<Item = i64>) -> TractResult<()> {
        let blocks = self.blocks();
        for group in groups.take(self.depth) {
            let known = usize::try_from(group).is_ok_and(|group| group < blocks);
            ensure!(known, "the group index {group} is not between 0 and {}", blocks - 1);
        }
        Ok(())
    }
}
