//! RotaryEmbedding: rotates pairs of elements of each head by the position of its token.

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

pub(crate) const OPERATORS: &[Registration] =
    &[own("RotaryEmbedding", |_, node| built(rotary(node)?, node)).of(MICROSOFT)];

#[derive(Clone, Debug, PartialEq, Eq)]
struct RotaryEmbedding {
    /// The number of heads, or 0 if it follows from the tables.
    heads: usize,
    /// How many elements of a head are rotated, or 0 for all.
    rotated: usize,
    interleaved: bool,
}

fn rotary(node: &NodeProto) -> TractResult<RotaryEmbedding> {
    let size = |name| Ok::<_, TractError>(node.get_attr_opt::<usize>(name)?.unwrap_or(0));
    let scale = Bits::of(node, "scale", 1.0)?.get();
    ensure!(
        scale == 1.0,
        "the attribute scale is {scale}, but the documentation does not say what it scales, and \
         onnxruntime ignores it. Remove it, and scale the output by a Mul"
    );
    let op = RotaryEmbedding {
        heads: size("num_heads")?,
        rotated: size("rotary_embedding_dim")?,
        interleaved: node.get_attr_opt::<i64>("interleaved")?.unwrap_or(0) != 0,
    };
    ensure!(op.rotated % 2 == 0, "rotary_embedding_dim is {}, which is not even", op.rotated);
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
        "RotaryEmbedding"
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
        let mut rows = Vec::with_capacity(s.batch * s.tokens);
        for at in 0..s.batch * s.tokens {
            let position = match s.each {
                true => positions[at],
                false => positions[0].saturating_add((at % s.tokens) as i64),
            };
            rows.push(rotation.row(position)?);
        }
        let mut output = Singles::of(input)?.get()?.to_vec();
        let packed = input.rank() == 3;
        for (at, head) in output.chunks_exact_mut(s.width.max(1)).enumerate() {
            let token = match packed {
                true => at / s.heads,
                false => at / (s.heads * s.tokens) * s.tokens + at % s.tokens,
            };
            rotation.rotate(head, rows[token]);
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
