//! Sets of element types.

/// A set of element types, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Types(u16);

/// Numbers and names, as ONNX has them.
const ALL: [(i32, &str); 13] = [
    (10, "float16"),
    (1, "float"),
    (11, "double"),
    (3, "int8"),
    (5, "int16"),
    (6, "int32"),
    (7, "int64"),
    (2, "uint8"),
    (4, "uint16"),
    (12, "uint32"),
    (13, "uint64"),
    (9, "bool"),
    (8, "string"),
];

pub const F16: Types = Types(1 << 0);
pub const F32: Types = Types(1 << 1);
pub const F64: Types = Types(1 << 2);
pub const I8: Types = Types(1 << 3);
pub const I16: Types = Types(1 << 4);
pub const I32: Types = Types(1 << 5);
pub const I64: Types = Types(1 << 6);
pub const U8: Types = Types(1 << 7);
pub const U16: Types = Types(1 << 8);
pub const U32: Types = Types(1 << 9);
pub const U64: Types = Types(1 << 10);
pub const BOOL: Types = Types(1 << 11);
pub const STRING: Types = Types(1 << 12);

pub const FLOATS: Types = F16.or(F32).or(F64);
pub const SIGNED: Types = I8.or(I16).or(I32).or(I64);
pub const UNSIGNED: Types = U8.or(U16).or(U32).or(U64);
pub const INTEGERS: Types = SIGNED.or(UNSIGNED);
pub const NUMBERS: Types = FLOATS.or(INTEGERS);
pub const PLAIN: Types = NUMBERS.or(BOOL);
pub const ANY: Types = PLAIN.or(STRING);
pub const INDICES: Types = I32.or(I64);
pub const BYTES: Types = I8.or(U8);

impl Types {
    pub const fn or(self, other: Types) -> Types {
        Types(self.0 | other.0)
    }

    pub fn has(self, one: Types) -> bool {
        self.0 & one.0 == one.0
    }

    /// The set of one element type, by its number in ONNX.
    pub fn of(number: i32) -> Option<Types> {
        let at = ALL.iter().position(|(dtype, _)| *dtype == number)?;
        Some(Types(1 << at))
    }

    /// As ONNX calls them.
    pub fn names(self) -> String {
        let of = |(at, (_, name)): (usize, &(i32, &'static str))| {
            (self.0 >> at & 1 == 1).then_some(*name)
        };
        let names: Vec<&str> = ALL.iter().enumerate().filter_map(of).collect();
        names.join(", ")
    }
}
