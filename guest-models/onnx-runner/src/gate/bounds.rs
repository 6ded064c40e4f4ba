//! How much of everything a model may have: what tract does with it grows faster than the model.

/// Nodes, with those of all bodies.
pub(super) const NODES: usize = 20_000;

/// Attributes of one node.
pub(super) const ATTRIBUTES: usize = 32;

/// Inputs of one node, and outputs.
pub(super) const VALUES: usize = 4_096;

/// Bodies within bodies.
pub(super) const DEPTH: usize = 8;

/// Bytes of the name of a node or value.
pub(super) const NAME: usize = 4_096;

/// Initializers of one graph.
pub(super) const INITIALIZERS: usize = 100_000;
