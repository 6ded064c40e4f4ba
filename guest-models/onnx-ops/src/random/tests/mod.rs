//! Tests of random operators: their distributions, and what their numbers depend on.

mod distributions;
mod rules;

use tract_onnx::prelude::Tensor;

use crate::testing::Case;

/// The numbers of the first output with a seed, with all inputs given at run time.
fn numbers(case: &Case, seed: u32) -> Vec<f64> {
    values(&case.outputs_with_seeds(usize::MAX, &[seed])[0][0])
}

/// The elements of a tensor.
fn values(tensor: &Tensor) -> Vec<f64> {
    crate::framework::tensors::floats(tensor).unwrap()
}
