//! FeatureVectorizer, which joins the columns of several inputs, and ArrayFeatureExtractor, which
//! takes columns by their indices.

use belljar_operators::ML;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::attributes::ints;
use super::rows::numbers;
use crate::framework::dims::volume;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, required, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{from_bytes, ints as integers};
use crate::strings::{from_strings, strings};

pub(crate) const OPERATORS: &[Registration] = &[
    own("FeatureVectorizer", |_, node| built(Vectorizer::new(node)?, node)).of(ML),
    own("ArrayFeatureExtractor", |_, node| built(Extractor, node)).of(ML),
];

#[derive(Clone, Debug, PartialEq, Eq)]
struct Vectorizer {
    widths: Vec<usize>,
}

impl Vectorizer {
    fn new(node: &NodeProto) -> TractResult<Vectorizer> {
        let width = |width: &i64| {
            let width = usize::try_from(*width).ok().filter(|width| *width <= 1 << 24);
            width.or_user_error("inputdimensions has an invalid number")
        };
        let widths = ints(node, "inputdimensions").iter().map(width);
        let widths: Vec<usize> = widths.collect::<TractResult<_>>()?;
        let inputs = node.input.len();
        ensure!(
            widths.len() == inputs,
            "{} inputdimensions do not match {inputs} inputs",
            widths.len()
        );
        Ok(Vectorizer { widths })
    }
}

impl Operator for Vectorizer {
    fn name(&self) -> &'static str {
        "FeatureVectorizer"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let mut rows = None;
        for (at, wanted) in self.widths.iter().enumerate() {
            let input = required(inputs, at)?;
            let [count, width] = &*input.shape else { bail!("an input is not a matrix") };
            let fits = width.as_i64().is_none_or(|width| width == *wanted as i64);
            ensure!(fits, "input {at} has {width} columns, but inputdimensions says {wanted}");
            let same = rows.as_ref().is_none_or(|rows| rows == count);
            ensure!(same, "the inputs have different numbers of rows");
            rows = Some(count.clone());
        }
        let width = self.widths.iter().sum::<usize>().to_dim();
        Ok(tvec!(with_dims(f32::datum_type(), [rows.or_user_error("there are no inputs")?, width])))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let rows = required(inputs, 0)?.shape().first().copied().unwrap_or(0);
        let width = self.widths.iter().sum();
        let parts = (0..self.widths.len()).map(|at| numbers(required(inputs, at)?));
        let parts = parts.collect::<TractResult<Vec<Vec<f64>>>>()?;
        let mut all = Vec::with_capacity(volume(&[rows, width])?);
        for row in 0..rows {
            for (part, width) in parts.iter().zip(&self.widths) {
                let part = part
                    .get(row * width..(row + 1) * width)
                    .or_user_error("an input changed its shape")?;
                all.extend(part.iter().map(|value| *value as f32));
            }
        }
        Ok(tvec!(Tensor::from_shape(&[rows, width], &all)?))
    }
}

/// Columns by their indices.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Extractor;

impl Operator for Extractor {
    fn name(&self) -> &'static str {
        "ArrayFeatureExtractor"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (data, places) = (required(inputs, 0)?, required(inputs, 1)?);
        ensure!(data.rank() > 0, "the input has no dimensions, so it has no columns");
        let count: TDim = places.shape.iter().product();
        let mut dims: Vec<TDim> = data.shape[..data.rank() - 1].to_vec();
        if dims.is_empty() {
            dims.push(1.to_dim());
        }
        dims.push(count);
        Ok(tvec!(with_dims(data.dtype, dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (data, places) = (*required(inputs, 0)?, *required(inputs, 1)?);
        let (width, outer) = data.shape().split_last().or_user_error("the input has no columns")?;
        let places = integers(places)?;
        let place = |place: &i64| {
            let place = usize::try_from(*place).ok().filter(|place| place < width);
            place.or_user_error(format_args!("a column is not between 0 and {}", *width as i64 - 1))
        };
        let places = places.iter().map(place).collect::<TractResult<Vec<usize>>>()?;
        let mut shape: Vec<usize> = if outer.is_empty() { vec![1] } else { outer.to_vec() };
        shape.push(places.len());
        volume(&shape)?;
        let rows = outer.iter().product::<usize>();
        if data.datum_type() == String::datum_type() {
            let values = strings(data)?;
            let each = (0..rows).flat_map(|row| places.iter().map(move |at| row * width + at));
            return Ok(tvec!(from_strings(&shape, each.map(|at| values[at].clone()).collect())?));
        }
        let size = data.datum_type().size_of();
        let bytes = data.as_bytes();
        let mut taken = Vec::with_capacity(rows * places.len() * size);
        for row in 0..rows {
            for at in &places {
                taken.extend_from_slice(&bytes[(row * width + at) * size..][..size]);
            }
        }
        Ok(tvec!(from_bytes(data.datum_type(), &shape, &taken)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, tensor, texts};

    #[test]
    fn feature_vectorizer_joins_columns_and_checks_their_number() {
        let node = |widths: &[i64]| {
            let case = case("FeatureVectorizer").ints("inputdimensions", widths);
            case.input(tensor(&[2, 1], &[1f32, 2.0])).input(tensor(&[2, 2], &[3f32, 4.0, 5.0, 6.0]))
        };
        node(&[1, 2]).gives(tensor(&[2, 3], &[1f32, 3.0, 4.0, 2.0, 5.0, 6.0]));
        node(&[1, 3]).fails("3");
    }

    #[test]
    fn array_feature_extractor_refuses_a_column_outside_of_the_array() {
        let node = |places: &[i64]| {
            let case = case("ArrayFeatureExtractor").input(tensor(&[2, 2], &[1f32, 2.0, 3.0, 4.0]));
            case.input(row(places))
        };
        node(&[1, 0, 1]).gives(tensor(&[2, 3], &[2f32, 1.0, 2.0, 4.0, 3.0, 4.0]));
        node(&[2]).fails("1");
        node(&[1 << 32]).fails("");
        let words = case("ArrayFeatureExtractor").input(texts(&["a", "b"]));
        let expected = texts(&["b"]).into_shape(&[1, 1]).unwrap();
        words.input(row(&[1i64])).gives(expected);
    }
}
