//! What prepares columns: Scaler, Normalizer, Imputer, Binarizer, OneHotEncoder, FeatureVectorizer
//! and ArrayFeatureExtractor.

use std::collections::HashMap;

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::super::own::{
    Known as Given, Own, Said, built, from_bytes, ints as integers, like, needed, sized, volume,
};
use super::super::strings::{from_strings, strings};
use super::Known;
use super::attributes::{float, floats, int, ints, text, texts, wide};
use super::rows::numbers;

pub(super) fn register(registry: &mut OnnxOpRegister) {
    for name in ["Scaler", "Normalizer", "Imputer", "Binarizer"] {
        registry.insert(name, |_, node| built(Each::new(node)?, node));
    }
    registry.insert("OneHotEncoder", |_, node| built(OneHot::new(node)?, node));
    registry.insert("FeatureVectorizer", |_, node| built(Vectorizer::new(node)?, node));
    registry.insert("ArrayFeatureExtractor", |_, node| built(Extractor, node));
}

/// What is done to the numbers of a row, or to each of them.
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

/// An operator that makes a tensor of the shape of its input.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Each {
    name: &'static str,
    way: Known<Way>,
}

impl Each {
    fn new(node: &NodeProto) -> TractResult<Each> {
        let (name, way) = match &*node.op_type {
            "Scaler" => {
                let offset = wide(floats(node, "offset"), "an offset")?;
                let scale = wide(floats(node, "scale"), "a scale")?;
                let lengths = (offset.len(), scale.len());
                ensure!(lengths.0 == lengths.1 && lengths.0 > 0, "offset and scale of {lengths:?}");
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
        Ok(Each { name, way: Known::new(way) })
    }

    /// How many numbers each row must have.
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
                ensure!(finite, "of what is no number there is no greatest");
                let greatest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let size = row.iter().copied().map(f64::abs).fold(0.0, f64::max);
                // The greatest, or the one that is farthest from zero.
                let agreed = row.is_empty() || greatest == size;
                ensure!(
                    agreed,
                    "nobody agrees what MAX is of a row with numbers below {}",
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
        "there are not values of exactly one kind to put in"
    );
    Ok(match new_ints.is_empty() {
        true => {
            let old = float(node, "replaced_value_float", 0.0);
            Way::Floats { old, new: new_floats.to_vec() }
        }
        false => Way::Ints { old: int(node, "replaced_value_int64", 0), new: new_ints.to_vec() },
    })
}

/// Puts in new values for an old one.
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

impl Own for Each {
    fn name(&self) -> &'static str {
        self.name
    }

    fn outputs(&self, inputs: &[Option<Given>]) -> TractResult<TVec<Said>> {
        let input = needed(inputs, 0)?;
        let (dtype, dims) = like(input);
        let floats = [f32::datum_type(), f64::datum_type()].contains(&dtype);
        match &*self.way {
            Way::Floats { .. } => ensure!(floats, "numbers with a point for an input of integers"),
            Way::Ints { .. } => ensure!(!floats, "integers for an input of other numbers"),
            Way::Above(_) => return Ok(tvec!((dtype, dims))),
            _ => {}
        }
        ensure!([1, 2].contains(&dims.len()), "an input of {} dimensions", dims.len());
        let last = input.shape.last().and_then(|dim| dim.as_i64());
        if let (Some(length), Some(last)) = (self.length(), last) {
            ensure!(last == length as i64, "{length} values for {last} columns");
        }
        let kept = matches!(*self.way, Way::Floats { .. } | Way::Ints { .. });
        Ok(tvec!((if kept { dtype } else { f32::datum_type() }, dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let tensor = *needed(inputs, 0)?;
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
        // What is compared is not rounded before.
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
    super::super::own::floats(tensor)
}

/// Categories and their places.
#[derive(Debug)]
enum Categories {
    Numbers(HashMap<i64, usize>),
    Texts(HashMap<String, usize>),
}

#[derive(Debug)]
struct Encoding {
    categories: Categories,
    count: usize,
    /// Whether others than the categories are all zeros, and no mistake.
    zeros: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct OneHot {
    encoding: Known<Encoding>,
}

impl OneHot {
    fn new(node: &NodeProto) -> TractResult<OneHot> {
        let (plain, named) = (ints(node, "cats_int64s"), texts(node, "cats_strings")?);
        ensure!(plain.is_empty() != named.is_empty(), "categories are not of exactly one kind");
        let count = plain.len().max(named.len());
        ensure!(count <= 1 << 20, "{count} categories");
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
        ensure!(found == count, "a category is there twice");
        let zeros = int(node, "zeros", 1) != 0;
        Ok(OneHot { encoding: Known::new(Encoding { categories, count, zeros }) })
    }
}

impl Own for OneHot {
    fn name(&self) -> &'static str {
        "OneHotEncoder"
    }

    fn outputs(&self, inputs: &[Option<Given>]) -> TractResult<TVec<Said>> {
        let input = needed(inputs, 0)?;
        let text = input.dtype == String::datum_type();
        let of_texts = matches!(self.encoding.categories, Categories::Texts(_));
        ensure!(text == of_texts, "categories of another type than the input");
        ensure!(input.rank() <= 2, "an input of {} dimensions", input.rank());
        let dims = input.shape.iter().cloned().chain([self.encoding.count.to_dim()]);
        Ok(tvec!(sized(f32::datum_type(), dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let tensor = *needed(inputs, 0)?;
        let ours = &*self.encoding;
        let places: Vec<Option<usize>> = match &ours.categories {
            Categories::Texts(map) => {
                strings(tensor)?.iter().map(|text| map.get(text).copied()).collect()
            }
            Categories::Numbers(map) => {
                let values = whole(tensor)?;
                values.iter().map(|value| map.get(value).copied()).collect()
            }
        };
        let mut shape = tensor.shape().to_vec();
        shape.push(ours.count);
        let mut encoded = vec![0f32; volume(&shape)?];
        for (at, place) in places.iter().enumerate() {
            match place {
                Some(place) => encoded[at * ours.count + place] = 1.0,
                None => ensure!(ours.zeros, "element {at} is in none of the categories"),
            }
        }
        Ok(tvec!(Tensor::from_shape(&shape, &encoded)?))
    }
}

/// Numbers cut to integers, as `OneHotEncoder` takes them.
fn whole(tensor: &Tensor) -> TractResult<Vec<i64>> {
    if [i32::datum_type(), i64::datum_type()].contains(&tensor.datum_type()) {
        return integers(tensor);
    }
    let cut = |value: f64| {
        // Where ONNX's own implementation looks for the number itself, and finds none.
        ensure!(value.fract() == 0.0, "{value} is no integer, as categories are");
        ensure!(value.abs() < 9.2e18, "{value} is beyond 64 bits");
        Ok(value as i64)
    };
    numbers(tensor)?.into_iter().map(cut).collect()
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Vectorizer {
    widths: Vec<usize>,
}

impl Vectorizer {
    fn new(node: &NodeProto) -> TractResult<Vectorizer> {
        let width = |width: &i64| {
            let width = usize::try_from(*width).ok().filter(|width| *width <= 1 << 24);
            width.context("an input has no such number of columns")
        };
        let widths = ints(node, "inputdimensions").iter().map(width);
        let widths: Vec<usize> = widths.collect::<TractResult<_>>()?;
        let inputs = node.input.len();
        ensure!(widths.len() == inputs, "{} inputdimensions of {inputs} inputs", widths.len());
        Ok(Vectorizer { widths })
    }
}

impl Own for Vectorizer {
    fn name(&self) -> &'static str {
        "FeatureVectorizer"
    }

    fn outputs(&self, inputs: &[Option<Given>]) -> TractResult<TVec<Said>> {
        let mut rows = None;
        for (at, wanted) in self.widths.iter().enumerate() {
            let input = needed(inputs, at)?;
            let [count, width] = &*input.shape else { bail!("an input is no matrix") };
            let fits = width.as_i64().is_none_or(|width| width == *wanted as i64);
            ensure!(fits, "input {at} has {width} columns, not the {wanted} that are said");
            let same = rows.as_ref().is_none_or(|rows| rows == count);
            ensure!(same, "the inputs are not of one number of rows");
            rows = Some(count.clone());
        }
        let width = self.widths.iter().sum::<usize>().to_dim();
        Ok(tvec!(sized(f32::datum_type(), [rows.context("no inputs")?, width])))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let rows = needed(inputs, 0)?.shape().first().copied().unwrap_or(0);
        let width = self.widths.iter().sum();
        let parts = (0..self.widths.len()).map(|at| numbers(needed(inputs, at)?));
        let parts = parts.collect::<TractResult<Vec<Vec<f64>>>>()?;
        let mut all = Vec::with_capacity(volume(&[rows, width])?);
        for row in 0..rows {
            for (part, width) in parts.iter().zip(&self.widths) {
                let part = part.get(row * width..(row + 1) * width).context("another shape")?;
                all.extend(part.iter().map(|value| *value as f32));
            }
        }
        Ok(tvec!(Tensor::from_shape(&[rows, width], &all)?))
    }
}

/// Columns by their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Extractor;

impl Own for Extractor {
    fn name(&self) -> &'static str {
        "ArrayFeatureExtractor"
    }

    fn outputs(&self, inputs: &[Option<Given>]) -> TractResult<TVec<Said>> {
        let (data, places) = (needed(inputs, 0)?, needed(inputs, 1)?);
        ensure!(data.rank() > 0, "an input without dimensions has no columns");
        let count: TDim = places.shape.iter().product();
        let mut dims: Vec<TDim> = data.shape[..data.rank() - 1].to_vec();
        if dims.is_empty() {
            dims.push(1.to_dim());
        }
        dims.push(count);
        Ok(tvec!(sized(data.dtype, dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (data, places) = (*needed(inputs, 0)?, *needed(inputs, 1)?);
        let (width, outer) = data.shape().split_last().context("no columns")?;
        let places = integers(places)?;
        let place = |place: &i64| {
            let place = usize::try_from(*place).ok().filter(|place| place < width);
            place.with_context(|| format!("a column is not in 0 to {}", *width as i64 - 1))
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
