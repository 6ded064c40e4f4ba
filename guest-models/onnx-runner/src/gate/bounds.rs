//! Limits on the size of a model's graph, because the work that tract does on a graph grows faster
//! than the graph.

/// Maximum number of nodes, including those of all bodies.
pub(super) const NODES: usize = 20_000;

/// Maximum number of attributes of one node.
pub(super) const ATTRIBUTES: usize = 32;

/// Maximum number of inputs of one node, and of outputs.
pub(super) const VALUES: usize = 4_096;

/// Maximum nesting depth of bodies.
pub(super) const DEPTH: usize = 8;

/// Maximum length of the name of a node or value, in bytes.
pub(super) const NAME: usize = 4_096;

/// Maximum number of initializers of one graph.
pub(super) const INITIALIZERS: usize = 100_000;
