//! What goes into a program, and what it answers.

use belljar_tensor::Tensor;

/// One input of a program, or one output.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A tensor; never one of strings.
    Tensor(Tensor),
    /// A file as it is: an image, a sound, a document.
    Bytes(Vec<u8>),
    /// A text. Of an output it is hostile: print it through [`belljar_text::Escaped`].
    Text(String),
}

impl Value {
    /// Bytes that it takes when it crosses.
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
