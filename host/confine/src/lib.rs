//! The process around a sandbox: how a worker is started, confined, talked to and killed. What a
//! worker does with a model is not known here.
//!
//! `process` starts workers, by `spawn`, and ends them; `setup` is what a worker does to itself, in
//! the order of the `layers`: `namespaces`, `privileges`, `landlock`, `seccomp`. What is granted
//! depends on its `role`. `channel` and `memory` are how both sides talk. `outside` is what the
//! kernel shows of a worker, `memory_group` how much memory all of them share, and `support` what this
//! machine offers at all.

#[cfg(feature = "test-hooks")]
pub(crate) mod breach;
pub(crate) mod channel;
pub(crate) mod ended;
#[cfg(feature = "test-hooks")]
pub(crate) mod fault_injection;
pub(crate) mod file_size;
pub(crate) mod heap;
mod landlock;
pub(crate) mod layers;
pub(crate) mod memory;
pub(crate) mod memory_group;
#[cfg(feature = "programs")]
pub(crate) mod mounts;
mod namespaces;
mod outside;
mod privileges;
pub(crate) mod process;
pub(crate) mod role;
pub(crate) mod seccomp;
pub(crate) mod setup;
mod spawn;
#[cfg(all(feature = "cli", feature = "programs"))]
pub(crate) mod stop_signals;
#[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "only the command line asks"))]
pub(crate) mod support;
#[cfg_attr(not(feature = "programs"), allow(dead_code, reason = "without guest programs"))]
pub(crate) mod ways;
