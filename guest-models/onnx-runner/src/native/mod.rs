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

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::{TypedModel, TypedNode};
use tract_onnx::tract_core::optim::{Optimizer, OptimizerSession, TypedPass};

static ENABLED: AtomicBool = AtomicBool::new(false);

/// Lets models that are prepared from now on use the host's kernels, or not.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_use_native_kernels(allowed: u32) {
    ENABLED.store(allowed != 0, Ordering::Relaxed);
}

fn enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

/// Takes convolutions out of a model in which they still are what the ONNX file says, with what
/// follows them folded in.
pub(crate) fn take_convolutions(model: &mut TypedModel) -> TractResult<()> {
    if !enabled() {
        return Ok(());
    }
    run(model, vec![conv::take])
}

/// Takes everything else out of a simplified model.
pub(crate) fn take_others(model: &mut TypedModel) -> TractResult<()> {
    if !enabled() {
        return Ok(());
    }
    run(model, vec![gemm::take, pool::take, reduce::take, reduce::take_softmax, permute::take])?;
    run(model, vec![pointwise::take])
}

/// Keeps from tract's optimiser what it would simplify to something else.
pub(crate) fn mend_first(model: &mut TypedModel) -> TractResult<()> {
    // Factors are often computed from constants.
    model.prop_consts()?;
    run(model, vec![crate::exact::keep_products])
}

/// Has what is left of tract's keep to the specification.
pub(crate) fn mend_rest(model: &mut TypedModel) -> TractResult<()> {
    run(model, vec![crate::exact::keep_nan_in_pools])
}

type Rewrite = fn(&TypedModel, &TypedNode) -> TractResult<Option<TypedModelPatch>>;

fn run(model: &mut TypedModel, rewrites: Vec<Rewrite>) -> TractResult<()> {
    let passes = rewrites
        .into_iter()
        .map(|rewrite| Box::new(EachNode { rewrite, next: 0 }) as Box<dyn TypedPass>)
        .collect();
    Optimizer { passes, steps: None }.optimize(model)
}

/// Offers every node to a rewrite.
#[derive(Clone)]
struct EachNode {
    rewrite: Rewrite,
    next: usize,
}

impl Debug for EachNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("native")
    }
}

impl TypedPass for EachNode {
    fn reset(&mut self) -> TractResult<()> {
        self.next = 0;
        Ok(())
    }

    fn next(
        &mut self,
        _session: &mut OptimizerSession,
        model: &TypedModel,
    ) -> TractResult<Option<TypedModelPatch>> {
        while let Some(node) = model.nodes.get(self.next) {
            self.next += 1;
            if let Some(patch) = (self.rewrite)(model, node)? {
                return Ok(Some(patch));
            }
        }
        Ok(None)
    }
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
