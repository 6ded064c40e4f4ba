//! Whether bytes are what somebody said they are. Nothing here looks inside them, but for the first
//! bytes of a file that was refused.

mod model_bytes;
mod side_file;
pub mod signature;

pub use belljar_files::Digest;
pub use model_bytes::{ModelBytes, ModelBytesError};
pub use side_file::{SideFile, SideFileError};
