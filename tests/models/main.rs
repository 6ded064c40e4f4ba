//! Models of every kind: that their results are right, and that what they say of themselves is not
//! trusted.

#[path = "../support/mod.rs"]
mod support;

mod classical;
mod functions;
mod hostile;
mod narrow_sums;
mod silero;
