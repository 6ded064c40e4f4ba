//! Fuses connected elementwise nodes with a single result into one operator, so that intermediate
//! results are never tensors.

use belljar_abi::kernel::{
    Kernel, MAX_POINTWISE_INPUTS, MAX_POINTWISE_STEPS, Pointwise as Request, PointwiseInput,
    PointwiseStep, Step,
};
use belljar_abi::narrow::Narrow;
use onnx_ops::elementwise::{Div, Function, Max, Min, NarrowCast};
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::{TypedModel, TypedNode};
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::math::{Abs, Add, Exp, Mul, Neg, Recip, Rsqrt, Sqrt, Square, Sub};

use super::operator::{Native, NativeOp, address};
use super::permute::{Collapsed, collapse, strides_of};
use super::{elements, plain_shape};

/// A sequence of elementwise steps that the host computes.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct NativePointwise {
    /// The axes along which each input is repeated, if it does not have the size 1 there anyway.
    repeated: Vec<TVec<bool>>,
    steps: Vec<PointwiseStep>,
}

impl Native for NativePointwise {
    const NAME: &'static str = "NativePointwise";

    fn sized(&self, shapes: &[&[usize]]) -> Option<(Kernel, TVec<usize>)> {
        let rank = self.repeated.first()?.len();
        let mut output: TVec<usize> = tvec![1; rank];
        for (shape, repeated) in shapes.iter().zip(&self.repeated) {
            for (axis, dim) in shape.iter().enumerate() {
                if !*repeated.get(axis)? {
                    output[axis] = *dim;
                }
            }
        }
        elements(&output)?;
        let mut strides = Vec::with_capacity(shapes.len() + 1);
        for (shape, repeated) in shapes.iter().zip(&self.repeated) {
            let mut along = strides_of(shape);
            for (axis, stride) in along.iter_mut().enumerate() {
                let wanted = if repeated[axis] { 1 } else { output[axis] };
                if shape[axis] != wanted {
                    return None;
                }
                if wanted == 1 {
                    *stride = 0;
                }
            }
            strides.push(along);
        }
        // The output's strides, so that only dimensions that are contiguous there are merged.
        strides.push(strides_of(&output));
        let borrowed: Vec<&[u32]> = strides.iter().map(Vec::as_slice).collect();
        let Collapsed { dims, mut strides } = collapse(&output, &borrowed)?;
        strides.pop();
        let inputs = strides.into_iter().map(|strides| PointwiseInput { address: 0, strides });
        let inputs = inputs.collect();
        let steps = self.steps.clone();
        Some((Kernel::Pointwise(Request { dims, output: 0, inputs, steps }), output))
    }

    fn place(&self, request: &mut Kernel, inputs: &[TValue], output: u32) {
        if let Kernel::Pointwise(request) = request {
            request.output = output;
            for (read, input) in request.inputs.iter_mut().zip(inputs) {
                read.address = address(input);
            }
        }
    }
}

/// The step for a node, if it is elementwise and supported.
fn step(node: &TypedNode) -> Option<Step> {
    if let Some(TypedBinOp(op, None)) = node.op_as() {
        return Some(match () {
            () if op.is::<Add>() => Step::Add,
            () if op.is::<Sub>() => Step::Sub,
            () if op.is::<Mul>() => Step::Mul,
            () if op.is::<Div>() => Step::Div,
            () if op.is::<Min>() => Step::Min,
            () if op.is::<Max>() => Step::Max,
            () => return None,
        });
    }
    let Some(ElementWiseOp(op, None)) = node.op_as() else { return None };
    if let Some(NarrowCast::Round(narrow)) = op.downcast_ref() {
        return Some(match narrow {
            Narrow::F16 => Step::RoundF16,
            Narrow::Bf16 => Step::RoundBf16,
        });
    }
    if let Some(function) = op.downcast_ref() {
        return match function {
            Function::Tanh => Some(Step::Tanh),
            Function::Sigmoid => Some(Step::Sigmoid),
            Function::Erf => Some(Step::Erf),
            Function::Gelu => Some(Step::Gelu),
            Function::GeluByTanh => Some(Step::GeluByTanh),
            _ => None,
        };
    }
    Some(match () {
        () if op.is::<Square>() => Step::Square,
        () if op.is::<Sqrt>() => Step::Sqrt,
        () if op.is::<Rsqrt>() => Step::Rsqrt,
        () if op.is::<Recip>() => Step::Recip,
        () if op.is::<Neg>() => Step::Neg,
        () if op.is::<Abs>() => Step::Abs,
        () if op.is::<Exp>() => Step::Exp,
        () => return None,
    })
}

/// The step of a node whose tensors are all plain, and the shape of its output.
fn usable(model: &TypedModel, node: &TypedNode) -> Option<(Step, TVec<TDim>)> {
    let step = step(node)?;
    let shape = plain_shape(&node.outputs.first()?.fact)?;
    let plain = |outlet: &OutletId| {
        let fact = model.outlet_fact(*outlet).ok()?;
        plain_shape(fact).filter(|input| input.len() == shape.len())
    };
    node.inputs.iter().all(|input| plain(input).is_some()).then_some((step, shape))
}

