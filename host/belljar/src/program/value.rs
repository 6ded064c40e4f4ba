//! The inputs and outputs of a program.

use belljar_tensor::Tensor;

/// One input of a program, or one output.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A tensor, of any type except strings.
    Tensor(Tensor),
    /// The bytes of a file, such as an image, a sound or a document.
    Bytes(Vec<u8>),
    /// A text. The text of an output is untrusted: print it through [`belljar_text::Escaped`].
    Text(String),
}

impl Value {
    /// Number of bytes of the encoded value.
    pub fn byte_len(&self) -> u64 {
        match self {
            Value::Tensor(tensor) => tensor.byte_len(),
            Value::Bytes(bytes) => bytes.len() as u64,
            Value::Text(text) => text.len() as u64,
        }
    }
}

impl From<Tensor> for Value {
    fn from(tensor: Tensor) -> Value {
        Value::Tensor(tensor)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Value {
        Value::Bytes(bytes)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}
