//! Gemm (ONNX) of integers. Sums and products wrap around, as those of MatMul do.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::volume;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, optional, required, with_dims};
use crate::framework::numbers::{Number, by_number};
use crate::framework::operator::Operator;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IntegerGemm {
    alpha: i64,
    beta: i64,
    transposed: [bool; 2],
}

impl IntegerGemm {
    pub(super) fn new(node: &NodeProto) -> TractResult<IntegerGemm> {
        let flag = |name| Ok::<_, TractError>(node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0);
        let factor = |name: &str| {
            let factor = node.get_attr_opt::<f32>(name)?.unwrap_or(1.0);
            ensure!(
                factor.fract() == 0.0 && factor.abs() < 16_777_216.0,
                "products of integers with {name} {factor} are not implemented; use a whole number"
            );
            Ok::<_, TractError>(factor as i64)
        };
        let transposed = [flag("transA")?, flag("transB")?];
        Ok(IntegerGemm { alpha: factor("alpha")?, beta: factor("beta")?, transposed })
    }

    fn product<T: Number>(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: Option<&Tensor>,
    ) -> TractResult<Tensor> {
        let [a, b] = [a.to_plain_array_view::<T>()?, b.to_plain_array_view::<T>()?];
        let a = if self.transposed[0] { a.reversed_axes() } else { a };
        let b = if self.transposed[1] { b.reversed_axes() } else { b };
        let (&[rows, deep], &[of, columns]) = (a.shape(), b.shape()) else {
            bail!("both operands must be matrices")
        };
        ensure!(deep == of, "a sum of {deep} products cannot have {of} second factors");
        volume(&[rows, columns])?;
        let number = |factor: i64| tensor0(factor).cast_to::<T>()?.cast_to_scalar::<T>();
        let (alpha, beta) = (number(self.alpha)?, number(self.beta)?);
        let mut sums = tract_ndarray::ArrayD::<T>::default(&[rows, columns][..]);
        for row in 0..rows {
            for at in 0..deep {
                let factor = a[[row, at]];
                for column in 0..columns {
                    let sum = &mut sums[[row, column]];
                    *sum = sum.plus(factor.times(b[[at, column]]));
                }
            }
        }
        sums.mapv_inplace(|sum| sum.times(alpha));
        if let Some(c) = c {
            let c = c.to_plain_array_view::<T>()?;
            let c = c.broadcast(sums.raw_dim()).or_user_error(format_args!(
                "the third operand has the shape {:?}, which cannot be broadcast to {rows} by {columns}",
                c.shape()
            ))?;
            sums.zip_mut_with(&c, |sum, c| *sum = sum.plus(c.times(beta)));
        }
        Ok(sums.into_tensor())
    }
}

impl Operator for IntegerGemm {
    fn name(&self) -> &'static str {
        "Gemm"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (a, b) = (required(inputs, 0)?, required(inputs, 1)?);
        let ([a_rows, a_columns], [b_rows, b_columns]) = (&*a.shape, &*b.shape) else {
            bail!("both operands must be matrices")
        };
        let rows = if self.transposed[0] { a_columns } else { a_rows };
        let columns = if self.transposed[1] { b_rows } else { b_columns };
        Ok(tvec!(with_dims(a.dtype, [rows.clone(), columns.clone()])))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        fn run<T: Number>(
            op: &IntegerGemm,
            a: &Tensor,
            b: &Tensor,
            c: Option<&Tensor>,
        ) -> TractResult<Tensor> {
            op.product::<T>(a, b, c)
        }
        let (a, b) = (*required(inputs, 0)?, *required(inputs, 1)?);
        let c = optional(inputs, 2).copied();
        Ok(tvec!(by_number!(run(a.datum_type())(self, a, b, c))?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, scalar, tensor};

    #[test]
    fn gemm_of_integers_keeps_64_bits_and_wraps_around() {
        let wide = 1i64 << 53;
        let a = || tensor(&[2, 2], &[wide, 1, 3, -4]);
        let gemm = || case("Gemm").input(a()).input(tensor(&[2, 1], &[1i64, 1]));
        gemm().gives(tensor(&[2, 1], &[wide + 1, -1]));
        gemm().input(row(&[10i64])).gives(tensor(&[2, 1], &[wide + 11, 9]));
        let scaled = gemm().float("alpha", 2.0).float("beta", -1.0).input(scalar(1i64));
        scaled.gives(tensor(&[2, 1], &[2 * wide + 1, -3]));
        let transposed = case("Gemm").int("transA", 1).int("transB", 1).input(a());
        transposed.input(tensor(&[1, 2], &[0i64, 1])).gives(tensor(&[2, 1], &[3i64, -4]));
        let most = case("Gemm").input(tensor(&[1, 1], &[u32::MAX]));
        most.input(tensor(&[1, 1], &[2u32])).gives(tensor(&[1, 1], &[u32::MAX - 1]));
    }

    #[test]
    fn gemm_of_integers_refuses_fractions_and_sizes_that_differ() {
        let gemm = |columns: &[i32]| {
            let gemm = case("Gemm").input(tensor(&[1, 2], &[1i32, 2]));
            gemm.input(tensor(&[columns.len(), 1], columns))
        };
        gemm(&[1, 2]).float("alpha", 0.5).fails("0.5");
        gemm(&[1, 2, 3]).fails("");
        gemm(&[1, 2]).input(row(&[1i32, 2])).fails("2");
    }
}
