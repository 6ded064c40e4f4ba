//! Poolings of images, and of signals as images of one row.

use belljar_abi::kernel::{Kernel, Pool as Request};
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::{TypedModel, TypedNode};
use tract_onnx::tract_core::ops::cnn::{MaxPool, PoolSpec, SumPool};
use tract_onnx::tract_core::ops::nn::DataFormat;

use super::{address, call, plain_shape};

/// A pooling that the host computes.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct NativePool {
    /// Everything but the addresses.
    request: Request,
    output: TVec<usize>,
}

impl Op for NativePool {
    fn name(&self) -> StaticName {
        "NativePool".into()
    }

    op_as_typed_op!();
}

impl EvalOp for NativePool {
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        call(&self.output, |output| {
            Kernel::Pool(Request { input: address(&inputs[0]), output, ..self.request })
        })
    }

    op_out_of_plan!();
}

impl TypedOp for NativePool {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(&*self.output)))
    }

    as_op!();
}

/// Takes a pooling's place.
pub(super) fn take(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let (spec, mode) = if let Some(MaxPool { pool_spec, with_index_outputs: None }) = node.op_as() {
        (pool_spec, 0)
    } else if let Some(SumPool { pool_spec, count_include_pad, normalize }) = node.op_as() {
        let mode = match (normalize, count_include_pad) {
            (false, _) => 1,
            (true, false) => 2,
            (true, true) => 3,
        };
        (pool_spec, mode)
    } else {
        return Ok(None);
    };
    let fact = model.outlet_fact(node.inputs[0])?;
    let output = plain_shape(&node.outputs[0].fact);
    let (Some(input), Some(output)) = (plain_shape(fact), output) else { return Ok(None) };
    let Some(request) = geometry(spec, mode, &input, &output) else { return Ok(None) };
    TypedModelPatch::replace_single_op(model, node, &node.inputs, NativePool { request, output })
        .map(Some)
}

fn geometry(spec: &PoolSpec, mode: u32, input: &[usize], output: &[usize]) -> Option<Request> {
    let batch = usize::from(spec.data_format == DataFormat::NCHW);
    if batch == 0 && spec.data_format != DataFormat::CHW {
        return None;
    }
    let rank = spec.rank();
    if !matches!(rank, 1 | 2) || input.len() != rank + 1 + batch {
        return None;
    }
    let first = input.len() - rank;
    let (input_hw, output_hw) = (&input[first..], &output[first..]);
    let padding = spec.computed_padding(input_hw);
    for axis in 0..rank {
        let (kernel, pad) = (spec.kernel_shape[axis], padding[axis].pad_before);
        let last = (output_hw[axis] - 1) * spec.stride(axis);
        let inside = last + kernel <= input_hw[axis] + pad + padding[axis].pad_after;
        // A window that ends beyond the padding does not count all of its elements.
        if spec.dilation(axis) != 1 || pad >= kernel || mode == 3 && !inside {
            return None;
        }
    }
    let sizes = |sizes: &[usize], missing: usize| -> (u32, u32) {
        match sizes {
            [h, w] => (*h as u32, *w as u32),
            [w] => (missing as u32, *w as u32),
            _ => (0, 0),
        }
    };
    let (in_h, in_w) = sizes(input_hw, 1);
    let (out_h, out_w) = sizes(output_hw, 1);
    let (kernel_h, kernel_w) = sizes(&spec.kernel_shape, 1);
    let (stride_h, stride_w) = sizes(&spec.strides(), 1);
    let before: TVec<usize> = padding.iter().map(|axis| axis.pad_before).collect();
    let (pad_top, pad_left) = sizes(&before, 0);
    let planes = input[..first].iter().product::<usize>() as u32;
    Some(Request {
        planes,
        in_h,
        in_w,
        out_h,
        out_w,
        kernel_h,
        kernel_w,
        stride_h,
        stride_w,
        pad_top,
        pad_left,
        mode,
        ..Request::default()
    })
}
