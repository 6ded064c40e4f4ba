//! Convolutions with constant weights. Scales and shifts of channels are folded into the weights
//! and bias, and the addition of another tensor and clamping become part of the kernel.

use belljar_abi::kernel::{Conv as Request, Kernel, PANEL_ROWS};
use belljar_abi::narrow::Narrow;
use onnx_ops::elementwise::{Max, Min};
use onnx_ops::framework::assumptions;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::{TypedModel, TypedNode};
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cnn::{Conv, KernelFormat, PoolSpec};
use tract_onnx::tract_core::ops::math::{Add, Mul};
use tract_onnx::tract_core::ops::nn::DataFormat;

use super::narrow::{Constant, keeps, rounding};
use super::operator::{Native, NativeOp, address, optional};
use super::windows::{Windows, fits};
use super::{floats, only_reader, plain_shape, vector};

/// A convolution that the host computes.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct NativeConv {
    spec: PoolSpec,
    groups: usize,
    weights: Filters,
    bias: Option<Arc<Tensor>>,
    before: Option<PackedBefore>,
    /// The types that the sums are rounded to before and after the addition of a tensor.
    round: [Option<Narrow>; 2],
    /// The bits of the bounds of the result.
    low: u32,
    high: u32,
}

/// The filters of a convolution, by output channel.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
enum Filters {
    /// As they are in the model, and factors of output channels, which apply one after the other.
    Model { weights: Constant, factors: Vec<Arc<Tensor>>, layout: Layout },
    /// In the layout of the host.
    Packed(Constant),
}

/// The sizes of filters.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
struct Layout {
    /// Output channels of each group.
    channels: usize,
    /// Weights of each output channel.
    steps: usize,
    /// Whether the filters are packed in panels of eight output channels.
    panels: bool,
}

/// Scale and shift of each input channel, and the bits of the lower bound after them.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct PackedBefore {
    scale: Arc<Tensor>,
    shift: Arc<Tensor>,
    round: Option<Narrow>,
    least: u32,
}

impl Native for NativeConv {
    const NAME: &'static str = "NativeConv";

    fn sized(&self, shapes: &[&[usize]]) -> Option<(Kernel, TVec<usize>)> {
        let (request, output) = request(&self.spec, self.groups, shapes.first()?)?;
        // The tensor that is added.
        if shapes.get(1).is_some_and(|residual| *residual != &*output) {
            return None;
        }
        let (least, round_scaled) = match &self.before {
            Some(before) => (before.least, Narrow::to_word(before.round)),
            None => (0, 0),
        };
        let [round_sum, round] = self.round.map(Narrow::to_word);
        let bounds = Request { low: self.low, high: self.high, least, ..request };
        let bounds = Request { round_scaled, ..bounds };
        let request = Request { round_sum, round, ..bounds };
        Some((Kernel::Conv(request), output))
    }

    fn packed(&self) -> Option<NativeConv> {
        let Filters::Model { weights, factors, layout } = &self.weights else { return None };
        let weights = Filters::Packed(pack(weights, factors, *layout)?);
        Some(NativeConv { weights, ..self.clone() })
    }

    fn place(&self, request: &mut Kernel, inputs: &[TValue], output: u32) {
        let (Filters::Model { weights, .. } | Filters::Packed(weights)) = &self.weights;
        let [scale, shift] = match &self.before {
            Some(before) => [address(&before.scale), address(&before.shift)],
            None => [0, 0],
        };
        if let Kernel::Conv(request) = request {
            *request = Request {
                input: address(&inputs[0]),
                weights: address(&weights.elements),
                weights_type: Narrow::to_word(weights.narrow),
                bias: optional(self.bias.as_ref()),
                scale,
                shift,
                residual: inputs.get(1).map_or(0, |residual| address(residual)),
                output,
                ..*request
            };
        }
    }
}

impl NativeConv {
    /// The bytes of the filters, if they are not packed.
    pub(super) fn unpacked(&self) -> usize {
        match &self.weights {
            Filters::Model { weights, .. } => weights.elements.as_bytes().len(),
            Filters::Packed(_) => 0,
        }
    }
}

