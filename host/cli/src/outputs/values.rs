//! Outputs that are not tensors: sequences, maps, and absent optionals.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::super::failure::Failure;
use super::super::table::{Table, number, shape};
use super::super::terminal::Terminal;
use super::{Entry, Printing, Target, write_file};
use belljar::{Description, ValueType};
use belljar_tensor::json::{self, JsonValue};
use belljar_tensor::{Data, Map, Tensor, Value, arrays_of};
use belljar_text::Escaped;

/// The declared type of an output, such as `seq(map(string, float))`.
pub(crate) fn type_of(description: &Description, name: &str) -> ValueType {
    let declared = description.outputs.iter().find(|output| output.name == name);
    declared.map_or(ValueType::Tensor, |output| output.value_type)
}

impl Target<'_> {
    /// Writes outputs of any type, and returns the paths of the written files.
    pub(crate) fn write_values(
        &self,
        outputs: &[(String, Value)],
        terminal: &Terminal,
    ) -> Result<Vec<PathBuf>, Failure> {
        if self.is_json() {
            let write = |file: &mut io::BufWriter<_>| json::write_named_values(outputs, file);
            write_file(self.path(), self.force(), write)?;
            return Ok(vec![self.path().to_owned()]);
        }
        let arrays = outputs.iter().flat_map(|(name, value)| arrays_of(name, value));
        self.write_arrays(&arrays.collect::<Vec<(String, Cow<'_, Tensor>)>>(), terminal)
    }
}

/// An output for printing as JSON.
pub(crate) enum AnyEntry<'a> {
    Tensor(Entry<'a>),
    Other { name: &'a str, value_type: ValueType, value: &'a Value, data: bool },
}

impl Serialize for AnyEntry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (name, value_type, value, data) = match self {
            AnyEntry::Tensor(entry) => return entry.serialize(serializer),
            AnyEntry::Other { name, value_type, value, data } => (name, value_type, value, data),
        };
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("name", name)?;
        object.serialize_entry("type", &value_type.to_string())?;
        // Maps are small, and their values are all that there is to print.
        if *data || matches!(value, Value::Map(_) | Value::Maps(_) | Value::Absent) {
            object.serialize_entry("value", &JsonValue(value))?;
        } else if let Value::Sequence(tensors) = value {
            let shapes: Vec<&[usize]> = tensors.iter().map(Tensor::shape).collect();
            object.serialize_entry("shapes", &shapes)?;
        }
        object.end()
    }
}

impl Printing<'_> {
    /// An output of any type for printing as JSON.
    pub(crate) fn any_entry<'a>(
        &'a self,
        (name, value): &'a (String, Value),
        description: &Description,
    ) -> AnyEntry<'a> {
        match value {
            Value::Tensor(tensor) => AnyEntry::Tensor(self.entry_of(name, tensor)),
            value => {
                let value_type = type_of(description, name);
                AnyEntry::Other { name, value_type, value, data: self.data }
            }
        }
    }

    /// Prints an output that is not a tensor: the first elements of a sequence, and the largest
    /// values of a map.
    pub(crate) fn other(
        &self,
        name: &str,
        value: &Value,
        value_type: ValueType,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let name = Escaped::cut(name, 40);
        let count = |count: usize| format!("{count} element{}", if count == 1 { "" } else { "s" });
        let mut table = Table::default();
        let about = match value {
            Value::Sequence(tensors) => {
                for (at, tensor) in tensors.iter().take(self.top).enumerate() {
                    let dtype = tensor.dtype().to_string();
                    table.row([format!("[{at}]"), dtype, shape(tensor.shape())]);
                }
                count(tensors.len())
            }
            Value::Maps(maps) => {
                for (at, map) in maps.iter().take(self.top).enumerate() {
                    table.row([format!("[{at}]"), self.largest(map)]);
                }
                count(maps.len())
            }
            Value::Map(map) => {
                table.row([self.largest(map)]);
                format!("{} entries", map.len())
            }
            _ => "absent".to_owned(),
        };
        writeln!(out, "\n{name}: {value_type}, {about}")?;
        table.print(out, 2)
    }

    /// The entries of a map with the largest values.
    fn largest(&self, map: &Map) -> String {
        let mut entries: Vec<(f64, String)> = Vec::new();
        for (at, key) in map.key_texts().enumerate() {
            let key = Escaped::cut(&key, 40);
            entries.push(match map.values().data() {
                Data::String(texts) => {
                    let text = texts.get(at).map_or("", String::as_str);
                    (0.0, format!("{key} {}", Escaped::cut(text, 40)))
                }
                data => {
                    let value = value_at(data, at);
                    (value, format!("{key} {}", number(value)))
                }
            });
        }
        entries.sort_by(|a, b| b.0.total_cmp(&a.0));
        let more = if entries.len() > self.top { ", …" } else { "" };
        let shown: Vec<String> = entries.into_iter().take(self.top).map(|(_, text)| text).collect();
        shown.join(", ") + more
    }
}

/// A number of a map's values.
fn value_at(data: &Data, at: usize) -> f64 {
    let value = match data {
        Data::F32(values) => values.get(at).map(|value| f64::from(*value)),
        Data::F64(values) => values.get(at).copied(),
        Data::I64(values) => values.get(at).map(|value| *value as f64),
        // Maps of models have no other values.
        _ => None,
    };
    value.unwrap_or(f64::NAN)
}
