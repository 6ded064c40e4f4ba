//! GatedDeltaNet (com.microsoft): each token decays, corrects and adds to a state, which its query
//! reads, as in LinearAttention. Tokens of several sequences are packed one after the other, and
//! activations of the decays and rates are part of the operator. Computed token by token in 64 bits.

use belljar_operators::MICROSOFT;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::volume;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{
    InputFact, OutputFact, known_shapes, optional, required, unknown_dims, with_dims,
};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{Bits, floats, from_floats, ints, shapes};
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] =
    &[own("GatedDeltaNet", |_, node| build(node)).of(MICROSOFT)];

/// The positions of the inputs.
const QUERY: usize = 0;
const KEY: usize = 1;
const VALUE: usize = 2;
const BOUNDS: usize = 3;
const DECAY: usize = 4;
const BETA: usize = 5;
const STATE: usize = 6;
const A_LOG: usize = 7;
const DT_BIAS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    None,
    Softplus,
    /// A sigmoid, times a lower bound.
    Bounded,
}

fn build(node: &NodeProto) -> BuildResult {
    let text =
        |name: &str, default| TractResult::Ok(node.get_attr_opt::<&str>(name)?.unwrap_or(default));
    let (decays, corrects) = match text("update_rule", "gated_delta")? {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => bail!("the update rule {other:?} is not implemented"),
    };
    let gate = match text("gate_activation", "none")? {
        "none" => Gate::None,
        "softplus" | "qwen" => Gate::Softplus,
        "sigmoid" | "kda" => Gate::Bounded,
        other => bail!("the \"gate_activation\" {other:?} is not implemented"),
    };
    let activates_rates = match text("beta_activation", "none")? {
        "none" => false,
        "sigmoid" => true,
        other => bail!("the \"beta_activation\" {other:?} is not implemented"),
    };
    let capacity = node.get_attr_opt::<i64>("state_update_capacity")?.unwrap_or(0);
    ensure!(capacity == 0, "\"state_update_capacity\" = {capacity} is not implemented; use 0");
    let net = GatedDeltaNet {
        decays,
        corrects,
        gate,
        activates_rates,
        normalizes: node.get_attr_opt::<i64>("qk_l2_norm")?.unwrap_or(0) != 0,
        bound: Bits::of(node, "gate_lower_bound", -5.0)?,
        scale: Bits::of(node, "scale", 0.0)?,
    };
    built(net, node)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct GatedDeltaNet {
    /// Whether the state decays, and whether a value is corrected by the state's prediction.
    decays: bool,
    corrects: bool,
    gate: Gate,
    activates_rates: bool,
    /// Whether queries and keys are divided by their lengths.
    normalizes: bool,
    bound: Bits,
    scale: Bits,
}

struct Sizes {
    /// The dimensions of the tokens: one, or a batch and a length.
    leading: Vec<usize>,
    tokens: usize,
    /// The number of sequences.
    batch: usize,
    heads: usize,
    value_heads: usize,
    width: usize,
    value_width: usize,
    /// The number of decays of a head: one, or one for each element of a key.
    decays: usize,
}

impl GatedDeltaNet {
    fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<Sizes> {
        let query = required(shapes, QUERY)?;
        let given = |at: usize| optional(shapes, at);
        let (leading, heads, width, value_heads, value_width) = match (given(KEY), given(VALUE)) {
            (Some(key), Some(value)) => {
                let ([leading @ .., heads, width], [of_values @ .., value_heads, value_width]) =
                    (&**query, &**value)
                else {
                    bail!("expected queries and values with heads, found {query:?} and {value:?}")
                };
                let agreed = query == key && leading == of_values;
                ensure!(
                    agreed,
                    "queries {query:?}, keys {key:?} and values {value:?} do not match"
                );
                (leading, *heads, *width, *value_heads, *value_width)
            }
            (None, None) => {
                let [leading @ .., all] = &**query else { bail!("the query has no dimensions") };
                let state = given(STATE).or_user_error(
                    "queries that are packed with keys and values need an initial_state",
                )?;
                let [_, value_heads, value_width, width] = **state else {
                    bail!("expected a state of 4 dimensions, found the shape {state:?}")
                };
                let of_keys = value_heads
                    .checked_mul(value_width)
                    .and_then(|values| all.checked_sub(values))
                    .filter(|keys| width > 0 && keys % (2 * width) == 0)
                    .or_user_error(format_args!(
                        "rows of {all} elements do not match the state {state:?}"
                    ))?;
                (leading, of_keys / (2 * width), width, value_heads, value_width)
            }
            _ => bail!("either both of key and value are given, or none"),
        };
        ensure!([1, 2].contains(&leading.len()), "the query has an unexpected shape {query:?}");
        ensure!(
            heads > 0 && value_heads > 0 && value_heads % heads == 0 && width > 0,
            "{value_heads} value heads do not match {heads} heads of queries and keys"
        );
        let tokens = volume(leading)?;
        let batch = match (given(BOUNDS), given(STATE)) {
            (Some(bounds), _) => {
                ensure!(leading.len() == 1, "cu_seqlens needs tokens in one dimension");
                let [ends] = **bounds else { bail!("cu_seqlens has the shape {bounds:?}") };
                ends.checked_sub(1).or_user_error("cu_seqlens is empty")?
            }
            (None, _) if leading.len() == 2 => leading[0],
            (None, Some(state)) => state.first().copied().unwrap_or(0),
            (None, None) => bail!("without cu_seqlens, initial_state is required"),
        };
        if let Some(state) = given(STATE) {
            let wanted = [batch, value_heads, value_width, width];
            ensure!(**state == wanted, "the state has the shape {state:?}, expected {wanted:?}");
        }
        let uniform = given(BOUNDS).is_some() || tokens.checked_rem(batch).unwrap_or(tokens) == 0;
        ensure!(uniform, "{tokens} tokens cannot be divided into {batch} sequences");
        let per_head = [leading, &[value_heads]].concat();
        let per_key = [leading, &[value_heads, width]].concat();
        let decays = match given(DECAY) {
            Some(shape) if *shape == per_key => width,
            Some(shape) if *shape == per_head => 1,
            None => 1,
            Some(shape) => bail!("the decays have the unexpected shape {shape:?}"),
        };
        if let Some(beta) = given(BETA) {
            ensure!(*beta == per_head, "the rates have the unexpected shape {beta:?}");
        }
        if self.gate != Gate::None && given(DECAY).is_some() {
            let speed = given(A_LOG).or_user_error("\"gate_activation\" needs the input a_log")?;
            ensure!(**speed == [value_heads], "a_log has the unexpected shape {speed:?}");
            if let Some(bias) = given(DT_BIAS) {
                let fits = **bias == [value_heads] || **bias == [value_heads, decays];
                ensure!(fits, "dt_bias has the unexpected shape {bias:?}");
            }
        }
        volume(&[tokens, value_heads, value_width])?;
        volume(&[tokens, value_heads, decays])?;
        volume(&[batch, value_heads, value_width, width])?;
        let leading = leading.to_vec();
        Ok(Sizes { leading, tokens, batch, heads, value_heads, width, value_width, decays })
    }

    /// The factors by which the state decays, for each token, head and decay.
    fn factors(&self, s: &Sizes, inputs: &[Option<&Tensor>]) -> TractResult<Option<Vec<f64>>> {
        let given = |at| optional(inputs, at).map(|tensor| floats(tensor)).transpose();
        let Some(mut decays) = given(DECAY)?.filter(|_| self.decays) else { return Ok(None) };
        let (speeds, bias) = (given(A_LOG)?, given(DT_BIAS)?);
        let of_head = bias.as_ref().map_or(1, |bias| bias.len() / s.value_heads);
        for (at, decay) in decays.iter_mut().enumerate() {
            let (head, element) = (at / s.decays % s.value_heads, at % s.decays);
            if let (true, Some(speeds)) = (self.gate != Gate::None, &speeds) {
                let shift = bias.as_ref().map_or(0.0, |b| b[head * of_head + element % of_head]);
                let (raw, speed) = (*decay + shift, speeds[head].exp());
                *decay = match self.gate {
                    Gate::Bounded => f64::from(self.bound.get()) / (1.0 + (-speed * raw).exp()),
                    _ => -speed * (raw.max(0.0) + (-raw.abs()).exp().ln_1p()),
                };
            }
            *decay = decay.exp();
        }
        Ok(Some(decays))
    }

    /// The queries, keys and values of all tokens.
    fn parts(&self, s: &Sizes, inputs: &[Option<&Tensor>]) -> TractResult<[Vec<f64>; 3]> {
        let query = floats(required(inputs, QUERY)?)?;
        let mut parts = match (optional(inputs, KEY), optional(inputs, VALUE)) {
            (Some(key), Some(value)) => [query, floats(key)?, floats(value)?],
            _ => {
                let (keys, values) = (s.heads * s.width, s.value_heads * s.value_width);
                let rows = || query.chunks_exact(2 * keys + values);
                [0..keys, keys..2 * keys, 2 * keys..2 * keys + values]
                    .map(|part| rows().flat_map(|row| row[part.clone()].to_vec()).collect())
            }
        };
        if self.normalizes {
            // Bounded gates come from networks with a small number under the root.
            let least = if self.gate == Gate::Bounded { 1e-6 } else { 0.0 };
            for head in parts[..2].iter_mut().flat_map(|part| part.chunks_exact_mut(s.width)) {
                let length = (head.iter().map(|x| x * x).sum::<f64>() + least).sqrt();
                head.iter_mut().for_each(|x| *x /= length);
            }
        }
        Ok(parts)
    }

    /// The first token of each sequence, and the end of the last one.
    fn bounds(&self, s: &Sizes, inputs: &[Option<&Tensor>]) -> TractResult<Vec<usize>> {
        let Some(bounds) = optional(inputs, BOUNDS) else {
            let length = s.tokens.checked_div(s.batch).unwrap_or(0);
            return Ok((0..=s.batch).map(|at| at * length).collect());
        };
        let bounds = ints(bounds)?;
        let ascending = bounds.is_sorted() && bounds.first() == Some(&0);
        ensure!(
            ascending && bounds.last() == Some(&(s.tokens as i64)),
            "cu_seqlens {bounds:?} does not ascend from 0 to the {} tokens",
            s.tokens
        );
        Ok(bounds.into_iter().map(|bound| bound as usize).collect())
    }
}

impl Operator for GatedDeltaNet {
    fn name(&self) -> &'static str {
        "GatedDeltaNet"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let query = required(inputs, QUERY)?;
        let single = DatumType::F32;
        let Some(shapes) = known_shapes(inputs) else {
            let packed = usize::from(optional(inputs, KEY).is_none());
            let rank = query.rank() + packed;
            return Ok(tvec!(unknown_dims(query.dtype, rank), unknown_dims(single, 4)));
        };
        let s = self.sizes(&shapes)?;
        let of = |dtype, dims: &[usize]| with_dims(dtype, dims.iter().map(|dim| dim.to_dim()));
        let shape = [&*s.leading, &[s.value_heads, s.value_width]].concat();
        let state = [s.batch, s.value_heads, s.value_width, s.width];
        Ok(tvec!(of(query.dtype, &shape), of(single, &state)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let s = self.sizes(&shapes(inputs))?;
        let bounds = self.bounds(&s, inputs)?;
        let [queries, keys, values] = self.parts(&s, inputs)?;
        let factors = self.factors(&s, inputs)?;
        let given = |at| optional(inputs, at).map(|tensor| floats(tensor)).transpose();
        let mut rates = given(BETA)?;
        if self.activates_rates {
            let rates = rates.iter_mut().flatten();
            rates.for_each(|rate| *rate = 1.0 / (1.0 + (-*rate).exp()));
        }
        let held = s.value_width * s.width;
        let mut states = match given(STATE)? {
            Some(states) => states,
            None => vec![0.0; s.batch * s.value_heads * held],
        };
        let scale = match f64::from(self.scale.get()) {
            0.0 => 1.0 / (s.width as f64).sqrt(),
            scale => scale,
        };
        let mut output = vec![0.0; s.tokens * s.value_heads * s.value_width];
        let group = s.value_heads / s.heads;
        for (sequence, range) in bounds.windows(2).enumerate() {
            for (token, head) in
                (range[0]..range[1]).flat_map(|token| (0..s.value_heads).map(move |h| (token, h)))
            {
                let place = token * s.value_heads + head;
                let shared = (token * s.heads + head / group) * s.width;
                let (key, query) = (&keys[shared..][..s.width], &queries[shared..][..s.width]);
                let value = &values[place * s.value_width..][..s.value_width];
                let to = &mut output[place * s.value_width..][..s.value_width];
                let decay = factors.as_ref().map(|all| &all[place * s.decays..][..s.decays]);
                let rate = rates.as_ref().map_or(1.0, |rates| rates[place]);
                let state = &mut states[(sequence * s.value_heads + head) * held..][..held];
                // Each row of the state belongs to one element of the value.
                for ((row, value), to) in state.chunks_exact_mut(s.width).zip(value).zip(to) {
                    match decay {
                        Some([one]) => row.iter_mut().for_each(|x| *x *= one),
                        Some(each) => row.iter_mut().zip(each).for_each(|(x, f)| *x *= f),
                        None => {}
                    }
                    let dot = |row: &[f64], with: &[f64]| {
                        row.iter().zip(with).map(|(a, b)| a * b).sum::<f64>()
                    };
                    let added = if self.corrects { rate * (value - dot(row, key)) } else { *value };
                    row.iter_mut().zip(key).for_each(|(x, key)| *x += added * key);
                    *to = scale * dot(row, query);
                }
            }
        }
        let shape = [&*s.leading, &[s.value_heads, s.value_width]].concat();
        let state = [s.batch, s.value_heads, s.value_width, s.width];
        let dtype = required(inputs, QUERY)?.datum_type();
        Ok(tvec!(
            from_floats(dtype, &shape, &output)?,
            from_floats(DatumType::F32, &state, &states)?
        ))
    }
}

#[cfg(test)]
mod tests {
    use crate::microsoft::attention::cases;
    use crate::testing::{Case, counting, microsoft, row};

    #[test]
    fn gated_delta_net_gives_what_onnxruntime_and_numpy_give() {
        cases::check(include_str!("cases/gated_delta_net.txt"));
    }

    /// Four tokens of one head of queries and keys, and of two heads of values.
    fn four(rule: &str) -> Case {
        let case = microsoft("GatedDeltaNet").text("update_rule", rule).outputs(2);
        let case = case.input(counting(&[4, 1, 3])).input(counting(&[4, 1, 3]));
        case.input(counting(&[4, 2, 2]))
    }

    #[test]
    fn sequences_that_do_not_match_are_refused() {
        four("linear").fails("initial_state");
        for bounds in [&[0, 3][..], &[1, 4], &[0, 3, 2, 4], &[0, -1, 4], &[0, 9, 4]] {
            four("linear")
                .input(row(&bounds.iter().map(|b| *b as i32).collect::<Vec<_>>()))
                .fails("cu_seqlens");
        }
        four("linear").input(row::<i32>(&[])).fails("cu_seqlens");
        let state =
            |shape: &[usize]| four("linear").missing().missing().missing().input(counting(shape));
        state(&[3, 2, 2, 3]).fails("4 tokens");
        state(&[2, 2, 3, 2]).fails("[2, 2, 3, 2]");
        state(&[0, 2, 2, 3]).fails("4 tokens");
        let packed = microsoft("GatedDeltaNet").outputs(2).input(counting(&[4, 11]));
        packed.clone().fails("initial_state");
        let packed = packed.missing().missing().missing().missing().missing();
        packed.input(counting(&[2, 2, 2, 3])).fails("rows of 11");
    }

    #[test]
    fn heads_gates_and_attributes_that_do_not_match_are_refused() {
        let bounded = |rule| four(rule).input(row(&[0i32, 4]));
        bounded("gated").input(counting(&[4, 1])).fails("decays");
        bounded("delta").missing().input(counting(&[4, 2, 1])).fails("rates");
        let gated = || bounded("gated").text("gate_activation", "qwen").input(counting(&[4, 2]));
        gated().fails("a_log");
        gated().missing().missing().input(counting(&[1])).fails("a_log");
        let biased = gated().missing().missing().input(counting(&[2])).input(counting(&[3]));
        biased.fails("dt_bias");
        bounded("other").fails("other");
        bounded("linear").text("gate_activation", "relu").fails("relu");
        bounded("linear").text("beta_activation", "relu").fails("relu");
        bounded("linear").int("state_update_capacity", 1).fails("state_update_capacity");
        let heads = microsoft("GatedDeltaNet").outputs(2).input(counting(&[4, 2, 3]));
        let heads = heads.input(counting(&[4, 2, 3]));
        heads.clone().fails("key and value");
        heads.clone().input(counting(&[4, 3, 1])).input(row(&[0i32, 4])).fails("3 value heads");
        heads.input(counting(&[3, 2, 1])).input(row(&[0i32, 4])).fails("do not match");
    }
}
