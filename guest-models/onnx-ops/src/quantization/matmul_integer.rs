//! MatMulInteger (ONNX, operator set 10): sums of products of bytes in 32 bits, where they wrap
//! around.

use std::sync::Arc;

use tract_onnx::tract_hir::internal::*;

use super::integers::{ByteProduct, Bytes, Columns, Rights, check_columns, right_shape};
use super::packed::Packed;
use super::shapes::{Product, product_dims};
use crate::framework::dims::volume;
use crate::framework::errors::ensure;
use crate::framework::facts::{InputFact, OutputFact, concrete, optional, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};

pub(crate) const OPERATORS: &[Registration] =
    &[own("MatMulInteger", |_, node| built(MatMulInteger { packed: None }, node))];

#[derive(Clone, Debug, PartialEq, Eq)]
struct MatMulInteger {
    packed: Option<Packed>,
}

/// The zero points of all rows of the left operand: one, or one for each. `shape` is theirs.
fn row_zeros(zeros: Vec<i32>, shape: &[usize], a: &[usize]) -> TractResult<Vec<i32>> {
    if zeros.len() == 1 {
        return Ok(zeros);
    }
    let (rows, matrices) = match a {
        [outer @ .., rows, _] => (*rows, outer.iter().product::<usize>()),
        _ => (1, 1),
    };
    let mut each = a.to_vec();
    if let Some(last) = each.last_mut() {
        *last = 1;
    }
    let by_row = *shape == [rows];
    ensure!(
        by_row || *shape == *each,
        "zero points have the shape {shape:?}, expected one number, or one for each of the {rows} rows"
    );
    Ok(if by_row { zeros.repeat(matrices) } else { zeros })
}

impl Operator for MatMulInteger {
    fn name(&self) -> &'static str {
        "MatMulInteger"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (a, b) = (required(inputs, 0)?, required(inputs, 1)?);
        check_columns(inputs, 3, 1, "zero points")?;
        let shape = |at| optional(inputs, at).and_then(|input| concrete(&input.shape));
        if let (Some(a), Some(zeros)) = (shape(0), shape(2)) {
            row_zeros(vec![0; volume(&zeros)?], &zeros, &a)?;
        }
        Ok(tvec!((i32::datum_type(), product_dims(&a.shape, &b.shape)?)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (a, packed) = (*required(inputs, 0)?, self.packed.as_ref());
        let b_shape = right_shape(inputs, 1, packed)?;
        let sizes = Product::of(a.shape(), b_shape)?;
        let zeros = |at| {
            let given = optional(inputs, at).copied();
            let values =
                given.map_or(Ok(vec![0]), |zeros| Ok::<_, TractError>(Bytes::of(zeros)?.to_vec()));
            Ok::<_, TractError>((values?, given.map_or(&[][..], Tensor::shape)))
        };
        let ((left_zeros, left_shape), (right_zeros, right_zero_shape)) = (zeros(2)?, zeros(3)?);
        let left_zeros = row_zeros(left_zeros, left_shape, a.shape())?;
        let by_zero = Columns::of(right_zero_shape, b_shape, "zero points")?;
        let [rows, depth, columns] = sizes.sizes();
        let (left, right) = (Bytes::of(a)?, Rights::of(inputs, 1, packed, false)?);
        let mut sums = Vec::with_capacity(volume(&sizes.shape)?);
        for (one, other) in &sizes.pairs {
            let product = ByteProduct {
                left: left.slice(one * rows * depth, rows * depth),
                left_zeros: match left_zeros.len() {
                    1 => &left_zeros,
                    _ => &left_zeros[one * rows..][..rows],
                },
                right: right.matrix(*other, depth * columns),
                right_zeros: by_zero.part(&right_zeros, *other, columns),
                sizes: sizes.sizes(),
            };
            sums.extend(product.sums()?);
        }
        Ok(tvec!(Tensor::from_shape(&sizes.shape, &sums)?))
    }

    fn packed(
        &self,
        constants: &[Option<&Arc<Tensor>>],
    ) -> Option<(Arc<dyn Operator>, Vec<usize>)> {
        let packed = Packed::of(constants.get(1).copied().flatten(), false)?;
        Some((Arc::new(MatMulInteger { packed: Some(packed) }), vec![1]))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, scalar, tensor};

    #[test]
    fn matmul_integer_sums_in_32_bits() {
        let a = || tensor(&[2, 2], &[255u8, 255, 0, 1]);
        let b = || tensor(&[2, 1], &[-128i8, -128]);
        case("MatMulInteger").input(a()).input(b()).gives(tensor(&[2, 1], &[-65280i32, -128]));
        let centred =
            case("MatMulInteger").input(a()).input(b()).input(scalar(1u8)).input(scalar(-1i8));
        // [[254, 254], [-1, 0]] · [-127, -127]
        centred.gives(tensor(&[2, 1], &[-64516i32, 127]));
        case("MatMulInteger").input(a()).input(tensor(&[1, 2], &[1i8, 2])).fails("");
    }

    #[test]
    fn matmul_integer_takes_vectors_and_batches() {
        let vectors = case("MatMulInteger").input(row(&[1u8, 2])).input(row(&[10u8, 100]));
        vectors.gives(scalar(210i32));
        let batch = case("MatMulInteger").input(tensor(&[2, 1, 2], &[1i8, 2, -3, 4]));
        let batch = batch.input(tensor(&[2, 2, 1], &[1u8, 10, 2, 20]));
        batch.gives(tensor(&[2, 1, 1], &[21i32, 74]));
        let none = case("MatMulInteger").input(tensor::<u8>(&[2, 0], &[]));
        none.input(tensor::<u8>(&[0, 1], &[])).gives(tensor(&[2, 1], &[0i32; 2]));
    }

    #[test]
    fn matmul_integer_has_zero_points_for_each_row_and_column() {
        let a = || case("MatMulInteger").input(tensor(&[2, 2, 1], &[1u8, 2, 3, 4]));
        let node = || a().input(tensor(&[1, 2], &[10u8, 20]));
        let rows = node().input(row(&[1u8, 2])).input(row(&[0u8, 10]));
        rows.gives(tensor(&[2, 2, 2], &[0i32, 0, 0, 0, 20, 20, 20, 20]));
        let each = node().input(tensor(&[2, 2, 1], &[1u8, 1, 3, 3])).input(scalar(0u8));
        each.gives(tensor(&[2, 2, 2], &[0i32, 0, 10, 20, 0, 0, 10, 20]));
        node().input(row(&[1u8, 2, 3])).fails("[3]");
        node().input(scalar(0u8)).input(row(&[1u8, 2, 3])).fails("[3]");
        let batched = a().input(tensor(&[2, 1, 1], &[10u8, 20])).input(scalar(0u8));
        let batched = batched.input(tensor(&[2, 1, 1], &[0u8, 10]));
        batched.gives(tensor(&[2, 2, 1], &[10i32, 20, 30, 40]));
    }

    #[test]
    fn matmul_integer_keeps_open_dimensions() {
        let product = case("MatMulInteger").input(tensor(&[2, 2], &[1u8, 2, 3, 4])).constants();
        let product = product.input(tensor(&[2, 1], &[10u8, 1]));
        product.gives_open(&[(0, 0, "n")], &["n,1"], &[tensor(&[2, 1], &[12i32, 34])], 0.0);
    }
}
