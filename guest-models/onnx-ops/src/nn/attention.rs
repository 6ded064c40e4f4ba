//! Attention (ONNX, operator sets 23 to 25). This crate computes what tract does not have: masks,
//! past keys and values, padded keys, windows, soft caps, and the scores as an output. Computed in
//! 64 bits, and rounded where ONNX gives a value an element type.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::volume;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{
    InputFact, OutputFact, concrete, known_shapes, optional, required, unknown_dims, with_dims,
};
use crate::framework::operator::{Operator, built, wire_operator};
use crate::framework::registration::{Registration, wrapped_by};
use crate::framework::tensors::{Bits, floats, from_floats, ints, rounded, shapes};
use crate::framework::upstream::BuildResult;
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] = &[
    wrapped_by("Attention", |context, node| build(context, node, false)).until(23),
    wrapped_by("Attention", |context, node| build(context, node, true)).since(24),
];

fn build(context: &ParsingContext, node: &NodeProto, short_masks: bool) -> BuildResult {
    match plain(node)? {
        true => Wrapping::new(wire_by_tract).build(context, node),
        false => built(Attention { short_masks, ..attention(node)? }, node),
    }
}

/// tract's own wiring, for inputs that match and are not float64, which tract would round to 32
/// bits.
fn wire_by_tract(
    wrapped: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    // A plain node has no mask.
    let op = attention(&wrapped.node)?;
    let mut shapes = Vec::with_capacity(inputs.len());
    for input in inputs {
        shapes.push(concrete(&model.outlet_fact(*input)?.shape.to_tvec()));
    }
    let double = model.outlet_fact(inputs[0])?.datum_type == f64::datum_type();
    match shapes.iter().all(Option::is_some) && !double {
        true => {
            op.sizes(&shapes)?;
            wrapped.wire_original(prefix, model, inputs)
        }
        false => wire_operator(op, &wrapped.node, prefix, model, inputs),
    }
}

