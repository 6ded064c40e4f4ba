//! TreeEnsemble (version 5): branches are identified by index, leaves are separate, and branches
//! can test set membership.

use belljar_operators::ML;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::Parameters;
use super::attributes::{finite, int, ints, tensor};
use super::forest::{Aggregate, Branch, Forest, Mode, Next, Test, Votes, scores};
use super::rows::{Rows, matrix};
use super::scores::Transform;
use crate::framework::dims::volume;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, required, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::from_floats;

pub(crate) const OPERATORS: &[Registration] =
    &[own("TreeEnsemble", |_, node| built(TreeEnsemble::new(node)?, node)).of(ML)];

#[derive(Debug)]
struct Trees {
    forest: Forest,
    votes: Votes,
    targets: usize,
    dtype: DatumType,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct TreeEnsemble {
    trees: Parameters<Trees>,
    aggregate: Aggregate,
    transform: Transform,
}

/// The numbers of a required tensor, and the type in which the operator computes with them: the gate
/// makes inputs of float16 float32.
fn numbers(node: &NodeProto, name: &str) -> TractResult<(Vec<f64>, DatumType)> {
    let tensor = tensor(node, name)?.or_user_error(format_args!("{name} is missing"))?;
    ensure!(tensor.rank() == 1, "{name} is not a list");
    let wide = tensor.cast_to::<f64>()?;
    let dtype = match tensor.datum_type() {
        DatumType::F16 => DatumType::F32,
        dtype => dtype,
    };
    Ok((wide.try_as_plain_ram()?.as_slice::<f64>()?.to_vec(), dtype))
}

impl TreeEnsemble {
    fn new(node: &NodeProto) -> TractResult<TreeEnsemble> {
        let (splits, dtype) = numbers(node, "nodes_splits")?;
        let (weights, other) = numbers(node, "leaf_weights")?;
        ensure!(dtype == other, "splits and weights are of different types");
        finite(&weights, "a weight")?;
        let targets = usize::try_from(int(node, "n_targets", 0))?;
        let ids = ints(node, "leaf_targetids");
        ensure!(ids.len() == weights.len(), "the lists of leaves have different lengths");
        ensure!(weights.len() < u32::MAX as usize, "{} leaves are too many", weights.len());
        let mut listed = Vec::with_capacity(ids.len());
        for (leaf, (id, weight)) in ids.iter().zip(&weights).enumerate() {
            let target = u32::try_from(*id).ok().filter(|id| (*id as usize) < targets);
            let Some(target) = target else {
                bail!("a leaf belongs to target {id}, but there are {targets} targets")
            };
            listed.push((leaf, target, *weight));
        }
        let forest = forest(node, &splits, weights.len())?;
        forest.check(weights.len())?;
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
        let trees = Parameters::new(Trees { forest, votes, targets, dtype });
        Ok(TreeEnsemble { trees, aggregate, transform })
    }
}

fn forest(node: &NodeProto, splits: &[f64], leaves: usize) -> TractResult<Forest> {
    let list = |name| ints(node, name);
    let (features, missing) = (list("nodes_featureids"), list("nodes_missing_value_tracks_true"));
    let (pass, pass_leaf) = (list("nodes_truenodeids"), list("nodes_trueleafs"));
    let (fail, fail_leaf) = (list("nodes_falsenodeids"), list("nodes_falseleafs"));
    let (modes, of_modes) = numbers(node, "nodes_modes")?;
    ensure!(of_modes == u8::datum_type(), "nodes_modes is not a tensor of uint8");
    let count = splits.len();
    let lengths =
        [features.len(), pass.len(), pass_leaf.len(), fail.len(), fail_leaf.len(), modes.len()];
    ensure!(lengths.iter().all(|len| *len == count), "the lists of nodes have different lengths");
    ensure!(
        [0, count].contains(&missing.len()),
        "nodes_missing_value_tracks_true does not match the number of nodes"
    );
    let next = |id: i64, leaf: i64| {
        let (count_of, what) = if leaf == 1 { (leaves, "leaf") } else { (count, "node") };
        ensure!([0, 1].contains(&leaf), "a leaf flag is {leaf}, expected 0 or 1");
        match u32::try_from(id).ok().filter(|id| (*id as usize) < count_of) {
            Some(id) if leaf == 1 => Ok(Next::Leaf(id)),
            Some(id) => Ok(Next::Branch(id)),
            None => bail!("a node leads to {what} {id}, but there are {count_of}"),
        }
    };
    let mut sets = sets(node)?.into_iter();
    let mut forest = Forest::default();
    for at in 0..count {
        let against = |mode| {
            ensure!(!splits[at].is_nan(), "a threshold is NaN");
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
                let mut set = sets.next().or_user_error("a node has no membership_values")?;
                set.iter_mut().for_each(|member| *member += 0.0);
                set.sort_by(f64::total_cmp);
                let first = u32::try_from(forest.members.len())?;
                forest.members.extend(&set);
                Test::Member(first, u32::try_from(set.len())?)
            }
            other => bail!("the node mode {other} is unknown"),
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
        let (pass, fail) = (next(pass[at], pass_leaf[at])?, next(fail[at], fail_leaf[at])?);
        forest.branches.push(Branch { feature, test, missing_passes, pass, fail });
    }
    ensure!(sets.next().is_none(), "membership_values has more sets than the nodes that use them");
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
    // Nothing may follow the last NaN.
    let rest = sets.pop().unwrap_or_default();
    ensure!(rest.is_empty(), "membership_values does not end with a NaN");
    Ok(sets)
}

impl Operator for TreeEnsemble {
    fn name(&self) -> &'static str {
        "TreeEnsemble"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (count, width) = matrix(inputs)?;
        let features = self.trees.forest.features();
        let enough = width.as_i64().is_none_or(|width| width >= features as i64);
        ensure!(enough, "the input has {width} columns, but the trees read {features} features");
        let dtype = required(inputs, 0)?.dtype;
        ensure!(dtype == self.trees.dtype, "the trees have another element type than the input");
        Ok(tvec!(with_dims(dtype, [count, self.trees.targets.to_dim()])))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let rows = Rows::of(inputs)?;
        let op = &*self.trees;
        let wide = op.dtype == f64::datum_type();
        let mut all = Vec::with_capacity(volume(&[rows.count, op.targets])?);
        for at in 0..rows.count {
            let row = rows.row(at);
            let mut row = scores(&op.forest, &op.votes, self.aggregate, op.targets, row, wide)?;
            self.transform.apply_to_voted(&mut row)?;
            all.extend(row.values);
        }
        Ok(tvec!(from_floats(op.dtype, &[rows.count, op.targets], &all)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, row, tensor};

    /// `x[0] in {1, 3} ? leaf 0 : (x[0] < 2 ? leaf 1 : leaf 2)`
    fn ensemble() -> Case {
        let case = case("TreeEnsemble").ints("tree_roots", &[0]).int("n_targets", 2);
        let case = case.ints("nodes_featureids", &[0, 0]).tensor("nodes_modes", &row(&[6u8, 1]));
        let case = case.tensor("nodes_splits", &row(&[0f32, 2.0]));
        let case = case.ints("nodes_truenodeids", &[0, 1]).ints("nodes_trueleafs", &[1, 1]);
        let case = case.ints("nodes_falsenodeids", &[1, 2]).ints("nodes_falseleafs", &[0, 1]);
        let case = case.tensor("membership_values", &row(&[1f32, 3.0, f32::NAN]));
        case.ints("leaf_targetids", &[0, 1, 1]).tensor("leaf_weights", &row(&[5f32, 6.0, 7.0]))
    }

    #[test]
    fn tree_ensemble_has_sets_of_members() {
        let rows = tensor(&[4, 1], &[3f32, 0.0, 2.0, 1.0]);
        let expected = tensor(&[4, 2], &[5f32, 0.0, 0.0, 6.0, 0.0, 7.0, 5.0, 0.0]);
        ensemble().input(rows).gives(expected);
    }

    #[test]
    fn tree_ensemble_refuses_a_row_with_too_few_columns_and_another_type() {
        ensemble().input(tensor::<f32>(&[2, 0], &[])).fails("");
        ensemble().input(tensor(&[1, 1], &[1f64])).fails("");
    }

    #[test]
    fn trees_may_share_nodes_within_a_bound_of_steps() {
        // A chain of branches, each of which leads to the next or to the only leaf.
        let chain = |length: i64, roots: usize| {
            let count = length as usize;
            let next: Vec<i64> = (1..length).chain([0]).collect();
            let leaf: Vec<i64> = (1..=length).map(|at| i64::from(at == length)).collect();
            let case = case("TreeEnsemble").ints("tree_roots", &vec![0; roots]);
            let case = case.int("n_targets", 1).ints("nodes_featureids", &vec![0; count]);
            let case = case.tensor("nodes_modes", &row(&vec![0u8; count]));
            let case = case.tensor("nodes_splits", &row(&vec![2f32; count]));
            let case = case.ints("nodes_truenodeids", &next).ints("nodes_trueleafs", &leaf);
            let case = case.ints("nodes_falsenodeids", &vec![0; count]);
            let case = case.ints("nodes_falseleafs", &vec![1; count]).ints("leaf_targetids", &[0]);
            case.tensor("leaf_weights", &row(&[1f32])).input(tensor(&[1, 1], &[1f32]))
        };
        chain(3, 2).gives(tensor(&[1, 1], &[2f32]));
        chain(5000, 5000).fails("25000000 branches");
    }
}
