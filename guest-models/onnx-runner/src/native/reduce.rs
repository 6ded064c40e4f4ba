//! Reductions and softmax over adjacent dimensions.

use belljar_abi::kernel::{Kernel, Reduce as Request, Softmax as SoftmaxRequest};
use onnx_ops::math::{Reduction, ReductionKind};
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::{TypedModel, TypedNode};
use tract_onnx::tract_core::ops::nn::{Reduce, Reducer, Softmax, SoftmaxKind};

use super::operator::{Native, NativeOp, address};
use super::{elements, plain_shape};

/// A reduction that the host computes.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
enum NativeReduce {
    /// A reduction of the dimensions `first..=last`.
    Reduce { first: usize, last: usize, axes: TVec<usize>, mode: u32 },
    /// A softmax over the dimensions `first..=last`.
    Softmax { first: usize, last: usize },
}

impl Native for NativeReduce {
    const NAME: &'static str = "NativeReduce";

    fn sized(&self, shapes: &[&[usize]]) -> Option<(Kernel, TVec<usize>)> {
        let input: &[usize] = shapes.first()?;
        elements(input)?;
        let product = |sizes: &[usize]| sizes.iter().product::<usize>() as u32;
        let mut output: TVec<usize> = input.into();
        let request = match self {
            NativeReduce::Reduce { first, last, axes, mode } => {
                axes.iter().for_each(|axis| output[*axis] = 1);
                Kernel::Reduce(Request {
                    outer: product(&input[..*first]),
                    middle: product(&input[*first..=*last]),
                    inner: product(&input[last + 1..]),
                    mode: *mode,
                    ..Request::default()
                })
            }
            NativeReduce::Softmax { first, last } => Kernel::Softmax(SoftmaxRequest {
                outer: product(&input[..*first]),
                middle: product(&input[*first..=*last]),
                inner: product(&input[last + 1..]),
                ..SoftmaxRequest::default()
            }),
        };
        Some((request, output))
    }

    fn place(&self, request: &mut Kernel, inputs: &[TValue], output: u32) {
        let input = address(&inputs[0]);
        match request {
            Kernel::Reduce(request) => (request.input, request.output) = (input, output),
            Kernel::Softmax(request) => (request.input, request.output) = (input, output),
            _ => {}
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
    let Some((first, last)) = adjacent(axes, &input) else { return Ok(None) };
    let native = NativeReduce::Reduce { first, last, axes: axes.clone(), mode };
    let Some(op) = NativeOp::new(native, &[&input], &output) else { return Ok(None) };
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
    let Some((first, last)) = adjacent(axes, &shape) else { return Ok(None) };
    let native = NativeReduce::Softmax { first, last };
    let Some(op) = NativeOp::new(native, &[&shape], &shape) else { return Ok(None) };
    TypedModelPatch::replace_single_op(model, node, &node.inputs, op).map(Some)
}

/// The first and the last of these axes, if all other dimensions between them have the size 1.
fn adjacent(axes: &[usize], shape: &[TDim]) -> Option<(usize, usize)> {
    let (first, last) = (*axes.iter().min()?, *axes.iter().max()?);
    let inside = |axis: usize| axes.contains(&axis) || shape[axis].is_one();
    (first..=last).all(inside).then_some((first, last))
}
