//! Operators on quantized tensors: of 8 bits, and of weights in blocks of fewer bits.

use crate::framework::registration::Registration;

/// The operators of this family.
pub(crate) const OPERATORS: &[&[Registration]] = &[];
