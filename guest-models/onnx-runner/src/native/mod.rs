//! Operators that the host computes directly on this sandbox's memory, for speed. The host enables
//! them before a model is prepared.
//!
//! tract is not modified for this: it finds `tile` in its kernel registry, and optimizer passes
//! replace its operators in the typed model. An operator that no pass replaces is computed by
//! tract.

mod block;
mod conv;
mod deconv;
mod dequantize;
mod gemm;
mod narrow;
mod operator;
mod permute;
mod pointwise;
mod pool;
mod reduce;
mod symbols;
mod tile;
mod windows;

use std::sync::atomic::{AtomicBool, Ordering};

use operator::NativeOp;
pub(crate) use symbols::Unplanned;

use onnx_ops::framework::assumptions;
use onnx_ops::framework::native::use_kernels;
use onnx_ops::framework::rewrite::rewrite_each_node;
use onnx_ops::optimizer::Passes;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::{TypedModel, TypedNode};

static ENABLED: AtomicBool = AtomicBool::new(false);

/// Enables or disables the host's kernels for models that are prepared afterwards.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_use_native_kernels(allowed: u32) {
    ENABLED.store(allowed != 0, Ordering::Relaxed);
    // Operators of the other crate make requests themselves.
    use_kernels((allowed != 0).then_some(operator::compute_request));
}

fn enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

/// Operators are replaced at two points: convolutions before the model is simplified, while they
/// are as in the ONNX file, and all others afterwards.
pub(crate) const PASSES: Passes =
    Passes { before_simplifying: replace_convolutions, after_simplifying: replace_others };

/// Replaces convolutions, and folds the nodes after them, before the model is simplified.
fn replace_convolutions(model: &mut TypedModel) -> TractResult<()> {
    if !enabled() {
        return Ok(());
    }
    rewrite_each_node(model, vec![conv::replace])
}

/// Replaces the other operators of a simplified model.
fn replace_others(model: &mut TypedModel) -> TractResult<()> {
    if !enabled() {
        return Ok(());
    }
    rewrite_each_node(model, vec![deconv::split])?;
    rewrite_each_node(
        model,
        vec![
            gemm::rewrite,
            block::rewrite,
            pool::replace,
            reduce::replace,
            reduce::replace_softmax,
            permute::replace,
            narrow::replace,
            dequantize::replace,
        ],
    )?;
    rewrite_each_node(model, vec![pointwise::replace])
}

/// Brings the constants of a complete plan into the layout of the host, one after the other. The
/// plan must be the only one that holds them, so that each is freed as soon as it is packed. The
/// largest is the first: the next ones fit into the memory that it leaves.
pub(crate) fn pack(model: &mut TypedModel) -> TractResult<()> {
    let size = |node: &TypedNode| {
        let conv = node.op_as::<NativeOp<conv::NativeConv>>().map(|op| op.native().unpacked());
        conv.or(node.op_as::<NativeOp<gemm::NativeGemm>>().map(|op| op.native().unpacked()))
    };
    let mut sizes: Vec<(usize, usize)> =
        model.nodes.iter().enumerate().filter_map(|(at, node)| Some((size(node)?, at))).collect();
    sizes.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
    for (_, at) in sizes {
        let node = &mut model.nodes[at];
        if let Some(op) = node.op_as_mut::<NativeOp<conv::NativeConv>>() {
            op.pack();
        } else if let Some(op) = node.op_as_mut::<NativeOp<gemm::NativeGemm>>() {
            op.pack();
        }
    }
    onnx_ops::framework::operator::pack(model)
}

/// The shape of a plain `f32` tensor, if its sizes are known, apart from symbols of the inputs, and
/// it has elements and fits 32 bits.
fn plain_shape(fact: &TypedFact) -> Option<TVec<TDim>> {
    plain_shape_of(fact, f32::datum_type())
}

/// As [`plain_shape`], of a tensor of this element type.
fn plain_shape_of(fact: &TypedFact, dtype: DatumType) -> Option<TVec<TDim>> {
    let mut sizes = fact.shape.iter().map(assumptions::size);
    let len = sizes.try_fold(1usize, |len, size| len.checked_mul(size?));
    let usable = fact.datum_type == dtype
        && !fact.is_exotic()
        && len.is_some_and(|len| len > 0 && len < 1 << 30);
    usable.then(|| fact.shape.to_tvec())
}

/// The number of elements of tensors of this shape, if it fits 32 bits and is not zero.
fn elements(shape: &[usize]) -> Option<usize> {
    let len = shape.iter().try_fold(1usize, |len, dim| len.checked_mul(*dim))?;
    (len > 0 && len < 1 << 30).then_some(len)
}

/// The elements of a constant `f32` tensor.
fn floats(tensor: &Tensor) -> Option<&[f32]> {
    if tensor.datum_type() != f32::datum_type() || !tensor.is_plain() {
        return None;
    }
    tensor.try_as_plain_ram().ok()?.as_slice().ok()
}

/// A tensor of one dimension with so many zeros, which `fill` changes.
fn filled(len: usize, fill: impl FnOnce(&mut [f32]) -> Option<()>) -> Option<Arc<Tensor>> {
    let mut tensor = Tensor::zero::<f32>(&[len]).ok()?;
    fill(tensor.try_as_plain_ram_mut().ok()?.as_slice_mut().ok()?)?;
    Some(tensor.into_arc_tensor())
}

/// A tensor of one dimension.
fn vector(elements: &[f32]) -> Arc<Tensor> {
    tensor1(elements).into_arc_tensor()
}

/// The only reader of a node's only output, unless the output is one of the model's.
fn only_reader<'m>(model: &'m TypedModel, node: &TypedNode) -> Option<&'m TypedNode> {
    let [output] = &*node.outputs else { return None };
    let [successor] = &*output.successors else { return None };
    let is_output = model.output_outlets().ok()?.iter().any(|outlet| outlet.node == node.id);
    (!is_output).then(|| model.node(successor.node))
}