/// Replaces a node and the nodes that only lead to it.
pub(super) fn replace(
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<TypedModelPatch>> {
    let Some((_, shape)) = usable(model, node) else { return Ok(None) };
    // A node that can be fused into all of its readers is replaced with them.
    if fuses_into_readers(model, node, &shape) {
        return Ok(None);
    }
    let members = members(model, node, &shape)?;
    let Some((op, inputs)) = program(model, &members, shape)? else { return Ok(None) };
    let mut patch = TypedModelPatch::default();
    let taps = patch.taps(model, &inputs)?;
    let wire = patch.wire_node(&node.name, op, &taps)?;
    patch.shunt_outside(model, node.id.into(), wire[0])?;
    Ok(Some(patch))
}

fn readers<'m>(model: &'m TypedModel, node: &'m TypedNode) -> impl Iterator<Item = &'m TypedNode> {
    node.outputs.iter().flat_map(|output| &output.successors).map(|inlet| model.node(inlet.node))
}

fn is_output(model: &TypedModel, node: &TypedNode) -> bool {
    model.output_outlets().is_ok_and(|outlets| outlets.iter().any(|outlet| outlet.node == node.id))
}

fn fuses_into_readers(model: &TypedModel, node: &TypedNode, shape: &TVec<TDim>) -> bool {
    !is_output(model, node)
        && readers(model, node).count() > 0
        && readers(model, node)
            .all(|reader| usable(model, reader).is_some_and(|(_, other)| other == *shape))
}

/// The nodes to fuse, including the last one, in an order in which they can be computed.
fn members(model: &TypedModel, last: &TypedNode, shape: &TVec<TDim>) -> TractResult<Vec<usize>> {
    let mut members = vec![last.id];
    // Adds nodes whose readers are all members, until there are none.
    loop {
        let mut found = None;
        'search: for member in &members {
            for input in &model.node(*member).inputs {
                let node = model.node(input.node);
                let fits = !members.contains(&node.id)
                    && !is_output(model, node)
                    && usable(model, node).is_some_and(|(_, other)| other == *shape)
                    && readers(model, node).all(|reader| members.contains(&reader.id));
                if fits {
                    found = Some(node.id);
                    break 'search;
                }
            }
        }
        match found {
            Some(node) if members.len() < MAX_POINTWISE_STEPS => members.push(node),
            _ => break,
        }
    }
    // Every node was added after its readers, so the reverse is a valid order.
    members.reverse();
    Ok(members)
}

fn program(
    model: &TypedModel,
    members: &[usize],
    shape: TVec<TDim>,
) -> TractResult<Option<(NativeOp<NativePointwise>, Vec<OutletId>)>> {
    let mut members = members;
    // Nodes that do not fit become a separate operator.
    loop {
        let mut inputs: Vec<OutletId> = Vec::new();
        for input in members.iter().flat_map(|member| &model.node(*member).inputs) {
            if !members.contains(&input.node) && !inputs.contains(input) {
                inputs.push(*input);
            }
        }
        let fits = inputs.len() <= MAX_POINTWISE_INPUTS;
        let made = if fits { assemble(model, members, &inputs, &shape)? } else { None };
        match (made, members.split_first()) {
            (Some(op), _) => return Ok(Some((op, inputs))),
            (None, Some((_, rest))) if !rest.is_empty() => members = rest,
            (None, _) => return Ok(None),
        }
    }
}

fn assemble(
    model: &TypedModel,
    members: &[usize],
    inputs: &[OutletId],
    shape: &TVec<TDim>,
) -> TractResult<Option<NativeOp<NativePointwise>>> {
    let mut repeated = Vec::with_capacity(inputs.len());
    let mut read = Vec::with_capacity(inputs.len());
    for input in inputs {
        let Some(dims) = plain_shape(model.outlet_fact(*input)?) else { return Ok(None) };
        let mut along: TVec<bool> = tvec!();
        for (dim, all) in dims.iter().zip(shape) {
            if dim != all && !dim.is_one() {
                return Ok(None);
            }
            along.push(dim != all);
        }
        repeated.push(along);
        read.push(dims);
    }
    let mut steps = Vec::with_capacity(members.len());
    for member in members {
        let node = model.node(*member);
        let Some(step) = step(node) else { return Ok(None) };
        let operand = |outlet: &OutletId| {
            let result = members.iter().position(|member| *member == outlet.node);
            match result {
                Some(result) => Some(result + MAX_POINTWISE_INPUTS),
                None => inputs.iter().position(|input| input == outlet),
            }
        };
        let Some(a) = node.inputs.first().and_then(operand) else { return Ok(None) };
        let Some(b) = node.inputs.last().and_then(operand) else { return Ok(None) };
        steps.push(PointwiseStep { step, a: a as u32, b: b as u32 });
    }
    let read: Vec<&[TDim]> = read.iter().map(|dims| &**dims).collect();
    Ok(NativeOp::new(NativePointwise { repeated, steps }, &read, shape))
}
