//! Policies: reading and comparing them, and what they allow a model.

#[path = "../support/mod.rs"]
mod support;

mod ceiling;
mod decisions;
mod declared_shapes;
mod external_data;
mod runs;
mod tools;
mod values;
