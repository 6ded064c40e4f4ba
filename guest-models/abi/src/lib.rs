//! The messages that cross between the Belljar host and the `onnx-runner` guest.
//!
//! Both sides link this crate, so messages are written and read by the same code. Everything is
//! little-endian, self-delimiting and sequential, without offsets, so a reader only moves forward.
//! Decoders treat the bytes as hostile; encoders must produce exactly what the decoders accept.
//!
//! This crate must never allocate in proportion to a length whose bytes it has not read.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod clock;
pub mod codes;
mod description;
mod dtype;
mod header;
pub mod kernel;
pub mod narrow;
pub mod picture;
mod preparation;
mod profile;
mod reader;
mod reply;
mod run;
pub mod scratch;
mod shapes;
mod tensors;
mod value_type;
mod writer;

pub use description::{
    Description, Dim, ExternalData, FunctionInfo, OperatorCount, OpsetImport, ValueInfo,
};
pub use dtype::DType;
pub use header::Kind;
pub use preparation::{MAX_UNDECIDED, Missing, Preparation, SizeRange, Undecided};
pub use profile::{
    MAX_FOLDED, MAX_PROFILE_BYTES, MAX_PROFILED, MAX_SHAPES, ModelNode, Profile, ProfiledNode,
};
pub use reader::DecodeError;
pub use reply::{GuestError, GuestErrorCode, Reply, decode_reply, encode_error, encode_ok};
pub use run::{Run, decode_run, encode_run};
pub use shapes::{InputShape, MAX_OPEN_DIMS, OpenDim, Shapes, decode_shapes, encode_shapes};
pub use tensors::{
    TensorView, TensorsWriter, decode_tensors, element_count, encode_tensors, encoded_len,
    fixed_data_len,
};
pub use value_type::{Part, ValueType, part_names_fit};

/// Version of the messages and of the guest's exports. Host and guest must agree exactly.
pub const ABI_VERSION: u32 = 9;

/// Alignment in bytes of a message and of every tensor's data: a cache line, and the widest vector
/// register.
pub const ALIGN: usize = 64;

/// Maximum number of tensors in one message, far above the inputs or outputs of any published
/// model.
pub const MAX_TENSORS: usize = 1024;

/// Maximum number of elements of a sequence that is an input or an output.
pub const MAX_ELEMENTS: usize = 1 << 20;

/// Maximum number of dimensions of a tensor. numpy allows 64, and ONNX sets no bound.
pub const MAX_RANK: usize = 32;

/// Maximum length of the name of a tensor, in bytes. Exporters concatenate scopes to names of some
/// hundred bytes.
pub const MAX_NAME: usize = 4096;

/// Maximum length of an error message, in bytes. Longer ones are truncated.
pub const MAX_ERROR_TEXT: usize = 8192;

/// Maximum length of a free text in a description (documentation, metadata value), in bytes.
pub const MAX_TEXT: usize = 4096;

/// Maximum number of entries in a list of a description. Longer lists are truncated and marked.
pub const MAX_LIST: usize = 4096;
