//! Sequences, maps and optionals as JSON: an array of tensors, an object of keys and scalars, an array
//! of such objects, and `null` for an absent optional. The keys of an object are texts, also where
//! those of the map are integers.

use std::collections::HashSet;
use std::io::{Read, Write};

use belljar_abi::{DType, MAX_ELEMENTS, MAX_TENSORS, ValueType};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::lexer::Token;
use super::write::{Double, Json, Single, to_line};
use super::{Elements, Parser, malformed, wrong_at};
use crate::{Data, ELEMENT_MEMORY, Map, Tensor, TensorError, Value, string_memory};

/// What an input is declared as: its type and, of a tensor, its element type if that is known.
pub type Declared = (ValueType, Option<DType>);

/// Reads one value of a declared type. `limit` bounds its bytes of data; each element of a sequence
/// counts 256 bytes in addition.
///
/// # Errors
/// As [`read_one`](super::read_one).
pub fn read_one_value(
    reader: impl Read,
    declared: Declared,
    limit: u64,
) -> Result<Value, TensorError> {
    let mut parser = Parser::new(reader, limit);
    let first = parser.token()?;
    let value = parser.value(first, declared, "")?;
    parser.end()?;
    Ok(value)
}

/// Reads an object of names and values, in the file's order; `declared` returns the type of each
/// name. `limit` bounds the data of all values together, in bytes.
///
/// # Errors
/// As [`read_named`](super::read_named).
pub fn read_named_values(
    reader: impl Read,
    declared: impl Fn(&str) -> Declared,
    limit: u64,
) -> Result<Vec<(String, Value)>, TensorError> {
    let mut parser = Parser::new(reader, limit);
    if parser.token()? != Token::ObjectOpen {
        return Err(malformed("it is not an object of names and tensors"));
    }
    let mut values = Vec::new();
    let mut names = HashSet::new();
    while let Some(name) = parser.key(values.is_empty())? {
        if values.len() == MAX_TENSORS {
            return Err(malformed(format!("it has more than {MAX_TENSORS} values")));
        }
        if !names.insert(name.clone()) {
            return Err(malformed(format!("two tensors are named {name:?}")));
        }
        let first = parser.token()?;
        let value = parser.value(first, declared(&name), &format!("{name:?}"))?;
        values.push((name, value));
    }
    parser.end()?;
    Ok(values)
}

impl<R: Read> Parser<R> {
    /// Reads a value that starts with the token `first`.
    fn value(
        &mut self,
        first: Token,
        (value_type, dtype): Declared,
        context: &str,
    ) -> Result<Value, TensorError> {
        match (value_type, &first) {
            (ValueType::OptionalTensor(_) | ValueType::OptionalSequence(_), Token::Null) => {
                Ok(Value::Absent)
            }
            (ValueType::Tensor | ValueType::Other, _) => {
                self.tensor(first, dtype, context).map(Value::Tensor)
            }
            (ValueType::OptionalTensor(dtype), _) => {
                self.tensor(first, Some(dtype), context).map(Value::Tensor)
            }
            (ValueType::Sequence(dtype) | ValueType::OptionalSequence(dtype), _) => {
                let each = |parser: &mut Parser<R>, token, context: &str| {
                    parser.tensor(token, Some(dtype), context)
                };
                self.array(first, context, each).map(Value::Sequence)
            }
            (ValueType::Map(key, of), _) => self.map(first, key, of, context).map(Value::Map),
            (ValueType::SequenceOfMaps(key, of), _) => {
                let each = |parser: &mut Parser<R>, token, context: &str| {
                    parser.map(token, key, of, context)
                };
                self.array(first, context, each).map(Value::Maps)
            }
        }
    }

    fn array<T>(
        &mut self,
        first: Token,
        context: &str,
        mut each: impl FnMut(&mut Parser<R>, Token, &str) -> Result<T, TensorError>,
    ) -> Result<Vec<T>, TensorError> {
        if first != Token::ArrayOpen {
            return Err(wrong_at(
                context,
                &[],
                "a sequence is an array, with an item for each element",
            ));
        }
        let mut items = Vec::new();
        let mut token = self.token()?;
        while token != Token::ArrayClose {
            if items.len() == MAX_ELEMENTS {
                let why = format!("it has more than {MAX_ELEMENTS} elements");
                return Err(wrong_at(context, &[], &why));
            }
            self.charge(ELEMENT_MEMORY, context)?;
            let item = each(self, token, &format!("{context}[{}]", items.len()))?;
            items.push(item);
            token = match self.token()? {
                Token::Comma => self.token()?,
                Token::ArrayClose => break,
                _ => return Err(self.lexer.error("missing comma or closing bracket")),
            };
        }
        Ok(items)
    }

