//! The messages that cross between the Belljar host and the `onnx-runner` guest.
//!
//! Both sides link this crate, so a message is written and read by the same code. Everything is
//! little-endian, self-delimiting and sequential: there are no offsets to follow, so a reader can
//! only ever move forward through the bytes it was given. Whoever decodes treats the bytes as
//! hostile; whoever encodes must produce exactly what the decoder accepts.
//!
//! This crate must never allocate in proportion to a length it has not yet seen the bytes for.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod clock;
pub mod codes;
mod description;
mod dtype;
pub mod kernel;
mod message;
pub mod narrow;
pub mod picture;
mod preparation;
mod profile;
mod reader;
pub mod scratch;
mod shapes;
mod tensors;
mod writer;

pub use description::{
    Description, Dim, ExternalData, FunctionInfo, OperatorCount, OpsetImport, ValueInfo,
};
pub use dtype::DType;
pub use message::{GuestError, GuestErrorCode, Kind, Reply, decode_reply, encode_error, encode_ok};
pub use preparation::{MAX_UNDECIDED, Missing, Preparation, Undecided};
pub use profile::{
    MAX_FOLDED, MAX_PROFILE_BYTES, MAX_PROFILED, MAX_SHAPES, ModelNode, Profile, ProfiledNode,
};
pub use reader::DecodeError;
pub use shapes::{InputShape, decode_shapes, encode_shapes};
pub use tensors::{
    TensorView, TensorsWriter, decode_tensors, element_count, encode_tensors, encoded_len,
    fixed_data_len,
};

/// Version of the messages and of the guest's exports. Host and guest must agree exactly.
pub const ABI_VERSION: u32 = 6;

/// Alignment in bytes of a message's first byte and of every tensor's data: a cache line, and the
/// widest vector register a kernel may load with.
pub const ALIGN: usize = 64;

/// Most tensors in one message: far above any published model's count of inputs or outputs.
pub const MAX_TENSORS: usize = 1024;

/// Most dimensions of a tensor. numpy allows 64, ONNX sets no bound; 32 leaves room.
pub const MAX_RANK: usize = 32;

/// Longest name of a tensor, in bytes. Exporters concatenate scopes, some hundreds of bytes.
pub const MAX_NAME: usize = 4096;

/// Longest text of an error message that crosses, in bytes. A longer one is cut.
pub const MAX_ERROR_TEXT: usize = 8192;

/// Longest free text in a description (documentation, metadata value), in bytes.
pub const MAX_TEXT: usize = 4096;

/// Most entries in any list of a description. A longer list is cut, and says so.
pub const MAX_LIST: usize = 4096;
