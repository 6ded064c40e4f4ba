//! The description of a model, as read inside the sandbox. The author of the model controls all
//! text in it.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::header::{Kind, write_header};
use crate::reader::{DecodeError, Reader};
use crate::value_type::ValueType;
use crate::writer::{Writer, cut};
use crate::{DType, MAX_LIST, MAX_NAME, MAX_RANK, MAX_TENSORS, MAX_TEXT};

/// One dimension of a declared shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// A fixed number of elements.
    Fixed(u64),
    /// A name; equal names mean equal sizes within the model.
    Symbol(String),
    /// Not declared.
    Unknown,
}

impl core::fmt::Display for Dim {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Dim::Fixed(size) => write!(f, "{size}"),
            Dim::Symbol(name) => f.write_str(name),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

/// A declared input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueInfo {
    /// Name, unique among inputs or among outputs.
    pub name: String,
    /// ONNX's number of the element type, also of types that cannot cross; 0 if the value is not a
    /// tensor or has no declared type.
    pub elem_type: u32,
    /// Whether it is a tensor, or which other type it has.
    pub value_type: ValueType,
    /// The shape, if declared; of an optional tensor that of the tensor.
    pub shape: Option<Vec<Dim>>,
    /// Whether an initializer is the default of this input.
    pub has_default: bool,
}

impl ValueInfo {
    /// The element type, if it can cross.
    pub fn dtype(&self) -> Option<DType> {
        DType::from_onnx(self.elem_type)
    }

    /// The name of the element type of a tensor, and the type of any other value as ONNX writes it:
    /// `f32`, `seq(map(string, float))`.
    pub fn type_name(&self) -> String {
        match self.value_type {
            ValueType::Tensor => DType::onnx_name(self.elem_type).into(),
            other => other.to_string(),
        }
    }
}

/// An operator set that the model imports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpsetImport {
    /// Domain; empty for the ONNX operator set.
    pub domain: String,
    /// Version.
    pub version: i64,
}

/// The number of nodes of an operator, including those of subgraphs and functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorCount {
    /// Domain; empty for the ONNX operator set.
    pub domain: String,
    /// Operator name.
    pub op_type: String,
    /// Number of nodes.
    pub count: u64,
    /// Why the first of these nodes that is not implemented is refused; empty if all are
    /// implemented, as far as that is known from each node alone.
    pub refused: String,
}

/// A function that the model defines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionInfo {
    /// Domain.
    pub domain: String,
    /// Name.
    pub name: String,
    /// Number of nodes in its body.
    pub nodes: u64,
}

/// A tensor whose data is in another file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalData {
    /// Name of the initializer.
    pub tensor: String,
    /// Path of the file, relative to the model.
    pub location: String,
    /// Offset in bytes, as text.
    pub offset: String,
    /// Length in bytes, as text; empty if not given.
    pub length: String,
}

/// The description of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Version of the file format.
    pub ir_version: i64,
    /// The program that wrote the file.
    pub producer_name: String,
    /// Its version.
    pub producer_version: String,
    /// Reverse-DNS namespace of the model.
    pub domain: String,
    /// Version of the model within its domain.
    pub model_version: i64,
    /// Documentation.
    pub doc_string: String,
    /// Name of the graph.
    pub graph_name: String,
    /// Declared inputs.
    pub inputs: Vec<ValueInfo>,
    /// Declared outputs.
    pub outputs: Vec<ValueInfo>,
    /// Operator sets.
    pub opset_imports: Vec<OpsetImport>,
    /// Operators, most used first.
    pub operators: Vec<OperatorCount>,
    /// Number of nodes, including those of subgraphs and functions.
    pub nodes: u64,
    /// Number of these nodes that draw random numbers, or may do so.
    pub random_nodes: u64,
    /// Number of elements of all constant tensors (initializers and `Constant` nodes).
    pub parameters: u64,
    /// Key and value pairs.
    pub metadata: Vec<(String, String)>,
    /// Functions the model defines.
    pub functions: Vec<FunctionInfo>,
    /// Tensors kept outside the file.
    pub external_data: Vec<ExternalData>,
    /// Whether any text or list above was truncated.
    pub truncated: bool,
}

