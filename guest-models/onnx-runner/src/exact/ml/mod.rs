//! Operators of the domain `ai.onnx.ml`, all ours: what tract has under these names is never used.
//! The attributes are the model, and untrusted: each builder looks at all of them before anything
//! is computed. Where the specification is silent, and its own implementation and onnxruntime do
//! not agree, the answer is a refusal.

mod attributes;
mod columns;
mod ensemble;
mod forest;
mod labels;
mod linear;
mod lookup;
mod rows;
mod scores;
mod svm;
mod trees;

use std::ops::Deref;
use std::sync::Arc;

use tract_onnx::model::OnnxOpRegister;

pub(super) fn register(registry: &mut OnnxOpRegister) {
    columns::register(registry);
    ensemble::register(registry);
    linear::register(registry);
    lookup::register(registry);
    svm::register(registry);
    trees::register(registry);
}

/// What an operator knows, read once: equal to itself alone, since numbers among it may be no
/// numbers.
#[derive(Debug)]
struct Known<T>(Arc<T>);

impl<T> Known<T> {
    fn new(value: T) -> Known<T> {
        Known(Arc::new(value))
    }
}

impl<T> Deref for Known<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Clone for Known<T> {
    fn clone(&self) -> Known<T> {
        Known(Arc::clone(&self.0))
    }
}

impl<T> PartialEq for Known<T> {
    fn eq(&self, other: &Known<T>) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Eq for Known<T> {}
