//! MultiHeadAttention: attention of heads whose queries, keys and values are inputs, separate or
//! packed, with the biases of their projections.

mod sizes;
mod wiring;

use belljar_operators::MICROSOFT;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::core::{Singles, factor, from_singles};
use super::masked::{Cache, Mask, Masked, Place, past_length, score_bias};
use super::wired;
use crate::framework::errors::{OrUserError, ensure};
use crate::framework::facts::{InputFact, OutputFact, known_shapes, optional, required};
use crate::framework::operator::Operator;
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{Bits, shapes};

pub(crate) const OPERATORS: &[Registration] = &[own("MultiHeadAttention", |_, node| {
    wired::built(multi_head(node, "key_padding_mask")?, node)
})
.of(MICROSOFT)];

// The positions of the inputs.
const BIAS: usize = 3;
const MASK: usize = 4;
const SCORE_BIAS: usize = 5;
const PAST_KEY: usize = 6;
const PAST_VALUE: usize = 7;
const PAST_LENGTH: usize = 8;
const BEAMS: usize = 9;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MultiHead {
    heads: usize,
    scale: Bits,
    fill: Bits,
    causal: bool,
    /// Whether scores are an output.
    pub(super) shows: bool,
    /// The name of the input that is a mask.
    mask: &'static str,
}

pub(super) fn multi_head(node: &NodeProto, mask: &'static str) -> TractResult<MultiHead> {
    let heads = node.get_attr_opt::<i64>("num_heads")?.unwrap_or(0);
    let heads = usize::try_from(heads).ok().filter(|count| *count > 0);
    Ok(MultiHead {
        heads: heads.or_user_error("num_heads must be at least one")?,
        scale: Bits::of(node, "scale", 0.0)?,
        fill: Bits::of(node, "mask_filter_value", -10000.0)?,
        causal: node.get_attr_opt::<i64>("unidirectional")?.unwrap_or(0) != 0,
        shows: node.output.get(3).is_some_and(|name| !name.is_empty()),
        mask,
    })
}