/// The request for an input of this shape, without addresses and bounds, and the shape of the
/// output.
fn request(spec: &PoolSpec, groups: usize, input: &[usize]) -> Option<(Request, TVec<usize>)> {
    let (windows, output) = Windows::new(spec, input)?;
    let request = Request {
        groups: groups as u32,
        channels_in: (spec.input_channels / groups) as u32,
        channels_out: (spec.output_channels / groups) as u32,
        ..geometry(&windows)
    };
    fits(request.scratch_bytes(), windows.kernel).then_some((request, output))
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
    let (input, before) = before(model, node.inputs[0], &found)?;
    found.before = before;
    let read = [Some(input), residual].into_iter().flatten();
    let read: Vec<OutletId> = read.collect();
    let shapes: Vec<TVec<TDim>> = read
        .iter()
        .map(|input| Ok(model.outlet_fact(*input)?.shape.to_tvec()))
        .collect::<TractResult<_>>()?;
    let shapes: Vec<&[TDim]> = shapes.iter().map(|shape| &**shape).collect();
    let Some(op) = found.finish(&shapes) else { return Ok(None) };
    let mut patch = TypedModelPatch::default();
    let inputs = patch.taps(model, &read)?;
    let wire = patch.wire_node(&last.name, op, &inputs)?;
    patch.shunt_outside(model, last.id.into(), wire[0])?;
    Ok(Some(patch))
}

/// A convolution that is being converted.
struct Found {
    spec: PoolSpec,
    groups: usize,
    /// The dimension of the channels, in the input and the output.
    channel_axis: usize,
    /// The request for the example, for the layout of the weights.
    request: Request,
    /// The filters, by output channel.
    weights: Constant,
    /// Factors of the output channels, which apply to the filters one after the other.
    factors: Vec<Arc<Tensor>>,
    bias: Vec<f32>,
    before: Option<Before>,
    output: TVec<TDim>,
    round: [Option<Narrow>; 2],
    low: f32,
    high: f32,
    clamped: bool,
}

impl Found {
    fn new(model: &TypedModel, node: &TypedNode, conv: &Conv) -> TractResult<Option<Found>> {
        let Conv { pool_spec, kernel_fmt, group, q_params } = conv;
        let facts = model.node_input_facts(node.id)?;
        let output = plain_shape(&node.outputs[0].fact);
        let (Some(input), Some(output)) = (plain_shape(facts[0]), output) else { return Ok(None) };
        let weights = Constant::at(model, node.inputs[1])?;
        let bias = facts[2].konst.as_ref().and_then(|bias| floats(bias));
        let (Some(weights), Some(bias)) = (weights, bias) else { return Ok(None) };
        if q_params.is_some() || *kernel_fmt != KernelFormat::OIHW || *group == 0 {
            return Ok(None);
        }
        let sizes: Option<TVec<usize>> = input.iter().map(assumptions::size).collect();
        let Some((request, _)) = sizes.and_then(|sizes| request(pool_spec, *group, &sizes)) else {
            return Ok(None);
        };
        let (channels_in, channels_out) = (pool_spec.input_channels, pool_spec.output_channels);
        let taps = (request.kernel_h * request.kernel_w) as usize;
        if weights.elements.len() != channels_out * (channels_in / group) * taps {
            return Ok(None);
        }
        let bias = match bias {
            [all] => vec![*all; channels_out],
            each if each.len() == channels_out => each.to_vec(),
            _ => return Ok(None),
        };
        Ok(Some(Found {
            spec: pool_spec.clone(),
            groups: *group,
            channel_axis: usize::from(pool_spec.data_format == DataFormat::NCHW),
            request,
            weights,
            factors: Vec::new(),
            bias,
            before: None,
            output,
            round: [None; 2],
            low: f32::NEG_INFINITY,
            high: f32::INFINITY,
            clamped: false,
        }))
    }

