//! NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss (ONNX, operator sets 12 and 13), which
//! exporters sometimes leave in models. Computed in 64 bits.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::volume;
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, like, optional, required, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{floats, from_floats, ints};

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
    /// Whether the operator computes the log-probabilities itself.
    softmax: bool,
}

pub(crate) const OPERATORS: &[Registration] = &[
    own("NegativeLogLikelihoodLoss", |_, node| built(loss(node, false)?, node)),
    own("SoftmaxCrossEntropyLoss", |_, node| built(loss(node, true)?, node)),
];

fn loss(node: &NodeProto, softmax: bool) -> TractResult<Loss> {
    let reduction = match node.get_attr_opt::<&str>("reduction")?.unwrap_or("mean") {
        "none" => Reduction::None,
        "sum" => Reduction::Sum,
        "mean" => Reduction::Mean,
        other => bail!("the reduction {other:?} is not implemented"),
    };
    Ok(Loss { reduction, ignored: node.get_attr_opt("ignore_index")?, softmax })
}

/// Samples, classes, and elements of each sample.
fn layout(shape: &[usize]) -> TractResult<(usize, usize, usize)> {
    volume(shape)?;
    match shape {
        [samples, classes, places @ ..] => Ok((*samples, *classes, places.iter().product())),
        _ => bail!("scores cannot have {} dimensions", shape.len()),
    }
}

impl Operator for Loss {
    fn name(&self) -> &'static str {
        if self.softmax { "SoftmaxCrossEntropyLoss" } else { "NegativeLogLikelihoodLoss" }
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (scores, labels) = (required(inputs, 0)?, required(inputs, 1)?);
        ensure!(scores.rank() >= 2, "scores cannot have {} dimensions", scores.rank());
        ensure!(
            labels.rank() + 1 == scores.rank(),
            "labels cannot have {} dimensions",
            labels.rank()
        );
        let loss = match self.reduction {
            Reduction::None => with_dims(scores.dtype, labels.shape.iter().cloned()),
            _ => with_dims(scores.dtype, []),
        };
        Ok(if self.softmax { tvec!(loss, like(scores)) } else { tvec!(loss) })
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (scores, labels) = (*required(inputs, 0)?, *required(inputs, 1)?);
        let (samples, classes, places) = layout(scores.shape())?;
        let wanted = [&scores.shape()[..1], &scores.shape()[2..]].concat();
        ensure!(
            labels.shape() == wanted,
            "labels of the shape {:?} do not match scores of the shape {:?}",
            labels.shape(),
            scores.shape()
        );
        let weights = match optional(inputs, 2) {
            Some(weights) => floats(weights)?,
            None => vec![1.0; classes],
        };
        ensure!(
            weights.len() == classes,
            "{} weights do not match {classes} classes",
            weights.len()
        );
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
                let Some(class) = class else {
                    bail!("the label {label} is out of range for {classes} classes")
                };
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

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, row, scalar, tensor};

    fn nll(reduction: &str, labels: &[i64]) -> Case {
        let case = case("NegativeLogLikelihoodLoss").text("reduction", reduction);
        let case = case.input(tensor(&[2, 3], &[-1f32, -2.0, -3.0, -4.0, -5.0, -6.0]));
        case.input(row(labels)).input(row(&[1f32, 2.0, 3.0]))
    }

    #[test]
    fn mean_loss_is_divided_by_the_sum_of_weights() {
        nll("none", &[0, 2]).gives(row(&[1f32, 18.0]));
        nll("sum", &[0, 2]).gives(scalar(19f32));
        nll("mean", &[0, 2]).gives(scalar(4.75f32));
    }

    #[test]
    fn ignored_label_has_no_loss_and_may_be_outside_of_the_classes() {
        nll("none", &[0, -1]).int("ignore_index", -1).gives(row(&[1f32, 0.0]));
        nll("mean", &[0, 2]).int("ignore_index", 2).gives(scalar(1f32));
        nll("mean", &[2, 2]).int("ignore_index", 2).gives(scalar(f32::NAN));
        nll("mean", &[0, -1]).fails("-1");
        nll("mean", &[0, 3]).fails("3");
    }

    #[test]
    fn softmax_cross_entropy_of_large_scores_is_finite() {
        let case = case("SoftmaxCrossEntropyLoss").outputs(2);
        let case = case.input(tensor(&[2, 2], &[0f32, 0.0, 1000.0, 0.0])).input(row(&[1i64, 0]));
        let two = 2f32.ln();
        let logs = tensor(&[2, 2], &[-two, -two, 0.0, -1000.0]);
        case.gives_all_near(&[scalar(two / 2.0), logs], 1e-6);
    }
}
