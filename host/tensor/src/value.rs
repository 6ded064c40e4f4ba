//! Inputs and outputs: tensors, sequences, maps and optionals of models; bytes and texts of guest
//! programs.

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::Hash;

use belljar_abi::{DType, MAX_ELEMENTS, Part, ValueType};

use super::{Coded, Data, Tensor, TensorError};

/// An input or output of a model or of a guest program.
///
/// A model takes and returns tensors, sequences, maps and optionals, as it declares; an optional
/// that is there is the tensor or the sequence itself. A guest program takes and returns tensors of
/// any type except strings, bytes, and texts.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A tensor.
    Tensor(Tensor),
    /// Tensors of one element type. Their shapes may differ.
    Sequence(Vec<Tensor>),
    /// A map from keys to scalars.
    Map(Map),
    /// A sequence of maps, such as the scores that classifiers exported from scikit-learn return for
    /// each row.
    Maps(Vec<Map>),
    /// An optional without an element.
    Absent,
    /// The bytes of a file, such as an image, a sound or a document.
    Bytes(Vec<u8>),
    /// A text. The text of an output is untrusted: print it escaped.
    Text(String),
}

/// Keys and a value for each of them. The keys are 64-bit integers or strings, and all differ.
///
/// ```
/// use belljar_tensor::{Map, Tensor};
///
/// let keys = Tensor::new(vec!["cat".to_owned(), "dog".to_owned()], &[2])?;
/// let map = Map::new(keys, Tensor::new(vec![0.25f32, 0.75], &[2])?)?;
/// assert_eq!(map.values().as_slice::<f32>(), Some(&[0.25, 0.75][..]));
/// # Ok::<(), belljar_tensor::TensorError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    keys: Tensor,
    values: Tensor,
}

impl Map {
    /// A map with a value for each key, in the same order.
    ///
    /// # Errors
    /// [`TensorError::Map`] if the two are not rows of the same length, if the keys are neither
    /// 64-bit integers nor strings, and if two keys are the same.
    pub fn new(keys: Tensor, values: Tensor) -> Result<Map, TensorError> {
        let wrong = |why| Err(TensorError::Map { why });
        if keys.shape.len() != 1 || keys.shape != values.shape {
            return wrong("its keys and values are not two rows of the same length");
        }
        let differ = match &keys.data {
            Data::I64(keys) => all_differ(keys),
            Data::String(keys) => all_differ(keys),
            _ => return wrong("its keys are neither 64-bit integers nor strings"),
        };
        if differ { Ok(Map { keys, values }) } else { wrong("two of its keys are the same") }
    }

    /// The keys: a row of integers or strings.
    pub fn keys(&self) -> &Tensor {
        &self.keys
    }

    /// The values, in the order of the keys.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// The number of entries.
    #[allow(clippy::len_without_is_empty)] // Empty maps need no special handling.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The keys as texts.
    pub fn key_texts(&self) -> impl Iterator<Item = Cow<'_, str>> {
        (0..self.len()).map(|at| match &self.keys.data {
            Data::I64(keys) => keys.get(at).map_or_else(String::new, i64::to_string).into(),
            Data::String(keys) => keys.get(at).map_or("", String::as_str).into(),
            _ => "".into(),
        })
    }
}

fn all_differ<T: Eq + Hash>(keys: &[T]) -> bool {
    let mut seen = HashSet::new();
    keys.iter().all(|key| seen.insert(key))
}

/// Bytes of an element of a sequence in this process, in addition to its data, as limits count them.
pub const ELEMENT_MEMORY: u64 = 256;

impl Value {
    /// Bytes of the elements of all tensors, or of the file or text.
    pub fn byte_len(&self) -> u64 {
        self.sum(Tensor::byte_len)
    }

    /// As limits count them: see [`Tensor::memory_len`]. An element of a sequence counts 256 bytes in
    /// addition.
    pub fn memory_len(&self) -> u64 {
        let elements = match self {
            Value::Sequence(tensors) => tensors.len(),
            Value::Maps(maps) => maps.len(),
            _ => 0,
        };
        self.sum(Tensor::memory_len).saturating_add(ELEMENT_MEMORY.saturating_mul(elements as u64))
    }

