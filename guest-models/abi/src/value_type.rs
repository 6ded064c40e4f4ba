//! The types of a model's inputs and outputs, and how a value that is not a tensor crosses: as
//! several tensors, its parts. The message of a run only has tensors.
//!
//! A sequence is the elements of all its tensors one after another, and a row with the shape of each
//! tensor: rows are as long as the most dimensions, and -1 follows the last dimension. A map is its
//! keys and its values. A sequence of maps is the keys and the values of all its maps, and the number
//! of entries of each. An optional tensor is, as an input, the tensor or nothing; as an output, a
//! sequence of at most one tensor. An optional sequence is, as an input, the sequence or nothing; as
//! an output, a sequence and whether it is there.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::reader::{DecodeError, Reader};
use crate::writer::Writer;
use crate::{DType, MAX_NAME};

/// The declared type of an input or output. Only the types that ONNX's operators use are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ValueType {
    /// A tensor, or nothing is declared.
    #[default]
    Tensor,
    /// Tensors of one element type.
    Sequence(DType),
    /// Keys and their values, which are scalars.
    Map(DType, DType),
    /// Maps of one type.
    SequenceOfMaps(DType, DType),
    /// A tensor that may be absent.
    OptionalTensor(DType),
    /// A sequence of tensors that may be absent.
    OptionalSequence(DType),
    /// Another type, which cannot cross.
    Other,
}

/// One of the tensors that a value crosses as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The tensor itself.
    Whole,
    /// The elements of the tensors of a sequence.
    Elements,
    /// The shapes of the tensors of a sequence.
    Shapes,
    /// The keys of a map, or of all maps of a sequence.
    Keys,
    /// The values of a map, or of all maps of a sequence.
    Values,
    /// The number of entries of each map of a sequence.
    Lengths,
    /// Whether an optional sequence is there.
    Present,
}

impl Part {
    /// The name of the tensor, from that of the value.
    pub fn name(self, of: &str) -> String {
        let suffix = match self {
            Part::Whole | Part::Elements | Part::Values => "",
            Part::Shapes => ".shapes",
            Part::Keys => ".keys",
            Part::Lengths => ".lengths",
            Part::Present => ".present",
        };
        [of, suffix].concat()
    }

    /// Number of dimensions; `None` for a whole tensor, which may have any.
    pub fn rank(self) -> Option<usize> {
        match self {
            Part::Whole => None,
            Part::Present => Some(0),
            Part::Elements | Part::Keys | Part::Values | Part::Lengths => Some(1),
            Part::Shapes => Some(2),
        }
    }
}

impl ValueType {
    /// The parts of an input. An absent optional has none of them.
    pub fn input_parts(self) -> Vec<(Part, DType)> {
        match self {
            ValueType::OptionalTensor(dtype) => alloc::vec![(Part::Whole, dtype)],
            ValueType::OptionalSequence(dtype) => ValueType::Sequence(dtype).input_parts(),
            other => other.output_parts(),
        }
    }

    /// The parts of an output; none for a tensor, whose element type is declared elsewhere.
    pub fn output_parts(self) -> Vec<(Part, DType)> {
        let (shapes, lengths) = ((Part::Shapes, DType::I64), (Part::Lengths, DType::I64));
        match self {
            ValueType::Tensor | ValueType::Other => Vec::new(),
            ValueType::Sequence(dtype) | ValueType::OptionalTensor(dtype) => {
                alloc::vec![(Part::Elements, dtype), shapes]
            }
            ValueType::Map(key, value) => {
                alloc::vec![(Part::Keys, key), (Part::Values, value)]
            }
            ValueType::SequenceOfMaps(key, value) => {
                alloc::vec![(Part::Keys, key), (Part::Values, value), lengths]
            }
            ValueType::OptionalSequence(dtype) => {
                alloc::vec![(Part::Elements, dtype), shapes, (Part::Present, DType::Bool)]
            }
        }
    }

    /// The type of maps, if the types of their keys and values can cross.
    pub fn map(key: DType, value: DType) -> Option<ValueType> {
        let keys = matches!(key, DType::I64 | DType::String);
        let values = matches!(value, DType::F32 | DType::F64 | DType::I64 | DType::String);
        (keys && values).then_some(ValueType::Map(key, value))
    }

    pub(crate) fn write(self, writer: &mut Writer) {
        let none = DType::I64;
        let (code, key, of) = match self {
            ValueType::Tensor => (0, none, none),
            ValueType::Sequence(of) => (1, none, of),
            ValueType::Map(key, of) => (2, key, of),
            ValueType::SequenceOfMaps(key, of) => (3, key, of),
            ValueType::OptionalTensor(of) => (4, none, of),
            ValueType::OptionalSequence(of) => (5, none, of),
            ValueType::Other => (6, none, none),
        };
        [code, key.to_onnx(), of.to_onnx()].into_iter().for_each(|word| writer.u32(word));
    }

    /// Reads a type. Every type has one encoding.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<ValueType, DecodeError> {
        let at = reader.at();
        let invalid = DecodeError::Invalid { at, what: "type" };
        let code = reader.u32()?;
        let mut dtype = || DType::from_onnx(reader.u32()?).ok_or(invalid.clone());
        let (key, of): (DType, DType) = (dtype()?, dtype()?);
        let map = ValueType::map(key, of);
        let found = match (code, map) {
            (0, _) => ValueType::Tensor,
            (1, _) => ValueType::Sequence(of),
            (2, Some(map)) => map,
            (3, Some(_)) => ValueType::SequenceOfMaps(key, of),
            (4, _) => ValueType::OptionalTensor(of),
            (5, _) => ValueType::OptionalSequence(of),
            (6, _) => ValueType::Other,
            _ => return Err(invalid),
        };
        let mut again = Writer::with_capacity(12);
        found.write(&mut again);
        let unused = [code, key.to_onnx(), of.to_onnx()].map(u32::to_le_bytes).concat();
        if again.finish() == unused { Ok(found) } else { Err(invalid) }
    }
}

/// Whether the names of all parts are short enough, and all differ.
pub fn part_names_fit<'a>(
    values: impl IntoIterator<Item = (&'a str, ValueType)>,
    parts: fn(ValueType) -> Vec<(Part, DType)>,
) -> bool {
    let mut names: Vec<String> = Vec::new();
    for (name, value_type) in values {
        match &*parts(value_type) {
            [] => names.push(name.into()),
            parts => names.extend(parts.iter().map(|(part, _)| part.name(name))),
        }
    }
    let short = names.iter().all(|name| name.len() <= MAX_NAME);
    names.sort();
    short && names.windows(2).all(|pair| pair[0] != pair[1])
}

/// The type as ONNX writes it: `seq(map(string, float))`.
impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueType::Tensor => f.write_str("tensor"),
            ValueType::Sequence(of) => write!(f, "seq(tensor({}))", of.long_name()),
            ValueType::Map(key, of) => {
                write!(f, "map({}, {})", key.long_name(), of.long_name())
            }
            ValueType::SequenceOfMaps(key, of) => {
                write!(f, "seq({})", ValueType::Map(*key, *of))
            }
            ValueType::OptionalTensor(of) => write!(f, "optional(tensor({}))", of.long_name()),
            ValueType::OptionalSequence(of) => {
                write!(f, "optional({})", ValueType::Sequence(*of))
            }
            ValueType::Other => f.write_str("an unsupported type"),
        }
    }
}
