//! CausalConvWithState (ONNX, operator set 27): convolves each channel along the last dimension,
//! continuing from a past state, and outputs the state for the next call.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::volume;
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{
    InputFact, OutputFact, known_shapes, optional, required, unknown_dims, with_dims,
};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{floats, from_floats, rounded, shapes};
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] =
    &[own("CausalConvWithState", build_causal_conv_with_state)];

fn build_causal_conv_with_state(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let activation = node.get_attr_opt::<&str>("activation")?.unwrap_or("none");
    built(CausalConv { swish: activation != "none" }, node)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct CausalConv {
    /// Whether the result goes through `x · sigmoid(x)`.
    swish: bool,
}

/// Batch, channels, length, and the extent of the kernel.
fn sizes(shapes: &[Option<Vec<usize>>]) -> TractResult<[usize; 4]> {
    let (input, weight) = (required(shapes, 0)?, required(shapes, 1)?);
    let ([batch, channels, length], [of, 1, reach]) = (&**input, &**weight) else {
        bail!("a kernel of the shape {weight:?} does not match an input of the shape {input:?}")
    };
    ensure!(
        of == channels && *reach > 0,
        "a kernel of the shape {weight:?} does not match an input of the shape {input:?}"
    );
    if let Some(bias) = optional(shapes, 2) {
        ensure!(
            **bias == [*channels],
            "the bias has the shape {bias:?}, expected one value for each of {channels} channels"
        );
    }
    if let Some(past) = optional(shapes, 3) {
        let wanted = [*batch, *channels, reach - 1];
        ensure!(**past == wanted, "the past state has the shape {past:?}, expected {wanted:?}");
    }
    volume(&[*batch, *channels, length.saturating_add(*reach)])?;
    Ok([*batch, *channels, *length, *reach])
}

impl Operator for CausalConv {
    fn name(&self) -> &'static str {
        "CausalConvWithState"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let dtype = required(inputs, 0)?.dtype;
        let Some(shapes) = known_shapes(inputs) else {
            return Ok(tvec!(unknown_dims(dtype, 3), unknown_dims(dtype, 3)));
        };
        let [batch, channels, length, reach] = sizes(&shapes)?;
        let of =
            |length: usize| with_dims(dtype, [batch, channels, length].map(|dim| dim.to_dim()));
        Ok(tvec!(of(length), of(reach - 1)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let shapes = shapes(inputs);
        let [batch, channels, length, reach] = sizes(&shapes)?;
        let dtype = required(inputs, 0)?.datum_type();
        let given = |at| optional(inputs, at).map(|tensor| floats(tensor)).transpose();
        let (input, weight) = (floats(required(inputs, 0)?)?, floats(required(inputs, 1)?)?);
        let (bias, past) = (given(2)?, given(3)?);
        let kept = reach - 1;
        let (mut output, mut state) = (Vec::with_capacity(input.len()), vec![]);
        for row in 0..batch * channels {
            let channel = row % channels;
            let mut line = match &past {
                Some(past) => past[row * kept..][..kept].to_vec(),
                None => vec![0.0; kept],
            };
            line.extend_from_slice(&input[row * length..][..length]);
            let kernel = &weight[channel * reach..][..reach];
            let bias = bias.as_ref().map_or(0.0, |bias| bias[channel]);
            for window in line.windows(reach) {
                let sum: f64 = window.iter().zip(kernel).map(|(a, b)| a * b).sum();
                let sum = rounded(dtype, sum + bias);
                output.push(if self.swish { sum / (1.0 + (-sum).exp()) } else { sum });
            }
            state.extend_from_slice(&line[length..]);
        }
        Ok(tvec!(
            from_floats(dtype, &[batch, channels, length], &output)?,
            from_floats(dtype, &[batch, channels, kept], &state)?
        ))
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
