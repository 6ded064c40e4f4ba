//! QGemm: a product of matrices of bytes plus a matrix of 32-bit integers, scaled to floats or
//! quantized again.

use std::sync::Arc;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::parameters::{bytes, check_one, divisor, quantized, range, scale, scales, zero, zeros};
use crate::framework::dims::volume;
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, concrete, optional, required, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{Bits, ints};
use crate::framework::upstream::BuildResult;
use crate::quantization::integers::{ByteProduct, Bytes, Rights, check_depth, right_shape};
use crate::quantization::packed::Packed;

pub(crate) const OPERATORS: &[Registration] =
    &[own("QGemm", build).of(belljar_operators::MICROSOFT)];

fn build(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let flag = |name| Ok::<_, TractError>(node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0);
    let op = Gemm {
        transposed: [flag("transA")?, flag("transB")?],
        alpha: Bits::of(node, "alpha", 1.0)?,
        packed: None,
    };
    built(op, node)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Gemm {
    transposed: [bool; 2],
    alpha: Bits,
    packed: Option<Packed>,
}

impl Gemm {
    /// Rows, depth and columns of the product.
    fn sizes(&self, a: &[usize], b: &[usize]) -> TractResult<[usize; 3]> {
        let (&[mut rows, mut depth], &[mut of, mut columns]) = (a, b) else {
            bail!("both operands must be matrices, but have the shapes {a:?} and {b:?}")
        };
        if self.transposed[0] {
            std::mem::swap(&mut rows, &mut depth);
        }
        if self.transposed[1] {
            std::mem::swap(&mut of, &mut columns);
        }
        ensure!(depth == of, "matrices of the shapes {a:?} and {b:?} cannot be multiplied");
        check_depth(depth)?;
        volume(&[rows, columns])?;
        Ok([rows, depth, columns])
    }
}

/// Checks the scales or zero points of the second operand.
fn check_by_column(shape: &[usize], columns: usize, what: &str) -> TractResult<()> {
    let one = shape.iter().all(|size| *size == 1);
    ensure!(
        one || *shape == [columns],
        "{what} have the shape {shape:?}, expected one number, or one for each of the {columns} columns"
    );
    Ok(())
}

/// The steps from a row to the next and from a column to the next in the added matrix.
fn added_steps(shape: &[usize], rows: usize, columns: usize) -> TractResult<(usize, usize)> {
    let (height, width) = match *shape {
        [] => (1, 1),
        [width] => (1, width),
        [height, width] => (height, width),
        _ => (0, 0),
    };
    ensure!(
        (height == 1 || height == rows) && (width == 1 || width == columns),
        "the added matrix has the shape {shape:?}, which does not match {rows} rows and {columns} columns"
    );
    Ok((if height == 1 { 0 } else { width }, usize::from(width != 1)))
}

impl Operator for Gemm {
    fn name(&self) -> &'static str {
        "QGemm"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (a, b) = (required(inputs, 0)?, required(inputs, 3)?);
        ensure!(
            a.rank() == 2 && b.rank() == 2,
            "both operands must be matrices, but have the shapes {:?} and {:?}",
            a.shape,
            b.shape
        );
        for (at, what) in [
            (1, "the scale of the first operand"),
            (2, "the zero point of the first operand"),
            (7, "the scale of the result"),
            (8, "the zero point of the result"),
        ] {
            check_one(inputs, at, what)?;
        }
        let result = (optional(inputs, 7), optional(inputs, 8));
        let dtype = match result {
            (Some(_), Some(zero)) => zero.dtype,
            (None, None) => f32::datum_type(),
            _ => bail!("the result needs both a scale and a zero point, or neither"),
        };
        let shape = |at| optional(inputs, at).and_then(|input| concrete(&input.shape));
        if let (Some(a), Some(b)) = (shape(0), shape(3)) {
            let [rows, _, columns] = self.sizes(&a, &b)?;
            for (at, what) in [(4, "scales"), (5, "zero points")] {
                shape(at).map_or(Ok(()), |shape| check_by_column(&shape, columns, what))?;
            }
            if let Some(added) = shape(6) {
                added_steps(&added, rows, columns)?;
            }
        }
        let rows = a.shape[usize::from(self.transposed[0])].clone();
        let columns = b.shape[usize::from(!self.transposed[1])].clone();
        Ok(tvec!(with_dims(dtype, [rows, columns])))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let given = |at| required(inputs, at).copied();
        let (a, packed) = (given(0)?, self.packed.as_ref());
        let [rows, depth, columns] = self.sizes(a.shape(), right_shape(inputs, 3, packed)?)?;
        check_depth(depth)?;
        let moved;
        let left = if self.transposed[0] {
            moved = a.clone().permute_axes(&[1, 0])?;
            Bytes::of(&moved)?
        } else {
            Bytes::of(a)?
        };
        check_by_column(given(4)?.shape(), columns, "scales")?;
        check_by_column(given(5)?.shape(), columns, "zero points")?;
        let right_zeros = zeros(Some(given(5)?))?;
        let product = ByteProduct {
            left,
            left_zeros: &[zero(Some(given(2)?))?],
            right: Rights::of(inputs, 3, packed, self.transposed[1])?.matrix(0, depth * columns),
            right_zeros: &right_zeros,
            sizes: [rows, depth, columns],
        };
        let sums = product.sums()?;
        let added = optional(inputs, 6).copied();
        let (down, along) = added_steps(added.map_or(&[], Tensor::shape), rows, columns)?;
        let added = added.map_or(Ok(vec![0]), ints)?;
        let first = self.alpha.get() * scale(given(1)?)?;
        let mut factors = scales(given(4)?)?;
        factors.iter_mut().for_each(|factor| *factor *= first);
        let result_scale = optional(inputs, 7).copied().map(divisor).transpose()?;
        let factors: Vec<f32> =
            factors.into_iter().map(|factor| factor / result_scale.unwrap_or(1.0)).collect();
        let values = sums.iter().enumerate().map(|(at, sum)| {
            let (row, column) = (at / columns, at % columns);
            let sum = i64::from(*sum) + added[row * down + column * along];
            sum as f32 * factors[column % factors.len()]
        });
        if result_scale.is_none() {
            let values: Vec<f32> = values.collect();
            return Ok(tvec!(Tensor::from_shape(&[rows, columns], &values)?));
        }
        let result_zero = given(8)?;
        let (dtype, zero) = (result_zero.datum_type(), zero(Some(result_zero))?);
        let range = range(dtype)?;
        let values = values.map(|value| quantized(value, zero, range));
        Ok(tvec!(bytes(dtype, &[rows, columns], values)?))
    }

    fn packed(
        &self,
        constants: &[Option<&Arc<Tensor>>],
    ) -> Option<(Arc<dyn Operator>, Vec<usize>)> {
        let packed = Packed::of(constants.get(3).copied().flatten(), self.transposed[1])?;
        Some((Arc::new(Gemm { packed: Some(packed), ..self.clone() }), vec![3]))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, microsoft, row, scalar, tensor};

    fn node() -> Case {
        let case = microsoft("QGemm").int("transB", 1).float("alpha", 0.5);
        let case = case.input(tensor(&[1, 2], &[3u8, 5])).input(scalar(0.5f32)).input(scalar(1u8));
        let case = case.input(tensor(&[2, 2], &[10i8, -20, 30, 40]));
        case.input(row(&[1f32, 2.0])).input(row(&[0i8, 10]))
    }

    #[test]
    fn q_gemm_scales_to_floats_or_quantizes() {
        // [2, 4] · [[10, -20], [20, 30]]ᵀ = [-60, 160]
        node().gives(tensor(&[1, 2], &[-15f32, 80.0]));
        let added = node().input(tensor(&[1, 1], &[100i32]));
        added.clone().gives(tensor(&[1, 2], &[10f32, 130.0]));
        added.input(scalar(4f32)).input(scalar(100u8)).gives(tensor(&[1, 2], &[102u8, 132]));
        node().missing().input(scalar(4f32)).fails("zero point");
        node().input(row(&[1i32, 2, 3])).fails("[3]");
        node().missing().input(scalar(0f32)).input(scalar(0u8)).fails("0");
    }
}