impl Description {
    /// Encodes the description as an answer, truncating texts and lists to their bounds.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Truncating { writer: Writer::with_capacity(4096), truncated: self.truncated };
        write_header(&mut out.writer, Kind::Description);
        out.writer.i64(self.ir_version);
        out.text(&self.producer_name);
        out.text(&self.producer_version);
        out.text(&self.domain);
        out.writer.i64(self.model_version);
        out.text(&self.doc_string);
        out.text(&self.graph_name);
        for values in [&self.inputs, &self.outputs] {
            out.list(values, MAX_TENSORS, |out, value| {
                out.name(&value.name);
                out.writer.u32(value.elem_type);
                value.value_type.write(&mut out.writer);
                out.writer.u32(value.has_default.into());
                out.writer.u32(value.shape.is_some().into());
                out.list(value.shape.as_deref().unwrap_or(&[]), MAX_RANK, |out, dim| match dim {
                    Dim::Unknown => out.writer.u32(0),
                    Dim::Fixed(size) => {
                        out.writer.u32(1);
                        out.writer.u64(*size);
                    }
                    Dim::Symbol(name) => {
                        out.writer.u32(2);
                        out.name(name);
                    }
                });
            });
        }
        out.list(&self.opset_imports, MAX_LIST, |out, import| {
            out.name(&import.domain);
            out.writer.i64(import.version);
        });
        out.list(&self.operators, MAX_LIST, |out, operator| {
            out.name(&operator.domain);
            out.name(&operator.op_type);
            out.writer.u64(operator.count);
            out.text(&operator.refused);
        });
        out.writer.u64(self.nodes);
        out.writer.u64(self.random_nodes);
        out.writer.u64(self.parameters);
        out.list(&self.metadata, MAX_LIST, |out, (key, value)| {
            out.name(key);
            out.text(value);
        });
        out.list(&self.functions, MAX_LIST, |out, function| {
            out.name(&function.domain);
            out.name(&function.name);
            out.writer.u64(function.nodes);
        });
        out.list(&self.external_data, MAX_LIST, |out, external| {
            out.name(&external.tensor);
            out.name(&external.location);
            out.name(&external.offset);
            out.name(&external.length);
        });
        let truncated = out.truncated;
        out.writer.u32(truncated.into());
        out.writer.finish()
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Description, DecodeError> {
        Ok(Description {
            ir_version: reader.i64()?,
            producer_name: text(reader)?,
            producer_version: text(reader)?,
            domain: text(reader)?,
            model_version: reader.i64()?,
            doc_string: text(reader)?,
            graph_name: text(reader)?,
            inputs: reader.list(MAX_TENSORS, "number of inputs", read_value)?,
            outputs: reader.list(MAX_TENSORS, "number of outputs", read_value)?,
            opset_imports: reader.list(MAX_LIST, "number of operator sets", |reader| {
                Ok(OpsetImport { domain: name(reader)?, version: reader.i64()? })
            })?,
            operators: reader.list(MAX_LIST, "number of operators", |reader| {
                let (domain, op_type) = (name(reader)?, name(reader)?);
                let (count, refused) = (reader.u64()?, text(reader)?);
                Ok(OperatorCount { domain, op_type, count, refused })
            })?,
            nodes: reader.u64()?,
            random_nodes: reader.u64()?,
            parameters: reader.u64()?,
            metadata: reader.list(MAX_LIST, "number of metadata entries", |reader| {
                Ok((name(reader)?, text(reader)?))
            })?,
            functions: reader.list(MAX_LIST, "number of functions", |reader| {
                let (domain, function) = (name(reader)?, name(reader)?);
                Ok(FunctionInfo { domain, name: function, nodes: reader.u64()? })
            })?,
            external_data: reader.list(MAX_LIST, "number of external tensors", |reader| {
                let (tensor, location) = (name(reader)?, name(reader)?);
                let (offset, length) = (name(reader)?, name(reader)?);
                Ok(ExternalData { tensor, location, offset, length })
            })?,
            truncated: reader.bool("truncation mark")?,
        })
    }
}

fn name(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    reader.string(MAX_NAME, "name")
}

fn text(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    reader.string(MAX_TEXT, "text")
}

fn read_value(reader: &mut Reader<'_>) -> Result<ValueInfo, DecodeError> {
    let name = name(reader)?;
    let at = reader.at();
    let elem_type = reader.u32()?;
    let value_type = ValueType::read(reader)?;
    if value_type != ValueType::Tensor && elem_type != 0 {
        return Err(DecodeError::Invalid { at, what: "element type" });
    }
    let has_default = reader.bool("default mark")?;
    let has_shape = reader.bool("shape mark")?;
    let at = reader.at();
    let dims = reader.list(MAX_RANK, "rank", |reader| {
        let at = reader.at();
        match reader.u32()? {
            0 => Ok(Dim::Unknown),
            1 => Ok(Dim::Fixed(reader.u64()?)),
            2 => Ok(Dim::Symbol(reader.string(MAX_NAME, "symbol")?)),
            _ => Err(DecodeError::Invalid { at, what: "dimension" }),
        }
    })?;
    if !has_shape && !dims.is_empty() {
        return Err(DecodeError::Invalid { at, what: "shape mark" });
    }
    let shape = has_shape.then_some(dims);
    Ok(ValueInfo { name, elem_type, value_type, shape, has_default })
}

/// A writer that truncates texts and lists, and records that it did.
struct Truncating {
    writer: Writer,
    truncated: bool,
}

impl Truncating {
    fn cut(&mut self, value: &str, limit: usize) {
        let kept = cut(value, limit);
        self.truncated |= kept.len() < value.len();
        self.writer.str(kept);
    }

    fn name(&mut self, value: &str) {
        self.cut(value, MAX_NAME);
    }

    fn text(&mut self, value: &str) {
        self.cut(value, MAX_TEXT);
    }

    fn list<T>(&mut self, items: &[T], limit: usize, mut item: impl FnMut(&mut Truncating, &T)) {
        let kept = &items[..items.len().min(limit)];
        self.truncated |= kept.len() < items.len();
        self.writer.u32(kept.len() as u32);
        for each in kept {
            item(self, each);
        }
    }
}
