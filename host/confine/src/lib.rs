//! The process around a sandbox: starts, confines, communicates with and kills workers. This module
//! must not depend on what a worker does with a model.
//!
//! `process` starts workers (through `spawn`) and ends them. `enter` and `setup` run inside the
//! worker: the first takes its channel, the second applies the `layers` in order: `namespaces`,
//! `privileges`, `landlock`, `seccomp`. The worker's `role` decides what is granted. `channel` and
//! `memory` carry data between the two sides. `outside` reads what the kernel reports about a
//! worker, `memory_group` how much memory all workers share, and `support` which features the
//! kernel of this machine has.
#![allow(clippy::len_without_is_empty, missing_docs, reason = "only for Belljar's own crates")]

#[cfg(feature = "test-hooks")]
pub mod breach;
pub mod channel;
pub mod ended;
pub mod enter;
#[cfg(feature = "test-hooks")]
pub mod fault_injection;
pub mod file_size;
pub mod heap;
mod landlock;
pub mod layers;
pub mod memory;
pub mod memory_group;
#[cfg(feature = "programs")]
pub mod mounts;
mod namespaces;
mod outside;
mod privileges;
pub mod process;
pub mod role;
pub mod seccomp;
pub mod setup;
mod spawn;
pub mod stdout;
pub mod stop_signals;
pub mod support;
#[cfg_attr(not(feature = "programs"), allow(dead_code, reason = "without guest programs"))]
pub mod ways;
