//! The final transform of scores (`post_transform`), and the class with the highest score.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::attributes::text;
use super::forest::Scores;
use crate::framework::errors::{OrUserError, bail, ensure};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transform {
    None,
    Softmax,
    Logistic,
    SoftmaxZero,
    Probit,
}

/// `SOFTMAX_ZERO` treats scores below this as zero, in onnxruntime and in ONNX's reference
/// implementation.
const ZERO: f64 = 1e-7;

impl Transform {
    pub(crate) fn of(node: &NodeProto) -> TractResult<Transform> {
        Ok(match text(node, "post_transform", "NONE")? {
            "NONE" => Transform::None,
            "SOFTMAX" => Transform::Softmax,
            "LOGISTIC" => Transform::Logistic,
            "SOFTMAX_ZERO" => Transform::SoftmaxZero,
            "PROBIT" => Transform::Probit,
            other => bail!("the post-transform {other:?} is not implemented"),
        })
    }

    /// The transform by its number, in version 5.
    pub(crate) fn numbered(number: i64) -> TractResult<Transform> {
        Ok(match number {
            0 => Transform::None,
            1 => Transform::Softmax,
            2 => Transform::Logistic,
            3 => Transform::SoftmaxZero,
            4 => Transform::Probit,
            other => bail!("the post-transform {other} is not implemented"),
        })
    }

    /// Its name in ONNX.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Transform::None => "NONE",
            Transform::Softmax => "SOFTMAX",
            Transform::Logistic => "LOGISTIC",
            Transform::SoftmaxZero => "SOFTMAX_ZERO",
            Transform::Probit => "PROBIT",
        }
    }

    /// Transforms the scores of one row. Each target must have a vote: implementations disagree on
    /// the others.
    pub(crate) fn apply_to_voted(self, scores: &mut Scores) -> TractResult<()> {
        let all = self == Transform::None || scores.voted.iter().all(|voted| *voted);
        ensure!(all, "{} of a target on which no leaf votes is not implemented", self.name());
        self.apply(&mut scores.values)
    }

    /// Transforms the scores of one row.
    pub(crate) fn apply(self, scores: &mut [f64]) -> TractResult<()> {
        if self != Transform::None {
            let finite = scores.iter().all(|score| score.is_finite());
            ensure!(finite, "cannot transform scores that are not finite");
        }
        match self {
            Transform::None => {}
            Transform::Logistic => scores.iter_mut().for_each(|score| *score = logistic(*score)),
            Transform::Softmax => softmax(scores, false),
            Transform::SoftmaxZero => {
                let zeros = scores.iter().all(|score| score.abs() <= ZERO);
                ensure!(!zeros, "implementations disagree on SOFTMAX_ZERO of zeros alone");
                softmax(scores, true);
            }
            Transform::Probit => {
                for score in scores {
                    *score = probit(*score)?;
                }
            }
        }
        Ok(())
    }

    /// Transforms the scores of one row. The highest score must stay the highest: otherwise
    /// implementations disagree on the class.
    pub(crate) fn apply_to_classes(self, scores: &mut [f64], class: usize) -> TractResult<()> {
        self.apply(scores)?;
        let score_of_class = scores.get(class).copied().or_user_error("a class without a score")?;
        let higher = scores.iter().any(|score| *score > score_of_class);
        ensure!(!higher, "after {} another class has the greatest score", self.name());
        Ok(())
    }
}

pub(crate) fn logistic(score: f64) -> f64 {
    1.0 / (1.0 + (-score).exp())
}

fn softmax(scores: &mut [f64], keep_zeros: bool) {
    let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    for score in scores.iter_mut() {
        *score = match keep_zeros && score.abs() <= ZERO {
            true => *score * (-greatest).exp(),
            false => (*score - greatest).exp(),
        };
    }
    let sum: f64 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// The inverse of the normal distribution, in the approximation that onnxruntime and ONNX's own
/// implementation have (S. Winitzki, "A handy approximation for the error function and its
/// inverse", 2008, with a = 0.147).
fn probit(score: f64) -> TractResult<f64> {
    ensure!(score > 0.0 && score < 1.0, "PROBIT of {score}, which is not between 0 and 1");
    let x = 2.0 * score - 1.0;
    let log = ((1.0 - x) * (1.0 + x)).ln();
    let half = 2.0 / (std::f64::consts::PI * 0.147) + 0.5 * log;
    let root = (-half + (half * half - log / 0.147).sqrt()).sqrt();
    Ok(std::f64::consts::SQRT_2 * root.copysign(x))
}

/// The index of the first maximum.
pub(crate) fn greatest(scores: &[f64]) -> TractResult<usize> {
    let known = scores.iter().all(|score| !score.is_nan());
    ensure!(known && !scores.is_empty(), "cannot find the highest of scores that are not finite");
    let mut best = 0;
    for (at, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = at;
        }
    }
    Ok(best)
}

/// A matrix of scores as 32-bit floats.
pub(crate) fn matrix(count: usize, width: usize, scores: &[f64]) -> TractResult<Tensor> {
    let scores: Vec<f32> = scores.iter().map(|score| *score as f32).collect();
    Tensor::from_shape(&[count, width], &scores)
}
