//! Permutations of dimensions.

use belljar_abi::kernel::{Dims, KERNEL_RANK, Kernel, Permute as Request};
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::{TypedModel, TypedNode};

use super::operator::{Native, NativeOp, address};
use super::plain_shape;

/// A permutation that the host computes.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct NativePermute {
    dims: Dims,
    strides: Dims,
}

impl Native for NativePermute {
    const NAME: &'static str = "NativePermute";

    fn request(&self, inputs: &[TValue], output: u32) -> Kernel {
        let NativePermute { dims, strides } = *self;
        Kernel::Permute(Request { dims, strides, input: address(&inputs[0]), output })
    }
}

/// Replaces a permutation.
pub(super) fn replace(
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<TypedModelPatch>> {
    let Some(AxisOp::Move(from, to)) = node.op_as() else { return Ok(None) };
    let fact = model.outlet_fact(node.inputs[0])?;
    let output = plain_shape(&node.outputs[0].fact);
    let (Some(input), Some(output)) = (plain_shape(fact), output) else { return Ok(None) };
    let mut strides = strides_of(&input);
    let stride = strides.remove(*from);
    strides.insert(*to, stride);
    let Some(along) = collapse(&output, &[&strides]) else { return Ok(None) };
    let native = NativePermute { dims: along.dims, strides: along.strides[0] };
    let op = NativeOp { native, output };
    TypedModelPatch::replace_single_op(model, node, &node.inputs, op).map(Some)
}

/// The strides of a contiguous tensor, in elements.
pub(super) fn strides_of(shape: &[usize]) -> Vec<u32> {
    let mut strides = vec![1u32; shape.len()];
    for axis in (0..shape.len().saturating_sub(1)).rev() {
        strides[axis] = strides[axis + 1] * shape[axis + 1] as u32;
    }
    strides
}

/// Tensors of one shape with as few dimensions as possible.
pub(super) struct Collapsed {
    pub(super) dims: Dims,
    /// The strides of each tensor.
    pub(super) strides: Vec<Dims>,
}

/// Merges dimensions that are contiguous in all tensors. `None` if too many are left.
pub(super) fn collapse(shape: &[usize], tensors: &[&[u32]]) -> Option<Collapsed> {
    // Innermost first.
    let mut merged: Vec<(u32, Vec<u32>)> = Vec::new();
    for axis in (0..shape.len()).rev().filter(|axis| shape[*axis] != 1) {
        let dim = shape[axis] as u32;
        let strides: Vec<u32> = tensors.iter().map(|strides| strides[axis]).collect();
        match merged.last_mut() {
            Some((inner, inner_strides))
                if strides
                    .iter()
                    .zip(&*inner_strides)
                    .all(|(outer, one)| *outer == one * *inner) =>
            {
                *inner *= dim;
            }
            _ => merged.push((dim, strides)),
        }
    }
    if merged.len() > KERNEL_RANK {
        return None;
    }
    let mut collapsed =
        Collapsed { dims: [1; KERNEL_RANK], strides: vec![[0; KERNEL_RANK]; tensors.len()] };
    for (at, (dim, strides)) in merged.iter().enumerate() {
        let axis = KERNEL_RANK - 1 - at;
        collapsed.dims[axis] = *dim;
        for (to, stride) in collapsed.strides.iter_mut().zip(strides) {
            to[axis] = *stride;
        }
    }
    Some(collapsed)
}