    fn sum(&self, of: impl Fn(&Tensor) -> u64) -> u64 {
        let map = |map: &Map| of(&map.keys).saturating_add(of(&map.values));
        match self {
            Value::Tensor(tensor) => of(tensor),
            Value::Sequence(tensors) => tensors.iter().map(of).fold(0, u64::saturating_add),
            Value::Map(one) => map(one),
            Value::Maps(maps) => maps.iter().map(map).fold(0, u64::saturating_add),
            Value::Absent => 0,
            Value::Bytes(bytes) => bytes.len() as u64,
            Value::Text(text) => text.len() as u64,
        }
    }

    /// The tensor, if it is one.
    pub fn as_tensor(&self) -> Option<&Tensor> {
        match self {
            Value::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// What it is, for messages.
    pub fn what(&self) -> &'static str {
        match self {
            Value::Tensor(_) => "a tensor",
            Value::Sequence(_) => "a sequence",
            Value::Map(_) => "a map",
            Value::Maps(_) => "a sequence of maps",
            Value::Absent => "absent",
            Value::Bytes(_) => "bytes",
            Value::Text(_) => "a text",
        }
    }

    /// The tensors that the value crosses as, for an input of this type.
    #[doc(hidden)]
    pub fn to_parts(&self, declared: ValueType) -> Result<Vec<(Part, Cow<'_, Tensor>)>, String> {
        let (part_types, mismatch) = (declared.input_parts(), || {
            Err(format!("the model declares {declared}, and it is {}", self.what()))
        });
        let parts = match (declared, self) {
            (ValueType::OptionalTensor(_) | ValueType::OptionalSequence(_), Value::Absent) => {
                return Ok(Vec::new());
            }
            (ValueType::Tensor | ValueType::Other, Value::Tensor(tensor)) => {
                return Ok(vec![(Part::Whole, Cow::Borrowed(tensor))]);
            }
            (ValueType::OptionalTensor(_), Value::Tensor(tensor)) => vec![Cow::Borrowed(tensor)],
            (
                ValueType::Sequence(dtype) | ValueType::OptionalSequence(dtype),
                Value::Sequence(tensors),
            ) => joined(dtype, tensors)?.map(Cow::Owned).into(),
            // An empty JSON array.
            (
                ValueType::Sequence(dtype) | ValueType::OptionalSequence(dtype),
                Value::Maps(maps),
            ) if maps.is_empty() => joined(dtype, &[])?.map(Cow::Owned).into(),
            (ValueType::Map(..), Value::Map(map)) => {
                vec![Cow::Borrowed(&map.keys), Cow::Borrowed(&map.values)]
            }
            (ValueType::SequenceOfMaps(key, value), Value::Maps(maps)) => {
                maps_joined(key, value, maps)?.map(Cow::Owned).into()
            }
            _ => return mismatch(),
        };
        for ((part, dtype), tensor) in part_types.iter().zip(&parts) {
            if tensor.dtype() != *dtype {
                let what = match part {
                    Part::Keys => "its keys",
                    Part::Values => "its values",
                    _ => "its elements",
                };
                let found = tensor.dtype();
                return Err(format!(
                    "the model declares {declared}, and {what} are {found}, not {dtype}"
                ));
            }
        }
        Ok(part_types.into_iter().map(|(part, _)| part).zip(parts).collect())
    }

    /// The value of an output of this type, from the tensors that it crosses as. The tensors have
    /// the types and numbers of dimensions of the parts; everything else about them is checked.
    #[doc(hidden)]
    pub fn from_parts(declared: ValueType, parts: Vec<Tensor>) -> Result<Value, &'static str> {
        let mut parts = parts.into_iter();
        let mut next = || parts.next().ok_or("a part of it is missing");
        match declared {
            ValueType::Tensor | ValueType::Other => next().map(Value::Tensor),
            ValueType::Sequence(_) => apart(&next()?, &next()?).map(Value::Sequence),
            ValueType::Map(..) => map(next()?, next()?).map(Value::Map),
            ValueType::SequenceOfMaps(..) => maps_apart(&next()?, &next()?, &next()?),
            ValueType::OptionalTensor(_) => {
                let mut found = apart(&next()?, &next()?)?.into_iter();
                match (found.next(), found.next()) {
                    (None, _) => Ok(Value::Absent),
                    (Some(tensor), None) => Ok(Value::Tensor(tensor)),
                    _ => Err("an optional tensor has several tensors"),
                }
            }
            ValueType::OptionalSequence(_) => {
                let found = apart(&next()?, &next()?)?;
                match next()?.as_slice::<bool>() {
                    Some([true]) => Ok(Value::Sequence(found)),
                    Some([false]) if found.is_empty() => Ok(Value::Absent),
                    _ => Err("an optional sequence contradicts itself"),
                }
            }
        }
    }
}

