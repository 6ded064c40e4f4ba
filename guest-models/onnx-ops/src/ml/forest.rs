//! Validated trees: no branch leads back to itself, so that every walk from a root ends after at most
//! as many steps as there are branches. Branches may share what follows, as those of LightGBM do for
//! sets of categories. Walks are loops, not recursive calls.

use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::{OrUserError, ensure};

/// Maximum number of nodes. A model of 2 GiB cannot hold more.
const MAX_NODES: usize = 1 << 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    AtMost,
    Less,
    AtLeast,
    Greater,
    Equal,
    Other,
}

/// The target of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Branch(u32),
    Leaf(u32),
}

#[derive(Clone, Debug)]
pub(crate) struct Branch {
    pub(crate) feature: u32,
    pub(crate) test: Test,
    /// Whether a missing value takes the true branch.
    pub(crate) missing_passes: bool,
    pub(crate) pass: Next,
    pub(crate) fail: Next,
}

#[derive(Clone, Debug)]
pub(crate) enum Test {
    Against(Mode, f64),
    /// Membership in a sorted set: the index of its first member, and their number.
    Member(u32, u32),
}

#[derive(Debug, Default)]
pub(crate) struct Forest {
    pub(crate) branches: Vec<Branch>,
    pub(crate) members: Vec<f64>,
    pub(crate) roots: Vec<Next>,
}

impl Forest {
    /// Checks that all branches lead to nodes that exist, of which this number are leaves, and that
    /// none leads back to itself.
    pub(crate) fn check(&self, leaves: usize) -> TractResult<()> {
        let count = self.branches.len();
        ensure!(count <= MAX_NODES, "the trees have more than {MAX_NODES} nodes");
        ensure!(!self.roots.is_empty(), "the model has no trees");
        let children = || self.branches.iter().flat_map(|branch| [branch.pass, branch.fail]);
        let inside = |next: Next| match next {
            Next::Branch(at) => (at as usize) < count,
            Next::Leaf(at) => (at as usize) < leaves,
        };
        let mut all = self.roots.iter().copied().chain(children());
        ensure!(all.all(inside), "a node is outside of the trees");
        // Branches are removed once all that lead to them are: those of a cycle never are.
        let mut parents = vec![0u32; count];
        for child in children() {
            if let Next::Branch(at) = child {
                parents[at as usize] += 1;
            }
        }
        let mut free: Vec<usize> = (0..count).filter(|at| parents[*at] == 0).collect();
        let mut order = Vec::with_capacity(count);
        while let Some(at) = free.pop() {
            order.push(at);
            for child in [self.branches[at].pass, self.branches[at].fail] {
                let Next::Branch(at) = child else { continue };
                let parents = &mut parents[at as usize];
                *parents -= 1;
                if *parents == 0 {
                    free.push(at as usize);
                }
            }
        }
        ensure!(
            order.len() == count,
            "a node leads back to itself, so the nodes do not form a tree"
        );
        // How many branches a walk from each can pass: those behind it come later in the order.
        let mut steps = vec![0u64; count];
        let of = |steps: &[u64], next: Next| match next {
            Next::Branch(at) => steps[at as usize],
            Next::Leaf(_) => 0,
        };
        for at in order.into_iter().rev() {
            let branch = &self.branches[at];
            steps[at] = 1 + of(&steps, branch.pass).max(of(&steps, branch.fail));
        }
        let all: u64 = self.roots.iter().map(|root| of(&steps, *root)).sum();
        ensure!(
            all <= MAX_NODES as u64,
            "a row can pass {all} branches, more than the {MAX_NODES} of the largest trees"
        );
        Ok(())
    }

    /// The number of features that the trees read.
    pub(crate) fn features(&self) -> usize {
        let features = self.branches.iter().map(|branch| branch.feature as usize + 1);
        features.max().unwrap_or(0)
    }

    /// The leaf that a row reaches from this root.
    pub(crate) fn leaf(&self, root: Next, row: &[f64]) -> TractResult<usize> {
        let mut at = root;
        loop {
            match at {
                Next::Leaf(leaf) => return Ok(leaf as usize),
                Next::Branch(branch) => {
                    let branch = &self.branches[branch as usize];
                    at = if self.passes(branch, row)? { branch.pass } else { branch.fail };
                }
            }
        }
    }

