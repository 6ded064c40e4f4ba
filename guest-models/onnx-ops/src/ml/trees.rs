//! TreeEnsembleClassifier and TreeEnsembleRegressor (versions 1 to 4): the votes of a forest, as
//! classes or as numbers.

use belljar_operators::ML;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::Parameters;
use super::attributes::{int, ints, text};
use super::forest::{Aggregate, rounded, scores};
use super::labels::Labels;
use super::rows::Rows;
use super::scores::{Transform, greatest, matrix as of_scores};
use super::tree_nodes::Ensemble;
use crate::framework::dims::volume;
use crate::framework::errors::ensure;
use crate::framework::facts::{InputFact, OutputFact, required, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};

pub(crate) const OPERATORS: &[Registration] = &[
    own("TreeEnsembleClassifier", |_, node| built(Classifier::new(node)?, node)).of(ML),
    own("TreeEnsembleRegressor", |_, node| built(Regressor::new(node)?, node)).of(ML),
];

#[derive(Clone, Debug, PartialEq, Eq)]
struct Regressor {
    ensemble: Parameters<Ensemble>,
    aggregate: Aggregate,
}

impl Regressor {
    fn new(node: &NodeProto) -> TractResult<Regressor> {
        let targets = usize::try_from(int(node, "n_targets", 0))?;
        let ensemble = Ensemble::new(node, "target", "target_ids", targets)?;
        let aggregate = match text(node, "aggregate_function", "SUM")? {
            "AVERAGE" => Aggregate::Average,
            "MIN" => Aggregate::Least,
            "MAX" => Aggregate::Greatest,
            _ => Aggregate::Sum,
        };
        let base = ensemble.base.len();
        ensure!([0, targets].contains(&base), "{base} base values do not match {targets} targets");
        if targets == 1 {
            // With one target onnxruntime uses the first vote of a leaf, and applies no transform
            // but PROBIT.
            let votes = ensemble.votes.starts.windows(2).all(|pair| pair[1] - pair[0] == 1);
            ensure!(votes, "a leaf has several votes for one target");
            let plain = [Transform::None, Transform::Probit].contains(&ensemble.transform);
            ensure!(plain, "{} of one target is not implemented", ensemble.transform.name());
        }
        Ok(Regressor { ensemble: Parameters::new(ensemble), aggregate })
    }
}

impl Operator for Regressor {
    fn name(&self) -> &'static str {
        "TreeEnsembleRegressor"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let count = self.ensemble.check(inputs)?;
        Ok(tvec!(with_dims(f32::datum_type(), [count, self.ensemble.targets.to_dim()])))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let rows = Rows::of(inputs)?;
        let op = &*self.ensemble;
        let wide = required(inputs, 0)?.datum_type() == f64::datum_type();
        let mut all = Vec::with_capacity(volume(&[rows.count, op.targets])?);
        for at in 0..rows.count {
            let row = rows.row(at);
            let mut row = scores(&op.forest, &op.votes, self.aggregate, op.targets, row, wide)?;
            for (score, base) in row.values.iter_mut().zip(&op.base) {
                *score = rounded(*score + base, wide);
            }
            op.transform.apply_to_voted(&mut row)?;
            all.extend(row.values);
        }
        Ok(tvec!(of_scores(rows.count, op.targets, &all)?))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Classifier {
    ensemble: Parameters<Ensemble>,
    labels: Parameters<Labels>,
    /// Two classes with votes for one of them only.
    binary: Option<Binary>,
}

/// How votes for one class are interpreted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Binary {
    /// Probabilities: none is negative.
    Positive,
    Mixed,
}

