//! A reduction in a typed model, which keeps NaN and 64-bit integers, and sums floats in pairs.

use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::{bail, ensure};
use crate::framework::numbers::{Number, by_number};

/// The kinds of reductions.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum ReductionKind {
    Max,
    Min,
    Sum,
    Product,
    /// The number of elements.
    Count,
    /// The index of the maximum. With `true`, the last one if there are several.
    ArgMax(bool),
    ArgMin(bool),
}

/// A reduction that keeps the reduced dimensions with one element.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct Reduction {
    pub axes: TVec<usize>,
    pub kind: ReductionKind,
}

impl Reduction {
    fn of<T: Number>(&self, input: &Tensor) -> TractResult<Tensor> {
        let view = input.to_plain_array_view::<T>()?;
        let kept = (0..input.rank()).filter(|axis| !self.axes.contains(axis));
        let order: Vec<usize> = kept.chain(self.axes.iter().copied()).collect();
        let shape: TVec<usize> = (0..input.rank())
            .map(|axis| if self.axes.contains(&axis) { 1 } else { input.shape()[axis] })
            .collect();
        let width: usize = self.axes.iter().map(|axis| input.shape()[*axis]).product();
        let count: usize = shape.iter().product();
        let moved = view.permuted_axes(order);
        let moved = moved.as_standard_layout();
        let Some(elements) = moved.as_slice() else {
            bail!("internal error: a tensor is not contiguous")
        };
        let row = |at: usize| &elements[at * width..(at + 1) * width];
        let rows = (0..count).map(row);
        Ok(match self.kind {
            ReductionKind::Max => map_rows(rows, &shape, |row| fold(row, T::LOWEST, T::nan_max))?,
            ReductionKind::Min => map_rows(rows, &shape, |row| fold(row, T::HIGHEST, T::nan_min))?,
            ReductionKind::Sum => map_rows(rows, &shape, pairwise_sum)?,
            ReductionKind::Product => {
                let one = tensor0(1u8).cast_to_scalar::<T>()?;
                map_rows(rows, &shape, |row| fold(row, one, T::times))?
            }
            ReductionKind::Count => {
                let count = tensor0(width as f64).cast_to_scalar::<T>()?;
                map_rows(rows, &shape, |_| count)?
            }
            ReductionKind::ArgMax(last) => {
                ensure!(width > 0 || count == 0, "cannot find the maximum of an empty dimension");
                map_rows(rows, &shape, |row| arg_best(row, last, |a, b| a > b))?
            }
            ReductionKind::ArgMin(last) => {
                ensure!(width > 0 || count == 0, "cannot find the minimum of an empty dimension");
                map_rows(rows, &shape, |row| arg_best(row, last, |a, b| a < b))?
            }
        })
    }
}

fn fold<T: Copy>(row: &[T], from: T, with: impl Fn(T, T) -> T) -> T {
    row.iter().fold(from, |result, value| with(result, *value))
}

/// A pairwise sum. A sequential float sum stops growing once another element is less than half a
/// unit in its last place.
fn pairwise_sum<T: Number>(row: &[T]) -> T {
    const IN_ORDER: usize = 64;
    if row.len() <= IN_ORDER {
        return fold(row, T::default(), T::plus);
    }
    let (first, second) = row.split_at(row.len() / 2);
    pairwise_sum(first).plus(pairwise_sum(second))
}

/// The index of the best element. The first NaN wins over all numbers.
fn arg_best<T: Number>(row: &[T], last: bool, better: impl Fn(T, T) -> bool) -> i64 {
    let mut found = 0;
    for (at, value) in row.iter().enumerate().skip(1) {
        let (best, value) = (row[found], *value);
        if !best.is_number() {
            break;
        }
        if !value.is_number() || better(value, best) || (last && value == best) {
            found = at;
        }
    }
    found as i64
}

fn map_rows<'e, T: 'e, R: Datum>(
    rows: impl Iterator<Item = &'e [T]>,
    shape: &[usize],
    function: impl Fn(&'e [T]) -> R,
) -> TractResult<Tensor> {
    let results: Vec<R> = rows.map(function).collect();
    Ok(tract_ndarray::ArrayD::from_shape_vec(shape, results)?.into_tensor())
}

impl Op for Reduction {
    fn name(&self) -> StaticName {
        format!("{:?}", self.kind).into()
    }

    op_as_typed_op!();
}

impl EvalOp for Reduction {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        fn run<T: Number>(fold: &Reduction, input: &Tensor) -> TractResult<Tensor> {
            fold.of::<T>(input)
        }
        let input = &inputs[0];
        if input.datum_type() == bool::datum_type() {
            // True is greater than false.
            let folded = self.of::<u8>(&*input.cast_to::<u8>()?)?;
            return Ok(tvec!(folded.cast_to::<bool>()?.into_owned().into_tvalue()));
        }
        Ok(tvec!(by_number!(run(input.datum_type())(self, input))?.into_tvalue()))
    }
}

impl TypedOp for Reduction {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut shape = inputs[0].shape.to_tvec();
        for axis in &self.axes {
            shape[*axis] = 1.to_dim();
        }
        let dtype = match self.kind {
            ReductionKind::ArgMax(_) | ReductionKind::ArgMin(_) => i64::datum_type(),
            _ => inputs[0].datum_type,
        };
        Ok(tvec!(dtype.fact(shape)))
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_sizes_that_follow_from_values_keep_growing() {
        let count = (1usize << 24) + (1 << 20);
        let reduction = Reduction { axes: vec![0].into(), kind: ReductionKind::Sum };
        let ones = Tensor::from_shape(&[count], &vec![1f32; count]).unwrap();
        let sum = reduction.of::<f32>(&ones).unwrap();
        assert_eq!(sum.cast_to_scalar::<f32>().unwrap(), count as f32);
    }
}
