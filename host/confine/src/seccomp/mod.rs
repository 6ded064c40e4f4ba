//! Which system calls a worker may make: a list for each role, in [`rules`]; anything else ends
//! its process. The same tables become the kernel's programs ([`filter`]) and text ([`words`]).
//!
//! A filter sees numbers, not what they point to: it knows no paths and no addresses. What it
//! leaves open, namespaces and Landlock must close.

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
