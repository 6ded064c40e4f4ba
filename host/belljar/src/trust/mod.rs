//! Establishes that bytes are what they are supposed to be. Nothing here parses them, except for
//! the first bytes of a file that was refused.

mod model_bytes;
mod side_file;
pub mod signature;

pub use belljar_files::Digest;
pub use model_bytes::{ModelBytes, ModelBytesError};
pub use side_file::{SideFile, SideFileError};