    /// Folds the only reader of the result into the convolution, if possible.
    fn fold(
        &mut self,
        model: &TypedModel,
        last: &TypedNode,
        reader: &TypedNode,
        residual: &mut Option<OutletId>,
    ) -> TractResult<bool> {
        if let Some(narrow) = rounding(reader) {
            let round = &mut self.round[usize::from(residual.is_some())];
            // The kernel rounds before it applies the bounds. Once more changes nothing.
            if self.clamped {
                return Ok(*round == Some(narrow) && keeps(narrow, [self.low, self.high]));
            }
            let free = round.is_none();
            if free {
                *round = Some(narrow);
            }
            return Ok(free);
        }
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
        let channels = self.spec.output_channels;
        let each = by_channel(operand, self.output.len(), channels, self.channel_axis);
        let Some(each) = each else { return Ok(false) };
        // A scale or shift after an addition or a rounding cannot be folded into the weights.
        let rounded = self.round.iter().any(Option::is_some);
        let folded = residual.is_none() && !rounded || op.is::<Max>() || op.is::<Min>();
        if !folded {
            return Ok(false);
        }
        if op.is::<Add>() {
            self.bias.iter_mut().zip(each).for_each(|(bias, more)| *bias += more);
        } else if op.is::<Mul>() {
            self.bias.iter_mut().zip(&each).for_each(|(bias, factor)| *bias *= factor);
            self.factors.push(vector(&each));
        } else if op.is::<Max>() || op.is::<Min>() {
            let Some(bound) = uniform(&each) else { return Ok(false) };
            // The kernel applies the upper bound last.
            if op.is::<Max>() && self.high == f32::INFINITY {
                self.low = self.low.max(bound);
            } else if op.is::<Min>() {
                self.high = self.high.min(bound);
            } else {
                return Ok(false);
            }
            self.clamped = true;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// The operator for inputs of these shapes.
    fn finish(self, inputs: &[&[TDim]]) -> Option<NativeOp<NativeConv>> {
        let Found { spec, groups, request, weights, factors, bias, before, output, round, .. } =
            self;
        let before = before.map(|before| PackedBefore {
            scale: vector(&before.scale),
            shift: vector(&before.shift),
            round: before.round,
            least: before.least.to_bits(),
        });
        let layout = Layout {
            channels: request.channels_out as usize,
            steps: (request.channels_in * request.kernel_h * request.kernel_w) as usize,
            panels: request.channels_in != 1 || request.channels_out != 1,
        };
        let bias = bias.iter().any(|bias| *bias != 0.0).then(|| vector(&bias));
        let (low, high) = (self.low.to_bits(), self.high.to_bits());
        let weights = Filters::Model { weights, factors, layout };
        let native = NativeConv { spec, groups, weights, bias, before, round, low, high };
        NativeOp::new(native, inputs, &output)
    }
}

/// An operation on the channels of the input: `max(x · scale + shift, least)`, with the sum rounded
/// to a narrow type if there is one.
struct Before {
    scale: Vec<f32>,
    shift: Vec<f32>,
    round: Option<Narrow>,
    least: f32,
}

/// Follows a convolution's input backwards through nodes that scale, shift and bound its channels
/// and have no other reader. Without a bound this is not needed, because tract folds the rest into
/// the weights.
fn before(
    model: &TypedModel,
    input: OutletId,
    found: &Found,
) -> TractResult<(OutletId, Option<Before>)> {
    let shape = model.outlet_fact(input)?;
    let Some(shape) = plain_shape(shape) else { return Ok((input, None)) };
    let channels = found.spec.input_channels;
    let mut before = Before {
        scale: vec![1.0; channels],
        shift: vec![0.0; channels],
        round: None,
        least: f32::NEG_INFINITY,
    };
    let (mut at, mut steps) = (input, 0);
    loop {
        let node = model.node(at.node);
        // Its only reader must be the convolution or a node that is folded already.
        if only_reader(model, node).is_none() {
            break;
        }
        if let (Some(narrow), 1, None, [from]) =
            (rounding(node), steps, before.round, &*node.inputs)
        {
            before.round = Some(narrow);
            at = *from;
            continue;
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
        let Some(each) = by_channel(&operand, shape.len(), channels, found.channel_axis) else {
            break;
        };
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

/// An operand as one number per channel, if it broadcasts that way to a tensor of this rank.
fn by_channel(
    operand: &Tensor,
    rank: usize,
    channels: usize,
    channel_axis: usize,
) -> Option<Vec<f32>> {
    let elements = floats(operand)?;
    if let [all] = elements {
        return Some(vec![*all; channels]);
    }
    // The operand's shape is aligned with the last dimensions; the only other size than 1 must be
    // the channels.
    let missing = rank.checked_sub(operand.rank())?;
    let at = operand.shape().iter().position(|dim| *dim != 1)?;
    let is_channels = elements.len() == channels
        && operand.shape()[at] == channels
        && at + missing == channel_axis;
    is_channels.then(|| elements.to_vec())
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

/// Multiplies the filters by the factors and packs them in panels of eight output channels. Filters
/// of single channels stay float32.
fn pack(weights: &Constant, factors: &[Arc<Tensor>], layout: Layout) -> Option<Constant> {
    let Layout { channels, steps, panels } = layout;
    let factors: Vec<&[f32]> = factors.iter().map(|each| floats(each)).collect::<Option<_>>()?;
    let scaled = |at: usize, weight: f32| {
        factors.iter().fold(weight, |weight, each| weight * each[at / steps])
    };
    if !panels {
        return weights.map(scaled);
    }
    let changed = if factors.is_empty() { None } else { Some(weights.map(scaled)?) };
    let weights = changed.as_ref().unwrap_or(weights);
    let groups = weights.elements.len() / (channels * steps);
    let each = channels.next_multiple_of(PANEL_ROWS) * steps;
    let filters = (0..groups * channels).flat_map(|channel| {
        let (group, row) = (channel / channels, channel % channels);
        let panel = group * each + row / PANEL_ROWS * PANEL_ROWS * steps + row % PANEL_ROWS;
        (0..steps).map(move |step| (panel + step * PANEL_ROWS, channel * steps + step))
    });
    weights.arranged(groups * each, filters)
}
