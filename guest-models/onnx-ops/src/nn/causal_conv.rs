//! CausalConvWithState (ONNX, operator set 27): each channel convolved along the last dimension with
//! what came before, and what came last kept for the next call.

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::tract_hir::internal::*;

use super::own::{
    Known, Own, Said, built, floats, from_floats, known_shapes, needed, optional, rounded, shapes,
    sized, unknown, volume,
};

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("CausalConvWithState", |_, node| {
        let activation = node.get_attr_opt::<&str>("activation")?.unwrap_or("none");
        built(CausalConv { swish: activation != "none" }, node)
    });
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct CausalConv {
    /// Whether the result goes through `x · sigmoid(x)`.
    swish: bool,
}

/// Batch, channels, length, and how far the kernel reaches.
fn sizes(shapes: &[Option<Vec<usize>>]) -> TractResult<[usize; 4]> {
    let (input, weight) = (needed(shapes, 0)?, needed(shapes, 1)?);
    let ([batch, channels, length], [of, 1, reach]) = (&**input, &**weight) else {
        bail!("a kernel of {weight:?} over {input:?}")
    };
    ensure!(of == channels && *reach > 0, "a kernel of {weight:?} over {input:?}");
    if let Some(bias) = optional(shapes, 2) {
        ensure!(**bias == [*channels], "a bias of {bias:?} for {channels} channels");
    }
    if let Some(past) = optional(shapes, 3) {
        let wanted = [*batch, *channels, reach - 1];
        ensure!(**past == wanted, "a state of {past:?}, wanted is {wanted:?}");
    }
    volume(&[*batch, *channels, length.saturating_add(*reach)])?;
    Ok([*batch, *channels, *length, *reach])
}

impl Own for CausalConv {
    fn name(&self) -> &'static str {
        "CausalConvWithState"
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let dtype = needed(inputs, 0)?.dtype;
        let Some(shapes) = known_shapes(inputs) else {
            return Ok(tvec!(unknown(dtype, 3), unknown(dtype, 3)));
        };
        let [batch, channels, length, reach] = sizes(&shapes)?;
        let of = |length: usize| sized(dtype, [batch, channels, length].map(|dim| dim.to_dim()));
        Ok(tvec!(of(length), of(reach - 1)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let shapes = shapes(inputs);
        let [batch, channels, length, reach] = sizes(&shapes)?;
        let dtype = needed(inputs, 0)?.datum_type();
        let given = |at| optional(inputs, at).map(|tensor| floats(tensor)).transpose();
        let (input, weight) = (floats(needed(inputs, 0)?)?, floats(needed(inputs, 1)?)?);
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
