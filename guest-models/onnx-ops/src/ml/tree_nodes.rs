//! The trees of TreeEnsembleClassifier and TreeEnsembleRegressor, read from lists of nodes and votes.
//! Nodes are identified by tree and node number; leaves have votes.

use std::collections::HashMap;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::attributes::{either, find, finite, ints};
use super::forest::{Branch, Forest, Mode, Next, Test, Votes};
use super::rows::matrix;
use super::scores::Transform;
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, required};

/// Trees with votes for targets, and the base values.
#[derive(Debug)]
pub(super) struct Ensemble {
    pub(super) forest: Forest,
    pub(super) votes: Votes,
    pub(super) targets: usize,
    pub(super) base: Vec<f64>,
    /// Whether it accepts only inputs of doubles.
    pub(super) wide: bool,
    pub(super) transform: Transform,
}

impl Ensemble {
    /// Reads the attributes of a node, whose votes are named like this.
    pub(super) fn new(
        node: &NodeProto,
        kind: &str,
        ids: &str,
        targets: usize,
    ) -> TractResult<Ensemble> {
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
            "the lists of votes have different lengths"
        );
        let mut listed = Vec::with_capacity(votes);
        for at in 0..votes {
            let Some(place) = leaf_of.get(&(trees[at], nodes[at])) else {
                bail!(
                    "a vote belongs to node {} of tree {}, which is not a leaf",
                    nodes[at],
                    trees[at]
                )
            };
            let target = u32::try_from(ids[at]).ok().filter(|id| (*id as usize) < targets);
            let Some(target) = target else {
                bail!("a vote is for target {}, but there are {targets} targets", ids[at])
            };
            // Votes of branches have no effect, but some exporters write them.
            if let Next::Leaf(leaf) = place {
                listed.push((*leaf as usize, target, weights[at]));
            }
        }
        let leaves = leaf_of.values().filter(|next| matches!(next, Next::Leaf(_))).count();
        forest.check(leaves)?;
        let votes = Votes::new(leaves, &listed);
        ensure!((0..leaves).all(|leaf| !votes.of(leaf).is_empty()), "a leaf has no vote");
        let wide = wide || wide_weights || wide_base;
        let transform = Transform::of(node)?;
        Ok(Ensemble { forest, votes, targets, base, wide, transform })
    }

    pub(super) fn check(&self, inputs: &[Option<InputFact>]) -> TractResult<TDim> {
        let (count, width) = matrix(inputs)?;
        let features = self.forest.features();
        let enough = width.as_i64().is_none_or(|width| width >= features as i64);
        ensure!(enough, "the input has {width} columns, but the trees read {features} features");
        let wide = required(inputs, 0)?.dtype == f64::datum_type();
        ensure!(wide || !self.wide, "attributes of doubles need an input of doubles");
        Ok(count)
    }
}

/// The nodes of all trees: the index of each, and of its leaf.
type NodeIndices = HashMap<(i64, i64), Next>;

fn forest(node: &NodeProto, thresholds: &[f64]) -> TractResult<(Forest, NodeIndices)> {
    let list = |name| ints(node, name);
    let (trees, ids) = (list("nodes_treeids"), list("nodes_nodeids"));
    let (features, missing) = (list("nodes_featureids"), list("nodes_missing_value_tracks_true"));
    let (pass, fail) = (list("nodes_truenodeids"), list("nodes_falsenodeids"));
    let modes = find(node, "nodes_modes").map_or(&[][..], |modes| &modes.strings);
    let count = trees.len();
    let lengths = [ids.len(), features.len(), pass.len(), fail.len(), modes.len()];
    ensure!(
        lengths.iter().all(|length| *length == count) && thresholds.len() == count,
        "the lists of nodes have different lengths"
    );
    ensure!(
        [0, count].contains(&missing.len()),
        "nodes_missing_value_tracks_true does not match the number of nodes"
    );
    ensure!(count < u32::MAX as usize, "{count} nodes are too many");
    let mut places = NodeIndices::with_capacity(count);
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
        ensure!(places.insert((tree, id), next).is_none(), "duplicate node {id} of tree {tree}");
    }
    let mut forest =
        Forest { branches: Vec::with_capacity(branches as usize), ..Forest::default() };
    let mut known: HashMap<i64, ()> = HashMap::new();
    for at in 0..count {
        let tree = trees[at];
        // The first node of each tree is its root, and its other nodes follow.
        if at == 0 || trees[at - 1] != tree {
            ensure!(
                known.insert(tree, ()).is_none(),
                "the nodes of tree {tree} are not listed together"
            );
            forest.roots.push(places[&(tree, ids[at])]);
        }
        if modes[at] == b"LEAF" {
            continue;
        }
        let child = |id: i64| match places.get(&(tree, id)) {
            Some(next) => Ok(*next),
            None => {
                bail!("node {} of tree {tree} leads to node {id}, which does not exist", ids[at])
            }
        };
        let mode = match &*modes[at] {
            b"BRANCH_LEQ" => Mode::AtMost,
            b"BRANCH_LT" => Mode::Less,
            b"BRANCH_GTE" => Mode::AtLeast,
            b"BRANCH_GT" => Mode::Greater,
            b"BRANCH_EQ" => Mode::Equal,
            b"BRANCH_NEQ" => Mode::Other,
            other => {
                bail!(
                    "the node mode {:?} is unknown",
                    String::from_utf8_lossy(&other[..other.len().min(40)])
                )
            }
        };
        let missing_passes = match missing.get(at) {
            None | Some(0) => false,
            Some(1) => true,
            Some(other) => {
                bail!("nodes_missing_value_tracks_true has the value {other}, expected 0 or 1")
            }
        };
        let feature = u32::try_from(features[at]).ok().filter(|feature| *feature < 1 << 24);
        let Some(feature) = feature else {
            bail!("a node reads feature {}, which is out of range", features[at])
        };
        ensure!(!thresholds[at].is_nan(), "a threshold is NaN");
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
