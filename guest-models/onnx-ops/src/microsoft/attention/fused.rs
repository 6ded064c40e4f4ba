//! Attention: projects its input to queries, keys and values by one matrix, and attends to them. The
//! projection is a product of its own, so that it is computed like any other product of matrices.

use belljar_operators::MICROSOFT;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_hir::internal::*;

use super::core::{Singles, factor, from_singles};
use super::masked::{Cache, Mask, MaskSizes, Masked, Place, check_keys, past_length, score_bias};
use super::wired::{self, Hidden, Wires, Wiring, broadcasts, is_plain, shape_of};
use crate::framework::equal_sizes::check_equal_sizes;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{
    InputFact, OutputFact, known_shapes, optional, required, unknown_dims,
};
use crate::framework::operator::{Operator, OperatorExpansion};
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

impl Wires for Attention {
    /// Wires the projection, and then the attention.
    fn wire(
        &self,
        whole: &OperatorExpansion,
        wiring: &mut Wiring<'_>,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let (prefix, model) = (wiring.prefix, &mut *wiring.model);
        for (input, rank) in [(0, 3), (1, 2)] {
            let found = model.outlet_fact(inputs[input])?.rank();
            ensure!(found == rank, "input {input} has {found} dimensions, expected {rank}");
        }
        let checked = check_equal_sizes(vec![[(0, 2), (1, 0)]], prefix, model, &inputs[..2])?;
        let dtype = model.outlet_fact(inputs[0])?.datum_type;
        let product = EinSum::new("amk,kn->amn".parse()?, dtype);
        let product = model.wire_node(format!("{prefix}.projection"), product, &checked)?[0];
        let placed = whole.by_position(inputs.iter().copied());
        if let Some(channels) = self.wires(model, &placed, product)? {
            return whole.named_outputs(self.wired(wiring, &placed, product, channels)?);
        }
        let projected = Attention { projected: true, ..self.clone() };
        let rest = [&[product], &inputs[2..]].concat();
        whole.without_input(projected, WEIGHTS).wire(prefix, model, &rest)
    }
}

impl Attention {
    /// The channels of queries, keys and values, if the attention can be wired.
    fn wires(
        &self,
        model: &TypedModel,
        inputs: &[Option<OutletId>],
        projected: OutletId,
    ) -> TractResult<Option<[usize; 3]>> {
        let shape = |at| shape_of(model, inputs, at);
        if self.shared || optional(inputs, PAST_LENGTH).is_some() {
            return Ok(None);
        }
        for at in [0, WEIGHTS, BIAS, PAST, SCORE_BIAS] {
            if let Some(input) = optional(inputs, at)
                && !is_plain(model, *input)?
            {
                return Ok(None);
            }
        }
        let product = model.outlet_fact(projected)?.shape.to_tvec();
        let all = product[2].as_i64().and_then(|all| usize::try_from(all).ok());
        let Some(all) = all else { return Ok(None) };
        let channels = self.channels(all)?;
        if shape(BIAS)?.is_some_and(|bias| *bias != [all.to_dim()])
            || shape(MASK)?.is_some_and(|mask| mask.len() > 3)
        {
            return Ok(None);
        }
        let (batch, tokens) = (product[0].clone(), product[1].clone());
        let (heads, width) = (self.heads.to_dim(), (channels[0] / self.heads).to_dim());
        let mut keys = tokens.clone();
        if let Some(past) = shape(PAST)? {
            match &*past {
                [two, b, n, held, w]
                    if (two, b, n, w) == (&2.to_dim(), &batch, &heads, &width)
                        && channels[0] == channels[2] =>
                {
                    keys = held.clone() + &tokens;
                }
                _ => return Ok(None),
            }
        }
        let wanted = [batch, heads, tokens, keys];
        let fits = shape(SCORE_BIAS)?.is_none_or(|bias| broadcasts(&bias, &wanted));
        Ok(fits.then_some(channels))
    }

