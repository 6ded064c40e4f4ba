//! Which system calls a worker may make: a list for each role, in [`rules`]; any other call kills
//! its process. The same tables are compiled to BPF programs ([`filter`]) and described as text
//! ([`words`]).
//!
//! A filter sees register values, but not the memory they point to: it knows no paths and no socket
//! addresses. Those must be restricted by namespaces and Landlock.

mod calls;
mod denied;
mod filter;
mod rules;
#[cfg(test)]
mod tests;
mod words;

pub(super) use calls::{Condition, Test, Value, long};
#[cfg(feature = "test-hooks")]
pub use filter::install_without;
pub use filter::{install, install_on_thread, narrow};
pub use words::{RuleWords, Words, of_role, of_thread};