impl Classifier {
    fn new(node: &NodeProto) -> TractResult<Classifier> {
        let labels = Labels::of(node, "classlabels_int64s")?;
        let classes = labels.count();
        let ensemble = Ensemble::new(node, "class", "class_ids", classes)?;
        let ids = ints(node, "class_ids");
        let base = ensemble.base.len();
        let transform = ensemble.transform;
        let one = classes == 2 && !ids.is_empty() && ids.iter().all(|id| *id == ids[0]);
        let binary = if one {
            ensure!(ids[0] == 0, "votes for the second of two classes alone are not implemented");
            ensure!(base <= 1, "{base} base values do not match votes for one class");
            let several = ensemble.votes.starts.windows(2).any(|pair| pair[1] - pair[0] != 1);
            ensure!(!several, "a leaf has several votes for one class");
            match ensemble.votes.votes.iter().all(|(_, weight)| *weight >= 0.0) {
                true => Some(Binary::Positive),
                false => Some(Binary::Mixed),
            }
        } else {
            ensure!(
                [0, classes].contains(&base),
                "{base} base values do not match {classes} classes"
            );
            let several = ids.iter().any(|id| *id != ids[0]);
            ensure!(several, "votes for one of {classes} classes alone are not implemented");
            None
        };
        // The cases in which onnxruntime and ONNX's reference implementation agree.
        let agreed = match binary {
            None => true,
            Some(Binary::Positive) => [Transform::None, Transform::Logistic].contains(&transform),
            Some(Binary::Mixed) => transform == Transform::Logistic,
        };
        ensure!(agreed, "{} of votes for one of two classes is not implemented", transform.name());
        Ok(Classifier {
            ensemble: Parameters::new(ensemble),
            labels: Parameters::new(labels),
            binary,
        })
    }

    /// The class of a row, and the scores of all.
    fn row(&self, row: &[f64], wide: bool) -> TractResult<(usize, Vec<f64>)> {
        let op = &*self.ensemble;
        let made = scores(&op.forest, &op.votes, Aggregate::Sum, op.targets, row, wide)?;
        let mut values = made.values;
        for (score, base) in values.iter_mut().zip(&op.base) {
            *score = rounded(*score + base, wide);
        }
        let Some(binary) = self.binary else {
            let class = greatest(&values)?;
            let voted = made.voted[class] || !op.base.is_empty();
            ensure!(voted, "the class with the highest score has no vote");
            op.transform.apply_to_classes(&mut values, class)?;
            return Ok((class, values));
        };
        let score = values[0];
        let half = if binary == Binary::Positive { 0.5 } else { 0.0 };
        let class = usize::from(score > half);
        let mut both = match op.transform {
            Transform::None => vec![1.0 - score, score],
            _ => vec![-score, score],
        };
        op.transform.apply_to_classes(&mut both, class)?;
        Ok((class, both))
    }
}

impl Operator for Classifier {
    fn name(&self) -> &'static str {
        "TreeEnsembleClassifier"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let count = self.ensemble.check(inputs)?;
        let classes = self.labels.count().to_dim();
        Ok(tvec!(
            with_dims(self.labels.dtype(), [count.clone()]),
            with_dims(f32::datum_type(), [count, classes])
        ))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let rows = Rows::of(inputs)?;
        let wide = required(inputs, 0)?.datum_type() == f64::datum_type();
        let width = self.labels.count();
        let mut all = Vec::with_capacity(volume(&[rows.count, width])?);
        let mut classes = Vec::with_capacity(rows.count);
        for at in 0..rows.count {
            let (class, scores) = self.row(rows.row(at), wide)?;
            classes.push(class);
            all.extend(scores);
        }
        Ok(tvec!(self.labels.tensor(&classes)?, of_scores(rows.count, width, &all)?))
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::Tensor;

    use crate::testing::{Case, case, row, tensor};

    /// One tree: `x[0] <= 0.5 ? node 1 : (x[1] > 2 ? node 3 : node 4)`. A missing value takes the
    /// true branch of the second node only.
    fn tree(case: Case) -> Case {
        let modes = ["BRANCH_LEQ", "LEAF", "BRANCH_GT", "LEAF", "LEAF"];
        let case = case.ints("nodes_treeids", &[0; 5]).ints("nodes_nodeids", &[0, 1, 2, 3, 4]);
        let case = case.ints("nodes_featureids", &[0, 0, 1, 0, 0]).texts("nodes_modes", &modes);
        let case = case.floats("nodes_values", &[0.5, 0.0, 2.0, 0.0, 0.0]);
        let case = case.ints("nodes_truenodeids", &[1, 0, 3, 0, 0]);
        let case = case.ints("nodes_falsenodeids", &[2, 0, 4, 0, 0]);
        case.ints("nodes_missing_value_tracks_true", &[0, 0, 1, 0, 0])
    }

