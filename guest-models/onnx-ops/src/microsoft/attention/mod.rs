//! Attention, its caches and rotary embeddings.

use crate::framework::registration::Registration;

/// The operators of this family.
pub(crate) const OPERATORS: &[&[Registration]] = &[];
