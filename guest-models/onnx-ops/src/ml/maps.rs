//! Operators of maps: ZipMap, DictVectorizer and CastMap. The gate of the guest represents a map by
//! two tensors, its keys and its values, and a sequence of maps by three: the keys and the values of
//! all its maps one after another, and the number of entries of each.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use belljar_operators::ML;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::attributes::{int, ints, text, texts};
use crate::framework::dims::volume;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, required, unknown_dims, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{from_bytes, from_ints, ints as integers};
use crate::strings::{cast, from_strings, strings};

pub(crate) const OPERATORS: &[Registration] = &[
    own("ZipMap", |_, node| built(ZipMap(Labels::new(node, "classlabels")?), node)).of(ML),
    own("DictVectorizer", |_, node| built(Vectorizer(Labels::new(node, "vocabulary")?), node))
        .of(ML),
    own("CastMap", |_, node| built(CastMap::new(node)?, node)).of(ML),
];

/// Keys that all differ.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Labels {
    Texts(Vec<String>),
    Ints(Vec<i64>),
}

impl Labels {
    fn new(node: &NodeProto, what: &str) -> TractResult<Labels> {
        let (text_name, int_name) = match what {
            "classlabels" => ("classlabels_strings", "classlabels_int64s"),
            _ => ("string_vocabulary", "int64_vocabulary"),
        };
        let (texts, ints) = (texts(node, text_name)?, ints(node, int_name));
        ensure!(
            texts.is_empty() != ints.is_empty(),
            "exactly one of {text_name} and {int_name} must be given"
        );
        let labels = match ints {
            [] => Labels::Texts(texts.into_iter().map(str::to_owned).collect()),
            ints => Labels::Ints(ints.to_vec()),
        };
        let differ = match &labels {
            Labels::Texts(texts) => all_differ(texts),
            Labels::Ints(ints) => all_differ(ints),
        };
        ensure!(differ, "two of its keys are the same");
        Ok(labels)
    }

    fn count(&self) -> usize {
        match self {
            Labels::Texts(texts) => texts.len(),
            Labels::Ints(ints) => ints.len(),
        }
    }

    /// For each key of a map, its position among the labels.
    fn places(&self, keys: &Tensor) -> TractResult<Vec<usize>> {
        let places = match self {
            Labels::Texts(labels) => places(labels, strings(keys)?),
            Labels::Ints(labels) => places(labels, &integers(keys)?),
        };
        places.or_user_error("a key of the map is not in the vocabulary")
    }
}

fn all_differ<T: Eq + Hash>(values: &[T]) -> bool {
    let mut seen = HashSet::with_capacity(values.len());
    values.iter().all(|value| seen.insert(value))
}

fn places<T: Eq + Hash>(labels: &[T], keys: &[T]) -> Option<Vec<usize>> {
    let labels: HashMap<&T, usize> = labels.iter().enumerate().map(|(at, l)| (l, at)).collect();
    keys.iter().map(|key| labels.get(key).copied()).collect()
}

/// A map for each row of a matrix. A row is a map by itself.
#[derive(Debug)]
struct ZipMap(Labels);

impl Operator for ZipMap {
    fn name(&self) -> &'static str {
        "ZipMap"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let input = required(inputs, 0)?;
        let (rows, width) = match &*input.shape {
            [width] => (1.to_dim(), width),
            [rows, width] => (rows.clone(), width),
            other => bail!("the input has {} dimensions, expected 1 or 2", other.len()),
        };
        let count = self.0.count();
        let fits = width.as_i64().is_none_or(|width| usize::try_from(width) == Ok(count));
        ensure!(fits, "the input has {width} columns, but there are {count} keys");
        let all = rows.clone() * count;
        let keys = match self.0 {
            Labels::Texts(_) => String::datum_type(),
            Labels::Ints(_) => i64::datum_type(),
        };
        Ok(tvec!(
            with_dims(keys, [all.clone()]),
            with_dims(input.dtype, [all]),
            with_dims(i64::datum_type(), [rows])
        ))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let input = *required(inputs, 0)?;
        let count = self.0.count();
        ensure!(
            input.shape().last() == Some(&count),
            "the input has the shape {:?}, but there are {count} keys",
            input.shape()
        );
        let rows = input.shape().iter().rev().skip(1).product::<usize>();
        let all = volume(&[rows, count])?;
        let keys = match &self.0 {
            Labels::Texts(labels) => {
                from_strings(&[all], labels.iter().cycle().take(all).cloned().collect())?
            }
            Labels::Ints(labels) => {
                from_ints(&[all], &labels.iter().cycle().take(all).copied().collect::<Vec<_>>())?
            }
        };
        let values = input.clone().into_shape(&[all])?;
        Ok(tvec!(keys, values, from_ints(&[rows], &vec![count as i64; rows])?))
    }
}

