//! LabelEncoder and CategoryMapper: one value for another.

use std::collections::HashMap;

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::super::own::{Known as Given, Own, Said, built, like, needed};
use super::super::strings::{from_strings, strings};
use super::Known;
use super::attributes::{find, float, floats, int, ints, tensor, text, texts};

/// What texts become that are not found, and what they are where nothing is said.
const UNUSED: &str = "_Unused";

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("LabelEncoder", |_, node| match find(node, "classes_strings") {
        Some(_) => built(Swap::classes(node)?, node),
        None => built(Encoder::new(node)?, node),
    });
    registry.insert("CategoryMapper", |_, node| built(Swap::categories(node)?, node));
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

    /// Of a zero, the one of the other sign.
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
    // Without a conversion on the way: it may change the bits of a NaN.
    let plain = tensor.try_as_plain_ram()?;
    if tensor.datum_type() == f32::datum_type() {
        let values = plain.as_slice::<f32>()?.iter();
        return Ok(values.map(|value| Key::Single(value.to_bits())).collect());
    }
    if tensor.datum_type() == f64::datum_type() {
        let values = plain.as_slice::<f64>()?.iter();
        return Ok(values.map(|value| Key::Double(value.to_bits())).collect());
    }
    Ok(super::super::own::ints(tensor)?.into_iter().map(Key::Int).collect())
}

/// Whether a key that is not known is there under other bits: versions 2 and 4 of the operator do
/// not agree whether zeros of both signs are one key. Of NaN version 4 alone says something: that all
/// of them are one.
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
    /// The values, and behind them the one for all others.
    values: Tensor,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Encoder {
    table: Known<Table>,
}

/// The one list of these attributes that is there.
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
    ensure!(there.len() == 1, "there are {} lists of {what}, not one", there.len());
    let list = there.remove(0);
    ensure!(list.rank() == 1, "the {what} are no list");
    Ok(list)
}

/// The value for what is not found.
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
        "the default is not one value of the type of the values"
    );
    default.into_shape(&[1])
}

impl Encoder {
    fn new(node: &NodeProto) -> TractResult<Encoder> {
        let (from, to) = (list(node, "keys")?, list(node, "values")?);
        ensure!(from.len() == to.len(), "{} keys for {} values", from.len(), to.len());
        // In tensors alone there are defaults of other types.
        let wide = [i64::datum_type(), f32::datum_type(), String::datum_type()];
        let tensors = find(node, "values_tensor").is_some();
        ensure!(tensors || wide.contains(&to.datum_type()), "values of {:?}", to.datum_type());
        // As are lists that are tensors, which version 4 brought.
        let mut newer = ["keys_tensor", "values_tensor", "default_tensor"].into_iter();
        let one_nan = newer.any(|name| find(node, name).is_some());
        let (mut known, mut nan) = (HashMap::new(), false);
        for (at, key) in keys(&from)?.into_iter().enumerate() {
            let key = if one_nan { key.with_one_nan() } else { key };
            // Of the first and the last, versions 2 and 4 take another one.
            let again = known.contains_key(&key) || doubtful(&key, &known, nan);
            ensure!(!again, "a key is there twice");
            nan |= key.is_nan();
            known.insert(key, at);
        }
        let default = default(node, to.datum_type())?;
        let from = from.datum_type();
        let values = Tensor::stack_tensors(0, &[to, default])?;
        Ok(Encoder { table: Known::new(Table { from, known, nan, one_nan, values }) })
    }
}

impl Own for Encoder {
    fn name(&self) -> &'static str {
        "LabelEncoder"
    }

    fn outputs(&self, inputs: &[Option<Given>]) -> TractResult<TVec<Said>> {
        let input = needed(inputs, 0)?;
        ensure!(input.dtype == self.table.from, "keys of another type than the input");
        let (_, dims) = like(input);
        Ok(tvec!((self.table.values.datum_type(), dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let tensor = *needed(inputs, 0)?;
        let ours = &*self.table;
        let last = ours.values.len() - 1;
        let mut places = Vec::with_capacity(tensor.len());
        for key in keys(tensor)? {
            let key = if ours.one_nan { key.with_one_nan() } else { key };
            let place = ours.known.get(&key).copied();
            let doubt = match place {
                Some(_) => key.is_nan() && !ours.one_nan,
                None => doubtful(&key, &ours.known, ours.nan),
            };
            ensure!(!doubt, "nobody agrees whether this NaN, or a zero of this sign, is a key");
            places.push(place.unwrap_or(last));
        }
        taken(&ours.values, &places, tensor.shape())
    }
}

/// Values by their places.
fn taken(values: &Tensor, places: &[usize], shape: &[usize]) -> TractResult<TVec<Tensor>> {
    if values.datum_type() == String::datum_type() {
        let values = strings(values)?;
        let taken = places.iter().map(|place| values[*place].clone()).collect();
        return Ok(tvec!(from_strings(shape, taken)?));
    }
    let (bytes, size) = (values.as_bytes(), values.datum_type().size_of());
    let taken: Vec<u8> =
        places.iter().flat_map(|place| &bytes[place * size..][..size]).copied().collect();
    Ok(tvec!(super::super::own::from_bytes(values.datum_type(), shape, &taken)?))
}

/// Integers for texts, or texts for integers, whichever comes.
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
    pairs: Known<Pairs>,
}

impl Swap {
    /// The first version of LabelEncoder: texts, numbered in their order.
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
        ensure!(counts.0 == counts.1, "{} integers for {} texts", counts.0, counts.1);
        let each = || numbers.iter().copied().zip(names.iter().map(|name| (*name).to_owned()));
        let pairs = Pairs {
            numbers: each().map(|(number, name)| (name, number)).collect(),
            names: each().collect(),
            no_number: int(node, "default_int64", -1),
            no_name: text(node, "default_string", UNUSED)?.to_owned(),
        };
        let once = pairs.numbers.len() == counts.0 && pairs.names.len() == counts.0;
        ensure!(once, "an integer or a text is there twice");
        Ok(Swap { name, pairs: Known::new(pairs) })
    }
}

impl Own for Swap {
    fn name(&self) -> &'static str {
        self.name
    }

    fn outputs(&self, inputs: &[Option<Given>]) -> TractResult<TVec<Said>> {
        let input = needed(inputs, 0)?;
        let (dtype, dims) = like(input);
        let text = dtype == String::datum_type();
        Ok(tvec!((if text { i64::datum_type() } else { String::datum_type() }, dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let tensor = *needed(inputs, 0)?;
        let ours = &*self.pairs;
        if tensor.datum_type() == String::datum_type() {
            let number = |name: &String| ours.numbers.get(name).copied().unwrap_or(ours.no_number);
            let numbers: Vec<i64> = strings(tensor)?.iter().map(number).collect();
            return Ok(tvec!(Tensor::from_shape(tensor.shape(), &numbers)?));
        }
        let name = |number: &i64| ours.names.get(number).unwrap_or(&ours.no_name).clone();
        let names = super::super::own::ints(tensor)?.iter().map(name).collect();
        Ok(tvec!(from_strings(tensor.shape(), names)?))
    }
}