impl Operator for MultiHead {
    fn name(&self) -> &'static str {
        "MultiHeadAttention"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let query = required(inputs, 0)?;
        ensure!(query.rank() >= 2, "query has {} dimensions, expected 3 or 5", query.rank());
        let dtype = query.dtype;
        let sizes = match known_shapes(inputs) {
            Some(shapes) => Some(self.sizes(&shapes)?),
            None => None,
        };
        let known = |dim: Option<&TDim>| dim?.as_i64().and_then(|dim| usize::try_from(dim).ok());
        let heads = self.heads;
        // The widths are numbers even if other dimensions are not.
        let width = match (&sizes, query.rank()) {
            (Some(s), _) => Some(s.width),
            (None, 5) => known(query.shape.get(4)),
            _ => known(query.shape.get(2)).map(|all| all / heads),
        };
        let value_width = match (&sizes, optional(inputs, 2)) {
            (Some(s), _) => Some(s.value_width),
            (None, Some(value)) if value.rank() == 4 => known(value.shape.get(3)),
            (None, Some(value)) => known(value.shape.get(2)).map(|all| all / heads),
            (None, None) => width,
        };
        let new = match optional(inputs, 1) {
            None => query.shape.get(1),
            Some(key) if key.rank() == 4 => key.shape.get(2),
            Some(key) => key.shape.get(1),
        };
        let held = optional(inputs, PAST_KEY).and_then(|past| past.shape.get(2));
        let shared = optional(inputs, PAST_LENGTH).is_some();
        let keys = match (held, new) {
            (Some(_), _) if shared => None,
            (Some(held), Some(new)) => Some(held.clone() + new),
            (None, new) => new.cloned(),
            _ => None,
        };
        let room = if shared { held.cloned() } else { keys.clone() };
        let (batch, tokens) = (Some(query.shape[0].clone()), Some(query.shape[1].clone()));
        let dim = |size: Option<usize>| size.map(|size| size.to_dim());
        let cache = |width| tvec!(batch.clone(), dim(Some(heads)), room.clone(), dim(width));
        let all = dim(value_width.map(|width| heads * width));
        Ok(tvec!(
            (dtype, tvec!(batch.clone(), tokens.clone(), all)),
            (dtype, cache(width)),
            (dtype, cache(value_width)),
            (dtype, tvec!(batch.clone(), dim(Some(heads)), tokens.clone(), keys))
        ))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let shapes = shapes(inputs);
        let s = self.sizes(&shapes)?;
        let past = past_length(optional(inputs, PAST_LENGTH), s.held, s.new, "past_key")?;
        let keys = self.check_keys(&s, past, &shapes)?;
        let heads = self.heads;
        let dtype = required(inputs, 0)?.datum_type();
        let given = |at| Singles::given(inputs, at);
        let query = Singles::of(required(inputs, 0)?)?;
        let (key, value, bias) = (given(1)?, given(2)?, given(BIAS)?);
        let bias = bias.as_ref().map(Singles::get).transpose()?;
        let part = |from: usize, count: usize| bias.map(|bias| &bias[from..from + count]);
        let (all, all_values) = (heads * s.width, heads * s.value_width);
        let biases = [part(0, all), part(all, all), part(2 * all, all_values)];
        let [of_queries, of_keys, of_values] = self.places(&s, &query, &key, &value, biases)?;
        let caches = [given(PAST_KEY)?, given(PAST_VALUE)?];
        let room = if optional(inputs, PAST_LENGTH).is_some() { s.held } else { keys };
        let cache = |past_rows: &'_ Option<Singles<'_>>, new: &Place<'_>, width: usize| {
            let rows = past_rows.as_ref().map(Singles::get).transpose()?;
            let cache = Cache { past: rows, held: s.held, used: past, room };
            cache.filled([s.batch, heads, s.new, width], new)
        };
        let keys_of = cache(&caches[0], &of_keys, s.width)?;
        let values_of = cache(&caches[1], &of_values, s.value_width)?;
        let shape = [s.batch, heads, s.queries, s.width];
        let queries = Cache::empty(s.queries).filled(shape, &of_queries)?;
        let of_scores = given(SCORE_BIAS)?;
        let wanted = [s.batch, heads, s.queries, keys];
        let attention = Masked {
            batch: s.batch,
            heads,
            queries: s.queries,
            past,
            keys,
            room,
            width: s.width,
            value_width: s.value_width,
            scale: factor(self.scale, s.width),
            causal: self.causal,
            mask: match optional(inputs, MASK) {
                Some(mask) => self.mask_sizes(&s, keys).read(mask, self.mask)?,
                None => Mask::None,
            },
            fill: self.fill.get(),
            bias: score_bias(&of_scores, optional(&shapes, SCORE_BIAS), wanted)?,
            shows: self.shows,
        };
        let [output, shown] = attention.attend(&queries, &keys_of, &values_of)?;
        let shown_shape = match self.shows {
            true => [s.batch, heads, s.queries, keys],
            false => [0; 4],
        };
        Ok(tvec!(
            from_singles(dtype, &[s.batch, s.queries, all_values], output)?,
            from_singles(dtype, &[s.batch, heads, room, s.width], keys_of)?,
            from_singles(dtype, &[s.batch, heads, room, s.value_width], values_of)?,
            from_singles(dtype, &shown_shape, shown)?
        ))
    }
}

#[cfg(test)]
mod tests {
    use crate::microsoft::attention::cases;
    use crate::testing::{Case, counting, microsoft, row, tensor};

    #[test]
    fn multi_head_attention_gives_what_onnxruntime_and_numpy_give() {
        cases::check(include_str!("../cases/multi_head.txt"));
    }

    fn heads() -> Case {
        microsoft("MultiHeadAttention").int("num_heads", 2)
    }

    /// Two queries of two heads of one element, over three keys.
    fn attention() -> Case {
        let case = heads().input(counting(&[1, 2, 2])).input(counting(&[1, 3, 2]));
        case.input(counting(&[1, 3, 2]))
    }

