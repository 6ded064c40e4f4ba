//! TreeEnsemble (version 5): branches by their place, leaves apart from them, and sets of members.

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::super::own::{Known as Given, Own, Said, built, from_floats, needed, sized, volume};
use super::Known;
use super::attributes::{finite, int, ints, tensor};
use super::forest::{Aggregate, Branch, Forest, Mode, Next, Test, Votes, scores};
use super::rows::{Rows, matrix};
use super::scores::Transform;

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("TreeEnsemble", |_, node| built(TreeEnsemble::new(node)?, node));
}

#[derive(Debug)]
struct Trees {
    forest: Forest,
    votes: Votes,
    targets: usize,
    dtype: DatumType,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct TreeEnsemble {
    trees: Known<Trees>,
    aggregate: Aggregate,
    transform: Transform,
}

/// The numbers of a tensor that must be there, and their type.
fn numbers(node: &NodeProto, name: &str) -> TractResult<(Vec<f64>, DatumType)> {
    let tensor = tensor(node, name)?.with_context(|| format!("{name} is missing"))?;
    ensure!(tensor.rank() == 1, "{name} is no list");
    let wide = tensor.cast_to::<f64>()?;
    Ok((wide.try_as_plain_ram()?.as_slice::<f64>()?.to_vec(), tensor.datum_type()))
}

impl TreeEnsemble {
    fn new(node: &NodeProto) -> TractResult<TreeEnsemble> {
        let (splits, dtype) = numbers(node, "nodes_splits")?;
        let (weights, other) = numbers(node, "leaf_weights")?;
        ensure!(dtype == other, "splits and weights are of different types");
        finite(&weights, "a weight")?;
        let targets = usize::try_from(int(node, "n_targets", 0))?;
        let ids = ints(node, "leaf_targetids");
        ensure!(ids.len() == weights.len(), "the lists of leaves are not of one length");
        ensure!(weights.len() < u32::MAX as usize, "{} leaves", weights.len());
        let mut listed = Vec::with_capacity(ids.len());
        for (leaf, (id, weight)) in ids.iter().zip(&weights).enumerate() {
            let target = u32::try_from(*id).ok().filter(|id| (*id as usize) < targets);
            let Some(target) = target else { bail!("a leaf is for the target {id} of {targets}") };
            listed.push((leaf, target, *weight));
        }
        let forest = forest(node, &splits, weights.len())?;
        forest.check(weights.len(), true)?;
        let aggregate = match int(node, "aggregate_function", 1) {
            0 => Aggregate::Average,
            2 => Aggregate::Least,
            3 => Aggregate::Greatest,
            _ => Aggregate::Sum,
        };
        let transform = Transform::numbered(int(node, "post_transform", 0))?;
        let plain = targets > 1 || [Transform::None, Transform::Probit].contains(&transform);
        ensure!(plain, "{} of one target is not implemented", transform.name());
        let votes = Votes::new(weights.len(), &listed);
        let trees = Known::new(Trees { forest, votes, targets, dtype });
        Ok(TreeEnsemble { trees, aggregate, transform })
    }
}

fn forest(node: &NodeProto, splits: &[f64], leaves: usize) -> TractResult<Forest> {
    let list = |name| ints(node, name);
    let (features, missing) = (list("nodes_featureids"), list("nodes_missing_value_tracks_true"));
    let (pass, pass_leaf) = (list("nodes_truenodeids"), list("nodes_trueleafs"));
    let (fail, fail_leaf) = (list("nodes_falsenodeids"), list("nodes_falseleafs"));
    let (modes, of_modes) = numbers(node, "nodes_modes")?;
    ensure!(of_modes == u8::datum_type(), "nodes_modes is no tensor of uint8");
    let count = splits.len();
    let lengths =
        [features.len(), pass.len(), pass_leaf.len(), fail.len(), fail_leaf.len(), modes.len()];
    ensure!(lengths.iter().all(|len| *len == count), "the lists of nodes are not of one length");
    ensure!([0, count].contains(&missing.len()), "nodes_missing_value_tracks_true is not whole");
    let next = |id: i64, leaf: i64| {
        let (most, what) = if leaf == 1 { (leaves, "leaf") } else { (count, "node") };
        ensure!([0, 1].contains(&leaf), "a node is {leaf} leaves");
        match u32::try_from(id).ok().filter(|id| (*id as usize) < most) {
            Some(id) if leaf == 1 => Ok(Next::Leaf(id)),
            Some(id) => Ok(Next::Branch(id)),
            None => bail!("a node goes on to the {what} {id} of {most}"),
        }
    };
    let mut sets = sets(node)?.into_iter();
    let mut forest = Forest::default();
    for at in 0..count {
        let against = |mode| {
            ensure!(!splits[at].is_nan(), "a threshold is no number");
            Ok(Test::Against(mode, splits[at]))
        };
        let test = match modes[at] as u8 {
            0 => against(Mode::AtMost)?,
            1 => against(Mode::Less)?,
            2 => against(Mode::AtLeast)?,
            3 => against(Mode::Greater)?,
            4 => against(Mode::Equal)?,
            5 => against(Mode::Other)?,
            6 => {
                let mut set = sets.next().context("a node has no membership_values")?;
                set.iter_mut().for_each(|member| *member += 0.0);
                set.sort_by(f64::total_cmp);
                let first = u32::try_from(forest.members.len())?;
                forest.members.extend(&set);
                Test::Member(first, u32::try_from(set.len())?)
            }
            other => bail!("a node is of the mode {other}"),
        };
        let missing_passes = match missing.get(at) {
            None | Some(0) => false,
            Some(1) => true,
            Some(other) => bail!("nodes_missing_value_tracks_true has a {other}"),
        };
        let feature = u32::try_from(features[at]).ok().filter(|feature| *feature < 1 << 24);
        let Some(feature) = feature else { bail!("a node asks for feature {}", features[at]) };
        let (pass, fail) = (next(pass[at], pass_leaf[at])?, next(fail[at], fail_leaf[at])?);
        forest.branches.push(Branch { feature, test, missing_passes, pass, fail });
    }
    ensure!(sets.next().is_none(), "there are more membership_values than nodes that ask for them");
    for root in ints(node, "tree_roots") {
        forest.roots.push(next(*root, 0)?);
    }
    Ok(forest)
}

/// The sets of members, each ended by a NaN.
fn sets(node: &NodeProto) -> TractResult<Vec<Vec<f64>>> {
    if tensor(node, "membership_values")?.is_none() {
        return Ok(vec![]);
    }
    let (values, _) = numbers(node, "membership_values")?;
    let mut sets: Vec<Vec<f64>> =
        values.split(|value| value.is_nan()).map(<[f64]>::to_vec).collect();
    // Behind the last NaN there is nothing.
    let rest = sets.pop().unwrap_or_default();
    ensure!(rest.is_empty(), "membership_values do not end with a NaN");
    Ok(sets)
}

impl Own for TreeEnsemble {
    fn name(&self) -> &'static str {
        "TreeEnsemble"
    }

    fn outputs(&self, inputs: &[Option<Given>]) -> TractResult<TVec<Said>> {
        let (count, width) = matrix(inputs)?;
        let features = self.trees.forest.features();
        let enough = width.as_i64().is_none_or(|width| width >= features as i64);
        ensure!(enough, "an input of {width} columns, where the trees ask for {features}");
        let dtype = needed(inputs, 0)?.dtype;
        ensure!(dtype == self.trees.dtype, "the trees are not of the type of the input");
        Ok(tvec!(sized(dtype, [count, self.trees.targets.to_dim()])))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let rows = Rows::of(inputs)?;
        let ours = &*self.trees;
        let wide = ours.dtype == f64::datum_type();
        let mut all = Vec::with_capacity(volume(&[rows.count, ours.targets])?);
        for at in 0..rows.count {
            let row = rows.row(at);
            let mut row =
                scores(&ours.forest, &ours.votes, self.aggregate, ours.targets, row, wide)?;
            self.transform.apply_to_voted(&mut row)?;
            all.extend(row.values);
        }
        Ok(tvec!(from_floats(ours.dtype, &[rows.count, ours.targets], &all)?))
    }
}
