//! LabelEncoder and CategoryMapper: map one value to another.

use std::collections::HashMap;

use belljar_operators::ML;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::Parameters;
use super::attributes::{find, float, floats, int, ints, tensor, text, texts};
use crate::framework::errors::ensure;
use crate::framework::facts::{InputFact, OutputFact, like, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;
use crate::strings::{from_strings, strings};

/// The default string for keys that are not found.
const UNUSED: &str = "_Unused";

pub(crate) const OPERATORS: &[Registration] = &[
    own("LabelEncoder", build_label_encoder).of(ML),
    own("CategoryMapper", |_, node| built(Swap::categories(node)?, node)).of(ML),
];

fn build_label_encoder(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    match find(node, "classes_strings") {
        Some(_) => built(Swap::classes(node)?, node),
        None => built(Encoder::new(node)?, node),
    }
}

/// A key that can be looked up: a float by its bits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Text(String),
    Int(i64),
    Single(u32),
    Double(u64),
}

impl Key {
    fn is_nan(&self) -> bool {
        match self {
            Key::Single(bits) => f32::from_bits(*bits).is_nan(),
            Key::Double(bits) => f64::from_bits(*bits).is_nan(),
            _ => false,
        }
    }

    /// The one NaN that stands for all of them.
    fn with_one_nan(self) -> Key {
        match self {
            Key::Single(_) if self.is_nan() => Key::Single(f32::NAN.to_bits()),
            Key::Double(_) if self.is_nan() => Key::Double(f64::NAN.to_bits()),
            other => other,
        }
    }

    /// The zero of the other sign, for a zero.
    fn other_zero(&self) -> Option<Key> {
        match self {
            Key::Single(bits) if bits << 1 == 0 => Some(Key::Single(bits ^ 1 << 31)),
            Key::Double(bits) if bits << 1 == 0 => Some(Key::Double(bits ^ 1 << 63)),
            _ => None,
        }
    }
}

/// The keys of a tensor.
fn keys(tensor: &Tensor) -> TractResult<Vec<Key>> {
    if tensor.datum_type() == String::datum_type() {
        return Ok(strings(tensor)?.iter().cloned().map(Key::Text).collect());
    }
    // Without a conversion, which may change the bits of a NaN.
    let plain = tensor.try_as_plain_ram()?;
    if tensor.datum_type() == f32::datum_type() {
        let values = plain.as_slice::<f32>()?.iter();
        return Ok(values.map(|value| Key::Single(value.to_bits())).collect());
    }
    if tensor.datum_type() == f64::datum_type() {
        let values = plain.as_slice::<f64>()?.iter();
        return Ok(values.map(|value| Key::Double(value.to_bits())).collect());
    }
    Ok(crate::framework::tensors::ints(tensor)?.into_iter().map(Key::Int).collect())
}

/// Whether an unknown key exists with other bits. Versions 2 and 4 of the operator disagree on
/// whether zeros of both signs are the same key. Only version 4 specifies NaN: all NaNs are one
/// key.
fn doubtful(key: &Key, known: &HashMap<Key, usize>, nan: bool) -> bool {
    let zero = key.other_zero().is_some_and(|other| known.contains_key(&other));
    zero || nan && key.is_nan()
}