    /// Wires the attention: its output, and the cache.
    fn wired(
        &self,
        wiring: &mut Wiring<'_>,
        inputs: &[Option<OutletId>],
        projected: OutletId,
        channels: [usize; 3],
    ) -> TractResult<TVec<OutletId>> {
        let (heads, mut first) = (self.heads, 0);
        let mut rows = tvec!();
        for (name, count) in ["query", "key", "value"].into_iter().zip(channels) {
            let part = wiring.part(name, projected, first..first + count)?;
            let bias = match optional(inputs, BIAS) {
                Some(bias) => {
                    Some(wiring.part(&format!("{name}.bias"), *bias, first..first + count)?)
                }
                None => None,
            };
            rows.push(wiring.heads(name, part, bias, heads)?);
            first += count;
        }
        let (queries, new) = (rows[0], rows[1]);
        let (mut keys, mut values) = (new, rows[2]);
        if let Some(past) = optional(inputs, PAST).copied() {
            let [of_keys, of_values] =
                [wiring.half("key", past, 0)?, wiring.half("value", past, 1)?];
            keys = wiring.after("key", Some(of_keys), keys)?;
            values = wiring.after("value", Some(of_values), values)?;
        }
        let hidden = Hidden {
            causal: self.causal,
            mask: optional(inputs, MASK).copied(),
            fill: self.fill,
            name: "mask_index",
            starts: true,
            bias: optional(inputs, SCORE_BIAS).copied(),
        };
        let scale = factor(self.scale, channels[0] / heads);
        let output = wiring.attention([queries, keys, values], new, scale, &hidden)?;
        // Only keys and values of the same size have a common cache.
        let present = if channels[0] == channels[2] { wiring.both(keys, values)? } else { keys };
        Ok(tvec!(output, present))
    }
}

struct Sizes {
    batch: usize,
    tokens: usize,
    /// The number of rows of the past cache.
    held: usize,
    width: usize,
    value_width: usize,
}

impl Attention {
    /// The channels of queries, keys and values.
    fn channels(&self, all: usize) -> TractResult<[usize; 3]> {
        let heads = self.heads;
        let channels = match self.hidden {
            None => [all / 3; 3],
            Some(hidden) => hidden,
        };
        let sum = channels.iter().try_fold(0usize, |sum, size| sum.checked_add(*size));
        ensure!(
            sum == Some(all),
            "the weights have {all} columns, which are not three equal parts, or those of \
             qkv_hidden_sizes"
        );
        let whole = channels.iter().all(|size| *size > 0 && size % heads == 0);
        ensure!(whole, "the hidden sizes {channels:?} are not multiples of {heads} heads");
        Ok(channels)
    }

    fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<Sizes> {
        let input = required(shapes, 0)?;
        let [batch, tokens, inner] = **input else {
            bail!("the input has the shape {input:?}, expected three dimensions")
        };
        let all = match optional(shapes, WEIGHTS) {
            None => inner,
            Some(weights) => match **weights {
                [rows, all] if rows == inner => all,
                _ => bail!(
                    "the weights have the shape {weights:?}, expected {inner} rows, like the \
                     channels of the input"
                ),
            },
        };
        let heads = self.heads;
        let [of_keys, _, of_values] = self.channels(all)?;
        let (width, value_width) = (of_keys / heads, of_values / heads);
        if let Some(bias) = optional(shapes, BIAS) {
            ensure!(**bias == [all], "the bias has the shape {bias:?}, expected [{all}]");
        }
        let held = match optional(shapes, PAST) {
            None => 0,
            Some(past) => {
                let held = past.get(3).copied().unwrap_or(0);
                ensure!(
                    **past == [2, batch, heads, held, width],
                    "past has the shape {past:?}, expected [2, {batch}, {heads}, tokens, {width}]"
                );
                held
            }
        };
        let one = |shape: &Vec<usize>| shape.iter().product::<usize>() == 1;
        ensure!(
            !self.shared
                || optional(shapes, PAST).is_some()
                    && optional(shapes, PAST_LENGTH).is_some_and(one),
            "past_present_share_buffer is 1, which needs past, and past_sequence_length as one \
             number"
        );
        ensure!(
            self.shared || optional(shapes, PAST_LENGTH).is_none(),
            "past_sequence_length is given, but past_present_share_buffer is not 1"
        );
        let s = Sizes { batch, tokens, held, width, value_width };
        if !self.shared {
            self.check_keys(&s, held, shapes)?;
        }
        Ok(s)
    }

    /// Checks what depends on the number of all keys.
    fn check_keys(
        &self,
        s: &Sizes,
        past: usize,
        shapes: &[Option<Vec<usize>>],
    ) -> TractResult<usize> {
        let mask = optional(shapes, MASK);
        if let Some(mask) = mask {
            ensure!(
                mask.len() != 4,
                "mask_index has the shape {mask:?}, but masks of four dimensions are not \
                 implemented. Give [batch, tokens, all tokens]"
            );
        }
        let sizes = [s.batch, self.heads, s.tokens, s.tokens];
        check_keys(past, sizes, mask, ("mask_index", true), optional(shapes, SCORE_BIAS))
    }

    fn mask_sizes(&self, s: &Sizes, keys: usize) -> MaskSizes {
        MaskSizes { batch: s.batch, queries: s.tokens, keys, starts: true }
    }
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
        cases::check(include_str!("cases/attention.txt"));
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
