//! TreeEnsembleClassifier and TreeEnsembleRegressor, of the versions 1 to 4: nodes by the number of
//! their tree and their own, and votes at the leaves.

use std::collections::HashMap;

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::super::own::{Known as Given, Own, Said, built, needed, sized, volume};
use super::Known;
use super::attributes::{either, find, finite, int, ints, text};
use super::forest::{Aggregate, Branch, Forest, Mode, Next, Test, Votes, rounded, scores};
use super::labels::Labels;
use super::rows::{Rows, matrix};
use super::scores::{Transform, greatest, matrix as of_scores};

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("TreeEnsembleClassifier", |_, node| built(Classifier::new(node)?, node));
    registry.insert("TreeEnsembleRegressor", |_, node| built(Regressor::new(node)?, node));
}

/// Trees with votes for targets, and what is added at the end.
#[derive(Debug)]
struct Ensemble {
    forest: Forest,
    votes: Votes,
    targets: usize,
    base: Vec<f64>,
    /// Whether it is for inputs of 64 bits only.
    wide: bool,
    transform: Transform,
}

impl Ensemble {
    /// Reads the attributes of a node, whose votes are named like this.
    fn new(node: &NodeProto, kind: &str, ids: &str, targets: usize) -> TractResult<Ensemble> {
        let (thresholds, wide) = either(node, "nodes_values")?;
        let (weights, wide_weights) = either(node, &format!("{kind}_weights"))?;
        let (base, wide_base) = either(node, "base_values")?;
        finite(&weights, "a weight")?;
        finite(&base, "a base value")?;
        let (forest, leaf_of) = forest(node, &thresholds)?;
        let trees = ints(node, &format!("{kind}_treeids"));
        let nodes = ints(node, &format!("{kind}_nodeids"));
        let ids = ints(node, ids);
        let votes = weights.len();
        ensure!(
            trees.len() == votes && nodes.len() == votes && ids.len() == votes,
            "the lists of votes are not of one length"
        );
        let mut listed = Vec::with_capacity(votes);
        for at in 0..votes {
            let Some(place) = leaf_of.get(&(trees[at], nodes[at])) else {
                bail!("there is a vote of the node {} of tree {}", nodes[at], trees[at])
            };
            let target = u32::try_from(ids[at]).ok().filter(|id| (*id as usize) < targets);
            let Some(target) = target else { bail!("a vote for {} of {targets}", ids[at]) };
            // What branches say has no effect, and some exporters write it.
            if let Next::Leaf(leaf) = place {
                listed.push((*leaf as usize, target, weights[at]));
            }
        }
        let leaves = leaf_of.values().filter(|next| matches!(next, Next::Leaf(_))).count();
        forest.check(leaves, false)?;
        let votes = Votes::new(leaves, &listed);
        ensure!((0..leaves).all(|leaf| !votes.of(leaf).is_empty()), "a leaf has no vote");
        let wide = wide || wide_weights || wide_base;
        let transform = Transform::of(node)?;
        Ok(Ensemble { forest, votes, targets, base, wide, transform })
    }

    fn check(&self, inputs: &[Option<Given>]) -> TractResult<TDim> {
        let (count, width) = matrix(inputs)?;
        let features = self.forest.features();
        let enough = width.as_i64().is_none_or(|width| width >= features as i64);
        ensure!(enough, "an input of {width} columns, where the trees ask for {features}");
        let wide = needed(inputs, 0)?.dtype == f64::datum_type();
        ensure!(wide || !self.wide, "numbers of 64 bits are for an input of double only");
        Ok(count)
    }
}

/// The nodes of all trees: where each is, and which leaf.
type Places = HashMap<(i64, i64), Next>;

