//! Helpers for the operators' unit tests: models of one node, which go through tract as in the
//! runner. A test gives the operator, its attributes and inputs, and the outputs that ONNX
//! specifies:
//!
//! ```ignore
//! case("Gather").int("axis", -1).input(row(&[1f32, 2.0])).input(scalar(-1i64)).gives(scalar(2f32));
//! ```
//!
//! Each case runs several times: with all inputs given at run time, with all but the first as
//! constants, and with constants only. tract handles these differently, and the results must be
//! equal.

mod case;
mod compare;
#[cfg(not(target_family = "wasm"))]
mod coverage;
#[cfg(exported_tests)]
mod exported;
mod graph;
mod protos;
mod run;

use tract_onnx::tract_hir::internal::*;

pub(crate) use self::case::{Case, case, microsoft};
#[cfg(exported_tests)]
pub(crate) use self::exported::run_exported;
pub(crate) use self::graph::{Graph, graph};

/// A tensor of a shape.
pub(crate) fn tensor<T: Datum + Clone>(shape: &[usize], values: &[T]) -> Tensor {
    tract_ndarray::ArrayD::from_shape_vec(shape, values.to_vec()).unwrap().into_tensor()
}

/// A tensor of one dimension.
pub(crate) fn row<T: Datum + Clone>(values: &[T]) -> Tensor {
    tensor(&[values.len()], values)
}

/// A tensor without dimensions.
pub(crate) fn scalar<T: Datum + Clone>(value: T) -> Tensor {
    tensor(&[], &[value])
}

/// A tensor of one dimension of strings.
pub(crate) fn texts(values: &[&str]) -> Tensor {
    row(&values.iter().map(|text| (*text).to_owned()).collect::<Vec<String>>())
}

/// The numbers 0, 1, 2, ... in a shape.
pub(crate) fn counting(shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    tensor(shape, &(0..count).map(|number| number as f32).collect::<Vec<f32>>())
}
