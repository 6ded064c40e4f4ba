//! Guest programs: a model with its own pre- and post-processing, as a WASI 0.2 component.
#![allow(dead_code, reason = "taken into use with the programs")]

pub(crate) mod wasi;
