//! BatchNormalization (ONNX, operator set 14) in training mode: by the mean and variance of the
//! batch itself, with the running ones as outputs. Computed in 64 bits.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::own::{
    Bits, Known, Own, Said, built, floats, from_floats, known_shapes, like, needed, shapes,
};

/// Whether a BatchNormalization trains.
pub(super) fn ours(node: &NodeProto) -> TractResult<bool> {
    Ok(node.get_attr_opt::<i64>("training_mode")?.unwrap_or(0) != 0)
}

pub(super) fn batch_norm(_: &ParsingContext, node: &NodeProto) -> super::Built {
    let epsilon = Bits::of(node, "epsilon", 1e-5)?;
    built(BatchNorm { epsilon, momentum: Bits::of(node, "momentum", 0.9)? }, node)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct BatchNorm {
    epsilon: Bits,
    momentum: Bits,
}

/// Samples, channels, and places of each.
fn layout(shapes: &[Option<Vec<usize>>]) -> TractResult<[usize; 3]> {
    let x = needed(shapes, 0)?;
    let [samples, channels, places @ ..] = &**x else { bail!("a batch of {x:?}") };
    for at in 1..5 {
        let shape = needed(shapes, at)?;
        ensure!(**shape == [*channels], "{shape:?} for {channels} channels");
    }
    Ok([*samples, *channels, places.iter().product()])
}

impl Own for BatchNorm {
    fn name(&self) -> &'static str {
        "BatchNormalization"
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        if let Some(shapes) = known_shapes(inputs) {
            layout(&shapes)?;
        }
        Ok(tvec!(like(needed(inputs, 0)?), like(needed(inputs, 3)?), like(needed(inputs, 4)?)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let [samples, channels, places] = layout(&shapes(inputs))?;
        let given = |at| floats(needed(inputs, at)?);
        let (mut x, scale, bias) = (given(0)?, given(1)?, given(2)?);
        let (mut means, mut variances) = (given(3)?, given(4)?);
        let count = samples.saturating_mul(places) as f64;
        ensure!(count > 0.0, "the mean of no numbers");
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
            let like = needed(inputs, at)?;
            from_floats(like.datum_type(), like.shape(), values)
        };
        Ok(tvec!(made(0, &x)?, made(3, &means)?, made(4, &variances)?))
    }
}
