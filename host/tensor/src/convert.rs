//! Converts between vectors of elements and the bytes that are sent to the sandbox.

use std::borrow::Cow;

use belljar_abi::{DType, TensorView};
use half::{bf16, f16};

use super::{Coded, Data, Element, private};

macro_rules! elements {
    ($($variant:ident($type:ty);)*) => {
        $(
            impl From<Vec<$type>> for Data {
                fn from(elements: Vec<$type>) -> Data {
                    Data::$variant(elements)
                }
            }

            impl private::Sealed for $type {}

            impl Element for $type {
                const DTYPE: DType = DType::$variant;

                fn slice(data: &Data) -> Option<&[$type]> {
                    match data {
                        Data::$variant(elements) => Some(elements),
                        _ => None,
                    }
                }

                fn into_data(elements: Vec<$type>) -> Data {
                    Data::$variant(elements)
                }
            }
        )*

        impl Data {
            /// The element type.
            pub fn dtype(&self) -> DType {
                match self {
                    $(Data::$variant(_) => DType::$variant,)*
                    Data::Coded(coded) => coded.dtype(),
                }
            }

            /// A number of elements, all zero, false or empty.
            pub(super) fn zeros(dtype: DType, count: usize) -> Data {
                match dtype {
                    $(DType::$variant => Data::$variant(vec![<$type>::default(); count]),)*
                    // Other types have no data.
                    _ => match Coded::zeros(dtype, count) {
                        Some(coded) => Data::Coded(coded),
                        None => Data::U8(Vec::new()),
                    },
                }
            }

            /// Number of elements.
            #[allow(clippy::len_without_is_empty)] // Empty tensors need no special handling.
            pub fn len(&self) -> usize {
                match self {
                    $(Data::$variant(elements) => elements.len(),)*
                    Data::Coded(coded) => coded.codes().len(),
                }
            }
        }
    };
}

elements! {
    F16(f16);
    F32(f32);
    F64(f64);
    I8(i8);
    I16(i16);
    I32(i32);
    I64(i64);
    U8(u8);
    U16(u16);
    U32(u32);
    U64(u64);
    Bool(bool);
    String(String);
    BF16(bf16);
}

impl From<Coded> for Data {
    fn from(coded: Coded) -> Data {
        Data::Coded(coded)
    }
}

#[cfg(target_endian = "big")]
compile_error!("tensors are sent as they are in memory, which must be little-endian");

macro_rules! for_numbers {
    ($data:expr, $elements:ident => $numbers:expr, bool => $bools:expr, string => $strings:expr) => {
        match $data {
            Data::F16($elements) => $numbers,
            Data::F32($elements) => $numbers,
            Data::F64($elements) => $numbers,
            Data::I8($elements) => $numbers,
            Data::I16($elements) => $numbers,
            Data::I32($elements) => $numbers,
            Data::I64($elements) => $numbers,
            Data::U8($elements) => $numbers,
            Data::U16($elements) => $numbers,
            Data::U32($elements) => $numbers,
            Data::U64($elements) => $numbers,
            Data::BF16($elements) => $numbers,
            Data::Coded(coded) => {
                let $elements = coded.codes();
                $numbers
            }
            Data::Bool($elements) => $bools,
            Data::String($elements) => $strings,
        }
    };
}

impl Data {
    pub(super) fn byte_len(&self) -> u64 {
        match self {
            Data::String(strings) => strings.iter().map(|s| 4 + s.len() as u64).sum(),
            other => (other.len() * other.dtype().size().unwrap_or(0)) as u64,
        }
    }

    pub(super) fn to_wire(&self) -> Cow<'_, [u8]> {
        for_numbers!(self,
            elements => Cow::Borrowed(bytemuck::cast_slice(elements)),
            bool => Cow::Borrowed(bytemuck::cast_slice(elements)),
            string => {
                let mut bytes = Vec::with_capacity(self.byte_len() as usize);
                for string in elements {
                    bytes.extend_from_slice(&(string.len() as u32).to_le_bytes());
                    bytes.extend_from_slice(string.as_bytes());
                }
                Cow::Owned(bytes)
            }
        )
    }

    /// Copies the data of a decoded view, whose length the decoder has checked.
    pub(super) fn from_view(view: &TensorView<'_>) -> Data {
        fn numbers<T: bytemuck::Pod>(bytes: &[u8]) -> Vec<T> {
            bytemuck::pod_collect_to_vec(bytes)
        }
        match view.dtype {
            DType::F16 => Data::F16(numbers(view.data)),
            DType::F32 => Data::F32(numbers(view.data)),
            DType::F64 => Data::F64(numbers(view.data)),
            DType::I8 => Data::I8(numbers(view.data)),
            DType::I16 => Data::I16(numbers(view.data)),
            DType::I32 => Data::I32(numbers(view.data)),
            DType::I64 => Data::I64(numbers(view.data)),
            DType::U8 => Data::U8(numbers(view.data)),
            DType::U16 => Data::U16(numbers(view.data)),
            DType::U32 => Data::U32(numbers(view.data)),
            DType::U64 => Data::U64(numbers(view.data)),
            DType::BF16 => Data::BF16(numbers(view.data)),
            DType::Bool => Data::Bool(view.data.iter().map(|b| *b != 0).collect()),
            DType::String => Data::String(view.strings().map(String::from).collect()),
            // The decoder has checked the codes; tensors of other types never have the right count.
            dtype => match Coded::new(dtype, view.data.to_vec()) {
                Some(coded) => Data::Coded(coded),
                None => Data::U8(Vec::new()),
            },
        }
    }
}
