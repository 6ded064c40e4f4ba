//! Element types, numbered as in ONNX's `TensorProto.DataType`.

use core::fmt;

macro_rules! dtypes {
    ($($variant:ident = $code:literal, $name:literal, $size:expr;)*) => {
        /// The element type of a tensor. The discriminant is the number that ONNX gives the type
        /// in `TensorProto.DataType`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        #[non_exhaustive]
        pub enum DType {
            $(#[doc = concat!("`", $name, "`")] $variant = $code,)*
        }

        impl DType {
            /// Every element type that can cross.
            pub const ALL: &'static [DType] = &[$(DType::$variant,)*];

            /// The type with this number in `TensorProto.DataType`, if it can cross.
            pub const fn from_onnx(code: u32) -> Option<DType> {
                match code {
                    $($code => Some(DType::$variant),)*
                    _ => None,
                }
            }

            /// The name people use: `f32`, `i64`, `bool`, `string`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(DType::$variant => $name,)*
                }
            }

            /// Bytes of one element as it crosses; `None` for strings, whose elements differ in
            /// length. Elements of four and of two bits take a byte each.
            pub const fn size(self) -> Option<usize> {
                match self {
                    $(DType::$variant => $size,)*
                }
            }
        }
    };
}

dtypes! {
    F32 = 1, "f32", Some(4);
    U8 = 2, "u8", Some(1);
    I8 = 3, "i8", Some(1);
    U16 = 4, "u16", Some(2);
    I16 = 5, "i16", Some(2);
    I32 = 6, "i32", Some(4);
    I64 = 7, "i64", Some(8);
    String = 8, "string", None;
    Bool = 9, "bool", Some(1);
    F16 = 10, "f16", Some(2);
    F64 = 11, "f64", Some(8);
    U32 = 12, "u32", Some(4);
    U64 = 13, "u64", Some(8);
    BF16 = 16, "bf16", Some(2);
    F8E4M3FN = 17, "float8e4m3fn", Some(1);
    F8E4M3FNUZ = 18, "float8e4m3fnuz", Some(1);
    F8E5M2 = 19, "float8e5m2", Some(1);
    F8E5M2FNUZ = 20, "float8e5m2fnuz", Some(1);
    U4 = 21, "u4", Some(1);
    I4 = 22, "i4", Some(1);
    F4E2M1 = 23, "float4e2m1", Some(1);
    F8E8M0 = 24, "float8e8m0", Some(1);
    U2 = 25, "u2", Some(1);
    I2 = 26, "i2", Some(1);
}

impl DType {
    /// The number ONNX gives this type in `TensorProto.DataType`.
    pub const fn to_onnx(self) -> u32 {
        self as u32
    }

    /// The name of any ONNX element type, also of those that cannot cross.
    pub fn onnx_name(code: u32) -> &'static str {
        if let Some(dtype) = DType::from_onnx(code) {
            return dtype.name();
        }
        match code {
            0 => "undefined",
            14 => "complex64",
            15 => "complex128",
            27 => "float6e2m3",
            28 => "float6e3m2",
            _ => "unknown",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
