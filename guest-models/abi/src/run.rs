//! The message for a run: the seed of its random numbers, and the inputs.

use alloc::vec::Vec;

use crate::MAX_TENSORS;
use crate::header::{Kind, expect_header, write_header};
use crate::reader::{DecodeError, Reader};
use crate::tensors::{TensorView, encoded_len, read_tensors, write_tensor};
use crate::writer::Writer;

/// The message for a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run<'a> {
    /// The seed of the run, for nodes that draw random numbers.
    pub seed: u32,
    /// The inputs.
    pub inputs: Vec<TensorView<'a>>,
}

/// Encodes the message for a run.
pub fn encode_run(seed: u32, inputs: &[TensorView<'_>]) -> Vec<u8> {
    let mut writer = Writer::with_capacity(4 + encoded_len(inputs));
    write_header(&mut writer, Kind::Run);
    writer.u32(seed);
    writer.list(inputs, write_tensor);
    writer.finish()
}

/// Decodes the message for a run. Its tensors are valid as those of
/// [`decode_tensors`](crate::decode_tensors).
pub fn decode_run(bytes: &[u8]) -> Result<Run<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    expect_header(&mut reader, Kind::Run)?;
    let seed = reader.u32()?;
    let inputs = read_tensors(&mut reader, MAX_TENSORS)?;
    reader.finish()?;
    Ok(Run { seed, inputs })
}
