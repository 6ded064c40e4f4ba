//! Whether bytes are what somebody said they are. Nothing here looks inside them, but for the first
//! bytes of a file that was refused.

mod digest;
mod model_bytes;
mod side_file;
pub(crate) mod signature;

pub use digest::Digest;
pub use model_bytes::{ModelBytes, ModelBytesError};
pub(crate) use side_file::{SideFile, SideFileError};
