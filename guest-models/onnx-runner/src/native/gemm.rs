//! Products of two tensors that become matrix products when their dimensions are merged, with a
//! fused bias and lower bound.

use belljar_abi::kernel::{Gemm as Request, Kernel, PANEL_COLUMNS};
use onnx_ops::elementwise::Max;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::{TypedModel, TypedNode};
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::math::Add;

use super::operator::{Native, NativeOp, address, optional};
use super::permute::strides_of;
use super::{floats, only_reader, plain_shape, vector};

/// Width of the narrowest panel of packed columns.
const GRAIN: usize = 16;

/// A product that the host computes.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct NativeGemm {
    /// The request without addresses.
    request: Request,
    /// Which input is the left operand; the other one is the right one.
    left: usize,
    /// The right operand, if it is a constant; then there is one input.
    right: Option<Arc<Tensor>>,
    bias: Option<Arc<Tensor>>,
}

impl Native for NativeGemm {
    const NAME: &'static str = "NativeGemm";

    fn request(&self, inputs: &[TValue], output: u32) -> Kernel {
        let (a, b) = match &self.right {
            Some(right) => (address(&inputs[0]), address(right)),
            None => (address(&inputs[self.left]), address(&inputs[1 - self.left])),
        };
        let bias = optional(self.bias.as_ref());
        Kernel::Gemm(Request { a, b, bias, output, ..self.request })
    }

    fn multiply_adds(&self) -> Option<u64> {
        Kernel::Gemm(self.request).multiply_adds()
    }
}

