//! Models of every kind: their results are correct, and what a model declares about itself is not
//! trusted.

#[path = "../support/mod.rs"]
mod support;

mod classical;
mod functions;
mod hostile;
mod narrow_sums;
mod random;
mod silero;
mod structures;
mod values;
