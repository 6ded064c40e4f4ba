//! Attention, its caches and rotary embeddings.

#[cfg(test)]
pub(in crate::microsoft) mod cases;
mod core;
mod decoder_masked;
mod fused;
mod gated_delta_net;
mod group_query;
mod grouped;
mod linear;
mod masked;
mod multi_head;
mod rotary_embedding;
mod rotation;
mod sparse;
mod wired;

use crate::framework::registration::Registration;

/// The operators of this family.
pub(crate) const OPERATORS: &[&[Registration]] = &[
    decoder_masked::OPERATORS,
    fused::OPERATORS,
    gated_delta_net::OPERATORS,
    group_query::OPERATORS,
    linear::OPERATORS,
    multi_head::OPERATORS,
    rotary_embedding::OPERATORS,
    sparse::OPERATORS,
];
