//! Prints outputs as a table or as JSON, and writes them to files.

mod files;
mod labels;
mod temporary;
mod values;

use std::borrow::Borrow;
use std::io::{self, Write};

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::{Value, json};

use super::failure::Failure;
use super::table::{Table, number, shape};
use belljar_tensor::json::Values;
use belljar_tensor::summary::Summary;
use belljar_tensor::{Data, Tensor};
use belljar_text::Escaped;

pub(super) use files::{Target, check_free, write_file};
pub(super) use labels::Labels;
pub(super) use values::type_of;

/// How outputs are printed.
pub(super) struct Printing<'a> {
    pub(super) labels: Option<&'a Labels>,
    pub(super) top: usize,
    pub(super) data: bool,
}

impl Printing<'_> {
    pub(super) fn check<T: Borrow<Tensor>>(&self, outputs: &[(String, T)]) -> Result<(), Failure> {
        self.labels.map_or(Ok(()), |labels| labels.check(outputs))
    }

    pub(super) fn table<T: Borrow<Tensor>>(
        &self,
        outputs: &[(String, T)],
        mut out: impl Write,
    ) -> io::Result<()> {
        let mut table = Table::new(&["output", "dtype", "shape", "min", "mean", "max", ""])
            .right(3)
            .right(4)
            .right(5);
        let cell = |value: Option<f64>| value.map_or_else(|| "-".into(), number);
        for (name, tensor) in outputs {
            let tensor = tensor.borrow();
            let summary = Summary::of(tensor, 0);
            let mut remarks = Vec::new();
            if summary.nan_count > 0 {
                remarks.push(format!("{} NaN", summary.nan_count));
            }
            if summary.infinite_count > 0 {
                remarks.push(format!("{} infinite", summary.infinite_count));
            }
            table.row([
                Escaped::cut(name, 40).to_string(),
                tensor.dtype().to_string(),
                shape(tensor.shape()),
                cell(summary.min),
                cell(summary.mean),
                cell(summary.max),
                remarks.join(", "),
            ]);
        }
        table.print(&mut out, 0)?;
        let tensors = outputs.iter().map(|(name, tensor)| (name, tensor.borrow()));
        for (name, tensor) in tensors.filter(|(_, tensor)| self.top > 0 && tensor.len() > 0) {
            // One output at a time, to bound the memory for the largest values.
            let top = self.top_of(tensor);
            let strings = tensor.as_slice::<String>().unwrap_or_default();
            if top.is_empty() && strings.is_empty() {
                continue;
            }
            writeln!(out, "\n{}: top {}", Escaped::cut(name, 40), self.top)?;
            let mut table = Table::default().right(1);
            for (index, value) in &top {
                let label = self.label(tensor, index).unwrap_or_default();
                let label = Escaped::cut(label, 60).to_string();
                table.row([format!("{index:?}"), number(*value), label]);
            }
            for string in strings.iter().take(self.top) {
                table.row([Escaped::cut(string, 100).to_string()]);
            }
            table.print(&mut out, 2)?;
        }
        Ok(())
    }

    /// An output for printing as JSON. Its elements are serialised one by one.
    #[cfg(feature = "programs")]
    pub(super) fn entry<'a>(&'a self, (name, tensor): &'a (String, Tensor)) -> Entry<'a> {
        self.entry_of(name, tensor)
    }

    pub(super) fn entry_of<'a>(&'a self, name: &'a str, tensor: &'a Tensor) -> Entry<'a> {
        Entry { printing: self, name, tensor }
    }

    /// The largest values; none for strings.
    fn top_of(&self, tensor: &Tensor) -> Vec<(Vec<usize>, f64)> {
        match tensor.data() {
            Data::String(_) => Vec::new(),
            _ => Summary::of(tensor, self.top).top,
        }
    }

    /// The label of an index; an output of a guest program may have no classes.
    fn label(&self, tensor: &Tensor, index: &[usize]) -> Option<&str> {
        self.labels.filter(|labels| labels.fits(tensor)).and_then(|labels| labels.of(index))
    }

    fn top_entry(&self, tensor: &Tensor, index: &[usize]) -> Value {
        let value = element(tensor, index);
        match self.label(tensor, index) {
            Some(label) => json!({ "index": index, "value": value, "label": label }),
            None => json!({ "index": index, "value": value }),
        }
    }
}

