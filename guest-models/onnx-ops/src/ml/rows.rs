//! The input of a model of columns: a matrix, one row for each case.

use tract_onnx::tract_hir::internal::*;

use super::super::own::{Known, needed};

/// Rows of numbers. Integers have become numbers of 32 bits, as in onnxruntime and in ONNX's own
/// implementation, and all are kept in 64, which changes none.
pub(super) struct Rows {
    pub(super) count: usize,
    pub(super) width: usize,
    values: Vec<f64>,
}

impl Rows {
    pub(super) fn of(inputs: &[Option<&Tensor>]) -> TractResult<Rows> {
        let tensor = *needed(inputs, 0)?;
        let &[count, width] = tensor.shape() else {
            bail!("an input of {} dimensions is no matrix", tensor.rank())
        };
        Ok(Rows { count, width, values: numbers(tensor)? })
    }

    pub(super) fn row(&self, at: usize) -> &[f64] {
        &self.values[at * self.width..][..self.width]
    }
}

/// The number of rows and columns of the input, as far as they are known.
pub(super) fn matrix(inputs: &[Option<Known>]) -> TractResult<(TDim, TDim)> {
    let input = needed(inputs, 0)?;
    let [count, width] = &*input.shape else {
        bail!("an input of {} dimensions is not implemented, a matrix is", input.rank())
    };
    Ok((count.clone(), width.clone()))
}

/// A matrix of so many columns.
pub(super) fn of_width(inputs: &[Option<Known>], wanted: usize) -> TractResult<TDim> {
    let (count, width) = matrix(inputs)?;
    let fits = width.as_i64().is_none_or(|width| usize::try_from(width) == Ok(wanted));
    ensure!(fits, "an input of {width} columns, where the model has {wanted}");
    Ok(count)
}

/// The numbers of a tensor in 64 bits, integers by way of 32.
pub(super) fn numbers(tensor: &Tensor) -> TractResult<Vec<f64>> {
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
        other => bail!("{other:?} is not implemented here"),
    })
}
