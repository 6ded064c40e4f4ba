//! Attention (ONNX, operator sets 23 to 25) with all that tract's does not have: masks, earlier keys
//! and values, keys that are padding, windows, soft caps, and the scores as an output. Computed in
//! 64 bits, and rounded where ONNX says which element type a value has.

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::pb::NodeProto;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::tract_hir::internal::*;

use super::Ours;
use super::own::{
    Bits, Known, Own, Said, built, concrete, floats, from_floats, ints, known_shapes, needed,
    optional, rounded, shapes, sized, unknown, volume, wired,
};

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("Attention", |context, node| match plain(node)? {
        true => Ours::build(context, node, usual),
        false => built(attention(context.onnx_operator_set_version, node)?, node),
    });
}

/// tract's own way, of inputs that fit each other; not of numbers that it would round to 32 bits.
fn usual(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let op = attention(ours.version, &ours.node)?;
    let mut shapes = Vec::with_capacity(inputs.len());
    for input in inputs {
        shapes.push(concrete(&model.outlet_fact(*input)?.shape.to_tvec()));
    }
    let double = model.outlet_fact(inputs[0])?.datum_type == f64::datum_type();
    match shapes.iter().all(Option::is_some) && !double {
        true => {
            op.sizes(&shapes)?;
            ours.original.as_ref().wire(prefix, model, inputs)
        }
        false => wired(op, &ours.node, prefix, model, inputs),
    }
}

/// What tract computes as well, and faster: no masks, no cache, one output after the other.
fn plain(node: &NodeProto) -> TractResult<bool> {
    let more_inputs = node.input.iter().skip(3).any(|name| !name.is_empty());
    let gap = node.output.iter().skip_while(|name| !name.is_empty()).any(|name| !name.is_empty());
    let window = |name| Ok::<_, TractError>(node.get_attr_opt::<i64>(name)?.unwrap_or(-1) >= 0);
    let causal = node.get_attr_opt::<i64>("is_causal")?.unwrap_or(0) != 0;
    Ok(!more_inputs
        && !gap
        && node.output.len() <= 3
        && !(causal && node.output.len() > 1)
        && node.get_attr_opt::<f32>("softcap")?.unwrap_or(0.0) == 0.0
        && node.get_attr_opt::<i64>("softmax_precision")?.is_none()
        && !window("left_window_size")?
        && !window("right_window_size")?)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Attention {
    causal: bool,
    /// The heads of queries and of keys, where they are all in one dimension.
    heads: [Option<usize>; 2],
    scale: Option<Bits>,
    softcap: Bits,
    precision: Option<DatumType>,
    /// At which step the scores are put out.
    shown: Shown,
    /// How far back and ahead a query sees.
    windows: [Option<usize>; 2],
    /// Whether masks may be shorter than there are keys.
    short_masks: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Never,
    Products,
    Capped,
    Masked,
    Softmax,
}

fn attention(version: i64, node: &NodeProto) -> TractResult<Attention> {
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
            _ if !named => Shown::Never,
            0 => Shown::Products,
            1 => Shown::Capped,
            2 => Shown::Masked,
            3 => Shown::Softmax,
            other => bail!("the scores of mode {other}"),
        },
        windows: [size("left_window_size")?, size("right_window_size")?],
        short_masks: version >= 24,
    })
}

/// The sizes of everything.
struct Sizes {
    batch: usize,
    heads: usize,
    /// Heads of keys and values, each for as many heads of queries.
    kv_heads: usize,
    queries: usize,
    past: usize,
    keys: usize,
    width: usize,
    value_width: usize,
    /// Whether all heads are in one dimension.
    packed: bool,
}

/// Batch, heads, length and width of queries, keys or values.
fn split(shape: &[usize], heads: Option<usize>) -> TractResult<[usize; 4]> {
    Ok(match (shape, heads) {
        ([batch, found, length, width], heads) => {
            let agreed = heads.is_none_or(|heads| heads == *found);
            ensure!(agreed, "{heads:?} heads are said, {found} are there");
            [*batch, *found, *length, *width]
        }
        ([batch, length, all], Some(heads)) if heads > 0 && all % heads == 0 => {
            [*batch, heads, *length, all / heads]
        }
        _ => bail!("{shape:?} is not of {heads:?} heads"),
    })
}

