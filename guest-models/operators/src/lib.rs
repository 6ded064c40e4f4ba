//! The table of operators: what the gate inside the sandbox holds every node against, and what
//! `belljar ops` prints. It knows names, versions, types and values, and no model: the host has it
//! without being able to read one.

mod elementwise;
mod layers;
mod sequences;
mod shapes;
mod table;
mod types;

pub use table::{Attribute, Check, Input, NEWEST, Operator, Output, Values, all, find};
pub use types::*;