/// Replaces a product.
pub(super) fn rewrite(
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<TypedModelPatch>> {
    let Some(op) = node.op_as::<EinSum>() else { return Ok(None) };
    if op.q_params.is_some() || op.operating_dt != f32::datum_type() || node.inputs.len() != 2 {
        return Ok(None);
    }
    let facts = model.node_input_facts(node.id)?;
    let shapes = (plain_shape(facts[0]), plain_shape(facts[1]));
    let output = plain_shape(&node.outputs[0].fact);
    let ((Some(first), Some(second)), Some(output)) = (shapes, output) else { return Ok(None) };
    let shapes = [first, second];
    for left in [0, 1] {
        if let Some(request) = matrices(op, &shapes, &output, left) {
            return replace(model, node, request, left, output);
        }
    }
    Ok(None)
}

/// Merged dimensions: the number of elements, and their stride in each tensor.
#[derive(Clone, Copy, Default)]
struct Merged {
    count: usize,
    strides: [u32; 3],
}

impl Merged {
    /// Adds an outer dimension. Returns whether it is contiguous with the others.
    fn push(&mut self, dim: usize, strides: [u32; 3]) -> bool {
        if self.count == 1 {
            *self = Merged { count: dim, strides };
            return true;
        }
        let continues = (0..3).all(|at| strides[at] == self.strides[at] * self.count as u32);
        self.count *= dim;
        continues
    }
}

/// The product as a matrix product with this input as its left operand.
fn matrices(
    op: &EinSum,
    shapes: &[TVec<usize>; 2],
    output: &TVec<usize>,
    left: usize,
) -> Option<Request> {
    let right = 1 - left;
    let strides = [strides_of(&shapes[left]), strides_of(&shapes[right]), strides_of(output)];
    let one = Merged { count: 1, strides: [0; 3] };
    let (mut batch, mut m, mut n, mut k) = (one, one, one, one);
    // Innermost first: by the position in the output, and for summed axes in the left operand.
    let mut axes: Vec<_> = op.axes.iter_all_axes().collect();
    axes.sort_by_key(|axis| {
        let place = axis.outputs[0].first().or(axis.inputs[left].first());
        std::cmp::Reverse(place.copied())
    });
    for axis in axes {
        let places = [&axis.inputs[left], &axis.inputs[right], &axis.outputs[0]];
        if places.iter().any(|places| places.len() > 1) {
            return None;
        }
        let [in_left, in_right, in_output] = places.map(|places| places.first().copied());
        let sizes = [
            in_left.map(|at| shapes[left][at]),
            in_right.map(|at| shapes[right][at]),
            in_output.map(|at| output[at]),
        ];
        let dim = sizes.iter().flatten().max().copied()?;
        if dim == 1 {
            continue;
        }
        // A dimension of one would have to be broadcast.
        if sizes.iter().flatten().any(|size| *size != dim) {
            return None;
        }
        let along = [
            in_left.map_or(0, |at| strides[0][at]),
            in_right.map_or(0, |at| strides[1][at]),
            in_output.map_or(0, |at| strides[2][at]),
        ];
        let merged = match (in_left.is_some(), in_right.is_some(), in_output.is_some()) {
            (true, true, true) => batch.push(dim, along),
            (true, false, true) => m.push(dim, along),
            (false, true, true) => n.push(dim, along),
            (true, true, false) => k.push(dim, along),
            _ => false,
        };
        if !merged {
            return None;
        }
    }
    // The kernel writes the output in the order batch, row, column.
    let in_order = (n.count == 1 || n.strides[2] == 1)
        && (m.count == 1 || m.strides[2] as usize == n.count)
        && (batch.count == 1 || batch.strides[2] as usize == m.count * n.count);
    // Few columns and many rows are faster with the operands exchanged.
    if !in_order || n.count < 4 && m.count >= 4 && left == 0 {
        return None;
    }
    Some(Request {
        batch: batch.count as u32,
        m: m.count as u32,
        n: n.count as u32,
        k: k.count as u32,
        a_batch_stride: batch.strides[0],
        a_row_stride: m.strides[0],
        a_step_stride: k.strides[0],
        b_batch_stride: batch.strides[1],
        // A stride of 0 means a packed operand.
        b_step_stride: k.strides[1].max(1),
        b_column_stride: n.strides[1],
        low: f32::NEG_INFINITY.to_bits(),
        high: f32::INFINITY.to_bits(),
        ..Request::default()
    })
}

fn replace(
    model: &TypedModel,
    node: &TypedNode,
    request: Request,
    left: usize,
    output: TVec<usize>,
) -> TractResult<Option<TypedModelPatch>> {
    let mut native = NativeGemm { request, left, right: None, bias: None };
    let mut inputs = node.inputs.clone();
    let konst = model.outlet_fact(node.inputs[1 - left])?.konst.clone();
    if let Some(elements) = konst.filter(|_| request.batch == 1).and_then(|right| floats(&right)) {
        native.right = Some(vector(&pack(&request, &elements)));
        native.request.b_step_stride = 0;
        native.request.b_batch_stride = 0;
        inputs = vec![node.inputs[left]];
    }
    let mut last = node;
    if let Some(reader) = only_reader(model, last)
        && let Some(bias) = operand::<Add>(model, last, reader, &output)?
        && let Some(bias) = by_column(&bias, request.n as usize)
    {
        native.bias = Some(vector(&bias));
        last = reader;
    }
    if let Some(reader) = only_reader(model, last)
        && let Some(bound) = operand::<Max>(model, last, reader, &output)?
        && let Some([low]) = floats(&bound).as_deref()
    {
        native.request.low = low.to_bits();
        last = reader;
    }
    let mut patch = TypedModelPatch::default();
    let taps = patch.taps(model, &inputs)?;
    let wire = patch.wire_node(&last.name, NativeOp { native, output }, &taps)?;
    patch.shunt_outside(model, last.id.into(), wire[0])?;
    Ok(Some(patch))
}

/// The constant that a reader combines a node's output with, if the shape stays the same.
fn operand<O: tract_onnx::tract_core::ops::binary::BinMiniOp>(
    model: &TypedModel,
    node: &TypedNode,
    reader: &TypedNode,
    shape: &TVec<usize>,
) -> TractResult<Option<Arc<Tensor>>> {
    let Some(TypedBinOp(op, None)) = reader.op_as::<TypedBinOp>() else { return Ok(None) };
    let same = plain_shape(&reader.outputs[0].fact).as_ref() == Some(shape);
    let other = match &*reader.inputs {
        [a, b] if a.node == node.id && b.node != node.id => *b,
        [a, b] if b.node == node.id && a.node != node.id => *a,
        _ => return Ok(None),
    };
    if !op.is::<O>() || !same {
        return Ok(None);
    }
    Ok(model.outlet_fact(other)?.konst.clone())
}

/// A bias as one number per column of the product.
fn by_column(bias: &Tensor, columns: usize) -> Option<Vec<f32>> {
    let elements = floats(bias)?;
    if let [all] = &*elements {
        return Some(vec![*all; columns]);
    }
    // All elements are along the last dimension, which is the columns.
    let last = bias.shape().last().copied()?;
    (last == columns && elements.len() == columns).then_some(elements)
}

/// Packs the right operand in panels of columns.
fn pack(request: &Request, elements: &[f32]) -> Vec<f32> {
    let (n, k) = (request.n as usize, request.k as usize);
    let (step, column) = (request.b_step_stride as usize, request.b_column_stride as usize);
    let mut packed = Vec::with_capacity(n.next_multiple_of(GRAIN) * k);
    for first in (0..n).step_by(PANEL_COLUMNS) {
        let valid = PANEL_COLUMNS.min(n - first);
        let width = valid.next_multiple_of(GRAIN);
        for at in 0..k {
            for lane in 0..width {
                let place = at * step + (first + lane) * column;
                packed.push(if lane < valid { elements[place] } else { 0.0 });
            }
        }
    }
    packed
}
