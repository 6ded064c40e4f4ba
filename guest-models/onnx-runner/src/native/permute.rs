//! Permutations of dimensions.

use belljar_abi::kernel::{Dims, KERNEL_RANK, Kernel, Permute as Request};
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::{TypedModel, TypedNode};

use super::operator::{Native, NativeOp, address};
use super::{elements, plain_shape};

/// A permutation that the host computes.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct NativePermute {
    /// For each dimension of the output, its place in the input.
    pub(super) order: TVec<usize>,
}

impl Native for NativePermute {
    const NAME: &'static str = "NativePermute";

    fn sized(&self, shapes: &[&[usize]]) -> Option<(Kernel, TVec<usize>)> {
        let input = *shapes.first()?;
        elements(input)?;
        let from = strides_of(input);
        let output: TVec<usize> =
            self.order.iter().map(|axis| input.get(*axis).copied()).collect::<Option<_>>()?;
        let strides: Vec<u32> =
            self.order.iter().map(|axis| from.get(*axis).copied()).collect::<Option<_>>()?;
        let along = collapse(&output, &[&strides])?;
        let Collapsed { dims, strides } = along;
        let strides = strides[0];
        Some((Kernel::Permute(Request { dims, strides, input: 0, output: 0 }), output))
    }

    fn place(&self, request: &mut Kernel, inputs: &[TValue], output: u32) {
        if let Kernel::Permute(request) = request {
            (request.input, request.output) = (address(&inputs[0]), output);
        }
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
    let mut order: TVec<usize> = (0..input.len()).collect();
    let moved = order.remove(*from);
    order.insert(*to, moved);
    let native = NativePermute { order };
    let Some(op) = NativeOp::new(native, &[&input], &output) else { return Ok(None) };
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