    #[test]
    fn queries_keys_and_values_that_do_not_match_are_refused() {
        let query = |shape: &[usize]| heads().input(counting(shape));
        query(&[1, 2, 3]).input(counting(&[1, 3, 3])).input(counting(&[1, 3, 3])).fails("query");
        query(&[1, 2]).input(counting(&[1, 2])).input(counting(&[1, 2])).fails("query");
        query(&[1, 2, 2]).fails("None");
        query(&[1, 2, 2, 2, 1]).fails("query");
        query(&[1, 2, 3, 3, 1]).fails("query");
        for shape in [&[1, 3, 4][..], &[2, 3, 2], &[1, 3], &[1, 3, 2, 2, 2], &[1, 1, 3, 1]] {
            query(&[1, 2, 2]).input(counting(shape)).input(counting(shape)).fails("key");
        }
        query(&[1, 2, 2]).input(counting(&[1, 3, 2])).fails("key");
        query(&[1, 2, 2]).input(counting(&[1, 3, 2])).input(counting(&[1, 2, 2])).fails("key");
        query(&[1, 2, 2]).input(counting(&[1, 0, 2])).input(counting(&[1, 0, 2])).fails("no keys");
        let packed = query(&[1, 2, 2, 3, 1]).input(counting(&[1, 3, 2]));
        packed.input(counting(&[1, 3, 2])).fails("query");
    }

    #[test]
    fn masks_and_biases_that_do_not_match_are_refused() {
        attention().input(row(&[0f32; 5])).fails("bias");
        let mask = || attention().missing();
        mask().input(row(&[4])).fails("length 4");
        mask().input(row(&[-1])).fails("length -1");
        mask().input(row(&[1, 2])).fails("key_padding_mask");
        mask().input(tensor(&[1, 2], &[1, 1])).fails("key_padding_mask");
        mask().input(tensor(&[1, 1, 3], &[1, 1, 1])).fails("key_padding_mask");
        mask().input(tensor(&[1, 1, 2, 3], &[1; 6])).fails("key_padding_mask");
        for shape in [&[2, 3][..], &[1, 1, 1, 3], &[1, 1, 2, 1], &[2, 1, 2, 3], &[1, 3, 2, 3]] {
            mask().missing().input(counting(shape)).fails("attention_bias");
        }
    }

    #[test]
    fn caches_that_do_not_match_are_refused() {
        let past = |key: &[usize], value: &[usize]| {
            let case = attention().missing().missing().missing();
            case.input(counting(key)).input(counting(value))
        };
        past(&[1, 2, 4, 1], &[1, 2, 3, 1]).fails("past_key");
        past(&[1, 1, 4, 1], &[1, 1, 4, 1]).fails("past_key");
        past(&[1, 2, 4, 2], &[1, 2, 4, 2]).fails("past_key");
        past(&[4], &[4]).fails("past_key");
        let cache = || past(&[1, 2, 4, 1], &[1, 2, 4, 1]);
        cache().input(row(&[2])).fails("past_sequence_length is 2");
        cache().input(row(&[-1])).fails("past_sequence_length is -1");
        cache().input(row(&[1, 1])).fails("past_sequence_length");
        let beams = tensor(&[1, 1, 4], &[0; 4]);
        cache().input(row(&[1])).input(beams).fails("cache_indirection");
        past(&[1, 2, 2, 1], &[1, 2, 2, 1]).input(row(&[0])).fails("past_sequence_length is 0");
    }

    #[test]
    fn plan_with_open_dimensions_is_wired_with_a_cache_that_grows() {
        let zeros = |shape: &[usize]| tensor(shape, &vec![0f32; shape.iter().product()]);
        let case = heads().input(zeros(&[1, 2, 2])).input(zeros(&[1, 2, 2])).outputs(3);
        let values = tensor(&[1, 2, 2], &[6f32, 3.0, 9.0, 0.0]);
        let case = case.input(values).missing().input(tensor(&[1, 3], &[1, 1, 0])).missing();
        let case = case.input(zeros(&[1, 2, 1, 1])).input(zeros(&[1, 2, 1, 1]));
        let values = tensor(&[1, 2, 3, 1], &[0f32, 6.0, 9.0, 0.0, 3.0, 0.0]);
        let outputs = [tensor(&[1, 2, 2], &[3f32, 1.5, 3.0, 1.5]), zeros(&[1, 2, 3, 1]), values];
        let open = [(0, 1, "S"), (1, 1, "S"), (2, 1, "S"), (3, 1, "T"), (4, 2, "P"), (5, 2, "P")];
        let shapes = ["1,S,2", "1,2,P+S,1", "1,2,P+S,1"];
        case.gives_open(&open, &shapes, &outputs, 1e-6);
    }
}
