//! Operators on weights that are quantized in blocks, each with a scale and a zero point.

pub(crate) mod gather;
pub(crate) mod matmul;

use tract_onnx::tract_hir::internal::*;

use crate::framework::assumptions;
use crate::framework::dims;
use crate::framework::errors::ensure;

/// The number at an index in bytes of 2, 4 or 8 bits each, the lowest bits first.
pub(super) fn code(bytes: &[u8], index: usize, bits: usize) -> u8 {
    let in_byte = 8 / bits;
    let byte = bytes[index / in_byte] >> (index % in_byte * bits);
    if bits == 8 { byte } else { byte & ((1 << bits) - 1) }
}

/// Refuses a shape that is not this one.
pub(super) fn expect_shape(found: &[TDim], expected: &[TDim], what: &str) -> TractResult<()> {
    let mut same = found.len() == expected.len();
    for (found, expected) in found.iter().zip(expected) {
        same = same && assumptions::equal(found, expected)?;
    }
    let (expected, found) = (dims::shown(expected), dims::shown(found));
    ensure!(same, "expected {what} of the shape {expected}, found {found}");
    Ok(())
}
