//! Stands where the kernels expect the host's module of this name.

#[path = "../../../host/src/sandbox/kernels/mod.rs"]
pub(crate) mod kernels;
