//! Operators computed by the host, directly on this sandbox's memory: the one narrow door for
//! speed. Whether it is used is for the host to say, before a model is prepared.
//!
//! Nothing of tract is changed for it: `tile` is found in its kernel registry, everything else are
//! operators of ours that take the place of tract's in the typed model, by [`Optimizer`] passes
//! like its own. What none of them takes stays with tract.

mod conv;
mod gemm;
mod operator;
mod permute;
mod pointwise;
mod pool;
mod reduce;
mod tile;
mod windows;

use std::sync::atomic::{AtomicBool, Ordering};

use onnx_ops::optimizer::{Passes, rewrite_each_node};
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::{TypedModel, TypedNode};

static ENABLED: AtomicBool = AtomicBool::new(false);

/// Lets models that are prepared from now on use the host's kernels, or not.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_use_native_kernels(allowed: u32) {
    ENABLED.store(allowed != 0, Ordering::Relaxed);
}

fn enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

/// What the host's kernels can do is taken out of a model at two points: convolutions while they are
/// still as the ONNX file says, everything else once the model is simplified.
pub(crate) const PASSES: Passes =
    Passes { before_simplifying: take_convolutions, after_simplifying: take_others };

/// Takes convolutions out of a model in which they still are what the ONNX file says, with what
/// follows them folded in.
fn take_convolutions(model: &mut TypedModel) -> TractResult<()> {
    if !enabled() {
        return Ok(());
    }
    rewrite_each_node(model, vec![conv::take])
}

/// Takes everything else out of a simplified model.
fn take_others(model: &mut TypedModel) -> TractResult<()> {
    if !enabled() {
        return Ok(());
    }
    rewrite_each_node(
        model,
        vec![gemm::take, pool::take, reduce::take, reduce::take_softmax, permute::take],
    )?;
    rewrite_each_node(model, vec![pointwise::take])
}

/// The shape of a plain `f32` tensor that is known, has elements, and is not beyond what 32 bits
/// count.
fn plain_shape(fact: &TypedFact) -> Option<TVec<usize>> {
    let shape = fact.shape.as_concrete()?;
    let fits = shape.iter().try_fold(1usize, |len, dim| len.checked_mul(*dim));
    let usable = fact.datum_type == f32::datum_type()
        && !fact.is_exotic()
        && fits.is_some_and(|len| len > 0 && len < 1 << 30);
    usable.then(|| shape.into())
}

/// A constant's elements.
fn floats(tensor: &Tensor) -> Option<Vec<f32>> {
    if tensor.datum_type() != f32::datum_type() || !tensor.is_plain() {
        return None;
    }
    let bytes = tensor.as_bytes().as_chunks::<4>().0;
    Some(bytes.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// A tensor of one dimension.
fn vector(elements: &[f32]) -> Arc<Tensor> {
    tensor1(elements).into_arc_tensor()
}

/// The only node that reads a node's only output, if the model does not answer it.
fn only_reader<'m>(model: &'m TypedModel, node: &TypedNode) -> Option<&'m TypedNode> {
    let [output] = &*node.outputs else { return None };
    let [successor] = &*output.successors else { return None };
    let answered = model.output_outlets().ok()?.iter().any(|outlet| outlet.node == node.id);
    (!answered).then(|| model.node(successor.node))
}
