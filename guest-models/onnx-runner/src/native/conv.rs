//! Convolutions with constant weights. Scales and shifts of channels are folded into the weights
//! and bias, and the addition of another tensor and clamping become part of the kernel.

use belljar_abi::kernel::{Conv as Request, Kernel, PANEL_ROWS};
use onnx_ops::elementwise::{Max, Min};
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::{TypedModel, TypedNode};
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cnn::{Conv, KernelFormat};
use tract_onnx::tract_core::ops::math::{Add, Mul};

use super::operator::{Native, NativeOp, address, optional};
use super::windows::{Windows, fits};
use super::{floats, only_reader, plain_shape, vector};

/// A convolution that the host computes.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct NativeConv {
    /// The request without addresses.
    request: Request,
    weights: Arc<Tensor>,
    bias: Option<Arc<Tensor>>,
    /// Scale and shift of each input channel.
    before: Option<[Arc<Tensor>; 2]>,
}

impl Native for NativeConv {
    const NAME: &'static str = "NativeConv";

    fn request(&self, inputs: &[TValue], output: u32) -> Kernel {
        let [scale, shift] = match &self.before {
            Some([scale, shift]) => [address(scale), address(shift)],
            None => [0, 0],
        };
        Kernel::Conv(Request {
            input: address(&inputs[0]),
            weights: address(&self.weights),
            bias: optional(self.bias.as_ref()),
            scale,
            shift,
            residual: inputs.get(1).map_or(0, |residual| address(residual)),
            output,
            ..self.request
        })
    }

    fn multiply_adds(&self) -> Option<u64> {
        Kernel::Conv(self.request).multiply_adds()
    }
}