fn map(keys: Tensor, values: Tensor) -> Result<Map, &'static str> {
    Map::new(keys, values).map_err(|err| match err {
        TensorError::Map { why } => why,
        _ => "it is not a map",
    })
}

/// The elements of tensors one after another, and a row with the shape of each.
fn joined(dtype: DType, tensors: &[Tensor]) -> Result<[Tensor; 2], String> {
    if let Some(other) = tensors.iter().find(|tensor| tensor.dtype() != dtype) {
        return Err(format!("its tensors are {}, and the model declares {dtype}", other.dtype()));
    }
    check_count(tensors.len())?;
    let rank = tensors.iter().map(|tensor| tensor.shape.len()).max().unwrap_or(0);
    let mut shapes: Vec<i64> = Vec::with_capacity(rank * tensors.len());
    for tensor in tensors {
        shapes.extend(tensor.shape.iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)));
        shapes.extend(std::iter::repeat_n(-1, rank - tensor.shape.len()));
    }
    let elements = Data::joined(dtype, tensors.iter().map(|tensor| &tensor.data));
    let count = elements.len();
    let shapes = Tensor::new(shapes, &[tensors.len(), rank]);
    let elements = Tensor::new(elements, &[count]);
    Ok([elements.map_err(|err| err.to_string())?, shapes.map_err(|err| err.to_string())?])
}

fn check_count(count: usize) -> Result<(), String> {
    if count > MAX_ELEMENTS {
        return Err(format!("it has {count} elements; the limit is {MAX_ELEMENTS}"));
    }
    Ok(())
}

/// The reverse of [`joined`].
fn apart(elements: &Tensor, shapes: &Tensor) -> Result<Vec<Tensor>, &'static str> {
    const MALFORMED: &str = "its shapes are malformed";
    let (&[count, rank], Some(sizes)) = (shapes.shape(), shapes.as_slice::<i64>()) else {
        return Err(MALFORMED);
    };
    // A row without sizes takes no bytes, so the number of rows alone proves nothing.
    if count > MAX_ELEMENTS || (rank == 0 && count != elements.len()) {
        return Err("it has too many elements");
    }
    let mut tensors = Vec::new();
    let mut start = 0usize;
    for at in 0..count {
        let row = sizes.get(at * rank..(at + 1) * rank).ok_or(MALFORMED)?;
        let used = row.iter().position(|size| *size == -1).unwrap_or(rank);
        let (row, rest) = row.split_at(used);
        let shape = row.iter().map(|size| usize::try_from(*size)).collect::<Result<Vec<_>, _>>();
        let shape = shape.map_err(|_| MALFORMED)?;
        let dims: Vec<u64> = shape.iter().map(|size| *size as u64).collect();
        let count = belljar_abi::element_count(&dims).and_then(|count| usize::try_from(count).ok());
        let end = count.and_then(|count| start.checked_add(count));
        let end = end.filter(|end| *end <= elements.len()).ok_or("it lacks elements")?;
        if rest.iter().any(|size| *size != -1) {
            return Err(MALFORMED);
        }
        let part = elements.data.part(start, end).ok_or(MALFORMED)?;
        tensors.push(Tensor::new(part, &shape).map_err(|_| MALFORMED)?);
        start = end;
    }
    if start == elements.len() { Ok(tensors) } else { Err("it has elements of no tensor") }
}

