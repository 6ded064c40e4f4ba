//! Sets of element types, and what is known of a value.

use tract_onnx::pb::tensor_proto::DataType;

/// A set of element types, a bit each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Types(u16);

const ALL: [(DataType, &str); 13] = [
    (DataType::Float16, "float16"),
    (DataType::Float, "float"),
    (DataType::Double, "double"),
    (DataType::Int8, "int8"),
    (DataType::Int16, "int16"),
    (DataType::Int32, "int32"),
    (DataType::Int64, "int64"),
    (DataType::Uint8, "uint8"),
    (DataType::Uint16, "uint16"),
    (DataType::Uint32, "uint32"),
    (DataType::Uint64, "uint64"),
    (DataType::Bool, "bool"),
    (DataType::String, "string"),
];

pub(super) const F16: Types = Types(1 << 0);
pub(super) const F32: Types = Types(1 << 1);
pub(super) const F64: Types = Types(1 << 2);
pub(super) const I8: Types = Types(1 << 3);
pub(super) const I16: Types = Types(1 << 4);
pub(super) const I32: Types = Types(1 << 5);
pub(super) const I64: Types = Types(1 << 6);
pub(super) const U8: Types = Types(1 << 7);
pub(super) const U16: Types = Types(1 << 8);
pub(super) const U32: Types = Types(1 << 9);
pub(super) const U64: Types = Types(1 << 10);
pub(super) const BOOL: Types = Types(1 << 11);
pub(super) const STRING: Types = Types(1 << 12);

pub(super) const FLOATS: Types = F16.or(F32).or(F64);
pub(super) const SIGNED: Types = I8.or(I16).or(I32).or(I64);
pub(super) const UNSIGNED: Types = U8.or(U16).or(U32).or(U64);
pub(super) const INTEGERS: Types = SIGNED.or(UNSIGNED);
pub(super) const NUMBERS: Types = FLOATS.or(INTEGERS);
pub(super) const PLAIN: Types = NUMBERS.or(BOOL);
pub(super) const ANY: Types = PLAIN.or(STRING);
pub(super) const INDICES: Types = I32.or(I64);
pub(super) const BYTES: Types = I8.or(U8);

impl Types {
    pub(super) const fn or(self, other: Types) -> Types {
        Types(self.0 | other.0)
    }

    pub(super) fn has(self, one: Types) -> bool {
        self.0 & one.0 == one.0
    }

    /// The set of one element type, by its number in ONNX.
    pub(super) fn of(number: i32) -> Option<Types> {
        let at = ALL.iter().position(|(dtype, _)| *dtype as i32 == number)?;
        Some(Types(1 << at))
    }

    /// As ONNX calls them.
    pub(super) fn names(self) -> String {
        let of = |(at, (_, name)): (usize, &(DataType, &'static str))| {
            (self.0 >> at & 1 == 1).then_some(*name)
        };
        let names: Vec<&str> = ALL.iter().enumerate().filter_map(of).collect();
        names.join(", ")
    }
}

/// As ONNX calls an element type, known here or not.
pub(super) fn name_of(number: i32) -> String {
    match DataType::try_from(number) {
        Ok(DataType::Undefined) => "an undefined type".into(),
        Ok(dtype) => dtype.as_str_name().to_lowercase(),
        Err(_) => format!("the unknown type {number}"),
    }
}