/// The keys and values of a map, of which there are as many.
fn map<'t>(inputs: &[Option<&'t Tensor>]) -> TractResult<(&'t Tensor, &'t Tensor)> {
    let (keys, values) = (*required(inputs, 0)?, *required(inputs, 1)?);
    ensure!(
        keys.shape() == values.shape() && keys.rank() == 1,
        "the map has other numbers of keys and of values"
    );
    Ok((keys, values))
}

/// A row with the value of each key of a vocabulary; zero or an empty text for those that the map
/// does not have.
#[derive(Debug)]
struct Vectorizer(Labels);

impl Operator for Vectorizer {
    fn name(&self) -> &'static str {
        "DictVectorizer"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (keys, values) = (required(inputs, 0)?, required(inputs, 1)?);
        let texts = matches!(self.0, Labels::Texts(_));
        ensure!(
            texts == (keys.dtype == String::datum_type()),
            "the keys of the map and of the vocabulary have different types"
        );
        Ok(tvec!(with_dims(values.dtype, [1.to_dim(), self.0.count().to_dim()])))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (keys, values) = map(inputs)?;
        let places = self.0.places(keys)?;
        let shape = [1, self.0.count()];
        if values.datum_type() == String::datum_type() {
            let mut row = vec![String::new(); self.0.count()];
            for (at, value) in places.into_iter().zip(strings(values)?) {
                row[at].clone_from(value);
            }
            return Ok(tvec!(from_strings(&shape, row)?));
        }
        let size = values.datum_type().size_of();
        let mut row = vec![0; self.0.count() * size];
        for (at, value) in places.into_iter().zip(values.as_bytes().chunks_exact(size)) {
            row[at * size..][..size].copy_from_slice(value);
        }
        Ok(tvec!(from_bytes(values.datum_type(), &shape, &row)?))
    }
}

/// A row with the values of a map in the order of its keys: one after another, or each at the
/// position that is its key.
#[derive(Debug)]
struct CastMap {
    to: DatumType,
    /// The length of the row, if keys are positions.
    sparse: Option<usize>,
}

impl CastMap {
    fn new(node: &NodeProto) -> TractResult<CastMap> {
        let to = match text(node, "cast_to", "TO_FLOAT")? {
            "TO_STRING" => String::datum_type(),
            "TO_INT64" => i64::datum_type(),
            _ => f32::datum_type(),
        };
        let sparse = match text(node, "map_form", "DENSE")? {
            "SPARSE" => Some(usize::try_from(int(node, "max_map", 1))?),
            _ => None,
        };
        ensure!(
            sparse.is_none() || to != String::datum_type(),
            "the text of a key that a sparse map does not have is not specified"
        );
        Ok(CastMap { to, sparse })
    }

    fn cast(&self, values: &Tensor) -> TractResult<Tensor> {
        let (from, to) = (values.datum_type(), self.to);
        match from {
            _ if from == to => Ok(values.clone()),
            DatumType::String => cast::from_texts(values, to),
            DatumType::F32 if to == i64::datum_type() => {
                let numbers = values.try_as_plain_ram()?.as_slice::<f32>()?;
                let whole = numbers.iter().map(|number| {
                    // 2^63, which is a float.
                    let fits = number.is_finite() && number.abs() < -(i64::MIN as f32);
                    ensure!(fits, "a value is too large for an integer, or not finite");
                    Ok(*number as i64)
                });
                from_ints(values.shape(), &whole.collect::<TractResult<Vec<i64>>>()?)
            }
            _ => bail!("the text of a number is not specified"),
        }
    }
}