impl Attention {
    /// Holds the shapes of all inputs against each other.
    fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<Sizes> {
        let (q, k, v) = (needed(shapes, 0)?, needed(shapes, 1)?, needed(shapes, 2)?);
        ensure!(
            q.len() == k.len() && k.len() == v.len(),
            "queries, keys and values of other ranks"
        );
        let [batch, heads, queries, width] = split(q, self.heads[0])?;
        let [k_batch, kv_heads, new, k_width] = split(k, self.heads[1])?;
        let [v_batch, v_heads, v_new, value_width] = split(v, self.heads[1])?;
        let agreed = batch == k_batch && batch == v_batch && kv_heads == v_heads && new == v_new;
        ensure!(agreed && width == k_width, "queries, keys and values of {q:?}, {k:?} and {v:?}");
        let grouped = kv_heads > 0 && heads % kv_heads == 0;
        ensure!(grouped, "{heads} heads of queries for {kv_heads} of keys");
        let past = match (optional(shapes, 4), optional(shapes, 5)) {
            (None, None) => 0,
            (Some(key), Some(value)) => {
                let [_, _, past, _] = **key else { bail!("earlier keys of {key:?}") };
                let wanted = [batch, kv_heads, past];
                let fits = **key == [&wanted[..], &[width]].concat()
                    && **value == [&wanted[..], &[value_width]].concat();
                ensure!(fits, "earlier keys and values of {key:?} and {value:?}");
                past
            }
            _ => bail!("earlier keys without values, or values without keys"),
        };
        let keys = past.checked_add(new).context("too many keys")?;
        ensure!(keys > 0 && width > 0, "attention to nothing");
        if let Some(lengths) = optional(shapes, 6) {
            ensure!(**lengths == [batch], "{lengths:?} lengths for a batch of {batch}");
        }
        if let Some(mask) = optional(shapes, 3) {
            self.check_mask(mask, [batch, heads, queries, keys])?;
        }
        volume(&[batch, heads, queries, value_width])?;
        volume(&[batch, kv_heads, keys, width.max(value_width)])?;
        if self.shown != Shown::Never {
            volume(&[batch, heads, queries, keys])?;
        }
        let packed = q.len() == 3;
        Ok(Sizes { batch, heads, kv_heads, queries, past, keys, width, value_width, packed })
    }

    /// A mask is one for all that it leaves out, and where versions allow it, shorter.
    fn check_mask(&self, mask: &[usize], wanted: [usize; 4]) -> TractResult<()> {
        let Some((last, before)) = mask.split_last() else { bail!("a mask without dimensions") };
        ensure!(before.len() <= 3, "a mask of {} dimensions", mask.len());
        let keys = wanted[3];
        // One column could be meant for all keys, or for the first one.
        let fits = *last == keys || self.short_masks && *last < keys && *last != 1;
        let beside = before.iter().rev().zip(wanted[..3].iter().rev());
        let broadcast = |(size, wanted): (&usize, &usize)| *size == 1 || size == wanted;
        ensure!(fits && beside.clone().all(broadcast), "a mask of {mask:?} for {wanted:?}");
        Ok(())
    }
}

/// A tensor as batch, heads, length and width.
fn unpacked(tensor: &Tensor, shape: [usize; 4], packed: bool) -> TractResult<Vec<f64>> {
    let values = floats(tensor)?;
    Ok(if packed { swapped(&values, [shape[0], shape[2], shape[1], shape[3]]) } else { values })
}

/// The two dimensions in the middle, swapped.
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

/// Earlier keys or values, and behind them new ones, of each head.
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

/// What is added to scores: nothing, what a mask says, or negative infinity.
struct Bias {
    mask: Option<(Vec<f64>, [usize; 4], [usize; 4])>,
    /// The place of the first query among the keys, for each of the batch.
    offsets: Vec<i64>,
    /// How many keys of each are no padding.
    lengths: Option<Vec<i64>>,
    back: Option<i64>,
    ahead: Option<i64>,
}

