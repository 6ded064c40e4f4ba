//! Attention: projects its input to queries, keys and values by one matrix, and attends to them. The
//! projection is a product of its own, so that it is computed like any other product of matrices.

mod sizes;
mod wiring;

use belljar_operators::MICROSOFT;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::core::{Singles, factor, from_singles};
use super::masked::{Cache, Mask, Masked, Place, past_length, score_bias};
use super::wired;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{
    InputFact, OutputFact, known_shapes, optional, required, unknown_dims,
};
use crate::framework::operator::Operator;
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{Bits, shapes};

pub(crate) const OPERATORS: &[Registration] =
    &[own("Attention", |_, node| wired::built(fused(node)?, node)).of(MICROSOFT)];

// The positions of the inputs.
const WEIGHTS: usize = 1;
const BIAS: usize = 2;
const MASK: usize = 3;
const PAST: usize = 4;
const SCORE_BIAS: usize = 5;
const PAST_LENGTH: usize = 6;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Attention {
    heads: usize,
    /// The channels of queries, keys and values, if they are not a third each.
    hidden: Option<[usize; 3]>,
    scale: Bits,
    fill: Bits,
    causal: bool,
    /// Whether the past cache has room for new tokens, and their number before is an input.
    shared: bool,
    /// Whether the first input is projected already.
    projected: bool,
}

fn fused(node: &NodeProto) -> TractResult<Attention> {
    let flag = |name| Ok::<_, TractError>(node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0);
    let heads = node.get_attr_opt::<i64>("num_heads")?.unwrap_or(0);
    let heads = usize::try_from(heads).ok().filter(|count| *count > 0);
    ensure!(
        !flag("do_rotary")?,
        "do_rotary is 1, which is not implemented, because the documentation does not give the \
         angles. Export the model with RotaryEmbedding and MultiHeadAttention"
    );
    let hidden = match node.get_attr_opt_vec::<i64>("qkv_hidden_sizes")? {
        None => None,
        Some(sizes) => {
            let list: Option<Vec<usize>> =
                sizes.iter().map(|size| usize::try_from(*size).ok()).collect();
            match list.as_deref() {
                Some(&[queries, keys, values]) if queries == keys => Some([queries, keys, values]),
                _ => bail!(
                    "qkv_hidden_sizes is {sizes:?}, expected three sizes of which the first two \
                     are equal"
                ),
            }
        }
    };
    Ok(Attention {
        heads: heads.or_user_error("num_heads must be at least one")?,
        hidden,
        scale: Bits::of(node, "scale", 0.0)?,
        fill: Bits::of(node, "mask_filter_value", -10000.0)?,
        causal: flag("unidirectional")?,
        shared: flag("past_present_share_buffer")?,
        projected: false,
    })
}