    fn map(
        &mut self,
        first: Token,
        key: DType,
        of: DType,
        context: &str,
    ) -> Result<Map, TensorError> {
        if first != Token::ObjectOpen {
            return Err(wrong_at(context, &[], "a map is an object of keys and numbers or texts"));
        }
        let (mut texts, mut numbers) = (Vec::new(), Vec::new());
        let mut values = Elements::new(Some(of));
        while let Some(name) = self.map_key(texts.is_empty() && numbers.is_empty())? {
            let wrong = |why: &str| {
                let shown: String = name.chars().take(40).collect();
                wrong_at(&format!("{context}.{shown:?}"), &[], why)
            };
            let Token::Scalar(scalar) = self.token()? else {
                return Err(wrong("a value of a map is a number or a text"));
            };
            self.charge(values.cost(&scalar).saturating_add(string_memory(&name)), context)?;
            values.push(scalar).map_err(|why| wrong(&why))?;
            match key {
                DType::I64 => {
                    let number = name.parse::<i64>().ok().filter(|n| n.to_string() == name);
                    numbers.push(number.ok_or_else(|| wrong("the key is not a 64-bit integer"))?);
                }
                _ => texts.push(name),
            }
        }
        let row = |data: Data| {
            let count = data.len();
            Tensor::new(data, &[count])
        };
        let keys = match key {
            DType::I64 => row(numbers.into())?,
            _ => row(texts.into())?,
        };
        let values = values.finish(Some(of)).map_err(|(_, why)| wrong_at(context, &[], &why))?;
        Map::new(keys, row(values)?).map_err(|err| wrong_at(context, &[], &err.to_string()))
    }
}

/// Serialises a value: a tensor as an object of dtype, shape and flat data, and the others as
/// [`read_one_value`] reads them.
#[derive(Clone, Copy, Debug)]
pub struct JsonValue<'a>(pub &'a Value);

impl Serialize for JsonValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Tensor(tensor) => Json(tensor).serialize(serializer),
            Value::Sequence(tensors) => serializer.collect_seq(tensors.iter().map(Json)),
            Value::Map(map) => JsonMap(map).serialize(serializer),
            Value::Maps(maps) => serializer.collect_seq(maps.iter().map(JsonMap)),
            Value::Absent => serializer.serialize_none(),
            Value::Bytes(bytes) => serializer.collect_seq(bytes),
            Value::Text(text) => serializer.serialize_str(text),
        }
    }
}

struct JsonMap<'a>(&'a Map);

impl Serialize for JsonMap<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(Some(self.0.len()))?;
        for (at, key) in self.0.key_texts().enumerate() {
            object.serialize_entry(&key, &Scalar(self.0.values().data(), at))?;
        }
        object.end()
    }
}

/// One value of a map.
struct Scalar<'a>(&'a Data, usize);

impl Serialize for Scalar<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Scalar(data, at) = *self;
        match data {
            Data::F32(values) => values.get(at).copied().map(Single).serialize(serializer),
            Data::F64(values) => values.get(at).copied().map(Double).serialize(serializer),
            Data::I64(values) => values.get(at).serialize(serializer),
            Data::String(values) => values.get(at).serialize(serializer),
            // Maps of models have no other values.
            _ => serializer.serialize_none(),
        }
    }
}

/// Writes an object of names and values, and a line end.
///
/// # Errors
/// [`TensorError::Malformed`] for a duplicate name; [`TensorError::Io`].
pub fn write_named_values(
    values: &[(String, Value)],
    writer: impl Write,
) -> Result<(), TensorError> {
    let mut names = HashSet::new();
    if let Some((name, _)) = values.iter().find(|(name, _)| !names.insert(name)) {
        return Err(malformed(format!("two tensors are named {name:?}")));
    }
    to_line(&Named(values), writer)
}

struct Named<'a>(&'a [(String, Value)]);

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, JsonValue(value))))
    }
}
