//! OneHotEncoder: a column for each category.

use std::collections::HashMap;

use belljar_operators::ML;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::Parameters;
use super::attributes::{int, ints, texts};
use super::rows::numbers;
use crate::framework::dims::volume;
use crate::framework::errors::ensure;
use crate::framework::facts::{InputFact, OutputFact, required, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::ints as integers;
use crate::strings::strings;

pub(crate) const OPERATORS: &[Registration] =
    &[own("OneHotEncoder", |_, node| built(OneHot::new(node)?, node)).of(ML)];

/// Categories and their indices.
#[derive(Debug)]
enum Categories {
    Numbers(HashMap<i64, usize>),
    Texts(HashMap<String, usize>),
}

#[derive(Debug)]
struct Encoding {
    categories: Categories,
    count: usize,
    /// Whether values that are not categories give zeros instead of an error.
    zeros: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct OneHot {
    encoding: Parameters<Encoding>,
}

impl OneHot {
    fn new(node: &NodeProto) -> TractResult<OneHot> {
        let (plain, named) = (ints(node, "cats_int64s"), texts(node, "cats_strings")?);
        ensure!(plain.is_empty() != named.is_empty(), "expected categories of exactly one kind");
        let count = plain.len().max(named.len());
        ensure!(count <= 1 << 20, "{count} categories are too many");
        let categories = match named.is_empty() {
            true => {
                let each = plain.iter().enumerate().map(|(at, category)| (*category, at));
                Categories::Numbers(each.collect())
            }
            false => {
                let each = named.iter().enumerate();
                Categories::Texts(each.map(|(at, name)| ((*name).to_owned(), at)).collect())
            }
        };
        let found = match &categories {
            Categories::Numbers(map) => map.len(),
            Categories::Texts(map) => map.len(),
        };
        ensure!(found == count, "duplicate category");
        let zeros = int(node, "zeros", 1) != 0;
        Ok(OneHot { encoding: Parameters::new(Encoding { categories, count, zeros }) })
    }
}

impl Operator for OneHot {
    fn name(&self) -> &'static str {
        "OneHotEncoder"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let input = required(inputs, 0)?;
        let text = input.dtype == String::datum_type();
        let of_texts = matches!(self.encoding.categories, Categories::Texts(_));
        ensure!(text == of_texts, "the categories have another element type than the input");
        ensure!(input.rank() <= 2, "an input of {} dimensions is not supported", input.rank());
        let dims = input.shape.iter().cloned().chain([self.encoding.count.to_dim()]);
        Ok(tvec!(with_dims(f32::datum_type(), dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let tensor = *required(inputs, 0)?;
        let op = &*self.encoding;
        let places: Vec<Option<usize>> = match &op.categories {
            Categories::Texts(map) => {
                strings(tensor)?.iter().map(|text| map.get(text).copied()).collect()
            }
            Categories::Numbers(map) => {
                let values = whole(tensor)?;
                values.iter().map(|value| map.get(value).copied()).collect()
            }
        };
        let mut shape = tensor.shape().to_vec();
        shape.push(op.count);
        let mut encoded = vec![0f32; volume(&shape)?];
        for (at, place) in places.iter().enumerate() {
            match place {
                Some(place) => encoded[at * op.count + place] = 1.0,
                None => ensure!(op.zeros, "element {at} is not one of the categories"),
            }
        }
        Ok(tvec!(Tensor::from_shape(&shape, &encoded)?))
    }
}

/// Numbers truncated to integers, as `OneHotEncoder` reads them.
fn whole(tensor: &Tensor) -> TractResult<Vec<i64>> {
    if [i32::datum_type(), i64::datum_type()].contains(&tensor.datum_type()) {
        return integers(tensor);
    }
    let cut = |value: f64| {
        // ONNX's reference implementation looks up the number itself, and does not find it.
        ensure!(value.fract() == 0.0, "{value} is not an integer, but the categories are");
        ensure!(value.abs() < 9.2e18, "{value} does not fit 64 bits");
        Ok(value as i64)
    };
    numbers(tensor)?.into_iter().map(cut).collect()
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, tensor, texts};

    #[test]
    fn one_hot_encoder_refuses_unknown_categories_on_demand() {
        let texts_of = |zeros| {
            let case = case("OneHotEncoder").texts("cats_strings", &["a", "b"]);
            case.int("zeros", zeros).input(texts(&["b", "c"]))
        };
        texts_of(1).gives(tensor(&[2, 2], &[0f32, 1.0, 0.0, 0.0]));
        texts_of(0).fails("");
        let numbers = case("OneHotEncoder").ints("cats_int64s", &[-1, 1 << 40]);
        let data = tensor(&[1, 2], &[1i64 << 40, 0]);
        numbers.input(data).gives(tensor(&[1, 2, 2], &[0f32, 1.0, 0.0, 0.0]));
    }
}
