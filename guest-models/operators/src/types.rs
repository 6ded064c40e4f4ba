//! Sets of element types.

include!("../../element_types.rs");

/// A set of element types: the bit of a type is its number in ONNX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Types(u32);

macro_rules! types {
    ($($group:ident {
        $($variant:ident = $number:literal, $name:literal, $onnx:literal, $size:expr;)*
    })*) => {
        /// Each element type with ONNX's name, in the order in which messages list them.
        const ALL: &[(Types, &str)] = &[$($((Types(1 << $number), $onnx),)*)*];

        /// Each element type as a set of its own.
        #[allow(non_upper_case_globals, reason = "named as the element types of the ABI")]
        pub(crate) mod one {
            use super::Types;

            $($(pub const $variant: Types = Types(1 << $number);)*)*
        }

        $(types!(@group $group $($number)*);)*
    };
    (@group computed $($number:literal)*) => {
        /// The types in which operators compute, and strings.
        pub const ANY: Types = Types($(1 << $number)|*);
    };
    (@group stored $($number:literal)*) => {
        /// Types that are only stored, moved and converted, and not computed with.
        pub const STORED: Types = Types($(1 << $number)|*);
    };
}

element_types!(types);

pub use one::{
    BF16, Bool as BOOL, F4E2M1, F8E8M0, F16, F32, F64, I8, I16, I32, I64, String as STRING, U8,
    U16, U32, U64,
};

pub const FLOATS: Types = F16.or(F32).or(F64);
/// Floats of 16 bits: an operator reads them as float32, computes in float32, and rounds its
/// results once.
pub const NARROW: Types = F16.or(BF16);
/// Every float that operators compute with.
pub const REALS: Types = FLOATS.or(BF16);
/// Those of at most 32 bits.
pub const SINGLES: Types = F32.or(NARROW);
pub const SIGNED: Types = I8.or(I16).or(I32).or(I64);
pub const UNSIGNED: Types = U8.or(U16).or(U32).or(U64);
pub const INTEGERS: Types = SIGNED.or(UNSIGNED);
/// Integers of 32 and 64 bits.
pub const WIDE_INTEGERS: Types = I32.or(I64).or(U32).or(U64);
pub const NUMBERS: Types = FLOATS.or(INTEGERS);
pub const PLAIN: Types = NUMBERS.or(BOOL);
pub const INDICES: Types = I32.or(I64);
pub const BYTES: Types = I8.or(U8);
/// The types of eight bits with a sign, an exponent and a mantissa.
pub const FLOAT8: Types = one::F8E4M3FN.or(one::F8E4M3FNUZ).or(one::F8E5M2).or(one::F8E5M2FNUZ);
/// Integers of four bits, and of two.
pub const INT4: Types = one::I4.or(one::U4);
pub const INT2: Types = one::I2.or(one::U2);

impl Types {
    pub const fn or(self, other: Types) -> Types {
        Types(self.0 | other.0)
    }

    pub fn has(self, one: Types) -> bool {
        self.0 & one.0 == one.0
    }

    /// The number in ONNX of a set of one element type.
    pub fn number(self) -> Option<i32> {
        (self.0.count_ones() == 1).then(|| self.0.trailing_zeros() as i32)
    }

    /// The set of one element type, by its number in ONNX.
    pub fn of(number: i32) -> Option<Types> {
        ALL.iter().map(|(one, _)| *one).find(|one| one.number() == Some(number))
    }

    /// Their ONNX names.
    pub fn names(self) -> String {
        let names = ALL.iter().filter(|(one, _)| self.has(*one)).map(|(_, name)| *name);
        names.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_computed_in_or_stored() {
        assert_eq!(ANY.0 & STORED.0, 0);
        let all = ALL.iter().fold(0, |all, (one, _)| all | one.0);
        assert_eq!(ANY.or(STORED).0, all);
        assert_eq!(all.count_ones() as usize, ALL.len());
    }

    #[test]
    fn groups_have_every_type_of_their_kind() {
        assert_eq!(ANY, PLAIN.or(STRING));
        let small = FLOAT8.or(F8E8M0).or(F4E2M1).or(INT4).or(INT2);
        assert_eq!(STORED, small.or(BF16));
    }

    #[test]
    fn type_has_the_number_and_the_name_that_onnx_gives_it() {
        for (number, name) in [(1, "float"), (7, "int64"), (8, "string"), (26, "int2")] {
            let one = Types::of(number).unwrap();
            assert_eq!((one.number(), one.names()), (Some(number), name.to_owned()));
        }
        assert_eq!(Types::of(0), None);
        assert_eq!(Types::of(14), None, "complex64");
        assert_eq!(Types::of(-1), None);
        assert_eq!(FLOATS.number(), None);
        assert_eq!(FLOATS.names(), "float16, float, double");
    }
}
