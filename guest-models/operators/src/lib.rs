//! The table of operators. The gate inside the sandbox checks every node against it, and `belljar
//! ops` prints it. The host uses this crate without parsing models.

mod attention;
mod elementwise;
mod entry;
mod layers;
mod legacy;
mod microsoft;
mod ml;
mod quantized;
mod random;
mod recurrent;
mod regions;
mod sequences;
mod shapes;
mod sources;
mod strings;
mod table;
mod types;

pub use entry::{
    Attribute, Check, Input, MICROSOFT, ML, NEWEST, NEWEST_MICROSOFT, NEWEST_ML, Operator, Output,
    Values,
};
pub use sequences::packed;
pub use sources::Source;
pub use table::{all, find, newest};
pub use types::*;