#[derive(Debug)]
struct Table {
    from: DatumType,
    known: HashMap<Key, usize>,
    /// Whether a NaN is among the keys.
    nan: bool,
    /// Whether any NaN is that key.
    one_nan: bool,
    /// The values, followed by the default.
    values: Tensor,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Encoder {
    table: Parameters<Table>,
}

/// The only list that is present of these attributes.
fn list(node: &NodeProto, what: &str) -> TractResult<Tensor> {
    let name = |kind: &str| format!("{what}_{kind}");
    let mut there: Vec<Tensor> = Vec::new();
    if find(node, &name("strings")).is_some() {
        let texts = texts(node, &name("strings"))?;
        there.push(from_strings(&[texts.len()], texts.into_iter().map(str::to_owned).collect())?);
    }
    if find(node, &name("int64s")).is_some() {
        let ints = ints(node, &name("int64s"));
        there.push(Tensor::from_shape(&[ints.len()], ints)?);
    }
    if find(node, &name("floats")).is_some() {
        let floats = floats(node, &name("floats"));
        there.push(Tensor::from_shape(&[floats.len()], floats)?);
    }
    there.extend(tensor(node, &name("tensor"))?);
    ensure!(there.len() == 1, "expected one list of {what}, found {}", there.len());
    let list = there.remove(0);
    ensure!(list.rank() == 1, "the {what} are not a list");
    Ok(list)
}

/// The value for keys that are not found.
fn default(node: &NodeProto, like: DatumType) -> TractResult<Tensor> {
    let given = tensor(node, "default_tensor")?;
    let named = match like {
        DatumType::String => text(node, "default_string", UNUSED)?,
        _ => "",
    };
    let default = match (given, like) {
        (Some(tensor), _) => tensor,
        (None, DatumType::String) => from_strings(&[1], vec![named.to_owned()])?,
        (None, DatumType::F32) => Tensor::from_shape(&[1], &[float(node, "default_float", -0.0)])?,
        (None, DatumType::F64) => Tensor::from_shape(&[1], &[-0f64])?,
        (None, DatumType::I64) => Tensor::from_shape(&[1], &[int(node, "default_int64", -1)])?,
        (None, _) => Tensor::from_shape(&[1], &[-1i64])?.cast_to_dt(like)?.into_owned(),
    };
    ensure!(
        default.len() == 1 && default.datum_type() == like,
        "the default is not a single value of the values' element type"
    );
    default.into_shape(&[1])
}

impl Encoder {
    fn new(node: &NodeProto) -> TractResult<Encoder> {
        let (from, to) = (list(node, "keys")?, list(node, "values")?);
        ensure!(from.len() == to.len(), "{} keys do not match {} values", from.len(), to.len());
        // Other types have a default only as a tensor.
        let wide = [i64::datum_type(), f32::datum_type(), String::datum_type()];
        let tensors = find(node, "values_tensor").is_some();
        ensure!(
            tensors || wide.contains(&to.datum_type()),
            "values of element type {:?} are not implemented",
            to.datum_type()
        );
        // Version 4 introduced lists that are tensors.
        let mut newer = ["keys_tensor", "values_tensor", "default_tensor"].into_iter();
        let one_nan = newer.any(|name| find(node, name).is_some());
        let (mut known, mut nan) = (HashMap::new(), false);
        for (at, key) in keys(&from)?.into_iter().enumerate() {
            let key = if one_nan { key.with_one_nan() } else { key };
            // With duplicate keys version 2 and version 4 use different ones.
            let again = known.contains_key(&key) || doubtful(&key, &known, nan);
            ensure!(!again, "duplicate key");
            nan |= key.is_nan();
            known.insert(key, at);
        }
        let default = default(node, to.datum_type())?;
        let from = from.datum_type();
        let values = Tensor::stack_tensors(0, &[to, default])?;
        Ok(Encoder { table: Parameters::new(Table { from, known, nan, one_nan, values }) })
    }
}

impl Operator for Encoder {
    fn name(&self) -> &'static str {
        "LabelEncoder"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let input = required(inputs, 0)?;
        ensure!(
            input.dtype == self.table.from,
            "the keys have another element type than the input"
        );
        let (_, dims) = like(input);
        Ok(tvec!((self.table.values.datum_type(), dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let tensor = *required(inputs, 0)?;
        let op = &*self.table;
        let last = op.values.len() - 1;
        let mut places = Vec::with_capacity(tensor.len());
        for key in keys(tensor)? {
            let key = if op.one_nan { key.with_one_nan() } else { key };
            let place = op.known.get(&key).copied();
            let doubt = match place {
                Some(_) => key.is_nan() && !op.one_nan,
                None => doubtful(&key, &op.known, op.nan),
            };
            ensure!(!doubt, "implementations disagree on whether this NaN or signed zero is a key");
            places.push(place.unwrap_or(last));
        }
        taken(&op.values, &places, tensor.shape())
    }
}

/// Values by their index.
fn taken(values: &Tensor, places: &[usize], shape: &[usize]) -> TractResult<TVec<Tensor>> {
    if values.datum_type() == String::datum_type() {
        let values = strings(values)?;
        let taken = places.iter().map(|place| values[*place].clone()).collect();
        return Ok(tvec!(from_strings(shape, taken)?));
    }
    let (bytes, size) = (values.as_bytes(), values.datum_type().size_of());
    let taken: Vec<u8> =
        places.iter().flat_map(|place| &bytes[place * size..][..size]).copied().collect();
    Ok(tvec!(crate::framework::tensors::from_bytes(values.datum_type(), shape, &taken)?))
}

/// Maps integers to strings or strings to integers, depending on the input.
#[derive(Debug)]
struct Pairs {
    numbers: HashMap<String, i64>,
    names: HashMap<i64, String>,
    no_number: i64,
    no_name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Swap {
    name: &'static str,
    pairs: Parameters<Pairs>,
}

impl Swap {
    /// The first version of LabelEncoder: strings, numbered in their order.
    fn classes(node: &NodeProto) -> TractResult<Swap> {
        let names = texts(node, "classes_strings")?;
        let numbers: Vec<i64> = (0..names.len() as i64).collect();
        Swap::new("LabelEncoder", node, &numbers, names)
    }

    fn categories(node: &NodeProto) -> TractResult<Swap> {
        Swap::new("CategoryMapper", node, ints(node, "cats_int64s"), texts(node, "cats_strings")?)
    }

    fn new(
        name: &'static str,
        node: &NodeProto,
        numbers: &[i64],
        names: Vec<&str>,
    ) -> TractResult<Swap> {
        let counts = (numbers.len(), names.len());
        ensure!(counts.0 == counts.1, "{} integers do not match {} texts", counts.0, counts.1);
        let each = || numbers.iter().copied().zip(names.iter().map(|name| (*name).to_owned()));
        let pairs = Pairs {
            numbers: each().map(|(number, name)| (name, number)).collect(),
            names: each().collect(),
            no_number: int(node, "default_int64", -1),
            no_name: text(node, "default_string", UNUSED)?.to_owned(),
        };
        let once = pairs.numbers.len() == counts.0 && pairs.names.len() == counts.0;
        ensure!(once, "duplicate integer or text");
        Ok(Swap { name, pairs: Parameters::new(pairs) })
    }
}

impl Operator for Swap {
    fn name(&self) -> &'static str {
        self.name
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let input = required(inputs, 0)?;
        let (dtype, dims) = like(input);
        let text = dtype == String::datum_type();
        Ok(tvec!((if text { i64::datum_type() } else { String::datum_type() }, dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let tensor = *required(inputs, 0)?;
        let op = &*self.pairs;
        if tensor.datum_type() == String::datum_type() {
            let number = |name: &String| op.numbers.get(name).copied().unwrap_or(op.no_number);
            let numbers: Vec<i64> = strings(tensor)?.iter().map(number).collect();
            return Ok(tvec!(Tensor::from_shape(tensor.shape(), &numbers)?));
        }
        let name = |number: &i64| op.names.get(number).unwrap_or(&op.no_name).clone();
        let names = crate::framework::tensors::ints(tensor)?.iter().map(name).collect();
        Ok(tvec!(from_strings(tensor.shape(), names)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, texts};

    #[test]
    fn label_encoder_gives_defaults_for_unknown_keys() {
        let encoder = || case("LabelEncoder").texts("keys_strings", &["a", "b"]);
        let numbers = encoder().ints("values_int64s", &[1 << 40, 7]).input(texts(&["b", "c", "a"]));
        numbers.clone().gives(row(&[7i64, -1, 1 << 40]));
        numbers.int("default_int64", 5).gives(row(&[7i64, 5, 1 << 40]));
        let floats = encoder().floats("values_floats", &[0.5, 1.5]).input(texts(&["b", "c"]));
        floats.gives(row(&[1.5f32, -0.0]));
        let words = case("LabelEncoder").ints("keys_int64s", &[1 << 40, 2]);
        let words = words.texts("values_strings", &["x", "y"]).input(row(&[2i64, 0, 1 << 40]));
        words.gives(texts(&["y", "_Unused", "x"]));
    }

    #[test]
    fn label_encoder_with_tensors_treats_all_nans_as_one_key() {
        let encoder = case("LabelEncoder").tensor("keys_tensor", &row(&[f64::NAN, 1.5]));
        let encoder = encoder.tensor("values_tensor", &row(&[3i16, 4]));
        let encoder = encoder.tensor("default_tensor", &row(&[9i16]));
        encoder.input(row(&[1.5, -f64::NAN, 2.0])).gives(row(&[4i16, 3, 9]));
    }

    #[test]
    fn label_encoder_refuses_keys_and_values_of_different_numbers() {
        let encoder = case("LabelEncoder").ints("keys_int64s", &[1, 2]);
        encoder.ints("values_int64s", &[1]).input(row(&[1i64])).fails("2");
    }

    #[test]
    fn label_encoder_of_version_1_numbers_its_classes() {
        let encoder = || case("LabelEncoder").texts("classes_strings", &["a", "b"]);
        encoder().input(texts(&["b", "x"])).gives(row(&[1i64, -1]));
        let words = encoder().text("default_string", "?").input(row(&[1i64, 1 << 32]));
        words.gives(texts(&["b", "?"]));
    }

    #[test]
    fn category_mapper_maps_in_both_directions() {
        let mapper = || {
            let case = case("CategoryMapper").texts("cats_strings", &["a", "b"]);
            case.ints("cats_int64s", &[1 << 33, -4])
        };
        mapper().input(texts(&["b", "a", "c"])).gives(row(&[-4i64, 1 << 33, -1]));
        mapper().input(row(&[-4i64, 0])).gives(texts(&["b", "_Unused"]));
    }
}
