//! Guest programs: what they can do with their grants, and what they cannot.

#[path = "../support/mod.rs"]
mod support;

mod denials;
mod examples;
mod grants;
mod limits;
#[cfg(feature = "wasi-nn")]
mod wasi_nn;
