//! Scaler, Normalizer, Imputer and Binarizer, which replace the numbers of a row and keep its shape.

use belljar_operators::ML;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::Parameters;
use super::attributes::{float, floats, int, ints, text, wide};
use super::rows::numbers;
use crate::framework::errors::ensure;
use crate::framework::facts::{InputFact, OutputFact, like, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::ints as integers;

pub(crate) const OPERATORS: &[Registration] = &[
    own("Scaler", |_, node| built(Each::new(node)?, node)).of(ML),
    own("Normalizer", |_, node| built(Each::new(node)?, node)).of(ML),
    own("Imputer", |_, node| built(Each::new(node)?, node)).of(ML),
    own("Binarizer", |_, node| built(Each::new(node)?, node)).of(ML),
];

/// The operation on the numbers of a row.
#[derive(Debug)]
enum Way {
    Scale { offset: Vec<f64>, scale: Vec<f64> },
    Greatest,
    Sum,
    Squares,
    Floats { old: f32, new: Vec<f32> },
    Ints { old: i64, new: Vec<i64> },
    Above(f64),
}

/// An operator whose output has the shape of its input.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Each {
    name: &'static str,
    way: Parameters<Way>,
}

impl Each {
    fn new(node: &NodeProto) -> TractResult<Each> {
        let (name, way) = match &*node.op_type {
            "Scaler" => {
                let offset = wide(floats(node, "offset"), "an offset")?;
                let scale = wide(floats(node, "scale"), "a scale")?;
                let lengths = (offset.len(), scale.len());
                ensure!(
                    lengths.0 == lengths.1 && lengths.0 > 0,
                    "offset and scale have different lengths, or none: {lengths:?}"
                );
                ("Scaler", Way::Scale { offset, scale })
            }
            "Normalizer" => {
                let way = match text(node, "norm", "MAX")? {
                    "L1" => Way::Sum,
                    "L2" => Way::Squares,
                    _ => Way::Greatest,
                };
                ("Normalizer", way)
            }
            "Imputer" => ("Imputer", imputer(node)?),
            _ => ("Binarizer", Way::Above(f64::from(float(node, "threshold", 0.0)))),
        };
        Ok(Each { name, way: Parameters::new(way) })
    }

    /// The number of columns that the parameters require.
    fn length(&self) -> Option<usize> {
        let length = match &*self.way {
            Way::Scale { offset, .. } => offset.len(),
            Way::Floats { new, .. } => new.len(),
            Way::Ints { new, .. } => new.len(),
            _ => 1,
        };
        (length > 1).then_some(length)
    }

    fn row(&self, row: &mut [f64], narrow: bool) -> TractResult<()> {
        let round = |value: f64| if narrow { f64::from(value as f32) } else { value };
        match &*self.way {
            Way::Scale { offset, scale } => {
                for (at, value) in row.iter_mut().enumerate() {
                    let at = if offset.len() == 1 { 0 } else { at };
                    *value = round(*value - offset[at]) * scale[at];
                }
            }
            Way::Greatest => {
                let finite = row.iter().all(|value| value.is_finite());
                ensure!(finite, "cannot find the maximum of a row that is not finite");
                let greatest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let size = row.iter().copied().map(f64::abs).fold(0.0, f64::max);
                // The maximum, or the largest absolute value.
                let agreed = row.is_empty() || greatest == size;
                ensure!(
                    agreed,
                    "implementations disagree on the MAX norm of a row with values below {}",
                    -greatest
                );
                divide(row, greatest);
            }
            Way::Sum => {
                let sum = row.iter().map(|value| value.abs()).sum();
                divide(row, sum);
            }
            Way::Squares => {
                let sum: f64 = row.iter().map(|value| value * value).sum();
                divide(row, sum.sqrt());
            }
            Way::Above(threshold) => {
                row.iter_mut().for_each(|value| *value = f64::from(u8::from(*value > *threshold)));
            }
            Way::Floats { .. } | Way::Ints { .. } => {}
        }
        Ok(())
    }
}

fn divide(row: &mut [f64], by: f64) {
    if by != 0.0 {
        row.iter_mut().for_each(|value| *value /= by);
    }
}

fn imputer(node: &NodeProto) -> TractResult<Way> {
    let (new_floats, new_ints) =
        (floats(node, "imputed_value_floats"), ints(node, "imputed_value_int64s"));
    ensure!(
        new_floats.is_empty() != new_ints.is_empty(),
        "expected replacement values of exactly one kind"
    );
    Ok(match new_ints.is_empty() {
        true => {
            let old = float(node, "replaced_value_float", 0.0);
            Way::Floats { old, new: new_floats.to_vec() }
        }
        false => Way::Ints { old: int(node, "replaced_value_int64", 0), new: new_ints.to_vec() },
    })
}

/// Replaces one value by new ones.
fn replaced<T: Datum + Copy>(
    tensor: &Tensor,
    old: impl Fn(T) -> bool,
    new: &[T],
) -> TractResult<Tensor> {
    let width = tensor.shape().last().copied().unwrap_or(1).max(1);
    let values = tensor.try_as_plain_ram()?;
    let values = values.as_slice::<T>()?.iter().enumerate().map(|(at, value)| {
        let column = if new.len() == 1 { 0 } else { at % width };
        if old(*value) { new[column] } else { *value }
    });
    Tensor::from_shape(tensor.shape(), &values.collect::<Vec<T>>())
}