fn forest(node: &NodeProto, thresholds: &[f64]) -> TractResult<(Forest, Places)> {
    let list = |name| ints(node, name);
    let (trees, ids) = (list("nodes_treeids"), list("nodes_nodeids"));
    let (features, missing) = (list("nodes_featureids"), list("nodes_missing_value_tracks_true"));
    let (pass, fail) = (list("nodes_truenodeids"), list("nodes_falsenodeids"));
    let modes = find(node, "nodes_modes").map_or(&[][..], |modes| &modes.strings);
    let count = trees.len();
    let lengths = [ids.len(), features.len(), pass.len(), fail.len(), modes.len()];
    ensure!(
        lengths.iter().all(|length| *length == count) && thresholds.len() == count,
        "the lists of nodes are not of one length"
    );
    ensure!([0, count].contains(&missing.len()), "nodes_missing_value_tracks_true is not whole");
    ensure!(count < u32::MAX as usize, "{count} nodes");
    let mut places = Places::with_capacity(count);
    let (mut branches, mut leaves) = (0, 0);
    for at in 0..count {
        let next = if modes[at] == b"LEAF" {
            leaves += 1;
            Next::Leaf(leaves - 1)
        } else {
            branches += 1;
            Next::Branch(branches - 1)
        };
        let (tree, id) = (trees[at], ids[at]);
        ensure!(
            places.insert((tree, id), next).is_none(),
            "node {id} of tree {tree} is there twice"
        );
    }
    let mut forest =
        Forest { branches: Vec::with_capacity(branches as usize), ..Forest::default() };
    let mut known: HashMap<i64, ()> = HashMap::new();
    for at in 0..count {
        let tree = trees[at];
        // The first node of each tree is its root, and its other nodes follow.
        if at == 0 || trees[at - 1] != tree {
            ensure!(known.insert(tree, ()).is_none(), "the nodes of tree {tree} are not together");
            forest.roots.push(places[&(tree, ids[at])]);
        }
        if modes[at] == b"LEAF" {
            continue;
        }
        let child = |id: i64| match places.get(&(tree, id)) {
            Some(next) => Ok(*next),
            None => bail!("node {} of tree {tree} goes on to {id}, which is not there", ids[at]),
        };
        let mode = match &*modes[at] {
            b"BRANCH_LEQ" => Mode::AtMost,
            b"BRANCH_LT" => Mode::Less,
            b"BRANCH_GTE" => Mode::AtLeast,
            b"BRANCH_GT" => Mode::Greater,
            b"BRANCH_EQ" => Mode::Equal,
            b"BRANCH_NEQ" => Mode::Other,
            other => {
                bail!("a node is {:?}", String::from_utf8_lossy(&other[..other.len().min(40)]))
            }
        };
        let missing_passes = match missing.get(at) {
            None | Some(0) => false,
            Some(1) => true,
            Some(other) => bail!("nodes_missing_value_tracks_true has a {other}"),
        };
        let feature = u32::try_from(features[at]).ok().filter(|feature| *feature < 1 << 24);
        let Some(feature) = feature else { bail!("a node asks for feature {}", features[at]) };
        ensure!(!thresholds[at].is_nan(), "a threshold is no number");
        forest.branches.push(Branch {
            feature,
            test: Test::Against(mode, thresholds[at]),
            missing_passes,
            pass: child(pass[at])?,
            fail: child(fail[at])?,
        });
    }
    Ok((forest, places))
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Regressor {
    ensemble: Known<Ensemble>,
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
        ensure!([0, targets].contains(&base), "{base} base values for {targets} targets");
        if targets == 1 {
            // Of one target onnxruntime takes the first vote of a leaf, and transforms by PROBIT
            // alone.
            let votes = ensemble.votes.starts.windows(2).all(|pair| pair[1] - pair[0] == 1);
            ensure!(votes, "a leaf has several votes for one target");
            let plain = [Transform::None, Transform::Probit].contains(&ensemble.transform);
            ensure!(plain, "{} of one target is not implemented", ensemble.transform.name());
        }
        Ok(Regressor { ensemble: Known::new(ensemble), aggregate })
    }
}

