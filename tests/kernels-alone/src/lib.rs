//! The native kernels, compiled from the host's own files, and nothing else of the host. wasmtime
//! would take an emulated machine an hour; these take it a minute. `cargo xtask release-check` runs
//! their tests so for 64-bit Arm.
#![deny(unsafe_op_in_unsafe_fn)]
#![allow(dead_code, unused_imports)] // What the rest of the host would call.

mod sandbox;