/// Replaces a convolution, and the nodes that are folded into it.
pub(super) fn replace(
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<TypedModelPatch>> {
    let Some(conv) = node.op_as::<Conv>() else { return Ok(None) };
    let Some(mut found) = Found::new(model, node, conv)? else { return Ok(None) };
    let mut last = node;
    let mut residual = None;
    while let Some(reader) = only_reader(model, last) {
        if !found.fold(model, last, reader, &mut residual)? {
            break;
        }
        last = reader;
    }
    let (input, before) = before(model, node.inputs[0], &found.request)?;
    found.before = before;
    let mut patch = TypedModelPatch::default();
    let mut inputs = tvec!(patch.tap_model(model, input)?);
    if let Some(residual) = residual {
        inputs.push(patch.tap_model(model, residual)?);
    }
    let wire = patch.wire_node(&last.name, found.finish(), &inputs)?;
    patch.shunt_outside(model, last.id.into(), wire[0])?;
    Ok(Some(patch))
}

/// A convolution that is being converted.
struct Found {
    request: Request,
    /// The filters, by output channel.
    weights: Vec<f32>,
    bias: Vec<f32>,
    before: Option<Before>,
    output: TVec<usize>,
    clamped: bool,
}

impl Found {
    fn new(model: &TypedModel, node: &TypedNode, conv: &Conv) -> TractResult<Option<Found>> {
        let Conv { pool_spec, kernel_fmt, group, q_params } = conv;
        let facts = model.node_input_facts(node.id)?;
        let output = plain_shape(&node.outputs[0].fact);
        let (Some(input), Some(output)) = (plain_shape(facts[0]), output) else { return Ok(None) };
        let weights = facts[1].konst.as_ref().and_then(|weights| floats(weights));
        let bias = facts[2].konst.as_ref().and_then(|bias| floats(bias));
        let (Some(weights), Some(bias)) = (weights, bias) else { return Ok(None) };
        if q_params.is_some() || *kernel_fmt != KernelFormat::OIHW || *group == 0 {
            return Ok(None);
        }
        let (channels_in, channels_out) = (pool_spec.input_channels, pool_spec.output_channels);
        let Some(windows) = Windows::new(pool_spec, &input, &output) else { return Ok(None) };
        let request = Request {
            groups: *group as u32,
            channels_in: (channels_in / group) as u32,
            channels_out: (channels_out / group) as u32,
            low: f32::NEG_INFINITY.to_bits(),
            high: f32::INFINITY.to_bits(),
            ..geometry(&windows)
        };
        if !fits(request.scratch_bytes(), windows.kernel) {
            return Ok(None);
        }
        let taps = (request.kernel_h * request.kernel_w) as usize;
        if weights.len() != channels_out * (channels_in / group) * taps {
            return Ok(None);
        }
        let bias = match &*bias {
            [all] => vec![*all; channels_out],
            each if each.len() == channels_out => bias,
            _ => return Ok(None),
        };
        Ok(Some(Found { request, weights, bias, before: None, output, clamped: false }))
    }

    /// Folds the only reader of the result into the convolution, if possible.
    fn fold(
        &mut self,
        model: &TypedModel,
        last: &TypedNode,
        reader: &TypedNode,
        residual: &mut Option<OutletId>,
    ) -> TractResult<bool> {
        let Some(TypedBinOp(op, None)) = reader.op_as::<TypedBinOp>() else { return Ok(false) };
        if self.clamped && !op.is::<Max>() && !op.is::<Min>() {
            return Ok(false);
        }
        let same = plain_shape(&reader.outputs[0].fact).as_ref() == Some(&self.output);
        let other = match &*reader.inputs {
            [a, b] if a.node == last.id && b.node != last.id => *b,
            [a, b] if b.node == last.id && a.node != last.id => *a,
            _ => return Ok(false),
        };
        if !same {
            return Ok(false);
        }
        let fact = model.outlet_fact(other)?;
        let Some(operand) = fact.konst.as_ref() else {
            // A tensor with the shape of the output, which the kernel adds.
            let fits = plain_shape(fact).as_ref() == Some(&self.output);
            if !fits || !op.is::<Add>() || residual.is_some() {
                return Ok(false);
            }
            *residual = Some(other);
            return Ok(true);
        };
        let channels = (self.request.groups * self.request.channels_out) as usize;
        let pixels = (self.request.out_h * self.request.out_w) as usize;
        let each = by_channel(operand, &self.output, channels, pixels);
        let Some(each) = each else { return Ok(false) };
        // A scale or shift after the addition cannot be folded into the weights.
        let folded = residual.is_none() || op.is::<Max>() || op.is::<Min>();
        if !folded {
            return Ok(false);
        }
        if op.is::<Add>() {
            self.bias.iter_mut().zip(each).for_each(|(bias, more)| *bias += more);
        } else if op.is::<Mul>() {
            let filter = self.weights.len() / each.len();
            for ((bias, filter), factor) in
                self.bias.iter_mut().zip(self.weights.chunks_exact_mut(filter)).zip(each)
            {
                *bias *= factor;
                filter.iter_mut().for_each(|weight| *weight *= factor);
            }
        } else if op.is::<Max>() || op.is::<Min>() {
            let Some(bound) = uniform(&each) else { return Ok(false) };
            let (low, high) = (f32::from_bits(self.request.low), f32::from_bits(self.request.high));
            // The kernel applies the upper bound last.
            if op.is::<Max>() && high == f32::INFINITY {
                self.request.low = low.max(bound).to_bits();
            } else if op.is::<Min>() {
                self.request.high = high.min(bound).to_bits();
            } else {
                return Ok(false);
            }
            self.clamped = true;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn finish(self) -> NativeOp<NativeConv> {
        let Found { mut request, weights, bias, before, output, .. } = self;
        let before = before.map(|before| {
            request.least = before.least.to_bits();
            [vector(&before.scale), vector(&before.shift)]
        });
        let by_channel = request.channels_in == 1 && request.channels_out == 1;
        let weights = if by_channel { weights } else { pack(&request, &weights) };
        let bias = bias.iter().any(|bias| *bias != 0.0).then(|| vector(&bias));
        let native = NativeConv { request, weights: vector(&weights), bias, before };
        NativeOp { native, output }
    }
}

/// An operation on the channels of the input: `max(x · scale + shift, least)`.
struct Before {
    scale: Vec<f32>,
    shift: Vec<f32>,
    least: f32,
}

/// Follows a convolution's input backwards through nodes that scale, shift and bound its channels
/// and have no other reader. Without a bound this is not needed, because tract folds the rest into
/// the weights.
fn before(
    model: &TypedModel,
    input: OutletId,
    request: &Request,
) -> TractResult<(OutletId, Option<Before>)> {
    let shape = model.outlet_fact(input)?;
    let Some(shape) = plain_shape(shape) else { return Ok((input, None)) };
    let channels = (request.groups * request.channels_in) as usize;
    let pixels = (request.in_h * request.in_w) as usize;
    let mut before =
        Before { scale: vec![1.0; channels], shift: vec![0.0; channels], least: f32::NEG_INFINITY };
    let (mut at, mut steps) = (input, 0);
    loop {
        let node = model.node(at.node);
        // Its only reader must be the convolution or a node that is folded already.
        if only_reader(model, node).is_none() {
            break;
        }
        let Some(TypedBinOp(op, None)) = node.op_as::<TypedBinOp>() else { break };
        let [a, b] = *node.inputs else { break };
        let konst =
            |outlet: OutletId| Ok::<_, TractError>(model.outlet_fact(outlet)?.konst.clone());
        let (from, operand) = match (konst(a)?, konst(b)?) {
            (Some(operand), None) => (b, operand),
            (None, Some(operand)) => (a, operand),
            _ => break,
        };
        if plain_shape(model.outlet_fact(from)?).as_ref() != Some(&shape) {
            break;
        }
        let Some(each) = by_channel(&operand, &shape, channels, pixels) else { break };
        if steps == 0 {
            // Going backwards, the bound comes first.
            let (true, Some(least)) = (op.is::<Max>(), uniform(&each)) else { break };
            before.least = least;
        } else if op.is::<Add>() {
            let shifts = before.shift.iter_mut().zip(&before.scale).zip(each);
            shifts.for_each(|((shift, scale), more)| *shift += scale * more);
        } else if op.is::<Mul>() {
            before.scale.iter_mut().zip(each).for_each(|(scale, factor)| *scale *= factor);
        } else {
            break;
        }
        (at, steps) = (from, steps + 1);
    }
    Ok(if steps > 1 { (at, Some(before)) } else { (input, None) })
}

/// An operand as one number per channel, if it broadcasts that way.
fn by_channel(
    operand: &Tensor,
    shape: &[usize],
    channels: usize,
    pixels: usize,
) -> Option<Vec<f32>> {
    let elements = floats(operand)?;
    if let [all] = &*elements {
        return Some(vec![*all; channels]);
    }
    // The operand's shape is aligned with the last dimensions; the only other size than 1 must be
    // the channels.
    let missing = shape.len().checked_sub(operand.rank())?;
    let at = operand.shape().iter().position(|dim| *dim != 1)?;
    let image = shape.get(at + missing + 1..)?.iter().product::<usize>();
    let is_channels =
        elements.len() == channels && operand.shape()[at] == channels && image == pixels;
    is_channels.then_some(elements)
}

fn uniform(elements: &[f32]) -> Option<f32> {
    let first = *elements.first()?;
    (!first.is_nan() && elements.iter().all(|element| *element == first)).then_some(first)
}

/// The sizes and strides of a request.
fn geometry(windows: &Windows) -> Request {
    let [in_h, in_w] = windows.input;
    Request {
        batch: windows.batch,
        in_h,
        in_w,
        out_h: windows.output[0],
        out_w: windows.output[1],
        kernel_h: windows.kernel[0],
        kernel_w: windows.kernel[1],
        stride_h: windows.stride[0],
        stride_w: windows.stride[1],
        dilation_h: windows.dilation[0],
        dilation_w: windows.dilation[1],
        pad_top: windows.pad_before[0],
        pad_left: windows.pad_before[1],
        batch_stride: windows.channels * in_h * in_w,
        channel_stride: in_h * in_w,
        row_stride: in_w,
        column_stride: 1,
        ..Request::default()
    }
}

/// Packs the filters in panels of eight output channels.
fn pack(request: &Request, weights: &[f32]) -> Vec<f32> {
    let steps = (request.channels_in * request.kernel_h * request.kernel_w) as usize;
    let channels = request.channels_out as usize;
    let mut packed = Vec::new();
    for group in weights.chunks_exact(channels * steps) {
        for panel in group.chunks(PANEL_ROWS * steps) {
            let start = packed.len();
            packed.resize(start + PANEL_ROWS * steps, 0.0);
            for (row, filter) in panel.chunks_exact(steps).enumerate() {
                let targets = packed[start + row..].iter_mut().step_by(PANEL_ROWS);
                targets.zip(filter).for_each(|(target, weight)| *target = *weight);
            }
        }
    }
    packed
}