impl Own for Regressor {
    fn name(&self) -> &'static str {
        "TreeEnsembleRegressor"
    }

    fn outputs(&self, inputs: &[Option<Given>]) -> TractResult<TVec<Said>> {
        let count = self.ensemble.check(inputs)?;
        Ok(tvec!(sized(f32::datum_type(), [count, self.ensemble.targets.to_dim()])))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let rows = Rows::of(inputs)?;
        let ours = &*self.ensemble;
        let wide = needed(inputs, 0)?.datum_type() == f64::datum_type();
        let mut all = Vec::with_capacity(volume(&[rows.count, ours.targets])?);
        for at in 0..rows.count {
            let row = rows.row(at);
            let mut row =
                scores(&ours.forest, &ours.votes, self.aggregate, ours.targets, row, wide)?;
            for (score, base) in row.values.iter_mut().zip(&ours.base) {
                *score = rounded(*score + base, wide);
            }
            ours.transform.apply_to_voted(&mut row)?;
            all.extend(row.values);
        }
        Ok(tvec!(of_scores(rows.count, ours.targets, &all)?))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Classifier {
    ensemble: Known<Ensemble>,
    labels: Known<Labels>,
    /// Two classes, and votes for one of them only.
    binary: Option<Binary>,
}

/// What the votes for the one class are.
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
            ensure!(ids[0] == 0, "votes for the second of two classes alone");
            ensure!(base <= 1, "{base} base values for votes for one class");
            let several = ensemble.votes.starts.windows(2).any(|pair| pair[1] - pair[0] != 1);
            ensure!(!several, "a leaf has several votes for one class");
            match ensemble.votes.votes.iter().all(|(_, weight)| *weight >= 0.0) {
                true => Some(Binary::Positive),
                false => Some(Binary::Mixed),
            }
        } else {
            ensure!([0, classes].contains(&base), "{base} base values for {classes} classes");
            let several = ids.iter().any(|id| *id != ids[0]);
            ensure!(several, "votes for one of {classes} classes alone are not implemented");
            None
        };
        // Where onnxruntime and ONNX's own implementation agree.
        let agreed = match binary {
            None => true,
            Some(Binary::Positive) => [Transform::None, Transform::Logistic].contains(&transform),
            Some(Binary::Mixed) => transform == Transform::Logistic,
        };
        ensure!(agreed, "{} of votes for one of two classes is not implemented", transform.name());
        Ok(Classifier { ensemble: Known::new(ensemble), labels: Known::new(labels), binary })
    }

    /// The class of a row, and the scores of all.
    fn row(&self, row: &[f64], wide: bool) -> TractResult<(usize, Vec<f64>)> {
        let ours = &*self.ensemble;
        let made = scores(&ours.forest, &ours.votes, Aggregate::Sum, ours.targets, row, wide)?;
        let mut values = made.values;
        for (score, base) in values.iter_mut().zip(&ours.base) {
            *score = rounded(*score + base, wide);
        }
        let Some(binary) = self.binary else {
            let class = greatest(&values)?;
            let voted = made.voted[class] || !ours.base.is_empty();
            ensure!(voted, "the class with the greatest score has no vote");
            ours.transform.apply_to_classes(&mut values, class)?;
            return Ok((class, values));
        };
        let score = values[0];
        let half = if binary == Binary::Positive { 0.5 } else { 0.0 };
        let class = usize::from(score > half);
        let mut both = match ours.transform {
            Transform::None => vec![1.0 - score, score],
            _ => vec![-score, score],
        };
        ours.transform.apply_to_classes(&mut both, class)?;
        Ok((class, both))
    }
}

impl Own for Classifier {
    fn name(&self) -> &'static str {
        "TreeEnsembleClassifier"
    }

    fn outputs(&self, inputs: &[Option<Given>]) -> TractResult<TVec<Said>> {
        let count = self.ensemble.check(inputs)?;
        let classes = self.labels.count().to_dim();
        Ok(tvec!(
            sized(self.labels.dtype(), [count.clone()]),
            sized(f32::datum_type(), [count, classes])
        ))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let rows = Rows::of(inputs)?;
        let wide = needed(inputs, 0)?.datum_type() == f64::datum_type();
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
