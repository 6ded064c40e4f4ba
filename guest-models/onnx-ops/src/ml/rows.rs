//! The input of a model of columns: a matrix with one row for each sample.

use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, required};

/// Rows of numbers. Integers are rounded to 32-bit floats, as in onnxruntime and in ONNX's
/// reference implementation. All are kept as 64-bit floats.
pub(crate) struct Rows {
    pub(crate) count: usize,
    pub(crate) width: usize,
    values: Vec<f64>,
}

impl Rows {
    pub(crate) fn of(inputs: &[Option<&Tensor>]) -> TractResult<Rows> {
        let tensor = *required(inputs, 0)?;
        let &[count, width] = tensor.shape() else {
            bail!("an input of {} dimensions is not a matrix", tensor.rank())
        };
        Ok(Rows { count, width, values: numbers(tensor)? })
    }

    pub(crate) fn row(&self, at: usize) -> &[f64] {
        &self.values[at * self.width..][..self.width]
    }
}

/// The number of rows and columns of the input, as far as they are known.
pub(crate) fn matrix(inputs: &[Option<InputFact>]) -> TractResult<(TDim, TDim)> {
    let input = required(inputs, 0)?;
    let [count, width] = &*input.shape else {
        bail!("an input of {} dimensions is not implemented, expected a matrix", input.rank())
    };
    Ok((count.clone(), width.clone()))
}

/// Checks the number of columns, and returns the number of rows.
pub(crate) fn of_width(inputs: &[Option<InputFact>], wanted: usize) -> TractResult<TDim> {
    let (count, width) = matrix(inputs)?;
    let fits = width.as_i64().is_none_or(|width| usize::try_from(width) == Ok(wanted));
    ensure!(fits, "the input has {width} columns, but the model has {wanted}");
    Ok(count)
}

/// The elements of a tensor as 64-bit floats. Integers are rounded to 32-bit floats first.
pub(crate) fn numbers(tensor: &Tensor) -> TractResult<Vec<f64>> {
    let plain = tensor.try_as_plain_ram()?;
    Ok(match tensor.datum_type() {
        DatumType::F32 => plain.as_slice::<f32>()?.iter().map(|value| f64::from(*value)).collect(),
        DatumType::F64 => plain.as_slice::<f64>()?.to_vec(),
        DatumType::I32 => {
            plain.as_slice::<i32>()?.iter().map(|value| f64::from(*value as f32)).collect()
        }
        DatumType::I64 => {
            plain.as_slice::<i64>()?.iter().map(|value| f64::from(*value as f32)).collect()
        }
        other => bail!("element type {other:?} is not implemented"),
    })
}