/// The keys and the values of maps one after another, and the number of entries of each.
fn maps_joined(key: DType, value: DType, maps: &[Map]) -> Result<[Tensor; 3], String> {
    check_count(maps.len())?;
    let wrong = |map: &&Map| map.keys.dtype() != key || map.values.dtype() != value;
    if let Some(map) = maps.iter().find(wrong) {
        let (keys, values) = (map.keys.dtype(), map.values.dtype());
        return Err(format!("one of its maps is from {keys} to {values}"));
    }
    let lengths: Vec<i64> = maps.iter().map(|map| map.len() as i64).collect();
    let keys = Data::joined(key, maps.iter().map(|map| &map.keys.data));
    let values = Data::joined(value, maps.iter().map(|map| &map.values.data));
    let row = |data: Data| {
        let count = data.len();
        Tensor::new(data, &[count]).map_err(|err| err.to_string())
    };
    Ok([row(keys)?, row(values)?, row(lengths.into())?])
}

/// The reverse of [`maps_joined`].
fn maps_apart(keys: &Tensor, values: &Tensor, lengths: &Tensor) -> Result<Value, &'static str> {
    let lengths = lengths.as_slice::<i64>().ok_or("the lengths of its maps are malformed")?;
    if lengths.len() > MAX_ELEMENTS {
        return Err("it has too many elements");
    }
    let mut maps = Vec::new();
    let mut start = 0usize;
    for length in lengths {
        let end = usize::try_from(*length).ok().and_then(|length| start.checked_add(length));
        let end = end.filter(|end| *end <= keys.len()).ok_or("it lacks keys")?;
        let row = |tensor: &Tensor| {
            let part = tensor.data.part(start, end).ok_or("it lacks values")?;
            Tensor::new(part, &[end - start]).map_err(|_| "it lacks values")
        };
        maps.push(map(row(keys)?, row(values)?)?);
        start = end;
    }
    match start == keys.len() && start == values.len() {
        true => Ok(Value::Maps(maps)),
        false => Err("it has entries of no map"),
    }
}

macro_rules! plain {
    ($($variant:ident)*) => {
        impl Data {
            /// The elements of several tensors of one type, one after another.
            fn joined<'a>(dtype: DType, all: impl Iterator<Item = &'a Data>) -> Data {
                let mut joined = Data::zeros(dtype, 0);
                for data in all {
                    match (&mut joined, data) {
                        $((Data::$variant(to), Data::$variant(from)) => {
                            to.extend(from.iter().cloned());
                        })*
                        (Data::Coded(to), Data::Coded(from)) => to.extend(from),
                        // Only tensors of one type are joined.
                        _ => {}
                    }
                }
                joined
            }

            /// The elements from one index to another.
            fn part(&self, start: usize, end: usize) -> Option<Data> {
                Some(match self {
                    $(Data::$variant(values) => Data::$variant(values.get(start..end)?.to_vec()),)*
                    Data::Coded(coded) => {
                        let codes = coded.codes().get(start..end)?.to_vec();
                        Data::Coded(Coded::new(coded.dtype(), codes)?)
                    }
                })
            }
        }
    };
}

plain!(F16 F32 F64 I8 I16 I32 I64 U8 U16 U32 U64 Bool String BF16);

impl From<Tensor> for Value {
    fn from(tensor: Tensor) -> Value {
        Value::Tensor(tensor)
    }
}

impl From<Vec<Tensor>> for Value {
    fn from(tensors: Vec<Tensor>) -> Value {
        Value::Sequence(tensors)
    }
}

impl From<Map> for Value {
    fn from(map: Map) -> Value {
        Value::Map(map)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Value {
        Value::Bytes(bytes)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}
