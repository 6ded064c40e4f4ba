//! MatMul of integers (ONNX, since operator set 9), whose sums wrap around.

use tract_onnx::tract_core::broadcast::multi_broadcast;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::{advance, strides, volume};
use crate::framework::errors::{OrUserError, ensure};
use crate::framework::facts::{InputFact, OutputFact, required, with_dims};
use crate::framework::numbers::{Number, by_number};
use crate::framework::operator::Operator;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IntegerProduct;

/// The shapes of both operands as matrices, and of the result. Vectors are a row or a column.
struct Shapes<D> {
    a: Vec<D>,
    b: Vec<D>,
    to: Vec<D>,
}

fn shapes<D: DimLike>(a: &[D], b: &[D]) -> TractResult<Shapes<D>> {
    ensure!(
        !a.is_empty() && !b.is_empty(),
        "matrix multiplication needs operands with at least one dimension"
    );
    let (row, column) = (a.len() == 1, b.len() == 1);
    let (mut a, mut b) = (a.to_vec(), b.to_vec());
    if row {
        a.insert(0, D::one());
    }
    if column {
        b.push(D::one());
    }
    let (outer_a, outer_b) = (&a[..a.len() - 2], &b[..b.len() - 2]);
    let mut to = multi_broadcast(&[outer_a, outer_b])
        .or_user_error("the batches of the operands do not match")?
        .to_vec();
    let (inner_a, inner_b) = (&a[a.len() - 1], &b[b.len() - 2]);
    let known = inner_a.to_i64().ok().zip(inner_b.to_i64().ok());
    ensure!(
        known.is_none_or(|(a, b)| a == b),
        "a product of rows of {inner_a} and columns of {inner_b} is not possible"
    );
    if !row {
        to.push(a[a.len() - 2].clone());
    }
    if !column {
        to.push(b[b.len() - 1].clone());
    }
    Ok(Shapes { a, b, to })
}

fn product<T: Number>(a: &Tensor, b: &Tensor) -> TractResult<Tensor> {
    let Shapes { a: of_a, b: of_b, to } = shapes::<usize>(a.shape(), b.shape())?;
    let (plain_a, plain_b) = (a.try_as_plain_ram()?, b.try_as_plain_ram()?);
    let (all_a, all_b) = (plain_a.as_slice::<T>()?, plain_b.as_slice::<T>()?);
    let [rows, inner] = [of_a[of_a.len() - 2], of_a[of_a.len() - 1]];
    let columns = of_b[of_b.len() - 1];
    let batch = multi_broadcast(&[&of_a[..of_a.len() - 2], &of_b[..of_b.len() - 2]])?;
    // Where a matrix of an operand starts: a dimension of 1 is repeated.
    let start = |shape: &[usize], at: &[usize]| {
        let strides = strides(shape);
        let axes = shape.len() - 2;
        let from = at.len() - axes;
        (0..axes).filter(|axis| shape[*axis] > 1).map(|axis| at[from + axis] * strides[axis]).sum()
    };
    let mut results = Vec::with_capacity(volume(&to)?);
    let mut at = vec![0; batch.len()];
    for _ in 0..batch.iter().product::<usize>() {
        let (a, b): (usize, usize) = (start(&of_a, &at), start(&of_b, &at));
        let (a, b) = (&all_a[a..], &all_b[b..]);
        for row in 0..rows {
            let from = results.len();
            results.resize(from + columns, T::default());
            for (place, left) in a[row * inner..][..inner].iter().enumerate() {
                let right = &b[place * columns..][..columns];
                for (sum, right) in results[from..].iter_mut().zip(right) {
                    *sum = sum.plus(left.times(*right));
                }
            }
        }
        advance(&mut at, &batch);
    }
    Tensor::from_shape(&to, &results)
}

impl Operator for IntegerProduct {
    fn name(&self) -> &'static str {
        "MatMul"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (a, b) = (required(inputs, 0)?, required(inputs, 1)?);
        Ok(tvec!(with_dims(a.dtype, shapes(&a.shape, &b.shape)?.to)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (a, b) = (*required(inputs, 0)?, *required(inputs, 1)?);
        Ok(tvec!(by_number!(product(a.datum_type())(a, b))?))
    }
}
