//! Worker processes and what they start from: layers, limits, scarce resources, compiled code,
//! snapshots.

#[path = "../support/mod.rs"]
mod support;

mod code_cache;
mod fail_closed;
mod limits;
mod memory;
mod scarcity;
mod snapshot_store;