impl Operator for CastMap {
    fn name(&self) -> &'static str {
        "CastMap"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let values = required(inputs, 1)?;
        let text = String::datum_type();
        ensure!(values.dtype == text || self.to != text, "the text of a number is not specified");
        Ok(tvec!(match self.sparse {
            Some(width) => with_dims(self.to, [1.to_dim(), width.to_dim()]),
            None => {
                let mut dense = unknown_dims(self.to, 2);
                dense.1[0] = Some(1.to_dim());
                dense.1[1] = values.shape.first().cloned();
                dense
            }
        }))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (keys, values) = map(inputs)?;
        let mut entries: Vec<(i64, usize)> =
            integers(keys)?.into_iter().enumerate().map(|(at, key)| (key, at)).collect();
        entries.sort_unstable();
        let values = self.cast(values)?;
        if values.datum_type() == String::datum_type() {
            let texts = strings(&values)?;
            let row: Vec<String> = entries.iter().map(|(_, at)| texts[*at].clone()).collect();
            return Ok(tvec!(from_strings(&[1, row.len()], row)?));
        }
        let size = values.datum_type().size_of();
        let width = self.sparse.unwrap_or(entries.len());
        let mut row = vec![0; volume(&[width, size])?];
        for (place, (key, at)) in entries.iter().enumerate() {
            let place = match self.sparse {
                None => Some(place),
                Some(width) => usize::try_from(*key).ok().filter(|key| *key < width),
            };
            let place = place.or_user_error(format_args!(
                "the key {key} of the map is not between 0 and max_map - 1, which is {}",
                width as i64 - 1
            ))?;
            row[place * size..][..size].copy_from_slice(&values.as_bytes()[at * size..][..size]);
        }
        Ok(tvec!(from_bytes(values.datum_type(), &[1, width], &row)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, row, tensor, texts};

    #[test]
    fn zip_map_gives_the_keys_to_each_row() {
        let scores = || tensor(&[2, 2], &[0.25f32, 0.75, 1.0, 0.0]);
        let node = || case("ZipMap").outputs(3);
        let values = row(&[0.25f32, 0.75, 1.0, 0.0]);
        let words = node().texts("classlabels_strings", &["no", "yes"]);
        let keys = texts(&["no", "yes", "no", "yes"]);
        words.clone().input(scores()).gives_all(&[keys, values.clone(), row(&[2i64, 2])]);
        let numbers = node().ints("classlabels_int64s", &[7, -1]).input(scores());
        numbers.gives_all(&[row(&[7i64, -1, 7, -1]), values, row(&[2i64, 2])]);
        let one = words.clone().input(row(&[0.5f32, 0.5]));
        one.gives_all(&[texts(&["no", "yes"]), row(&[0.5f32, 0.5]), row(&[2i64])]);
        words.input(tensor(&[1, 3], &[0f32; 3])).fails("2 keys");
    }

    #[test]
    fn zip_map_needs_keys_of_one_kind_that_differ() {
        let node = || case("ZipMap").outputs(3).input(row(&[0.5f32, 0.5]));
        node().fails("exactly one");
        let both = node().ints("classlabels_int64s", &[0, 1]);
        both.texts("classlabels_strings", &["a", "b"]).fails("exactly one");
        node().ints("classlabels_int64s", &[1, 1]).fails("the same");
    }

    fn words() -> Case {
        case("DictVectorizer").texts("string_vocabulary", &["a", "b", "c"])
    }

    #[test]
    fn dict_vectorizer_orders_values_by_the_vocabulary() {
        let given = words().input(texts(&["c", "a"]));
        given.clone().input(row(&[3f32, 1.0])).gives(tensor(&[1, 3], &[1f32, 0.0, 3.0]));
        let of_texts = texts(&["x", "", "z"]).into_shape(&[1, 3]).unwrap();
        given.input(texts(&["z", "x"])).gives(of_texts);
        let numbers = case("DictVectorizer").ints("int64_vocabulary", &[5, 9]);
        numbers.input(row(&[9i64])).input(row(&[2i64])).gives(tensor(&[1, 2], &[0i64, 2]));
    }

    #[test]
    fn dict_vectorizer_refuses_unknown_keys_and_keys_of_another_type() {
        words().input(texts(&["d"])).input(row(&[1f32])).fails("vocabulary");
        words().input(row(&[1i64])).input(row(&[1f32])).fails("different types");
    }

    #[test]
    fn cast_map_orders_values_by_their_keys() {
        let map = |to: &str| {
            let case = case("CastMap").text("cast_to", to).input(row(&[4i64, -1]));
            case.input(row(&[2.5f32, -1.5]))
        };
        map("TO_FLOAT").gives(tensor(&[1, 2], &[-1.5f32, 2.5]));
        map("TO_INT64").gives(tensor(&[1, 2], &[-1i64, 2]));
        map("TO_STRING").fails("not specified");
        let of_texts = |to: &str| case("CastMap").text("cast_to", to).input(row(&[1i64, 0]));
        of_texts("TO_FLOAT").input(texts(&["1.5", "2"])).gives(tensor(&[1, 2], &[2f32, 1.5]));
        of_texts("TO_FLOAT").input(texts(&["x", "2"])).fails("not a number");
        let swapped = texts(&["b", "a"]).into_shape(&[1, 2]).unwrap();
        of_texts("TO_STRING").input(texts(&["a", "b"])).gives(swapped);
    }

    #[test]
    fn cast_map_puts_values_at_the_positions_of_their_keys() {
        let map = |keys: &[i64]| {
            let case = case("CastMap").text("map_form", "SPARSE").int("max_map", 4);
            case.input(row(keys)).input(row(&[1f32, 2.0]))
        };
        map(&[3, 1]).gives(tensor(&[1, 4], &[0f32, 2.0, 0.0, 1.0]));
        map(&[3, 4]).fails("the key 4");
        map(&[-1, 0]).fails("the key -1");
    }
}