/// Whether tract computes the node correctly, and faster: no masks, no cache, no skipped outputs.
fn plain(node: &NodeProto) -> TractResult<bool> {
    let more_inputs = node.input.iter().skip(3).any(|name| !name.is_empty());
    let gap = node.output.iter().skip_while(|name| !name.is_empty()).any(|name| !name.is_empty());
    let window = |name| Ok::<_, TractError>(node.get_attr_opt::<i64>(name)?.unwrap_or(-1) >= 0);
    let causal = node.get_attr_opt::<i64>("is_causal")?.unwrap_or(0) != 0;
    let outputs = if causal { 1 } else { 3 };
    Ok(!more_inputs
        && !gap
        && node.output.len() <= outputs
        && node.get_attr_opt::<f32>("softcap")?.unwrap_or(0.0) == 0.0
        && node.get_attr_opt::<i64>("softmax_precision")?.is_none()
        && !window("left_window_size")?
        && !window("right_window_size")?)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Attention {
    causal: bool,
    /// The number of query heads and of key heads, if all heads are packed into one dimension.
    heads: [Option<usize>; 2],
    scale: Option<Bits>,
    softcap: Bits,
    precision: Option<DatumType>,
    /// The step at which the scores are an output.
    shown: ScoresStep,
    /// How many keys back and ahead a query attends to.
    windows: [Option<usize>; 2],
    /// Whether masks may be shorter than the keys.
    short_masks: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ScoresStep {
    Never,
    Products,
    Capped,
    Masked,
    Softmax,
}

fn attention(node: &NodeProto) -> TractResult<Attention> {
    let int = |name| node.get_attr_opt::<i64>(name);
    let size = |name| Ok::<_, TractError>(int(name)?.and_then(|size| usize::try_from(size).ok()));
    let named = node.output.get(3).is_some_and(|name| !name.is_empty());
    let scale = match node.get_attr_opt::<f32>("scale")? {
        Some(_) => Some(Bits::of(node, "scale", 0.0)?),
        None => None,
    };
    let precision = match int("softmax_precision")? {
        Some(number) => Some(DatumType::try_from(DataType::try_from(i32::try_from(number)?)?)?),
        None => None,
    };
    Ok(Attention {
        causal: int("is_causal")?.unwrap_or(0) != 0,
        heads: [size("q_num_heads")?, size("kv_num_heads")?],
        scale,
        softcap: Bits::of(node, "softcap", 0.0)?,
        precision,
        shown: match int("qk_matmul_output_mode")?.unwrap_or(0) {
            _ if !named => ScoresStep::Never,
            0 => ScoresStep::Products,
            1 => ScoresStep::Capped,
            2 => ScoresStep::Masked,
            3 => ScoresStep::Softmax,
            other => bail!("the score mode {other} is not implemented"),
        },
        windows: [size("left_window_size")?, size("right_window_size")?],
        short_masks: false,
    })
}

/// All sizes.
struct Sizes {
    batch: usize,
    heads: usize,
    /// Heads of keys and values. Each serves the same number of query heads.
    kv_heads: usize,
    queries: usize,
    past: usize,
    keys: usize,
    width: usize,
    value_width: usize,
    /// Whether all heads are packed into one dimension.
    packed: bool,
}

/// Batch, heads, length and width of queries, keys or values.
fn split(shape: &[usize], heads: Option<usize>) -> TractResult<[usize; 4]> {
    Ok(match (shape, heads) {
        ([batch, found, length, width], heads) => {
            let agreed = heads.is_none_or(|heads| heads == *found);
            ensure!(agreed, "the attribute says {heads:?} heads, but the input has {found}");
            [*batch, *found, *length, *width]
        }
        ([batch, length, all], Some(heads)) if heads > 0 && all % heads == 0 => {
            [*batch, heads, *length, all / heads]
        }
        _ => bail!("the shape {shape:?} does not match {heads:?} heads"),
    })
}

impl Attention {
    /// Checks that the shapes of all inputs match.
    fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<Sizes> {
        let (q, k, v) = (required(shapes, 0)?, required(shapes, 1)?, required(shapes, 2)?);
        ensure!(
            q.len() == k.len() && k.len() == v.len(),
            "queries, keys and values have different ranks"
        );
        let [batch, heads, queries, width] = split(q, self.heads[0])?;
        let [k_batch, kv_heads, new, k_width] = split(k, self.heads[1])?;
        let [v_batch, v_heads, v_new, value_width] = split(v, self.heads[1])?;
        let agreed = batch == k_batch && batch == v_batch && kv_heads == v_heads && new == v_new;
        ensure!(
            agreed && width == k_width,
            "queries, keys and values have the shapes {q:?}, {k:?} and {v:?}, which do not match"
        );
        let grouped = kv_heads > 0 && heads % kv_heads == 0;
        ensure!(grouped, "{heads} query heads do not match {kv_heads} key heads");
        let past = match (optional(shapes, 4), optional(shapes, 5)) {
            (None, None) => 0,
            (Some(key), Some(value)) => {
                let [_, _, past, _] = **key else {
                    bail!("past_key has the unexpected shape {key:?}")
                };
                let wanted = [batch, kv_heads, past];
                let fits = **key == [&wanted[..], &[width]].concat()
                    && **value == [&wanted[..], &[value_width]].concat();
                ensure!(
                    fits,
                    "past_key and past_value have the shapes {key:?} and {value:?}, which do not match"
                );
                past
            }
            _ => bail!("past_key and past_value must be given together"),
        };
        let keys = past.checked_add(new).or_user_error("there are too many keys")?;
        ensure!(keys > 0 && width > 0, "attention over zero keys is not implemented");
        if let Some(lengths) = optional(shapes, 6) {
            ensure!(
                **lengths == [batch],
                "lengths of the shape {lengths:?} do not match a batch of {batch}"
            );
        }
        if let Some(mask) = optional(shapes, 3) {
            self.check_mask(mask, [batch, heads, queries, keys])?;
        }
        volume(&[batch, heads, queries, value_width])?;
        volume(&[batch, kv_heads, keys, width.max(value_width)])?;
        if self.shown != ScoresStep::Never {
            volume(&[batch, heads, queries, keys])?;
        }
        let packed = q.len() == 3;
        Ok(Sizes { batch, heads, kv_heads, queries, past, keys, width, value_width, packed })
    }

    /// A mask broadcasts over the dimensions that it lacks, and may be shorter in versions that
    /// allow it.
    fn check_mask(&self, mask: &[usize], wanted: [usize; 4]) -> TractResult<()> {
        let Some((last, before)) = mask.split_last() else { bail!("the mask has no dimensions") };
        ensure!(before.len() <= 3, "the mask has {} dimensions, which are too many", mask.len());
        let keys = wanted[3];
        // One column could apply to all keys or to the first one.
        let fits = *last == keys || self.short_masks && *last < keys && *last != 1;
        let outer = before.iter().rev().zip(wanted[..3].iter().rev());
        let broadcast = |(size, wanted): (&usize, &usize)| *size == 1 || size == wanted;
        ensure!(
            fits && outer.clone().all(broadcast),
            "the mask's shape {mask:?} does not broadcast to {wanted:?}"
        );
        Ok(())
    }
}

/// A tensor as batch, heads, length and width.
fn unpacked(tensor: &Tensor, shape: [usize; 4], packed: bool) -> TractResult<Vec<f64>> {
    let values = floats(tensor)?;
    Ok(if packed { swapped(&values, [shape[0], shape[2], shape[1], shape[3]]) } else { values })
}

/// Swaps the two middle dimensions.
fn swapped(values: &[f64], [a, b, c, d]: [usize; 4]) -> Vec<f64> {
    let mut to = Vec::with_capacity(values.len());
    for outer in 0..a {
        for (inner, middle) in (0..c).flat_map(|inner| (0..b).map(move |middle| (inner, middle))) {
            let from = ((outer * b + middle) * c + inner) * d;
            to.extend_from_slice(&values[from..from + d]);
        }
    }
    to
}

/// Past keys or values followed by new ones, for each head.
fn joined(past: Option<&Tensor>, new: Vec<f64>, rows: usize) -> TractResult<Vec<f64>> {
    let Some(past) = past else { return Ok(new) };
    let past = floats(past)?;
    let mut all = Vec::with_capacity(past.len() + new.len());
    let (old, fresh) = (past.len() / rows.max(1), new.len() / rows.max(1));
    for row in 0..rows {
        all.extend_from_slice(&past[row * old..][..old]);
        all.extend_from_slice(&new[row * fresh..][..fresh]);
    }
    Ok(all)
}

/// What is added to the scores: zero, the value of a mask, or negative infinity.
struct Bias {
    mask: Option<(Vec<f64>, [usize; 4], [usize; 4])>,
    /// The position of the first query among the keys, for each batch entry.
    offsets: Vec<i64>,
    /// The number of keys that are not padding, for each batch entry.
    lengths: Option<Vec<i64>>,
    back: Option<i64>,
    ahead: Option<i64>,
}

impl Bias {
    /// One bias for each key of a query.
    fn row(&self, batch: usize, head: usize, query: usize, row: &mut [f64]) {
        let place = self.offsets[batch] + query as i64;
        let length = self.lengths.as_ref().map_or(i64::MAX, |lengths| lengths[batch]);
        for (key, bias) in row.iter_mut().enumerate() {
            *bias = match &self.mask {
                None => 0.0,
                Some((_, shape, _)) if key >= shape[3] => f64::NEG_INFINITY,
                Some((values, _, strides)) => {
                    let at = [batch, head, query, key];
                    values[at.iter().zip(strides).map(|(at, stride)| at * stride).sum::<usize>()]
                }
            };
            let key = key as i64;
            let hidden = key >= length
                || self.back.is_some_and(|back| place - key > back)
                || self.ahead.is_some_and(|ahead| key - place > ahead);
            if hidden {
                *bias += f64::NEG_INFINITY;
            }
        }
    }
}

/// A mask as numbers to add, with its shape in four dimensions and its strides, which are 0 along
/// broadcast dimensions.
fn mask(tensor: &Tensor, dtype: DatumType) -> TractResult<(Vec<f64>, [usize; 4], [usize; 4])> {
    let values = if tensor.datum_type() == bool::datum_type() {
        let plain = tensor.try_as_plain_ram()?;
        let seen = plain.as_slice::<bool>()?.iter();
        seen.map(|seen| if *seen { 0.0 } else { f64::NEG_INFINITY }).collect()
    } else {
        ensure!(
            tensor.datum_type() == dtype,
            "a mask of element type {:?} does not match {dtype:?}",
            tensor.datum_type()
        );
        floats(tensor)?
    };
    let (mut shape, mut strides) = ([1; 4], [0; 4]);
    let mut stride = 1;
    for (at, size) in tensor.shape().iter().rev().enumerate() {
        shape[3 - at] = *size;
        strides[3 - at] = if *size == 1 { 0 } else { stride };
        stride *= size;
    }
    Ok((values, shape, strides))
}

impl Operator for Attention {
    fn name(&self) -> &'static str {
        "Attention"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let first = required(inputs, 0)?;
        let dtype = first.dtype;
        if let Some(mask) = optional(inputs, 3) {
            let known = mask.dtype == dtype || mask.dtype == bool::datum_type();
            ensure!(known, "a mask of element type {:?} does not match {dtype:?}", mask.dtype);
        }
        let Some(shapes) = known_shapes(inputs) else {
            return Ok(tvec!(
                unknown_dims(dtype, first.rank()),
                unknown_dims(dtype, 4),
                unknown_dims(dtype, 4),
                unknown_dims(dtype, 4)
            ));
        };
        let s = self.sizes(&shapes)?;
        let of = |dims: &[usize]| with_dims(dtype, dims.iter().map(|dim| dim.to_dim()));
        Ok(tvec!(
            match s.packed {
                true => of(&[s.batch, s.queries, s.heads * s.value_width]),
                false => of(&[s.batch, s.heads, s.queries, s.value_width]),
            },
            of(&[s.batch, s.kv_heads, s.keys, s.width]),
            of(&[s.batch, s.kv_heads, s.keys, s.value_width]),
            of(&[s.batch, s.heads, s.queries, s.keys])
        ))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let shapes = shapes(inputs);
        let s = self.sizes(&shapes)?;
        let dtype = required(inputs, 0)?.datum_type();
        let new = s.keys - s.past;
        let queries = [s.batch, s.heads, s.queries, s.width];
        let mut queries = unpacked(required(inputs, 0)?, queries, s.packed)?;
        let keys = unpacked(required(inputs, 1)?, [s.batch, s.kv_heads, new, s.width], s.packed)?;
        let values =
            unpacked(required(inputs, 2)?, [s.batch, s.kv_heads, new, s.value_width], s.packed)?;
        let rows = s.batch * s.kv_heads;
        let mut keys = joined(optional(inputs, 4).copied(), keys, rows)?;
        let values = joined(optional(inputs, 5).copied(), values, rows)?;
        let present = [
            from_floats(dtype, &[s.batch, s.kv_heads, s.keys, s.width], &keys)?,
            from_floats(dtype, &[s.batch, s.kv_heads, s.keys, s.value_width], &values)?,
        ];
        let scale = match self.scale {
            Some(scale) => f64::from(scale.get()),
            None => 1.0 / (s.width as f64).sqrt(),
        };
        let root = rounded(dtype, scale.sqrt());
        queries
            .iter_mut()
            .chain(&mut keys)
            .for_each(|value| *value = rounded(dtype, *value * root));
        let (mut scores, mut shown) = (vec![0.0; s.keys], vec![]);
        let (mut bias, bias_of) = (vec![0.0; s.keys], self.bias(inputs, &s)?);
        let mut output = vec![0.0; volume(&[s.batch, s.heads, s.queries, s.value_width])?];
        let group = s.heads / s.kv_heads;
        for row in 0..s.batch * s.heads * s.queries {
            let (head, at) = (row / s.queries, row % s.queries);
            let (batch, head) = (head / s.heads, head % s.heads);
            let kv = batch * s.kv_heads + head / group;
            bias_of.row(batch, head, at, &mut bias);
            let query = &queries[row * s.width..][..s.width];
            for (key, score) in scores.iter_mut().enumerate() {
                let key = &keys[(kv * s.keys + key) * s.width..][..s.width];
                let product: f64 = query.iter().zip(key).map(|(a, b)| a * b).sum();
                *score = rounded(dtype, product);
            }
            self.weigh(dtype, &mut scores, &bias, &mut shown)?;
            let hidden = bias.iter().all(|bias| *bias == f64::NEG_INFINITY);
            let to = &mut output[row * s.value_width..][..s.value_width];
            for (key, weight) in scores.iter().enumerate().filter(|_| !hidden) {
                let value = &values[(kv * s.keys + key) * s.value_width..][..s.value_width];
                to.iter_mut().zip(value).for_each(|(to, value)| *to += weight * value);
            }
        }
        let output = if s.packed {
            let output = swapped(&output, [s.batch, s.heads, s.queries, s.value_width]);
            from_floats(dtype, &[s.batch, s.queries, s.heads * s.value_width], &output)?
        } else {
            from_floats(dtype, &[s.batch, s.heads, s.queries, s.value_width], &output)?
        };
        let [keys, values] = present;
        let scores = match self.shown {
            ScoresStep::Never => Tensor::zero_dt(dtype, &[0; 4])?,
            _ => from_floats(dtype, &[s.batch, s.heads, s.queries, s.keys], &shown)?,
        };
        Ok(tvec!(output, keys, values, scores))
    }
}

impl Attention {
    fn bias(&self, inputs: &[Option<&Tensor>], s: &Sizes) -> TractResult<Bias> {
        let dtype = required(inputs, 0)?.datum_type();
        let mask = optional(inputs, 3).map(|tensor| mask(tensor, dtype)).transpose()?;
        let lengths = optional(inputs, 6).map(|lengths| ints(lengths)).transpose()?;
        if let Some(lengths) = &lengths {
            let held = mask.as_ref().map_or(s.keys, |(_, shape, _)| shape[3]) as i64;
            let within = lengths.iter().all(|length| (0..=held).contains(length));
            ensure!(within, "the sequence lengths {lengths:?} do not fit {held} keys");
        }
        let offsets = match &lengths {
            Some(lengths) => lengths.iter().map(|length| length - s.queries as i64).collect(),
            None => vec![s.past as i64; s.batch],
        };
        let [back, ahead] = self.windows.map(|window| window.map(|window| window as i64));
        // A causal query attends to no later keys.
        let ahead = if self.causal { Some(0) } else { ahead };
        Ok(Bias { mask, offsets, lengths, back, ahead })
    }

    /// Turns the products of one query into weights, and keeps them at the step that is an output.
    fn weigh(
        &self,
        dtype: DatumType,
        scores: &mut [f64],
        bias: &[f64],
        shown: &mut Vec<f64>,
    ) -> TractResult<()> {
        let mut show = |step: ScoresStep, scores: &[f64]| {
            if self.shown == step {
                shown.extend_from_slice(scores);
            }
        };
        show(ScoresStep::Products, scores);
        let cap = f64::from(self.softcap.get());
        if cap > 0.0 {
            scores
                .iter_mut()
                .for_each(|score| *score = rounded(dtype, cap * (*score / cap).tanh()));
        }
        show(ScoresStep::Capped, scores);
        let precision = self.precision.unwrap_or(dtype);
        let sums = scores.iter_mut().zip(bias);
        sums.for_each(|(score, bias)| *score = rounded(dtype, *score + bias));
        show(ScoresStep::Masked, scores);
        // A query that may attend to no key has zero weights.
        if bias.iter().all(|bias| *bias == f64::NEG_INFINITY) {
            scores.fill(0.0);
        } else {
            scores.iter_mut().for_each(|score| *score = rounded(precision, *score));
            let greatest = scores
                .iter()
                .fold(f64::NEG_INFINITY, |a, b| if a.is_nan() || *b <= a { a } else { *b });
            let some = greatest != f64::NEG_INFINITY;
            ensure!(some, "all scores that are not masked are negative infinity");
            scores.iter_mut().for_each(|score| *score = (*score - greatest).exp());
            let sum: f64 = scores.iter().sum();
            scores
                .iter_mut()
                .for_each(|score| *score = rounded(dtype, rounded(precision, *score / sum)));
        }
        show(ScoresStep::Softmax, scores);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, tensor};

    /// Queries of one number each, over keys whose exponentials are 1 and 3.
    fn attention(queries: &[f32]) -> Case {
        let case = case("Attention").float("scale", 1.0);
        let case = case.input(tensor(&[1, 1, queries.len(), 1], queries));
        case.input(tensor(&[1, 1, 2, 1], &[0f32, 3f32.ln()]))
            .input(tensor(&[1, 1, 2, 1], &[4f32, 8.0]))
    }

    #[test]
    fn attention_weighs_values_by_the_softmax_of_products() {
        attention(&[1.0]).gives_near(tensor(&[1, 1, 1, 1], &[7f32]), 1e-6);
        // The value of the only key that the mask leaves.
        let masked = attention(&[1.0]).input(tensor(&[1, 2], &[true, false]));
        masked.gives_near(tensor(&[1, 1, 1, 1], &[4f32]), 1e-6);
        let added = attention(&[1.0]).input(tensor(&[1, 2], &[3f32.ln(), 0.0]));
        added.gives_near(tensor(&[1, 1, 1, 1], &[6f32]), 1e-6);
    }

    #[test]
    fn mask_may_be_shorter_than_the_keys_from_version_24_on() {
        let masked = |opset| {
            let case = case("Attention").opset(opset).float("scale", 1.0);
            let case = case.input(tensor(&[1, 1, 1, 1], &[1f32]));
            let case = case.input(tensor(&[1, 1, 3, 1], &[0f32, 3f32.ln(), 9.0]));
            let case = case.input(tensor(&[1, 1, 3, 1], &[4f32, 8.0, 100.0]));
            case.input(tensor(&[1, 2], &[true, true]))
        };
        masked(23).fails("[1, 2]");
        masked(24).gives_near(tensor(&[1, 1, 1, 1], &[7f32]), 1e-6);
    }

    #[test]
    fn causal_attention_does_not_look_ahead() {
        let causal = attention(&[1.0, 1.0]).int("is_causal", 1);
        causal.gives_near(tensor(&[1, 1, 2, 1], &[4f32, 7.0]), 1e-6);
    }

    #[test]
    fn earlier_keys_and_values_come_first_and_are_outputs() {
        let past = |number| tensor(&[1, 1, 1, 1], &[number]);
        let case = attention(&[1.0]).outputs(3).missing().input(past(0f32)).input(past(-12f32));
        let keys = tensor(&[1, 1, 3, 1], &[0f32, 0.0, 3f32.ln()]);
        let values = tensor(&[1, 1, 3, 1], &[-12f32, 4.0, 8.0]);
        // (-12 + 4 + 3 * 8) / 5
        let expected = tensor(&[1, 1, 1, 1], &[3.2f32]);
        case.gives_all_near(&[expected, keys, values], 1e-6);
    }

    #[test]
    fn packed_heads_share_keys_and_the_scale_is_by_their_width() {
        let case = case("Attention").int("q_num_heads", 2).int("kv_num_heads", 1);
        let case = case.input(tensor(&[1, 1, 8], &[1f32, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0]));
        // Products with the second key are 2 ln 3 and 0, at half of the size.
        let key = 2.0 * 3f32.ln();
        let case = case.input(tensor(&[1, 2, 4], &[0f32, 0.0, 0.0, 0.0, key, 0.0, 0.0, 0.0]));
        let case = case.input(tensor(&[1, 2, 1], &[4f32, 8.0]));
        case.gives_near(tensor(&[1, 1, 2], &[7f32, 6.0]), 1e-6);
    }

    #[test]
    fn attention_refuses_keys_and_values_of_different_lengths() {
        let case = case("Attention").input(tensor(&[1, 1, 1, 1], &[1f32]));
        let case = case.input(tensor(&[1, 1, 2, 1], &[1f32, 2.0]));
        case.input(tensor(&[1, 1, 3, 1], &[1f32, 2.0, 3.0])).fails("");
    }
}
