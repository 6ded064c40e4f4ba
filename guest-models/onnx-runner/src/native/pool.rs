//! Poolings of images, and of signals as images with one row.

use belljar_abi::kernel::{Kernel, MAX_POOL_SIZE, Pool as Request};
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::{TypedModel, TypedNode};
use tract_onnx::tract_core::ops::cnn::{MaxPool, PoolSpec, SumPool};

use super::operator::{Native, NativeOp, address};
use super::plain_shape;
use super::windows::{Windows, fits};

/// A pooling that the host computes.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct NativePool {
    spec: PoolSpec,
    mode: u32,
}

impl Native for NativePool {
    const NAME: &'static str = "NativePool";

    fn sized(&self, shapes: &[&[usize]]) -> Option<(Kernel, TVec<usize>)> {
        let (windows, output) = Windows::new(&self.spec, shapes.first()?)?;
        Some((Kernel::Pool(geometry(&windows, self.mode)?), output))
    }

    fn place(&self, request: &mut Kernel, inputs: &[TValue], output: u32) {
        if let Kernel::Pool(request) = request {
            *request = Request { input: address(&inputs[0]), output, ..*request };
        }
    }
}

/// Replaces a pooling.
pub(super) fn replace(
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<TypedModelPatch>> {
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
    let native = NativePool { spec: spec.clone(), mode };
    let Some(op) = NativeOp::new(native, &[&input], &output) else { return Ok(None) };
    TypedModelPatch::replace_single_op(model, node, &node.inputs, op).map(Some)
}

fn geometry(windows: &Windows, mode: u32) -> Option<Request> {
    let Windows { input, output, kernel, stride, dilation, pad_before, pad_after, .. } = windows;
    let request = Request {
        planes: windows.batch * windows.channels,
        in_h: input[0],
        in_w: input[1],
        out_h: output[0],
        out_w: output[1],
        kernel_h: kernel[0],
        kernel_w: kernel[1],
        stride_h: stride[0],
        stride_w: stride[1],
        pad_top: pad_before[0],
        pad_left: pad_before[1],
        mode,
        ..Request::default()
    };
    let mut sizes = input.iter().chain(kernel).chain(stride);
    if !fits(request.scratch_bytes(), *kernel) || sizes.any(|size| *size > MAX_POOL_SIZE) {
        return None;
    }
    for axis in [0, 1] {
        let last = (output[axis] - 1) * stride[axis];
        let inside = last + kernel[axis] <= input[axis] + pad_before[axis] + pad_after[axis];
        // A window that ends after the padding does not count all of its elements.
        let seen = last < input[axis] + pad_before[axis] && pad_before[axis] < kernel[axis];
        if dilation[axis] != 1 || !seen || mode == 3 && !inside {
            return None;
        }
    }
    Some(request)
}
