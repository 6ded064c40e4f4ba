//! Means and norms of integers. Sums wrap around; means and roots are rounded towards zero.

use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::{bail, ensure};

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Kind {
    Mean,
    L1,
    L2,
    SumSquare,
}

/// A reduction that keeps the reduced dimensions with one element.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct IntegerReduction {
    axes: TVec<usize>,
    kind: Kind,
}

impl IntegerReduction {
    /// The reduction of an operator of this name, if it is one of these.
    pub(super) fn of(name: &str, axes: &TVec<usize>) -> Option<IntegerReduction> {
        let kind = match name {
            "ReduceMean" => Kind::Mean,
            "ReduceL1" => Kind::L1,
            "ReduceL2" => Kind::L2,
            "ReduceSumSquare" => Kind::SumSquare,
            _ => return None,
        };
        Some(IntegerReduction { axes: axes.clone(), kind })
    }

    fn shape<D: DimLike>(&self, shape: &[D]) -> TVec<D> {
        let each = shape.iter().enumerate();
        each.map(|(axis, dim)| if self.axes.contains(&axis) { D::one() } else { dim.clone() })
            .collect()
    }

    /// The result for one row, of which the lowest bits count.
    fn row(&self, row: impl ExactSizeIterator<Item = i128>) -> TractResult<i128> {
        let count = row.len() as i128;
        let square = |value: i128| value.unsigned_abs().wrapping_mul(value.unsigned_abs());
        Ok(match self.kind {
            Kind::Mean => {
                ensure!(count > 0, "the mean of no integers is not defined");
                row.sum::<i128>() / count
            }
            Kind::L1 => row.map(i128::abs).sum(),
            Kind::L2 => row.map(square).fold(0, u128::saturating_add).isqrt() as i128,
            Kind::SumSquare => row.map(square).fold(0, u128::wrapping_add) as i128,
        })
    }

    fn reduced(&self, input: &Tensor) -> TractResult<Tensor> {
        let kept = (0..input.rank()).filter(|axis| !self.axes.contains(axis));
        let order: Vec<usize> = kept.chain(self.axes.iter().copied()).collect();
        let shape = self.shape(input.shape());
        let width: usize = self.axes.iter().map(|axis| input.shape()[*axis]).product();
        let count: usize = shape.iter().product();
        macro_rules! reduce {
            ($type:ty) => {{
                let moved = input.to_plain_array_view::<$type>()?.permuted_axes(order);
                let moved = moved.as_standard_layout();
                let Some(elements) = moved.as_slice() else {
                    bail!("internal error: a tensor is not contiguous")
                };
                let row = |at: usize| {
                    let row = &elements[at * width..(at + 1) * width];
                    let whole = self.row(row.iter().map(|value| i128::from(*value)))?;
                    // Only the magnitude of the smallest integer is no integer of its type.
                    let most = i128::from(<$type>::MAX);
                    Ok(if self.kind == Kind::L2 { whole.min(most) } else { whole } as $type)
                };
                let rows: Vec<$type> = (0..count).map(row).collect::<TractResult<_>>()?;
                Tensor::from_shape(&shape, &rows)
            }};
        }
        match input.datum_type() {
            DatumType::I32 => reduce!(i32),
            DatumType::I64 => reduce!(i64),
            DatumType::U32 => reduce!(u32),
            DatumType::U64 => reduce!(u64),
            other => bail!("element type {other:?} is not implemented"),
        }
    }
}

impl Op for IntegerReduction {
    fn name(&self) -> StaticName {
        format!("Reduce<{:?}>", self.kind).into()
    }

    op_as_typed_op!();
}

impl EvalOp for IntegerReduction {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(tvec!(self.reduced(&inputs[0])?.into_tvalue()))
    }
}

impl TypedOp for IntegerReduction {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].datum_type.fact(self.shape(&inputs[0].shape))))
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, scalar, tensor};

    #[test]
    fn means_and_norms_of_integers_are_rounded_towards_zero() {
        let of = |name: &str| {
            case(name)
                .int("keepdims", 0)
                .input(tensor(&[2, 2], &[7i32, -2, -7, 2]))
                .input(row(&[1i64]))
        };
        of("ReduceMean").gives(row(&[2i32, -2]));
        of("ReduceL1").gives(row(&[9i32, 9]));
        of("ReduceL2").gives(row(&[7i32, 7]));
        of("ReduceSumSquare").gives(row(&[53i32, 53]));
    }

    #[test]
    fn sums_of_integers_wrap_around_and_means_do_not() {
        let wide = |name: &str| case(name).int("keepdims", 0).input(row(&[i32::MAX, i32::MAX]));
        wide("ReduceMean").gives(scalar(i32::MAX));
        wide("ReduceL1").gives(scalar(-2i32));
        wide("ReduceSumSquare").gives(scalar(2i32));
        let large = |name: &str| case(name).int("keepdims", 0).input(row(&[u64::MAX, 2]));
        large("ReduceSum").gives(scalar(1u64));
        large("ReduceL1").gives(scalar(1u64));
        large("ReduceMean").gives(scalar(1u64 << 63));
        let unsigned = case("ReduceProd").int("keepdims", 0).input(row(&[u32::MAX, 2]));
        unsigned.gives(scalar(u32::MAX - 1));
    }

    #[test]
    fn integers_that_are_not_reduced_are_still_squared() {
        let nothing = |name: &str| {
            let case = case(name).int("noop_with_empty_axes", 1).input(row(&[-3i64, 2]));
            case.input(row::<i64>(&[]))
        };
        nothing("ReduceSumSquare").gives(row(&[9i64, 4]));
        nothing("ReduceL1").gives(row(&[3i64, 2]));
        nothing("ReduceL2").gives(row(&[3i64, 2]));
        nothing("ReduceMean").gives(row(&[-3i64, 2]));
        let none = |name: &str| case(name).input(tensor::<i64>(&[2, 0], &[])).input(row(&[1i64]));
        none("ReduceL1").gives(tensor(&[2, 1], &[0i64; 2]));
        none("ReduceMean").fails("no integers");
    }
}
