//! The table of operators: what the gate inside the sandbox holds every node against, and what
//! `belljar ops` prints. It knows names, versions, types and values, and no model: the host has it
//! without being able to read one.

mod attention;
mod elementwise;
mod layers;
mod legacy;
mod ml;
mod quantized;
mod recurrent;
mod regions;
mod sequences;
mod shapes;
mod sources;
mod strings;
mod table;
mod types;

pub use sources::Source;
pub use table::{
    Attribute, Check, Input, ML, NEWEST, NEWEST_ML, Operator, Output, Values, all, find, newest,
};
pub use types::*;
