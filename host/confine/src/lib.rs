//! The process around a sandbox: how a worker is started, confined, talked to and killed. What a
//! worker does with a model is not known here.
//!
//! `process` starts workers, by `spawn`, and ends them; `setup` is what a worker does to itself, in
//! the order of the `layers`: `namespaces`, `privileges`, `landlock`, `seccomp`. What is granted
//! depends on its `role`. `channel` and `memory` are how both sides talk. `outside` is what the
//! kernel shows of a worker, `memory_group` how much memory all of them share, and `support` what this
//! machine offers at all.
#![allow(clippy::len_without_is_empty, missing_docs, reason = "only for Belljar's own crates")]

#[cfg(feature = "test-hooks")]
pub mod breach;
pub mod channel;
pub mod ended;
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