impl Operator for Attention {
    fn name(&self) -> &'static str {
        "Attention"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let input = required(inputs, 0)?;
        ensure!(input.rank() == 3, "the input has {} dimensions, expected 3", input.rank());
        let dtype = input.dtype;
        if let Some(shapes) = known_shapes(inputs) {
            self.sizes(&shapes)?;
        }
        let all = match optional(inputs, WEIGHTS) {
            Some(weights) => weights.shape.last(),
            None => input.shape.last(),
        };
        let Some(all) = all.and_then(TDim::as_i64).and_then(|all| usize::try_from(all).ok()) else {
            return Ok(tvec!(unknown_dims(dtype, 3), unknown_dims(dtype, 5)));
        };
        let [of_keys, _, of_values] = self.channels(all)?;
        ensure!(
            inputs.len() <= PAST || optional(inputs, PAST).is_none() || of_keys == of_values,
            "past needs keys and values of the same size, but qkv_hidden_sizes has {of_keys} and \
             {of_values}"
        );
        let (batch, tokens) = (&input.shape[0], &input.shape[1]);
        let held = optional(inputs, PAST).and_then(|past| past.shape.get(3));
        let room = match held {
            Some(held) if self.shared => held.clone(),
            Some(held) => held.clone() + tokens,
            None => tokens.clone(),
        };
        let heads = self.heads;
        let output = [batch.clone(), tokens.clone(), of_values.to_dim()];
        let width = (of_keys / heads).to_dim();
        let present = [2.to_dim(), batch.clone(), heads.to_dim(), room, width];
        let known = |dims: &[TDim]| dims.iter().cloned().map(Some).collect();
        Ok(tvec!((dtype, known(&output)), (dtype, known(&present))))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        ensure!(self.projected, "the input is not projected");
        let shapes = shapes(inputs);
        let s = self.sizes(&shapes)?;
        let past = past_length(optional(inputs, PAST_LENGTH), s.held, s.tokens, "past")?;
        let keys = self.check_keys(&s, past, &shapes)?;
        let heads = self.heads;
        let input = required(inputs, 0)?;
        let dtype = input.datum_type();
        let given = |at| Singles::given(inputs, at);
        let (values, bias) = (Singles::of(input)?, given(BIAS)?);
        let bias = bias.as_ref().map(Singles::get).transpose()?;
        let row = heads * (2 * s.width + s.value_width);
        let part = |first: usize, width: usize| {
            Ok::<_, TractError>(Place {
                values: values.get()?,
                entry: s.tokens * row,
                token: row,
                head: width,
                first,
                bias: bias.map(|bias| &bias[first..first + heads * width]),
            })
        };
        let all = heads * s.width;
        let [of_queries, of_keys, of_values] =
            [part(0, s.width)?, part(all, s.width)?, part(2 * all, s.value_width)?];
        let cached = given(PAST)?;
        let cached = cached.as_ref().map(Singles::get).transpose()?;
        let room = if self.shared { s.held } else { keys };
        let half = s.batch * heads * s.held * s.width;
        let cache = |which: usize, new: &Place<'_>, width: usize| {
            let rows = cached.map(|rows| &rows[which * half..][..half]);
            let cache = Cache { past: rows, held: s.held, used: past, room };
            cache.filled([s.batch, heads, s.tokens, width], new)
        };
        let mut rows = cache(0, &of_keys, s.width)?;
        let rows_of_values = cache(1, &of_values, s.value_width)?;
        let shape = [s.batch, heads, s.tokens, s.width];
        let queries = Cache::empty(s.tokens).filled(shape, &of_queries)?;
        let of_scores = given(SCORE_BIAS)?;
        let attention = Masked {
            batch: s.batch,
            heads,
            queries: s.tokens,
            past,
            keys,
            room,
            width: s.width,
            value_width: s.value_width,
            scale: factor(self.scale, s.width),
            causal: self.causal,
            mask: match optional(inputs, MASK) {
                Some(mask) => self.mask_sizes(&s, keys).read(mask, "mask_index")?,
                None => Mask::None,
            },
            fill: self.fill.get(),
            bias: score_bias(
                &of_scores,
                optional(&shapes, SCORE_BIAS),
                [s.batch, heads, s.tokens, keys],
            )?,
            shows: false,
        };
        let [output, _] = attention.attend(&queries, &rows, &rows_of_values)?;
        let output = from_singles(dtype, &[s.batch, s.tokens, heads * s.value_width], output)?;
        // Only keys and values of the same size have a common cache.
        let present = if s.width == s.value_width {
            rows.extend_from_slice(&rows_of_values);
            from_singles(dtype, &[2, s.batch, heads, room, s.width], rows)?
        } else {
            Tensor::zero_dt(dtype, &[0; 5])?
        };
        Ok(tvec!(output, present))
    }
}

#[cfg(test)]
mod tests {
    use crate::microsoft::attention::cases;
    use crate::testing::{Case, counting, microsoft, row, tensor};

    #[test]
    fn attention_gives_what_onnxruntime_and_numpy_give() {
        cases::check(include_str!("../cases/attention.txt"));
    }