impl Bias {
    /// Of the keys that a query is held against, one after the other.
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

/// A mask as numbers to add, with its shape in four dimensions and how far apart neighbours are:
/// nowhere, along the dimensions that it leaves out.
fn mask(tensor: &Tensor, dtype: DatumType) -> TractResult<(Vec<f64>, [usize; 4], [usize; 4])> {
    let values = if tensor.datum_type() == bool::datum_type() {
        let plain = tensor.try_as_plain_ram()?;
        let seen = plain.as_slice::<bool>()?.iter();
        seen.map(|seen| if *seen { 0.0 } else { f64::NEG_INFINITY }).collect()
    } else {
        ensure!(tensor.datum_type() == dtype, "a mask of {:?} for {dtype:?}", tensor.datum_type());
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

impl Own for Attention {
    fn name(&self) -> &'static str {
        "Attention"
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let first = needed(inputs, 0)?;
        let dtype = first.dtype;
        if let Some(mask) = optional(inputs, 3) {
            let known = mask.dtype == dtype || mask.dtype == bool::datum_type();
            ensure!(known, "a mask of {:?} for {dtype:?}", mask.dtype);
        }
        let Some(shapes) = known_shapes(inputs) else {
            return Ok(tvec!(
                unknown(dtype, first.rank()),
                unknown(dtype, 4),
                unknown(dtype, 4),
                unknown(dtype, 4)
            ));
        };
        let s = self.sizes(&shapes)?;
        let of = |dims: &[usize]| sized(dtype, dims.iter().map(|dim| dim.to_dim()));
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
        let dtype = needed(inputs, 0)?.datum_type();
        let new = s.keys - s.past;
        let queries = [s.batch, s.heads, s.queries, s.width];
        let mut queries = unpacked(needed(inputs, 0)?, queries, s.packed)?;
        let keys = unpacked(needed(inputs, 1)?, [s.batch, s.kv_heads, new, s.width], s.packed)?;
        let values =
            unpacked(needed(inputs, 2)?, [s.batch, s.kv_heads, new, s.value_width], s.packed)?;
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
            Shown::Never => Tensor::zero_dt(dtype, &[0; 4])?,
            _ => from_floats(dtype, &[s.batch, s.heads, s.queries, s.keys], &shown)?,
        };
        Ok(tvec!(output, keys, values, scores))
    }
}

impl Attention {
    fn bias(&self, inputs: &[Option<&Tensor>], s: &Sizes) -> TractResult<Bias> {
        let dtype = needed(inputs, 0)?.datum_type();
        let mask = optional(inputs, 3).map(|tensor| mask(tensor, dtype)).transpose()?;
        let lengths = optional(inputs, 6).map(|lengths| ints(lengths)).transpose()?;
        if let Some(lengths) = &lengths {
            let held = mask.as_ref().map_or(s.keys, |(_, shape, _)| shape[3]) as i64;
            let within = lengths.iter().all(|length| (0..=held).contains(length));
            ensure!(within, "of {held} keys {lengths:?} cannot be no padding");
        }
        let offsets = match &lengths {
            Some(lengths) => lengths.iter().map(|length| length - s.queries as i64).collect(),
            None => vec![s.past as i64; s.batch],
        };
        let [back, ahead] = self.windows.map(|window| window.map(|window| window as i64));
        // A causal query sees nothing ahead of itself.
        let ahead = if self.causal { Some(0) } else { ahead };
        Ok(Bias { mask, offsets, lengths, back, ahead })
    }

    /// Turns one query's products into weights, and keeps them at the step that is put out.
    fn weigh(
        &self,
        dtype: DatumType,
        scores: &mut [f64],
        bias: &[f64],
        shown: &mut Vec<f64>,
    ) -> TractResult<()> {
        let mut show = |step: Shown, scores: &[f64]| {
            if self.shown == step {
                shown.extend_from_slice(scores);
            }
        };
        show(Shown::Products, scores);
        let cap = f64::from(self.softcap.get());
        if cap > 0.0 {
            scores
                .iter_mut()
                .for_each(|score| *score = rounded(dtype, cap * (*score / cap).tanh()));
        }
        show(Shown::Capped, scores);
        let precision = self.precision.unwrap_or(dtype);
        let sums = scores.iter_mut().zip(bias);
        sums.for_each(|(score, bias)| *score = rounded(dtype, *score + bias));
        show(Shown::Masked, scores);
        // A query that may see nothing has no weights, whatever its scores are.
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
        show(Shown::Softmax, scores);
        Ok(())
    }
}