impl Operator for Each {
    fn name(&self) -> &'static str {
        self.name
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let input = required(inputs, 0)?;
        let (dtype, dims) = like(input);
        let floats = [f32::datum_type(), f64::datum_type()].contains(&dtype);
        match &*self.way {
            Way::Floats { .. } => ensure!(floats, "float values do not match an input of integers"),
            Way::Ints { .. } => ensure!(!floats, "integer values do not match an input of floats"),
            Way::Above(_) => return Ok(tvec!((dtype, dims))),
            _ => {}
        }
        ensure!(
            [1, 2].contains(&dims.len()),
            "an input of {} dimensions is not supported",
            dims.len()
        );
        let last = input.shape.last().and_then(|dim| dim.as_i64());
        if let (Some(length), Some(last)) = (self.length(), last) {
            ensure!(last == length as i64, "{length} values do not match {last} columns");
        }
        let kept = matches!(*self.way, Way::Floats { .. } | Way::Ints { .. });
        Ok(tvec!((if kept { dtype } else { f32::datum_type() }, dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let tensor = *required(inputs, 0)?;
        let dtype = tensor.datum_type();
        match &*self.way {
            Way::Floats { old, new } if dtype == f32::datum_type() => {
                let same = |value: f32| value == *old || value.is_nan() && old.is_nan();
                return Ok(tvec!(replaced(tensor, same, new)?));
            }
            Way::Floats { old, new } => {
                let old = f64::from(*old);
                let same = |value: f64| value == old || value.is_nan() && old.is_nan();
                let new: Vec<f64> = new.iter().map(|new| f64::from(*new)).collect();
                return Ok(tvec!(replaced(tensor, same, &new)?));
            }
            Way::Ints { old, new } if dtype == i64::datum_type() => {
                return Ok(tvec!(replaced(tensor, |value: i64| value == *old, new)?));
            }
            Way::Ints { old, new } => {
                let new = new.iter().map(|new| i32::try_from(*new));
                let new = new.collect::<Result<Vec<i32>, _>>()?;
                let same = |value: i32| i64::from(value) == *old;
                return Ok(tvec!(replaced(tensor, same, &new)?));
            }
            _ => {}
        }
        // Values are compared before rounding.
        let mut values = match (&*self.way, dtype) {
            (Way::Above(_), DatumType::I64) => {
                integers(tensor)?.into_iter().map(|value| value as f64).collect()
            }
            (Way::Above(_), DatumType::I32) => tensor_to_f64(tensor)?,
            _ => numbers(tensor)?,
        };
        let width = tensor.shape().last().copied().unwrap_or(1).max(1);
        let narrow = dtype != f64::datum_type();
        values.chunks_mut(width).try_for_each(|row| self.row(row, narrow))?;
        let to = if matches!(*self.way, Way::Above(_)) { dtype } else { f32::datum_type() };
        Ok(tvec!(Tensor::from_shape(tensor.shape(), &values)?.cast_to_dt(to)?.into_owned()))
    }
}

fn tensor_to_f64(tensor: &Tensor) -> TractResult<Vec<f64>> {
    crate::framework::tensors::floats(tensor)
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, tensor};

    const NAN: f32 = f32::NAN;

    #[test]
    fn scaler_takes_one_pair_or_one_for_each_column() {
        let data = || tensor(&[2, 2], &[1i64, 2, 3, (1 << 24) + 1]);
        let each = case("Scaler").floats("offset", &[1.0, 2.0]).floats("scale", &[2.0, 0.5]);
        each.input(data()).gives(tensor(&[2, 2], &[0f32, 0.0, 4.0, 8_388_607.0]));
        let one = case("Scaler").floats("offset", &[1.0]).floats("scale", &[3.0]);
        one.input(tensor(&[1, 2], &[NAN, 3.0])).gives(tensor(&[1, 2], &[NAN, 6.0]));
        let three = case("Scaler").floats("offset", &[1.0; 3]).floats("scale", &[1.0; 3]);
        three.input(data()).fails("3");
    }

    #[test]
    fn normalizer_keeps_a_row_of_zeros() {
        let data = || tensor(&[2, 2], &[3f32, 4.0, 0.0, 0.0]);
        let expected = |numbers: [f32; 2]| tensor(&[2, 2], &[numbers[0], numbers[1], 0.0, 0.0]);
        let norm = |norm| case("Normalizer").text("norm", norm).input(data());
        norm("L1").gives_near(expected([3.0 / 7.0, 4.0 / 7.0]), 1e-6);
        norm("L2").gives_near(expected([0.6, 0.8]), 1e-6);
        norm("MAX").gives_near(expected([0.75, 1.0]), 1e-6);
        case("Normalizer").input(data()).gives_near(expected([0.75, 1.0]), 1e-6);
    }

    #[test]
    fn normalizer_by_l1_sums_magnitudes() {
        let data = tensor(&[1, 2], &[-3f32, 1.0]);
        let case = case("Normalizer").text("norm", "L1").input(data);
        case.gives(tensor(&[1, 2], &[-0.75f32, 0.25]));
    }

    #[test]
    fn imputer_replaces_nan_and_integers_of_64_bits() {
        let floats = case("Imputer").float("replaced_value_float", NAN);
        let floats = floats.floats("imputed_value_floats", &[7.0, 8.0]);
        let data = tensor(&[2, 2], &[NAN, 1.0, 2.0, NAN]);
        floats.input(data).gives(tensor(&[2, 2], &[7f32, 1.0, 2.0, 8.0]));
        let wide = (1i64 << 40) + 1;
        let ints = case("Imputer").int("replaced_value_int64", wide);
        let ints = ints.ints("imputed_value_int64s", &[-1]);
        ints.input(tensor(&[1, 2], &[wide, wide - 1])).gives(tensor(&[1, 2], &[-1i64, wide - 1]));
    }

    #[test]
    fn binarizer_is_one_above_the_threshold_only() {
        let case = case("Binarizer").float("threshold", 0.5);
        case.input(row(&[0.5f32, 0.500_001, -1.0])).gives(row(&[0f32, 1.0, 0.0]));
    }
}
