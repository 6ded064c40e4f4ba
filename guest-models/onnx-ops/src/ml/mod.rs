//! Operators of the domain `ai.onnx.ml`. This crate computes all of them; tract's are never used.
//! The attributes are the model, and untrusted: each builder checks all of them before anything is
//! computed. Where the specification is silent, and its reference implementation and onnxruntime
//! disagree, the operator refuses.

mod attributes;
mod columns;
mod ensemble;
mod features;
mod forest;
mod labels;
mod linear;
mod lookup;
mod maps;
mod one_hot_encoder;
mod rows;
mod scores;
mod support_vectors;
mod svm;
mod tree_nodes;
mod trees;

use std::ops::Deref;
use std::sync::Arc;

use crate::framework::registration::Registration;

/// An operator's parameters, shared between clones. Equal only to itself, since numbers in it may
/// be NaN.
#[derive(Debug)]
struct Parameters<T>(Arc<T>);

impl<T> Parameters<T> {
    fn new(value: T) -> Parameters<T> {
        Parameters(Arc::new(value))
    }
}

impl<T> Deref for Parameters<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Clone for Parameters<T> {
    fn clone(&self) -> Parameters<T> {
        Parameters(Arc::clone(&self.0))
    }
}

impl<T> PartialEq for Parameters<T> {
    fn eq(&self, other: &Parameters<T>) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Eq for Parameters<T> {}

/// The operators of this family.
pub(crate) const OPERATORS: &[&[Registration]] = &[
    columns::OPERATORS,
    ensemble::OPERATORS,
    features::OPERATORS,
    linear::OPERATORS,
    lookup::OPERATORS,
    maps::OPERATORS,
    one_hot_encoder::OPERATORS,
    svm::OPERATORS,
    trees::OPERATORS,
];
