//! Element types, numbered as in ONNX's `TensorProto.DataType`.

use core::fmt;

include!("../../element_types.rs");

macro_rules! dtypes {
    ($($group:ident {
        $($variant:ident = $code:literal, $name:literal, $onnx:literal, $size:expr;)*
    })*) => {
        /// The element type of a tensor. The discriminant is the number that ONNX gives the type
        /// in `TensorProto.DataType`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        #[non_exhaustive]
        pub enum DType {
            $($(#[doc = concat!("`", $name, "`")] $variant = $code,)*)*
        }

        impl DType {
            /// Every element type that can cross.
            pub const ALL: &'static [DType] = &[$($(DType::$variant,)*)*];

            /// The type with this number in `TensorProto.DataType`, if it can cross.
            pub const fn from_onnx(code: u32) -> Option<DType> {
                match code {
                    $($($code => Some(DType::$variant),)*)*
                    _ => None,
                }
            }

            /// The short name: `f32`, `i64`, `bool`, `string`.
            pub const fn name(self) -> &'static str {
                match self {
                    $($(DType::$variant => $name,)*)*
                }
            }

            /// The name in ONNX's types, such as `tensor(float)`.
            pub const fn long_name(self) -> &'static str {
                match self {
                    $($(DType::$variant => $onnx,)*)*
                }
            }

            /// Bytes of one element as it crosses; `None` for strings, whose elements differ in
            /// length. Elements of four and of two bits take a byte each.
            pub const fn size(self) -> Option<usize> {
                match self {
                    $($(DType::$variant => $size,)*)*
                }
            }
        }
    };
}

element_types!(dtypes);

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