    fn passes(&self, branch: &Branch, row: &[f64]) -> TractResult<bool> {
        let value = *row
            .get(branch.feature as usize)
            .or_user_error("the input has fewer features than the trees read")?;
        if value.is_nan() {
            // The specification sends a missing value where the attribute says. onnxruntime takes
            // the true branch, since NaN differs from every threshold.
            let agreed =
                branch.missing_passes || !matches!(branch.test, Test::Against(Mode::Other, _));
            ensure!(agreed, "implementations disagree on a missing value at BRANCH_NEQ");
            return Ok(branch.missing_passes);
        }
        Ok(match branch.test {
            Test::Against(Mode::AtMost, threshold) => value <= threshold,
            Test::Against(Mode::Less, threshold) => value < threshold,
            Test::Against(Mode::AtLeast, threshold) => value >= threshold,
            Test::Against(Mode::Greater, threshold) => value > threshold,
            Test::Against(Mode::Equal, threshold) => value == threshold,
            Test::Against(Mode::Other, threshold) => value != threshold,
            Test::Member(first, count) => {
                let members = self.members.get(first as usize..).unwrap_or(&[]);
                let members = members.get(..count as usize).unwrap_or(&[]);
                members.binary_search_by(|member| member.total_cmp(&(value + 0.0))).is_ok()
            }
        })
    }
}

/// How the votes of the trees for a target are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aggregate {
    Average,
    Sum,
    Least,
    Greatest,
}

/// The votes of the leaves, each with a target and a weight.
#[derive(Debug, Default)]
pub(crate) struct Votes {
    pub(crate) votes: Vec<(u32, f64)>,
    /// The start of each leaf's votes, and the end of the last.
    pub(crate) starts: Vec<u32>,
}

impl Votes {
    /// The votes of leaves, in the order in which they are listed.
    pub(crate) fn new(leaves: usize, listed: &[(usize, u32, f64)]) -> Votes {
        let mut starts = vec![0u32; leaves + 1];
        for (leaf, ..) in listed {
            starts[leaf + 1] += 1;
        }
        for at in 0..leaves {
            starts[at + 1] += starts[at];
        }
        let mut next = starts.clone();
        let mut votes = vec![(0, 0.0); listed.len()];
        for (leaf, target, weight) in listed {
            votes[next[*leaf] as usize] = (*target, *weight);
            next[*leaf] += 1;
        }
        Votes { votes, starts }
    }

    pub(crate) fn of(&self, leaf: usize) -> &[(u32, f64)] {
        &self.votes[self.starts[leaf] as usize..self.starts[leaf + 1] as usize]
    }
}

/// The combined votes for one row, by target.
pub(crate) struct Scores {
    pub(crate) values: Vec<f64>,
    /// Which targets have a vote.
    pub(crate) voted: Vec<bool>,
}

/// Combines the votes of all trees for a row: in 32 bits, as onnxruntime does, or in 64 bits for
/// inputs of doubles.
pub(crate) fn scores(
    forest: &Forest,
    votes: &Votes,
    aggregate: Aggregate,
    targets: usize,
    row: &[f64],
    wide: bool,
) -> TractResult<Scores> {
    let mut scores = Scores { values: vec![0.0; targets], voted: vec![false; targets] };
    for root in &forest.roots {
        for (target, weight) in votes.of(forest.leaf(*root, row)?) {
            let target = *target as usize;
            let (score, voted) = (scores.values[target], scores.voted[target]);
            scores.values[target] = match aggregate {
                _ if !voted => *weight,
                Aggregate::Sum | Aggregate::Average => rounded(score + *weight, wide),
                Aggregate::Least => score.min(*weight),
                Aggregate::Greatest => score.max(*weight),
            };
            scores.voted[target] = true;
        }
    }
    if [Aggregate::Least, Aggregate::Greatest].contains(&aggregate) {
        let all = scores.voted.iter().all(|voted| *voted);
        ensure!(all, "no leaf votes on a target, so that it has no minimum or maximum");
    }
    if aggregate == Aggregate::Average {
        let trees = forest.roots.len() as f64;
        scores.values.iter_mut().for_each(|score| *score = rounded(*score / trees, wide));
    }
    Ok(scores)
}

pub(crate) fn rounded(value: f64, wide: bool) -> f64 {
    if wide { value } else { f64::from(value as f32) }
}
