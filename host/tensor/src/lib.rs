//! Tensors on the host's side, owned, typed and row-major, and the file formats for them.
//!
//! A [`Tensor`] is always consistent: its data has exactly as many elements as its shape requires.
//! All readers of untrusted bytes (`npy`, `npz`, `json`, `csv`, `pb`) are bounded by a limit given
//! by the caller and never allocate ahead of the bytes they have read.
#![forbid(unsafe_code)]

mod arrays;
mod coded;
mod convert;
pub mod csv;
pub mod json;
pub mod npy;
pub mod npz;
pub mod pb;
pub mod summary;
mod value;

pub use self::arrays::{arrays_of, take_value};
pub use self::coded::Coded;
pub use self::value::{ELEMENT_MEMORY, Map, Value};
pub use belljar_abi::DType;
pub use half::{bf16, f16};

use belljar_abi::{TensorView, element_count};

/// The UTF-8 byte order mark that some programs write before text.
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Why bytes or values are not a valid tensor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// The data does not have the number of elements that the shape requires.
    #[error("shape {shape:?} requires {expected} elements, but the data has {found}")]
    Count {
        /// The shape.
        shape: Vec<usize>,
        /// The number of elements that the shape requires.
        expected: u64,
        /// The number of elements found.
        found: u64,
    },
    /// The shape itself is invalid.
    #[error("shape {shape:?} is invalid: {why}")]
    Shape {
        /// The shape.
        shape: Vec<usize>,
        /// The cause.
        why: &'static str,
    },
    /// Keys and values are not a map.
    #[error("a map is invalid: {why}")]
    Map {
        /// The cause.
        why: &'static str,
    },
    /// A file is malformed.
    #[error("not a well-formed {format} file: {why}")]
    Malformed {
        /// `npy`, `npz`, `json`, `csv` or `pb`.
        format: &'static str,
        /// The cause, and the position.
        why: String,
    },
    /// A file is well-formed but contains something Belljar does not support.
    #[error("{what} is not supported: {hint}")]
    Unsupported {
        /// What it contains.
        what: String,
        /// What to do instead.
        hint: &'static str,
    },
    /// The data is larger than the caller allows.
    #[error("{what} is larger than the limit of {limit} bytes")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The elements of a tensor, one vector per element type.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // The variants are self-explanatory.
pub enum Data {
    F16(Vec<f16>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    I8(Vec<i8>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    Bool(Vec<bool>),
    String(Vec<String>),
    BF16(Vec<bf16>),
    /// Elements of eight bits or fewer without a Rust type.
    Coded(Coded),
}

/// A tensor: a shape, and elements of one type in row-major order.
///
/// ```
/// use belljar_tensor::{DType, Tensor};
///
/// let image = Tensor::new(vec![0.5f32; 3 * 4], &[1, 3, 4])?;
/// assert_eq!(image.dtype(), DType::F32);
/// assert_eq!(image.shape(), [1, 3, 4]);
/// assert_eq!(image.as_slice::<f32>().map(<[f32]>::len), Some(12));
/// # Ok::<(), belljar_tensor::TensorError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Data,
}

impl Tensor {
    /// A tensor of this shape; `data` must have exactly as many elements. An empty shape is a
    /// scalar.
    ///
    /// # Errors
    /// [`TensorError::Count`] if the counts differ, [`TensorError::Shape`] if the shape has more
    /// than [`belljar_abi::MAX_RANK`] dimensions or overflows, [`TensorError::TooLarge`] if a
    /// string is 4 GiB or longer.
    pub fn new(data: impl Into<Data>, shape: &[usize]) -> Result<Tensor, TensorError> {
        let data = data.into();
        let why = |why| TensorError::Shape { shape: shape.to_vec(), why };
        if shape.len() > belljar_abi::MAX_RANK {
            return Err(why("it has more than 32 dimensions"));
        }
        let dims: Vec<u64> = shape.iter().map(|dim| *dim as u64).collect();
        let expected =
            element_count(&dims).ok_or_else(|| why("its element count overflows 64 bits"))?;
        let found = data.len() as u64;
        if expected != found {
            return Err(TensorError::Count { shape: shape.to_vec(), expected, found });
        }
        // The length of a string is sent in 32 bits.
        let too_long = |text: &String| u32::try_from(text.len()).is_err();
        if let Data::String(strings) = &data
            && strings.iter().any(too_long)
        {
            return Err(TensorError::TooLarge { what: "a string".into(), limit: u32::MAX.into() });
        }
        Ok(Tensor { shape: shape.to_vec(), data })
    }

