//! LinearClassifier and LinearRegressor: products of rows and coefficients, summed in 64 bits.

use belljar_operators::ML;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::Parameters;
use super::attributes::{floats, int, wide};
use super::labels::Labels;
use super::rows::{Rows, of_width};
use super::scores::{Transform, greatest, matrix};
use crate::framework::dims::volume;
use crate::framework::errors::ensure;
use crate::framework::facts::{InputFact, OutputFact, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};

pub(crate) const OPERATORS: &[Registration] = &[
    own("LinearClassifier", |_, node| built(Classifier::new(node)?, node)).of(ML),
    own("LinearRegressor", |_, node| built(Regressor::new(node)?, node)).of(ML),
];

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
            "{count} coefficients do not match {targets} targets"
        );
        if intercepts.is_empty() {
            intercepts = vec![0.0; targets];
        }
        ensure!(
            intercepts.len() == targets,
            "{} intercepts do not match {targets} targets",
            intercepts.len()
        );
        Ok(Linear { targets, features: count / targets, coefficients, intercepts })
    }

    fn scores(&self, row: &[f64]) -> Vec<f64> {
        let each = self.coefficients.chunks_exact(self.features).zip(&self.intercepts);
        let score = |(coefficients, intercept): (&[f64], &f64)| dot(row, coefficients) + intercept;
        each.map(score).collect()
    }
}

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Regressor {
    linear: Parameters<Linear>,
}

impl Regressor {
    fn new(node: &NodeProto) -> TractResult<Regressor> {
        let targets = usize::try_from(int(node, "targets", 1))?;
        Ok(Regressor { linear: Parameters::new(Linear::new(node, targets)?) })
    }
}

impl Operator for Regressor {
    fn name(&self) -> &'static str {
        "LinearRegressor"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let count = of_width(inputs, self.linear.features)?;
        Ok(tvec!(with_dims(f32::datum_type(), [count, self.linear.targets.to_dim()])))
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
    linear: Parameters<Linear>,
    labels: Parameters<Labels>,
    transform: Transform,
}

impl Classifier {
    fn new(node: &NodeProto) -> TractResult<Classifier> {
        let labels = Labels::of(node, "classlabels_ints")?;
        let transform = Transform::of(node)?;
        // Two classes may have one row of coefficients. The number of intercepts gives the number
        // of rows.
        let one = labels.count() == 2 && floats(node, "intercepts").len() == 1;
        let targets = if one { 1 } else { labels.count() };
        let agreed = !one || transform == Transform::Logistic;
        ensure!(agreed, "{} of one score for two classes is not implemented", transform.name());
        let linear = Parameters::new(Linear::new(node, targets)?);
        Ok(Classifier { linear, labels: Parameters::new(labels), transform })
    }
}

impl Operator for Classifier {
    fn name(&self) -> &'static str {
        "LinearClassifier"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let count = of_width(inputs, self.linear.features)?;
        let classes = self.labels.count().to_dim();
        Ok(tvec!(
            with_dims(self.labels.dtype(), [count.clone()]),
            with_dims(f32::datum_type(), [count, classes])
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

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, row, tensor, texts};

    #[test]
    fn linear_regressor_has_a_row_of_coefficients_for_each_target() {
        let regressor = case("LinearRegressor").floats("coefficients", &[1.0, 2.0, -1.0, 0.5]);
        let regressor = regressor.int("targets", 2).input(tensor(&[1, 2], &[3f32, 4.0]));
        regressor.clone().gives(tensor(&[1, 2], &[11f32, -1.0]));
        regressor.floats("intercepts", &[1.0, -1.0]).gives(tensor(&[1, 2], &[12f32, -2.0]));
        let uneven = case("LinearRegressor").floats("coefficients", &[1.0, 2.0, 3.0]);
        uneven.int("targets", 2).input(tensor(&[1, 2], &[3f32, 4.0])).fails("3");
    }

    fn classifier(coefficients: &[f32], intercepts: &[f32]) -> Case {
        let case = case("LinearClassifier").floats("coefficients", coefficients);
        case.floats("intercepts", intercepts).outputs(2)
    }

    #[test]
    fn linear_classifier_takes_the_first_of_the_greatest_scores() {
        let case = classifier(&[1.0, 1.0, -1.0], &[0.0, 0.0, 1.0]);
        let case = case.ints("classlabels_ints", &[10, 20, 30]);
        let case = case.input(tensor(&[2, 1], &[2f32, -2.0]));
        let scores = tensor(&[2, 3], &[2f32, 2.0, -1.0, -2.0, -2.0, 3.0]);
        case.gives_all(&[row(&[10i64, 30]), scores]);
    }

    #[test]
    fn linear_classifier_transforms_scores_and_names_classes() {
        let case = classifier(&[1.0, 0.0], &[0.0, 1.0]).text("post_transform", "SOFTMAX");
        let case = case.texts("classlabels_strings", &["a", "b"]);
        let case = case.input(tensor(&[1, 1], &[1000f32]));
        case.gives_all(&[texts(&["a"]), tensor(&[1, 2], &[1f32, 0.0])]);
        let case = classifier(&[1.0, 0.0], &[0.0, 1.0]).text("post_transform", "LOGISTIC");
        let case = case.ints("classlabels_ints", &[5, 6]).input(tensor(&[1, 1], &[0f32]));
        let logistic = 1.0 / (1.0 + (-1f64).exp());
        let scores = tensor(&[1, 2], &[0.5f32, logistic as f32]);
        case.gives_all_near(&[row(&[6i64]), scores], 1e-6);
    }
}
