//! NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss (ONNX, operator sets 12 and 13): what a
//! classifier is trained by, and what exporters leave in models. Computed in 64 bits.

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::own::{
    Known, Own, Said, built, floats, from_floats, ints, like, needed, optional, sized, volume,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reduction {
    None,
    Sum,
    Mean,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Loss {
    reduction: Reduction,
    ignored: Option<i64>,
    /// Whether the logarithms of the probabilities are computed here.
    softmax: bool,
}

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("NegativeLogLikelihoodLoss", |_, node| built(loss(node, false)?, node));
    registry.insert("SoftmaxCrossEntropyLoss", |_, node| built(loss(node, true)?, node));
}

fn loss(node: &NodeProto, softmax: bool) -> TractResult<Loss> {
    let reduction = match node.get_attr_opt::<&str>("reduction")?.unwrap_or("mean") {
        "none" => Reduction::None,
        "sum" => Reduction::Sum,
        "mean" => Reduction::Mean,
        other => bail!("the reduction {other:?} is not implemented"),
    };
    Ok(Loss { reduction, ignored: node.get_attr_opt("ignore_index")?, softmax })
}

/// Samples, classes, and places of each sample.
fn layout(shape: &[usize]) -> TractResult<(usize, usize, usize)> {
    volume(shape)?;
    match shape {
        [samples, classes, places @ ..] => Ok((*samples, *classes, places.iter().product())),
        _ => bail!("scores of {} dimensions", shape.len()),
    }
}

impl Own for Loss {
    fn name(&self) -> &'static str {
        if self.softmax { "SoftmaxCrossEntropyLoss" } else { "NegativeLogLikelihoodLoss" }
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let (scores, labels) = (needed(inputs, 0)?, needed(inputs, 1)?);
        ensure!(scores.rank() >= 2, "scores of {} dimensions", scores.rank());
        ensure!(labels.rank() + 1 == scores.rank(), "labels of {} dimensions", labels.rank());
        let loss = match self.reduction {
            Reduction::None => sized(scores.dtype, labels.shape.iter().cloned()),
            _ => sized(scores.dtype, []),
        };
        Ok(if self.softmax { tvec!(loss, like(scores)) } else { tvec!(loss) })
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (scores, labels) = (*needed(inputs, 0)?, *needed(inputs, 1)?);
        let (samples, classes, places) = layout(scores.shape())?;
        let wanted = [&scores.shape()[..1], &scores.shape()[2..]].concat();
        ensure!(
            labels.shape() == wanted,
            "labels of {:?} for scores of {:?}",
            labels.shape(),
            scores.shape()
        );
        let weights = match optional(inputs, 2) {
            Some(weights) => floats(weights)?,
            None => vec![1.0; classes],
        };
        ensure!(weights.len() == classes, "{} weights for {classes} classes", weights.len());
        let labels_of = ints(labels)?;
        let mut logs = floats(scores)?;
        if self.softmax {
            log_softmax(&mut logs, samples, classes, places);
        }
        let mut losses = vec![0.0; samples * places];
        let mut weight = 0.0;
        for sample in 0..samples {
            for place in 0..places {
                let at = sample * places + place;
                let label = labels_of[at];
                if self.ignored == Some(label) {
                    continue;
                }
                let class = usize::try_from(label).ok().filter(|class| *class < classes);
                let Some(class) = class else { bail!("the label {label} is none of {classes}") };
                losses[at] = -logs[(sample * classes + class) * places + place] * weights[class];
                weight += weights[class];
            }
        }
        let dtype = scores.datum_type();
        let sum = || losses.iter().sum::<f64>();
        let loss = match self.reduction {
            Reduction::None => from_floats(dtype, labels.shape(), &losses)?,
            Reduction::Sum => from_floats(dtype, &[], &[sum()])?,
            Reduction::Mean => from_floats(dtype, &[], &[sum() / weight])?,
        };
        Ok(match self.softmax {
            true => tvec!(loss, from_floats(dtype, scores.shape(), &logs)?),
            false => tvec!(loss),
        })
    }
}

fn log_softmax(scores: &mut [f64], samples: usize, classes: usize, places: usize) {
    for sample in 0..samples {
        for place in 0..places {
            let at = |class: usize| (sample * classes + class) * places + place;
            let greatest = (0..classes).map(|class| scores[at(class)]);
            let greatest =
                greatest.fold(f64::NEG_INFINITY, |a, b| if b > a || b.is_nan() { b } else { a });
            let sum: f64 = (0..classes).map(|class| (scores[at(class)] - greatest).exp()).sum();
            let log = greatest + sum.ln();
            (0..classes).for_each(|class| scores[at(class)] -= log);
        }
    }
}
