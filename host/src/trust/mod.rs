//! Whether bytes are what somebody said they are. Nothing here looks inside them.

mod digest;
mod model_bytes;

pub use digest::Digest;
pub use model_bytes::{ModelBytes, ModelBytesError};
