//! The ONNX operators that Belljar's guest computes itself, and the checks around those that tract
//! computes. Some of tract's operators drop a NaN, narrow 64-bit integers to 32 bits, read out of
//! bounds, or lose precision. The operators here replace them in tract's public registry, so that
//! neither its optimiser nor its constant folding uses them.
//!
//! The crate has no WebAssembly imports or exports of its own: it is built into the guest, and
//! natively for its tests.

// WebAssembly has no test harness, so each test is an export of the module.
#[cfg(exported_tests)]
#[macro_use]
extern crate exported_tests;

pub mod array;
pub mod computed_sizes;
pub mod control_flow;
pub mod elementwise;
pub mod framework;
pub mod math;
pub mod microsoft;
pub mod ml;
pub mod nn;
pub mod optimizer;
pub mod quantization;
pub mod random;
pub mod registry;
pub mod sequence;
pub mod strings;

pub use registry::register;

#[cfg(test)]
mod testing;
