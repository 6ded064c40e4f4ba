//! Sets of element types.

/// A set of element types, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Types(u32);

/// Numbers and names, as ONNX has them.
const ALL: [(i32, &str); 24] = [
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
    (16, "bfloat16"),
    (17, "float8e4m3fn"),
    (18, "float8e4m3fnuz"),
    (19, "float8e5m2"),
    (20, "float8e5m2fnuz"),
    (24, "float8e8m0"),
    (23, "float4e2m1"),
    (22, "int4"),
    (21, "uint4"),
    (26, "int2"),
    (25, "uint2"),
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
pub const BF16: Types = Types(1 << 13);
pub const F8E8M0: Types = Types(1 << 18);
pub const F4E2M1: Types = Types(1 << 19);

pub const FLOATS: Types = F16.or(F32).or(F64);
/// With bfloat16, which is computed in float32 and rounded.
pub const REALS: Types = FLOATS.or(BF16);
pub const SIGNED: Types = I8.or(I16).or(I32).or(I64);
pub const UNSIGNED: Types = U8.or(U16).or(U32).or(U64);
pub const INTEGERS: Types = SIGNED.or(UNSIGNED);
pub const NUMBERS: Types = FLOATS.or(INTEGERS);
pub const PLAIN: Types = NUMBERS.or(BOOL);
pub const ANY: Types = PLAIN.or(STRING);
pub const INDICES: Types = I32.or(I64);
pub const BYTES: Types = I8.or(U8);
/// The types of eight bits with a sign, an exponent and a mantissa.
pub const FLOAT8: Types = Types(0b1111 << 14);
/// Integers of four bits, and of two.
pub const INT4: Types = Types(0b11 << 20);
pub const INT2: Types = Types(0b11 << 22);
/// Types that are stored, moved and converted. Nothing is computed in them.
pub const STORED: Types = BF16.or(FLOAT8).or(F8E8M0).or(F4E2M1).or(INT4).or(INT2);

impl Types {
    pub const fn or(self, other: Types) -> Types {
        Types(self.0 | other.0)
    }

    pub fn has(self, one: Types) -> bool {
        self.0 & one.0 == one.0
    }

    /// The number in ONNX of a set of one element type.
    pub fn number(self) -> Option<i32> {
        let at = self.0.trailing_zeros() as usize;
        ALL.get(at).filter(|_| self.0.count_ones() == 1).map(|(number, _)| *number)
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
