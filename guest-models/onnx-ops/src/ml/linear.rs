//! LinearClassifier and LinearRegressor: products of rows and coefficients, added up in 64 bits.

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::super::own::{Known as Given, Own, Said, built, sized, volume};
use super::Known;
use super::attributes::{floats, int, wide};
use super::labels::Labels;
use super::rows::{Rows, of_width};
use super::scores::{Transform, greatest, matrix};

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("LinearClassifier", |_, node| built(Classifier::new(node)?, node));
    registry.insert("LinearRegressor", |_, node| built(Regressor::new(node)?, node));
}

#[derive(Debug)]
struct Linear {
    targets: usize,
    features: usize,
    coefficients: Vec<f64>,
    intercepts: Vec<f64>,
}

impl Linear {
    fn new(node: &NodeProto, targets: usize) -> TractResult<Linear> {
        let coefficients = wide(floats(node, "coefficients"), "a coefficient")?;
        let mut intercepts = wide(floats(node, "intercepts"), "an intercept")?;
        let count = coefficients.len();
        ensure!(
            targets > 0 && count > 0 && count % targets == 0,
            "{count} coefficients for {targets} targets"
        );
        if intercepts.is_empty() {
            intercepts = vec![0.0; targets];
        }
        ensure!(intercepts.len() == targets, "{} intercepts for {targets}", intercepts.len());
        Ok(Linear { targets, features: count / targets, coefficients, intercepts })
    }

    fn scores(&self, row: &[f64]) -> Vec<f64> {
        let each = self.coefficients.chunks_exact(self.features).zip(&self.intercepts);
        let score = |(coefficients, intercept): (&[f64], &f64)| dot(row, coefficients) + intercept;
        each.map(score).collect()
    }
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Regressor {
    linear: Known<Linear>,
}

impl Regressor {
    fn new(node: &NodeProto) -> TractResult<Regressor> {
        let targets = usize::try_from(int(node, "targets", 1))?;
        Ok(Regressor { linear: Known::new(Linear::new(node, targets)?) })
    }
}

impl Own for Regressor {
    fn name(&self) -> &'static str {
        "LinearRegressor"
    }

    fn outputs(&self, inputs: &[Option<Given>]) -> TractResult<TVec<Said>> {
        let count = of_width(inputs, self.linear.features)?;
        Ok(tvec!(sized(f32::datum_type(), [count, self.linear.targets.to_dim()])))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let rows = Rows::of(inputs)?;
        let mut all = Vec::with_capacity(volume(&[rows.count, self.linear.targets])?);
        for at in 0..rows.count {
            all.extend(self.linear.scores(rows.row(at)));
        }
        Ok(tvec!(matrix(rows.count, self.linear.targets, &all)?))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Classifier {
    linear: Known<Linear>,
    labels: Known<Labels>,
    transform: Transform,
}

impl Classifier {
    fn new(node: &NodeProto) -> TractResult<Classifier> {
        let labels = Labels::of(node, "classlabels_ints")?;
        let transform = Transform::of(node)?;
        // One row of coefficients for two classes: how many there are, the intercepts say.
        let one = labels.count() == 2 && floats(node, "intercepts").len() == 1;
        let targets = if one { 1 } else { labels.count() };
        let agreed = !one || transform == Transform::Logistic;
        ensure!(agreed, "{} of one score for two classes is not implemented", transform.name());
        let linear = Known::new(Linear::new(node, targets)?);
        Ok(Classifier { linear, labels: Known::new(labels), transform })
    }
}

impl Own for Classifier {
    fn name(&self) -> &'static str {
        "LinearClassifier"
    }

    fn outputs(&self, inputs: &[Option<Given>]) -> TractResult<TVec<Said>> {
        let count = of_width(inputs, self.linear.features)?;
        let classes = self.labels.count().to_dim();
        Ok(tvec!(
            sized(self.labels.dtype(), [count.clone()]),
            sized(f32::datum_type(), [count, classes])
        ))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let rows = Rows::of(inputs)?;
        let width = self.labels.count();
        let mut all = Vec::with_capacity(volume(&[rows.count, width])?);
        let mut classes = Vec::with_capacity(rows.count);
        for at in 0..rows.count {
            let mut scores = self.linear.scores(rows.row(at));
            if let [score] = *scores {
                scores = vec![-score, score];
            }
            let class = greatest(&scores)?;
            self.transform.apply_to_classes(&mut scores, class)?;
            classes.push(class);
            all.extend(scores);
        }
        Ok(tvec!(self.labels.tensor(&classes)?, matrix(rows.count, width, &all)?))
    }
}
