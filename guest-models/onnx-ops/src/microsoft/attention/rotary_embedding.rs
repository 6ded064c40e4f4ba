//! RotaryEmbedding: rotates pairs of elements of each head by the position of its token. And
//! MRotaryEmbedding, where tokens of pictures and films have three positions, each for some pairs.

use belljar_operators::MICROSOFT;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::core::{Singles, from_singles};
use super::rotation::{Rotation, check_tables};
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, known_shapes, like, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{Bits, ints, shapes};

pub(crate) const OPERATORS: &[Registration] = &[
    own("RotaryEmbedding", |_, node| built(rotary(node)?, node)).of(MICROSOFT),
    own("MRotaryEmbedding", |_, node| built(sectioned(node)?, node)).of(MICROSOFT),
];

#[derive(Clone, Debug, PartialEq, Eq)]
struct RotaryEmbedding {
    /// The number of heads, or 0 if it follows from the tables.
    heads: usize,
    /// How many elements of a head are rotated, or 0 for all.
    rotated: usize,
    interleaved: bool,
    /// What rotated elements are multiplied by.
    scale: Bits,
    /// Which pairs each of three positions is for.
    sections: Option<Sections>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sections {
    counts: [usize; 3],
    /// Whether the pairs of a position are every third one, or next to each other.
    alternate: bool,
}

impl Sections {
    /// Which position a pair is for.
    fn of(&self, pair: usize) -> usize {
        let [first, second, third] = self.counts;
        match (self.alternate, pair % 3) {
            (true, 1) if pair < 3 * second => 1,
            (true, 2) if pair < 3 * third => 2,
            (true, _) => 0,
            (false, _) => usize::from(pair >= first) + usize::from(pair >= first + second),
        }
    }
}

fn rotary(node: &NodeProto) -> TractResult<RotaryEmbedding> {
    let op = rotation(node)?;
    let scale = op.scale.get();
    ensure!(
        scale == 1.0,
        "the attribute scale is {scale}, but the documentation does not say what it scales, and \
         onnxruntime ignores it. Remove it, and scale the output by a Mul"
    );
    Ok(op)
}

fn sectioned(node: &NodeProto) -> TractResult<RotaryEmbedding> {
    let given = node.get_attr_opt_vec::<i64>("mrope_section")?.unwrap_or_default();
    let counts: Vec<usize> =
        given.iter().filter_map(|count| usize::try_from(*count).ok()).collect();
    let (Ok(counts), true) = (<[usize; 3]>::try_from(counts), given.len() == 3) else {
        bail!("mrope_section is {given:?}, expected three numbers that are not negative")
    };
    let alternate = node.get_attr_opt::<i64>("mrope_layout")?.unwrap_or(0) != 0;
    Ok(RotaryEmbedding { sections: Some(Sections { counts, alternate }), ..rotation(node)? })
}

fn rotation(node: &NodeProto) -> TractResult<RotaryEmbedding> {
    let size = |name| Ok::<_, TractError>(node.get_attr_opt::<usize>(name)?.unwrap_or(0));
    let op = RotaryEmbedding {
        heads: size("num_heads")?,
        rotated: size("rotary_embedding_dim")?,
        interleaved: node.get_attr_opt::<i64>("interleaved")?.unwrap_or(0) != 0,
        scale: Bits::of(node, "scale", 1.0)?,
        sections: None,
    };
    ensure!(
        op.rotated.is_multiple_of(2),
        "rotary_embedding_dim is {}, which is not even",
        op.rotated
    );
    ensure!(
        op.rotated == 0 || op.heads > 0,
        "rotary_embedding_dim is {}, but num_heads is missing, which it needs",
        op.rotated
    );
    Ok(op)
}

struct Sizes {
    batch: usize,
    tokens: usize,
    heads: usize,
    width: usize,
    /// Whether each token has a position of its own.
    each: bool,
}

impl RotaryEmbedding {
    fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<Sizes> {
        let (input, positions) = (required(shapes, 0)?, required(shapes, 1)?);
        let [_, pairs] = check_tables(required(shapes, 2)?, required(shapes, 3)?)?;
        let (batch, tokens, heads, width) = match **input {
            [batch, heads, tokens, width] => {
                let agreed = self.heads == 0 || self.heads == heads;
                ensure!(agreed, "num_heads is {}, but the input has {heads} heads", self.heads);
                (batch, tokens, heads, width)
            }
            [batch, tokens, all] => {
                let (heads, by) = match self.heads {
                    0 => (all / (2 * pairs), "the tables"),
                    heads => (heads, "num_heads"),
                };
                ensure!(
                    heads > 0 && all % heads == 0 && (self.heads > 0 || all == heads * 2 * pairs),
                    "the input has {all} channels, which are not a whole number of heads by {by}"
                );
                (batch, tokens, heads, all / heads)
            }
            _ => bail!("the input has {} dimensions, expected 3 or 4", input.len()),
        };
        let rotated = if self.rotated == 0 { width } else { self.rotated };
        ensure!(
            rotated <= width && 2 * pairs == rotated,
            "cos_cache has {pairs} columns, but {rotated} of the {width} elements of a head are \
             rotated. Expected half as many columns"
        );
        if let Some(Sections { counts, .. }) = self.sections {
            let sum = counts.iter().try_fold(0usize, |sum, count| sum.checked_add(*count));
            ensure!(
                sum == Some(pairs),
                "mrope_section is {counts:?}, expected a sum of {pairs}, the columns of cos_cache"
            );
            let wanted = [3, batch, tokens];
            ensure!(
                **positions == wanted,
                "position_ids has the shape {positions:?}, expected {wanted:?}"
            );
            return Ok(Sizes { batch, tokens, heads, width, each: true });
        }
        let each = match **positions {
            [] | [1] => false,
            [of, count] if [of, count] == [batch, tokens] => true,
            _ => bail!(
                "position_ids has the shape {positions:?}, expected [1] or [{batch}, {tokens}]"
            ),
        };
        Ok(Sizes { batch, tokens, heads, width, each })
    }
}

impl Operator for RotaryEmbedding {
    fn name(&self) -> &'static str {
        if self.sections.is_some() { "MRotaryEmbedding" } else { "RotaryEmbedding" }
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        if let Some(shapes) = known_shapes(inputs) {
            self.sizes(&shapes)?;
        }
        Ok(tvec!(like(required(inputs, 0)?)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let s = self.sizes(&shapes(inputs))?;
        let input = required(inputs, 0)?;
        let positions = ints(required(inputs, 1)?)?;
        let (cos, sin) = (Singles::of(required(inputs, 2)?)?, Singles::of(required(inputs, 3)?)?);
        let pairs = required(inputs, 2)?.shape()[1];
        let rotation =
            Rotation { cos: cos.get()?, sin: sin.get()?, pairs, interleaved: self.interleaved };
        let count = s.batch * s.tokens;
        let mut combined = [vec![], vec![]];
        if let Some(sections) = &self.sections {
            for at in 0..count {
                let row = |position: usize| rotation.row(positions[position * count + at]);
                let rows = [row(0)?, row(1)?, row(2)?];
                for pair in 0..pairs {
                    let from = rows[sections.of(pair)] * pairs + pair;
                    combined[0].push(rotation.cos[from]);
                    combined[1].push(rotation.sin[from]);
                }
            }
        }
        let mut rows = Vec::with_capacity(count);
        for at in 0..count {
            let position = match s.each {
                // Each token has a row of its own.
                _ if self.sections.is_some() => {
                    rows.push(at);
                    continue;
                }
                true => positions[at],
                false => positions[0].saturating_add((at % s.tokens) as i64),
            };
            rows.push(rotation.row(position)?);
        }
        let rotation = match self.sections {
            Some(_) => Rotation { cos: &combined[0], sin: &combined[1], ..rotation },
            None => rotation,
        };
        let scale = self.scale.get();
        let mut output = Singles::of(input)?.get()?.to_vec();
        let packed = input.rank() == 3;
        for (at, head) in output.chunks_exact_mut(s.width.max(1)).enumerate() {
            let token = match packed {
                true => at / s.heads,
                false => at / (s.heads * s.tokens) * s.tokens + at % s.tokens,
            };
            rotation.rotate(head, rows[token]);
            if scale != 1.0 {
                head[..2 * pairs].iter_mut().for_each(|value| *value *= scale);
            }
        }
        Ok(tvec!(from_singles(input.datum_type(), input.shape(), output)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::microsoft::attention::cases;
    use crate::testing::{Case, counting, microsoft, row, tensor};

    #[test]
    fn rotary_embedding_gives_what_onnxruntime_and_numpy_give() {
        cases::check(include_str!("cases/rotary_embedding.txt"));
    }

    /// Two tokens of one head of four elements, with tables of no turn and a quarter turn.
    fn rotary(positions: &[i64]) -> Case {
        let case = microsoft("RotaryEmbedding").input(counting(&[1, 2, 4])).input(row(positions));
        let case = case.input(tensor(&[2, 2], &[1f32, 1.0, 0.0, 0.0]));
        case.input(tensor(&[2, 2], &[0f32, 0.0, 1.0, 1.0]))
    }

    #[test]
    fn one_position_is_that_of_the_first_token() {
        let turned = [0f32, 1.0, 2.0, 3.0, -6.0, -7.0, 4.0, 5.0];
        rotary(&[0]).gives_within(tensor(&[1, 2, 4], &turned), 0.0);
    }

    #[test]
    fn three_positions_are_each_for_some_pairs() {
        let rotary = |positions: [i64; 3]| {
            let case = microsoft("MRotaryEmbedding").ints("mrope_section", &[1, 0, 1]);
            let case = case.input(counting(&[1, 1, 4])).input(tensor(&[3, 1, 1], &positions));
            let case = case.input(tensor(&[2, 2], &[1f32, 1.0, 0.0, 0.0]));
            case.input(tensor(&[2, 2], &[0f32, 0.0, 1.0, 1.0]))
        };
        let of = |numbers: [f32; 4]| tensor(&[1, 1, 4], &numbers);
        rotary([1, 0, 0]).gives_within(of([-2.0, 1.0, 0.0, 3.0]), 0.0);
        rotary([0, 1, 1]).gives_within(of([0.0, -3.0, 2.0, 1.0]), 0.0);
        rotary([2, 0, 0]).fails("position 2 ");
        rotary([0, -1, 0]).fails("position -1 ");
        rotary([0; 3]).ints("mrope_section", &[1, 1, 1]).fails("[1, 1, 1]");
        rotary([0; 3]).ints("mrope_section", &[1, 1]).fails("[1, 1]");
        rotary([0; 3]).ints("mrope_section", &[3, -2, 1]).fails("-2");
    }

    #[test]
    fn positions_outside_of_the_tables_are_refused() {
        rotary(&[1]).fails("position 2 ");
        rotary(&[-1]).fails("position -1 ");
        rotary(&[i64::MAX]).fails(&i64::MAX.to_string());
        rotary(&[0, 1]).fails("position_ids");
    }

    #[test]
    fn attributes_that_do_not_match_the_shapes_are_refused() {
        rotary(&[0]).float("scale", 2.0).fails("scale is 2");
        rotary(&[0]).int("rotary_embedding_dim", 3).fails("3");
        rotary(&[0]).int("rotary_embedding_dim", 2).fails("num_heads");
        rotary(&[0]).int("num_heads", 3).fails("num_heads");
        rotary(&[0]).int("num_heads", 2).fails("cos_cache has 2 columns");
        rotary(&[0]).int("num_heads", 1).int("rotary_embedding_dim", 2).fails("cos_cache has 2");
        rotary(&[0]).int("num_heads", 1).int("rotary_embedding_dim", 8).fails("8");
    }
}