    /// A tensor of this shape whose elements are zero, false or the empty string.
    ///
    /// # Errors
    /// As [`Tensor::new`]; [`TensorError::TooLarge`] if it would take more than 4 GiB, the maximum
    /// memory of a sandbox.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Tensor, TensorError> {
        const LIMIT: u64 = 4 << 30;
        let dims: Vec<u64> = shape.iter().map(|dim| *dim as u64).collect();
        let count = element_count(&dims).filter(|count| {
            count.checked_mul(dtype.size().unwrap_or(24) as u64).is_some_and(|len| len <= LIMIT)
        });
        let too_large = || TensorError::TooLarge { what: format!("{shape:?}"), limit: LIMIT };
        let count = count.and_then(|count| usize::try_from(count).ok()).ok_or_else(too_large)?;
        Tensor::new(Data::zeros(dtype, count), shape)
    }

    /// A tensor without dimensions, holding one element.
    pub fn scalar<T: Element>(value: T) -> Tensor {
        Tensor { shape: Vec::new(), data: T::into_data(vec![value]) }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// Number of elements along each axis; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// Number of elements.
    #[allow(clippy::len_without_is_empty)] // Empty tensors need no special handling.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// The elements, if they are of type `T`.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        T::slice(&self.data)
    }

    /// The bytes of the elements when they are sent to the sandbox.
    pub fn byte_len(&self) -> u64 {
        self.data.byte_len()
    }

    /// The bytes of the elements in this process, as limits count them: a string counts at least 24
    /// bytes whatever its length.
    pub fn memory_len(&self) -> u64 {
        match &self.data {
            Data::String(strings) => strings.iter().map(string_memory).sum(),
            other => other.byte_len(),
        }
    }

    /// The same tensor with elements changed in place by `change`, which gets the shape, and must
    /// not change the number of elements.
    pub fn changed(mut self, change: impl FnOnce(&[usize], &mut Data)) -> Tensor {
        let count = self.data.len();
        change(&self.shape, &mut self.data);
        debug_assert_eq!(count, self.data.len());
        self
    }

    /// The data as it is sent to the sandbox; borrowed if the memory layout allows.
    pub fn to_wire(&self) -> std::borrow::Cow<'_, [u8]> {
        self.data.to_wire()
    }

    /// A named view of this tensor, with the data from [`Tensor::to_wire`].
    pub fn view<'a>(&self, name: &'a str, wire: &'a [u8]) -> TensorView<'a> {
        let dims = self.shape.iter().map(|dim| *dim as u64).collect();
        TensorView { name, dtype: self.dtype(), dims, data: wire }
    }

    /// An owned copy of a decoded view.
    pub fn from_view(view: &TensorView<'_>) -> Result<Tensor, TensorError> {
        let shape = view
            .dims
            .iter()
            .map(|dim| usize::try_from(*dim))
            .collect::<Result<Vec<usize>, _>>()
            .map_err(|_| TensorError::Shape { shape: Vec::new(), why: "a dimension overflows" })?;
        Tensor::new(Data::from_view(view), &shape)
    }
}

/// The bytes of a string in memory, as limits count them.
pub fn string_memory(text: impl AsRef<str>) -> u64 {
    (size_of::<String>() + text.as_ref().len()) as u64
}

/// A Rust type for elements of a tensor.
pub trait Element: Sized + Clone + private::Sealed {
    /// The element type.
    const DTYPE: DType;
    #[doc(hidden)]
    fn slice(data: &Data) -> Option<&[Self]>;
    #[doc(hidden)]
    fn into_data(elements: Vec<Self>) -> Data;
}

mod private {
    pub trait Sealed {}
}

/// The index along each axis of the element at `at` in row-major order.
pub fn unravel(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut index: Vec<usize> = shape
        .iter()
        .rev()
        .map(|dim| {
            let dim = (*dim).max(1);
            let along = at % dim;
            at /= dim;
            along
        })
        .collect();
    index.reverse();
    index
}

#[cfg(test)]
mod tests;