/// One element, exactly. JSON has no infinities, so they are strings, as in tensor files.
fn element(tensor: &Tensor, index: &[usize]) -> Value {
    let flat = index.iter().zip(tensor.shape()).fold(0, |flat, (at, size)| flat * size + at);
    let float = |value: f64, exact: Value| match value {
        f64::INFINITY => json!("Infinity"),
        f64::NEG_INFINITY => json!("-Infinity"),
        _ => exact,
    };
    fn at<T: Serialize>(values: &[T], flat: usize) -> Value {
        json!(values.get(flat))
    }
    match tensor.data() {
        Data::F16(values) => {
            values.get(flat).map_or(Value::Null, |v| float(v.to_f64(), json!(v.to_f32())))
        }
        Data::F32(values) => values.get(flat).map_or(Value::Null, |v| float((*v).into(), json!(v))),
        Data::F64(values) => values.get(flat).map_or(Value::Null, |v| float(*v, json!(v))),
        Data::BF16(values) => {
            values.get(flat).map_or(Value::Null, |v| float(v.to_f64(), json!(v.to_f32())))
        }
        Data::Coded(coded) => coded.value(flat).map_or(Value::Null, |value| {
            float(value, if coded.are_integers() { json!(value as i64) } else { json!(value) })
        }),
        Data::I8(values) => at(values, flat),
        Data::I16(values) => at(values, flat),
        Data::I32(values) => at(values, flat),
        Data::I64(values) => at(values, flat),
        Data::U8(values) => at(values, flat),
        Data::U16(values) => at(values, flat),
        Data::U32(values) => at(values, flat),
        Data::U64(values) => at(values, flat),
        Data::Bool(values) => at(values, flat),
        Data::String(values) => at(values, flat),
    }
}

/// An output as JSON.
pub(super) struct Entry<'a> {
    printing: &'a Printing<'a>,
    name: &'a str,
    tensor: &'a Tensor,
}

impl Serialize for Entry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Entry { printing, name, tensor } = *self;
        let mut map = serializer.serialize_map(None)?;
        if printing.data {
            map.serialize_entry("data", &Values(tensor.data()))?;
        }
        map.serialize_entry("dtype", tensor.dtype().name())?;
        map.serialize_entry("name", name)?;
        map.serialize_entry("shape", tensor.shape())?;
        let summary = Summary::of(tensor, 0);
        let strings = tensor.as_slice::<String>().unwrap_or_default();
        let strings = strings.get(..printing.top.min(strings.len())).unwrap_or_default();
        if !strings.is_empty() {
            map.serialize_entry("strings", strings)?;
        }
        let summary_entry = json!({
            "min": summary.min,
            "mean": summary.mean,
            "max": summary.max,
            "nan": summary.nan_count,
            "infinite": summary.infinite_count,
        });
        map.serialize_entry("summary", &summary_entry)?;
        let top = printing.top_of(tensor);
        let top: Vec<Value> =
            top.iter().map(|(index, _)| printing.top_entry(tensor, index)).collect();
        map.serialize_entry("top", &top)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_exact() {
        let big = Tensor::new(vec![0i64, (1 << 53) + 1], &[1, 2]).unwrap();
        assert_eq!(element(&big, &[0, 1]).to_string(), "9007199254740993");
        let small = Tensor::new(vec![0.1f32, f32::NEG_INFINITY], &[2]).unwrap();
        assert_eq!(element(&small, &[0]), json!(0.1f32));
        assert_eq!(element(&small, &[1]).to_string(), "\"-Infinity\"");
        assert_eq!(element(&Tensor::scalar(true), &[]).to_string(), "true");
    }
}