    fn rows() -> Tensor {
        let nan = f32::NAN;
        tensor(&[4, 2], &[0.5f32, 9.0, 0.6, 2.0, nan, nan, 0.6, 2.1])
    }

    fn regressor() -> Case {
        let case = tree(case("TreeEnsembleRegressor")).int("n_targets", 1);
        let case = case.ints("target_treeids", &[0; 3]).ints("target_nodeids", &[1, 3, 4]);
        case.ints("target_ids", &[0; 3]).floats("target_weights", &[10.0, 20.0, 30.0])
    }

    #[test]
    fn tree_regressor_compares_with_thresholds_and_sends_nan_by_its_attribute() {
        regressor().input(rows()).gives(tensor(&[4, 1], &[10f32, 30.0, 20.0, 20.0]));
        let based = regressor().floats("base_values", &[0.5]).input(rows());
        based.gives(tensor(&[4, 1], &[10.5f32, 30.5, 20.5, 20.5]));
    }

    #[test]
    fn tree_regressor_refuses_a_branch_to_a_missing_node() {
        let mut broken = regressor().input(rows());
        broken = broken.ints("nodes_truenodeids", &[9, 0, 3, 0, 0]);
        broken.fails("");
    }

    /// `x[0] == 1 or x[0] == 3 ? 10 : 20`, as LightGBM writes a set of categories.
    fn shared(pass: [i64; 2], fail: [i64; 2]) -> Case {
        let case = case("TreeEnsembleRegressor").int("n_targets", 1);
        let case = case.ints("nodes_treeids", &[0; 4]).ints("nodes_nodeids", &[0, 1, 2, 3]);
        let case = case.texts("nodes_modes", &["BRANCH_EQ", "BRANCH_EQ", "LEAF", "LEAF"]);
        let case =
            case.ints("nodes_featureids", &[0; 4]).floats("nodes_values", &[1.0, 3.0, 0.0, 0.0]);
        let case = case.ints("nodes_truenodeids", &[pass[0], pass[1], 0, 0]);
        let case = case.ints("nodes_falsenodeids", &[fail[0], fail[1], 0, 0]);
        let case = case.ints("target_treeids", &[0, 0]).ints("target_nodeids", &[2, 3]);
        let case = case.ints("target_ids", &[0, 0]).floats("target_weights", &[10.0, 20.0]);
        case.input(tensor(&[3, 1], &[1f32, 2.0, 3.0]))
    }

    #[test]
    fn branches_may_share_a_leaf_but_may_not_form_a_cycle() {
        shared([2, 2], [1, 3]).gives(tensor(&[3, 1], &[10f32, 20.0, 10.0]));
        shared([2, 2], [1, 0]).fails("itself");
        shared([2, 1], [1, 3]).fails("itself");
    }

    #[test]
    fn tree_classifier_takes_the_first_of_the_greatest_scores() {
        let case = tree(case("TreeEnsembleClassifier")).outputs(2);
        let case = case.ints("class_treeids", &[0; 4]).ints("class_nodeids", &[1, 1, 3, 4]);
        let case = case.ints("class_ids", &[0, 1, 2, 1]);
        let case = case.floats("class_weights", &[0.5, 0.5, 1.0, 1.0]);
        let case = case.ints("classlabels_int64s", &[-5, 1 << 40, 7]).input(rows());
        let scores = [0.5f32, 0.5, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0];
        case.gives_all(&[row(&[-5i64, 1 << 40, 7, 7]), tensor(&[4, 3], &scores)]);
    }
}
