//! BatchNormalization (ONNX). tract computes it, except in training mode (operator set 14), which
//! uses the mean and variance of the batch and outputs the running ones. Computed in 64 bits.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::checks::at_least;
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, known_shapes, like, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, wrapped_by};
use crate::framework::tensors::{Bits, floats, from_floats, shapes};
use crate::framework::upstream::BuildResult;
use crate::framework::wrapped::Wrapping;

pub(crate) const OPERATORS: &[Registration] =
    &[wrapped_by("BatchNormalization", build_batch_normalization)];

// tract reads the channel dimension without checking that it exists.
const INFERENCE: Wrapping = Wrapping::TRACT
    .constant_from(1)
    .check(|_, s, inputs| at_least(s, &inputs[0], 2, "expected a batch with channels"));

fn build_batch_normalization(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    match training(node)? {
        true => trained(node),
        false => INFERENCE.build(context, node),
    }
}

/// Whether the node is in training mode.
fn training(node: &NodeProto) -> TractResult<bool> {
    Ok(node.get_attr_opt::<i64>("training_mode")?.unwrap_or(0) != 0)
}

fn trained(node: &NodeProto) -> BuildResult {
    let epsilon = Bits::of(node, "epsilon", 1e-5)?;
    built(BatchNorm { epsilon, momentum: Bits::of(node, "momentum", 0.9)? }, node)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct BatchNorm {
    epsilon: Bits,
    momentum: Bits,
}

/// Samples, channels, and elements of each.
fn layout(shapes: &[Option<Vec<usize>>]) -> TractResult<[usize; 3]> {
    let x = required(shapes, 0)?;
    let [samples, channels, places @ ..] = &**x else {
        bail!("expected a batch with channels, found the shape {x:?}")
    };
    for at in 1..5 {
        let shape = required(shapes, at)?;
        ensure!(**shape == [*channels], "the shape {shape:?} does not match {channels} channels");
    }
    Ok([*samples, *channels, places.iter().product()])
}

impl Operator for BatchNorm {
    fn name(&self) -> &'static str {
        "BatchNormalization"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        if let Some(shapes) = known_shapes(inputs) {
            layout(&shapes)?;
        }
        Ok(tvec!(
            like(required(inputs, 0)?),
            like(required(inputs, 3)?),
            like(required(inputs, 4)?)
        ))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let [samples, channels, places] = layout(&shapes(inputs))?;
        let given = |at| floats(required(inputs, at)?);
        let (mut x, scale, bias) = (given(0)?, given(1)?, given(2)?);
        let (mut means, mut variances) = (given(3)?, given(4)?);
        let count = samples.saturating_mul(places) as f64;
        ensure!(count > 0.0, "cannot compute the mean of an empty batch");
        let (epsilon, momentum) = (f64::from(self.epsilon.get()), f64::from(self.momentum.get()));
        for channel in 0..channels {
            let rows = (0..samples).map(|sample| (sample * channels + channel) * places);
            let all = rows.clone().flat_map(|row| row..row + places);
            let mean = all.clone().map(|at| x[at]).sum::<f64>() / count;
            let variance = all.clone().map(|at| (x[at] - mean).powi(2)).sum::<f64>() / count;
            means[channel] = means[channel] * momentum + mean * (1.0 - momentum);
            variances[channel] = variances[channel] * momentum + variance * (1.0 - momentum);
            let slope = scale[channel] / (variance + epsilon).sqrt();
            all.for_each(|at| x[at] = (x[at] - mean) * slope + bias[channel]);
        }
        let made = |at: usize, values: &[f64]| {
            let like = required(inputs, at)?;
            from_floats(like.datum_type(), like.shape(), values)
        };
        Ok(tvec!(made(0, &x)?, made(3, &means)?, made(4, &variances)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, tensor};

    #[test]
    fn batch_normalization_is_by_channel() {
        let norm = || {
            let case = case("BatchNormalization").float("epsilon", 0.0);
            let case = case.input(tensor(&[1, 2, 2], &[1f32, 3.0, 10.0, 20.0]));
            let case = case.input(row(&[2f32, 1.0])).input(row(&[0f32, 5.0]));
            case.input(row(&[1f32, 10.0])).input(row(&[4f32, 25.0]))
        };
        norm().gives_near(tensor(&[1, 2, 2], &[0f32, 2.0, 5.0, 7.0]), 1e-6);
        // By their own means 2 and 15, and variances 1 and 25.
        let training = norm().int("training_mode", 1).float("momentum", 0.75).outputs(3);
        training.gives_all_near(
            &[
                tensor(&[1, 2, 2], &[-2f32, 2.0, 4.0, 6.0]),
                row(&[1.25f32, 11.25]),
                row(&[3.25f32, 25.0]),
            ],
            1e-6,
        );
    }
}
