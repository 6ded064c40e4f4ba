//! Reductions over adjacent dimensions, and softmax over the last ones.

use belljar_abi::kernel::{Kernel, Reduce as Request, Softmax as SoftmaxRequest};
use onnx_ops::math::{Reduction, ReductionKind};
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::{TypedModel, TypedNode};
use tract_onnx::tract_core::ops::nn::{Reduce, Reducer, Softmax, SoftmaxKind};

use super::operator::{Native, NativeOp, address};
use super::plain_shape;

/// A reduction that the host computes: the request without addresses.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
enum NativeReduce {
    Reduce(Request),
    Softmax(SoftmaxRequest),
}

impl Native for NativeReduce {
    const NAME: &'static str = "NativeReduce";

    fn request(&self, inputs: &[TValue], output: u32) -> Kernel {
        let input = address(&inputs[0]);
        match *self {
            NativeReduce::Reduce(request) => Kernel::Reduce(Request { input, output, ..request }),
            NativeReduce::Softmax(request) => {
                Kernel::Softmax(SoftmaxRequest { input, output, ..request })
            }
        }
    }
}

/// Replaces a reduction.
pub(super) fn replace(
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<TypedModelPatch>> {
    let (axes, mode) = match (node.op_as(), node.op_as()) {
        (Some(Reduce { axes, reducer: Reducer::Sum }), _) => (axes, 0),
        (_, Some(Reduction { axes, kind: ReductionKind::Max })) => (axes, 1),
        (_, Some(Reduction { axes, kind: ReductionKind::Min })) => (axes, 2),
        (Some(Reduce { axes, reducer: Reducer::MeanOfSquares }), _) => (axes, 3),
        _ => return Ok(None),
    };
    let fact = model.outlet_fact(node.inputs[0])?;
    let output = plain_shape(&node.outputs[0].fact);
    let (Some(input), Some(output)) = (plain_shape(fact), output) else { return Ok(None) };
    let (Some(first), Some(last)) = (axes.iter().min(), axes.iter().max()) else {
        return Ok(None);
    };
    // Other dimensions in between must have the size 1.
    let one = |axis: usize| axes.contains(&axis) || input[axis] == 1;
    if !(*first..=*last).all(one) {
        return Ok(None);
    }
    let native = NativeReduce::Reduce(Request {
        outer: input[..*first].iter().product::<usize>() as u32,
        middle: input[*first..=*last].iter().product::<usize>() as u32,
        inner: input[last + 1..].iter().product::<usize>() as u32,
        mode,
        ..Request::default()
    });
    let op = NativeOp { native, output };
    TypedModelPatch::replace_single_op(model, node, &node.inputs, op).map(Some)
}

/// Replaces a softmax.
pub(super) fn replace_softmax(
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<TypedModelPatch>> {
    let Some(Softmax { axes, quant_output_dt: None, kind: SoftmaxKind::Softmax }) = node.op_as()
    else {
        return Ok(None);
    };
    let Some(shape) = plain_shape(model.outlet_fact(node.inputs[0])?) else { return Ok(None) };
    // The axes must be the last ones; dimensions of size 1 do not matter.
    let Some(axis) = axes.iter().min().copied() else { return Ok(None) };
    let last = |at: usize| axes.contains(&at) || shape[at] == 1;
    if !(axis..shape.len()).all(last) {
        return Ok(None);
    }
    let native = NativeReduce::Softmax(SoftmaxRequest {
        outer: shape[..axis].iter().product::<usize>() as u32,
        middle: shape[axis..].iter().product::<usize>() as u32,
        inner: 1,
        ..SoftmaxRequest::default()
    });
    let op = NativeOp { native, output: shape };
    TypedModelPatch::replace_single_op(model, node, &node.inputs, op).map(Some)
}