    /// Two tokens of three channels, projected to two heads of one element.
    fn attention() -> Case {
        let case = microsoft("Attention").int("num_heads", 2).input(counting(&[1, 2, 3]));
        case.input(counting(&[3, 6])).input(counting(&[6]))
    }

    #[test]
    fn weights_that_do_not_match_are_refused() {
        let weights = |shape: &[usize]| {
            let case = microsoft("Attention").int("num_heads", 2).input(counting(&[1, 2, 3]));
            case.input(counting(shape))
        };
        weights(&[2, 6]).fails("[2, 6]");
        weights(&[6]).fails("[6]");
        weights(&[3, 7]).fails("7 columns");
        weights(&[3, 9]).fails("[3, 3, 3]");
        weights(&[3, 6]).input(row(&[0f32; 5])).fails("bias");
        attention().ints("qkv_hidden_sizes", &[2, 2, 4]).fails("6 columns");
        attention().ints("qkv_hidden_sizes", &[2, 4, 0]).fails("[2, 4, 0]");
        attention().ints("qkv_hidden_sizes", &[2, 2]).fails("[2, 2]");
        attention().ints("qkv_hidden_sizes", &[3, 3, 0]).fails("[3, 3, 0]");
        attention().ints("qkv_hidden_sizes", &[-1, -1, 8]).fails("-1");
    }

    #[test]
    fn masks_and_caches_that_do_not_match_are_refused() {
        attention().input(row(&[3])).fails("length 3");
        attention().input(row(&[1, 3])).fails("length 3");
        attention().input(row(&[1, -1])).fails("length -1");
        attention().input(tensor(&[1, 1], &[1])).fails("mask_index");
        attention().input(tensor(&[1, 1, 2, 2], &[1; 4])).fails("four dimensions");
        attention().missing().input(counting(&[2, 1, 2, 3, 2])).fails("past");
        attention().missing().input(counting(&[4])).fails("past");
        attention().missing().missing().input(counting(&[1, 1, 2, 3])).fails("attention_bias");
        let past = || attention().missing().input(counting(&[2, 1, 2, 3, 1])).missing();
        past().input(row(&[1])).fails("past_present_share_buffer");
        past().int("past_present_share_buffer", 1).fails("past_sequence_length");
        let shared = past().int("past_present_share_buffer", 1);
        shared.clone().input(row(&[2])).fails("past_sequence_length is 2");
        shared.input(row(&[-1])).fails("past_sequence_length is -1");
        let uneven = microsoft("Attention").int("num_heads", 1).input(counting(&[1, 2, 3]));
        let uneven = uneven.input(counting(&[3, 6])).ints("qkv_hidden_sizes", &[1, 1, 4]);
        uneven.missing().missing().input(counting(&[2, 1, 1, 3, 1])).fails("past");
    }

    #[test]
    fn rotation_is_refused_by_name() {
        attention().int("do_rotary", 1).fails("do_rotary");
    }

    #[test]
    fn plan_with_open_dimensions_keeps_the_batch_and_the_tokens() {
        let zeros = |shape: &[usize]| tensor(shape, &vec![0f32; shape.iter().product()]);
        let case = microsoft("Attention").int("num_heads", 2).input(zeros(&[2, 2, 3])).outputs(2);
        let case = case.input(zeros(&[3, 6])).input(row(&[0f32, 0.0, 0.0, 0.0, 6.0, 3.0]));
        let case = case.input(tensor(&[2, 3], &[1, 1, 1, 0, 1, 0])).input(zeros(&[2, 2, 2, 1, 1]));
        let output = [4f32, 2.0, 4.0, 2.0, 6.0, 3.0, 6.0, 3.0];
        let open = [(0, 0, "B"), (0, 1, "S"), (3, 0, "B"), (3, 1, "T"), (4, 1, "B"), (4, 3, "P")];
        let shapes = ["B,S,2", "2,B,2,P+S,1"];
        case.gives_open(&open, &shapes, &[tensor(&[2, 2, 2], &output)], 1e-6);
    }
}
