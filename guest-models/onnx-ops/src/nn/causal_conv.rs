//! CausalConvWithState (ONNX, operator set 27, and the domain com.microsoft): convolves each channel
//! along one dimension, continuing from a past state, and outputs the state for the next call.
//!
//! That of com.microsoft also has spaced kernels, channels in the last dimensions, and keeps the
//! states after the last few positions.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::volume;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{
    InputFact, OutputFact, known_shapes, optional, required, unknown_dims, with_dims,
};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{floats, from_floats, rounded, shapes};
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] =
    &[own("CausalConvWithState", |_, node| built(causal_conv(node)?, node))];

/// The operator of the domain `com.microsoft`.
pub(crate) fn build_microsoft(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let int =
        |name, default| Ok::<_, TractError>(node.get_attr_opt::<i64>(name)?.unwrap_or(default));
    ensure!(
        int("ndim", 1)? == 1,
        "ndim is {}, but only one spatial dimension is implemented",
        int("ndim", 1)?
    );
    // Names and defaults of what onnxruntime implements on one kind of device only.
    let special = [
        ("state_update_capacity", 0),
        ("state_channels_last", -1),
        ("state_length", 0),
        ("input_channel_offset", 0),
        ("input_channels", 0),
    ];
    for (name, default) in special {
        let value = int(name, default)?;
        ensure!(value == default, "{name} is {value}, but only {default} is implemented");
    }
    let dilation = int("dilation", 1)?;
    let spacing = usize::try_from(dilation).ok().filter(|spacing| *spacing > 0);
    let conv = CausalConv {
        spacing: spacing
            .or_user_error(format_args!("dilation is {dilation}, expected at least 1"))?,
        channels_last: int("channels_last", 0)? != 0,
        window: node.get_attr_opt::<usize>("state_window")?.unwrap_or(0),
        ..causal_conv(node)?
    };
    built(conv, node)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct CausalConv {
    /// Whether the result goes through `x · sigmoid(x)`.
    swish: bool,
    /// The distance of neighbours in the kernel.
    spacing: usize,
    /// Whether channels are the last dimensions, or the second one.
    channels_last: bool,
    /// How many of the last states are kept, in a dimension before the others; or 0 for the last one
    /// without such a dimension.
    window: usize,
}

fn causal_conv(node: &NodeProto) -> TractResult<CausalConv> {
    let activation = node.get_attr_opt::<&str>("activation")?.unwrap_or("none");
    Ok(CausalConv { swish: activation != "none", spacing: 1, channels_last: false, window: 0 })
}

struct Sizes {
    batch: usize,
    channels: usize,
    length: usize,
    /// The number of elements of a kernel.
    taps: usize,
    /// The number of positions of a state.
    kept: usize,
    state: TVec<usize>,
}

impl CausalConv {
    fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<Sizes> {
        let (input, weight) = (required(shapes, 0)?, required(shapes, 1)?);
        let (batch, length, channels) = match **input {
            [batch, length, ref channels @ ..] if self.channels_last && !channels.is_empty() => {
                (batch, length, volume(channels)?)
            }
            [batch, channels, length] if !self.channels_last => (batch, length, channels),
            _ => bail!("the input has the unexpected shape {input:?}"),
        };
        let taps = match **weight {
            [of, 1, taps] if of == channels && taps > 0 => taps,
            _ => bail!(
                "a kernel of the shape {weight:?} does not match an input of the shape {input:?}"
            ),
        };
        if let Some(bias) = optional(shapes, 2) {
            ensure!(
                **bias == [channels],
                "the bias has the shape {bias:?}, expected one value for each of {channels} channels"
            );
        }
        let kept = (taps - 1).checked_mul(self.spacing).or_user_error("the kernel is too long")?;
        let mut state: TVec<usize> = (self.window > 0).then_some(self.window).into_iter().collect();
        match self.channels_last {
            true => state.extend([batch, kept].into_iter().chain(input[2..].iter().copied())),
            false => state.extend([batch, channels, kept]),
        }
        if let Some(past) = optional(shapes, 3) {
            ensure!(
                **past == *state,
                "the past state has the shape {past:?}, expected {:?}",
                &*state
            );
        }
        volume(&[batch, channels, length.saturating_add(kept).saturating_add(1)])?;
        volume(&state)?;
        Ok(Sizes { batch, channels, length, taps, kept, state })
    }
}

impl Operator for CausalConv {
    fn name(&self) -> &'static str {
        "CausalConvWithState"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let input = required(inputs, 0)?;
        let dtype = input.dtype;
        let Some(shapes) = known_shapes(inputs) else {
            let rank = input.rank() + usize::from(self.window > 0);
            return Ok(tvec!(unknown_dims(dtype, input.rank()), unknown_dims(dtype, rank)));
        };
        let s = self.sizes(&shapes)?;
        let state = with_dims(dtype, s.state.iter().map(|dim| dim.to_dim()));
        Ok(tvec!(with_dims(dtype, input.shape.iter().cloned()), state))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let shapes = shapes(inputs);
        let s = self.sizes(&shapes)?;
        let Sizes { batch, channels, length, taps, kept, .. } = s;
        let dtype = required(inputs, 0)?.datum_type();
        let given = |at| optional(inputs, at).map(|tensor| floats(tensor)).transpose();
        let (input, weight) = (floats(required(inputs, 0)?)?, floats(required(inputs, 1)?)?);
        let (bias, past) = (given(2)?, given(3)?);
        // Where a position of a channel is in a tensor of so many positions.
        let place = |row: usize, at: usize, positions: usize| match self.channels_last {
            true => (row / channels * positions + at) * channels + row % channels,
            false => row * positions + at,
        };
        let one = batch * channels * kept;
        let slots = self.window.max(1);
        let (mut output, mut states) = (vec![0.0; input.len()], vec![0.0; slots * one]);
        let mut line = vec![];
        for row in 0..batch * channels {
            let channel = row % channels;
            line.clear();
            // The last of the states of a window is the one that this call continues.
            let state = |at| {
                past.as_ref().map_or(0.0, |past| past[past.len() - one + place(row, at, kept)])
            };
            line.extend((0..kept).map(state));
            line.extend((0..length).map(|at| input[place(row, at, length)]));
            let kernel = &weight[channel * taps..][..taps];
            let bias = bias.as_ref().map_or(0.0, |bias| bias[channel]);
            for at in 0..length {
                let elements = line[at..].iter().step_by(self.spacing).zip(kernel);
                let sum: f64 = elements.map(|(a, b)| a * b).sum();
                let sum = rounded(dtype, sum + bias);
                output[place(row, at, length)] =
                    if self.swish { sum / (1.0 + (-sum).exp()) } else { sum };
            }
            // The last slot is the state after all positions; those before it end earlier.
            for back in 0..slots.min(length.max(1)) {
                let to = &mut states[(slots - 1 - back) * one..][..one];
                for at in 0..kept {
                    to[place(row, at, kept)] = line[length - back + at];
                }
            }
        }
        let shape = required(inputs, 0)?.shape();
        Ok(tvec!(from_floats(dtype, shape, &output)?, from_floats(dtype, &s.state, &states)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, row, tensor};

    fn conv() -> Case {
        let case =
            case("CausalConvWithState").outputs(2).input(tensor(&[1, 1, 3], &[1f32, 2.0, 3.0]));
        case.input(tensor(&[1, 1, 2], &[10f32, 1.0]))
    }

    #[test]
    fn past_state_defaults_to_zeros() {
        let of = |numbers: [f32; 3]| [tensor(&[1, 1, 3], &numbers), tensor(&[1, 1, 1], &[3f32])];
        conv().gives_all(&of([1.0, 12.0, 23.0]));
        let past = conv().input(row(&[0.5f32])).input(tensor(&[1, 1, 1], &[4f32]));
        past.gives_all(&of([41.5, 12.5, 23.5]));
        conv().missing().input(tensor(&[1, 1, 2], &[4f32, 4.0])).fails("2");
    }

    #[test]
    fn swish_is_applied_to_the_sum_and_not_to_the_state() {
        let swish = |x: f64| (x / (1.0 + (-x).exp())) as f32;
        let numbers = [swish(1.0), swish(12.0), swish(23.0)];
        let expected = [tensor(&[1, 1, 3], &numbers), tensor(&[1, 1, 1], &[3f32])];
        conv().text("activation", "swish").gives_all_near(&expected, 1e-6);
        conv().text("activation", "silu").gives_all_near(&expected, 1e-6);
    }

    #[test]
    fn kernel_of_one_element_has_an_empty_state() {
        let case = case("CausalConvWithState").outputs(2).input(tensor(&[1, 1, 2], &[1f32, 2.0]));
        let outputs = [tensor(&[1, 1, 2], &[3f32, 6.0]), tensor::<f32>(&[1, 1, 0], &[])];
        case.input(tensor(&[1, 1, 1], &[3f32])).gives_all(&outputs);
    }
}
