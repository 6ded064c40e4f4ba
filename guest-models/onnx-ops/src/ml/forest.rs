//! Trees that have been looked at: every node belongs to one tree and is reached in one way, so
//! that every walk from a root ends. Walks are loops, never calls.

use tract_onnx::tract_hir::internal::*;

/// More nodes than any ensemble has, and than a model of 2 GiB has room for.
const MOST: usize = 1 << 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    AtMost,
    Less,
    AtLeast,
    Greater,
    Equal,
    Other,
}

/// Where a branch goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Branch(u32),
    Leaf(u32),
}

#[derive(Clone, Debug)]
pub(super) struct Branch {
    pub(super) feature: u32,
    pub(super) test: Test,
    /// Where a value that is missing goes: to the side of those that pass.
    pub(super) missing_passes: bool,
    pub(super) pass: Next,
    pub(super) fail: Next,
}

#[derive(Clone, Debug)]
pub(super) enum Test {
    Against(Mode, f64),
    /// One of a set, which is sorted: from this member on, so many.
    Member(u32, u32),
}

#[derive(Debug, Default)]
pub(super) struct Forest {
    pub(super) branches: Vec<Branch>,
    pub(super) members: Vec<f64>,
    pub(super) roots: Vec<Next>,
}

impl Forest {
    /// Refuses what is no set of trees, of as many leaves and features as are named.
    pub(super) fn check(&self, leaves: usize, shared_leaves: bool) -> TractResult<()> {
        ensure!(self.branches.len() <= MOST, "more than {MOST} nodes");
        ensure!(!self.roots.is_empty(), "there is no tree");
        let mut branch_seen = vec![false; self.branches.len()];
        let mut leaf_seen = vec![false; leaves];
        let mut see = |next: Next| {
            let (seen, at) = match next {
                Next::Branch(at) => (&mut branch_seen, at),
                Next::Leaf(at) => (&mut leaf_seen, at),
            };
            let seen = seen.get_mut(at as usize).context("a node outside of the trees")?;
            // Two ways to a node: a cycle, or no tree.
            let shared = matches!(next, Next::Leaf(_)) && shared_leaves;
            ensure!(!*seen || shared, "a node is reached in two ways, so that this is no tree");
            *seen = true;
            Ok::<_, TractError>(())
        };
        self.roots.iter().try_for_each(|root| see(*root))?;
        for branch in &self.branches {
            see(branch.pass)?;
            see(branch.fail)?;
        }
        Ok(())
    }

    /// How many features the trees ask for.
    pub(super) fn features(&self) -> usize {
        let most = self.branches.iter().map(|branch| branch.feature as usize + 1);
        most.max().unwrap_or(0)
    }

    /// The leaf to which a row comes in the tree of this root.
    pub(super) fn leaf(&self, root: Next, row: &[f64]) -> TractResult<usize> {
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
        let value = *row.get(branch.feature as usize).context("a feature that is not there")?;
        if value.is_nan() {
            // By the specification a missing value goes where the attribute says. onnxruntime
            // lets it pass where it is other than the threshold, as it always is.
            let agreed =
                branch.missing_passes || !matches!(branch.test, Test::Against(Mode::Other, _));
            ensure!(agreed, "a missing value meets BRANCH_NEQ, of which nobody agrees what it is");
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

/// How the votes of the trees for a target become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aggregate {
    Average,
    Sum,
    Least,
    Greatest,
}

/// The votes of the leaves: for which target, and with which weight.
#[derive(Debug, Default)]
pub(super) struct Votes {
    pub(super) votes: Vec<(u32, f64)>,
    /// Where the votes of each leaf begin, and where the last end.
    pub(super) starts: Vec<u32>,
}

impl Votes {
    /// The votes of leaves, in the order in which they are listed.
    pub(super) fn new(leaves: usize, listed: &[(usize, u32, f64)]) -> Votes {
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

    pub(super) fn of(&self, leaf: usize) -> &[(u32, f64)] {
        &self.votes[self.starts[leaf] as usize..self.starts[leaf + 1] as usize]
    }
}

/// What the trees say of one row, target by target.
pub(super) struct Scores {
    pub(super) values: Vec<f64>,
    /// Which targets were voted on at all.
    pub(super) voted: Vec<bool>,
}

/// Adds up the votes of all trees for a row: in 32 bits, as onnxruntime does, or in 64 where the
/// input has them.
pub(super) fn scores(
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
        ensure!(all, "no leaf votes on a target, which has no least and no greatest then");
    }
    if aggregate == Aggregate::Average {
        let trees = forest.roots.len() as f64;
        scores.values.iter_mut().for_each(|score| *score = rounded(*score / trees, wide));
    }
    Ok(scores)
}

pub(super) fn rounded(value: f64, wide: bool) -> f64 {
    if wide { value } else { f64::from(value as f32) }
}
