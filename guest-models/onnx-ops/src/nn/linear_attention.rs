//! LinearAttention (ONNX, operator set 27, and the domain com.microsoft): each token decays, corrects
//! and adds to a state of keys by values, which queries read. Computed token by token in 64 bits.
//!
//! That of com.microsoft also allows more heads of keys than of queries, and keeps the states after
//! the last few tokens.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::volume;
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{
    InputFact, OutputFact, known_shapes, optional, required, unknown_dims, with_dims,
};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{Bits, floats, from_floats, shapes};
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] =
    &[own("LinearAttention", |_, node| built(linear_attention(node)?, node))];

/// The operator of the domain `com.microsoft`.
pub(crate) fn build_microsoft(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let window = node.get_attr_opt::<usize>("state_window")?.unwrap_or(0);
    built(LinearAttention { window, inverse: true, ..linear_attention(node)? }, node)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct LinearAttention {
    heads: usize,
    /// Heads of keys and values. Each serves the same number of query heads.
    kv_heads: usize,
    scale: Bits,
    /// Whether the state decays, and whether a value is corrected by the state's prediction.
    decays: bool,
    corrects: bool,
    /// How many of the last states are kept, in a dimension before the others; or 0 for the last one
    /// without such a dimension.
    window: usize,
    /// Whether there may be more heads of keys than of queries.
    inverse: bool,
}

fn linear_attention(node: &NodeProto) -> TractResult<LinearAttention> {
    let (heads, kv_heads) = (node.get_attr("q_num_heads")?, node.get_attr("kv_num_heads")?);
    let rule = node.get_attr_opt::<&str>("update_rule")?.unwrap_or("gated_delta");
    let (decays, corrects) = match rule {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => bail!("the update rule {other:?} is not implemented"),
    };
    let scale = Bits::of(node, "scale", 0.0)?;
    let (window, inverse) = (0, false);
    Ok(LinearAttention { heads, kv_heads, scale, decays, corrects, window, inverse })
}

struct Sizes {
    batch: usize,
    tokens: usize,
    width: usize,
    value_width: usize,
    /// The number of decays of a head: one, or one for each element of a key.
    decays: usize,
    /// The number of rates: one, or one for each head.
    rates: usize,
}

impl LinearAttention {
    /// The heads of the output.
    fn readers(&self) -> usize {
        self.heads.max(self.kv_heads)
    }

    /// The shape of the states, from that of one.
    fn state_shape(&self, one: [usize; 4]) -> TVec<usize> {
        let window = (self.window > 0).then_some(self.window);
        window.into_iter().chain(one).collect()
    }

    fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<Sizes> {
        let (heads, kv_heads) = (self.heads, self.kv_heads);
        let grouped = kv_heads > 0
            && heads > 0
            && (heads % kv_heads == 0 || self.inverse && kv_heads % heads == 0);
        ensure!(grouped, "{heads} query heads do not match {kv_heads} key heads");
        let packed = |at: usize, heads: usize| {
            let shape = required(shapes, at)?;
            let [batch, tokens, all] = **shape else {
                bail!("expected packed heads, found the shape {shape:?}")
            };
            ensure!(all % heads == 0, "{all} channels cannot be divided into {heads} heads");
            Ok(([batch, tokens], all / heads))
        };
        let (of, width) = packed(0, heads)?;
        let (of_keys, key_width) = packed(1, kv_heads)?;
        let (of_values, value_width) = packed(2, kv_heads)?;
        let agreed = of == of_keys && of == of_values && width == key_width;
        ensure!(agreed && width > 0, "queries, keys and values do not match");
        let [batch, tokens] = of;
        if let Some(state) = optional(shapes, 3) {
            let wanted = self.state_shape([batch, kv_heads, width, value_width]);
            ensure!(**state == *wanted, "the state has the shape {state:?}, expected {wanted:?}");
        }
        ensure!(
            self.decays == optional(shapes, 4).is_some(),
            "decay is only allowed with gated rules"
        );
        ensure!(
            self.corrects == optional(shapes, 5).is_some(),
            "beta is only allowed with delta rules"
        );
        let decays = match optional(shapes, 4) {
            None => 0,
            Some(shape) if **shape == [batch, tokens, kv_heads] => 1,
            Some(shape) if **shape == [batch, tokens, kv_heads * width] => width,
            Some(shape) => bail!("the decays have the unexpected shape {shape:?}"),
        };
        let rates = match optional(shapes, 5) {
            None => 0,
            Some(shape) if **shape == [batch, tokens, 1] => 1,
            Some(shape) if **shape == [batch, tokens, kv_heads] => kv_heads,
            Some(shape) => bail!("the rates have the unexpected shape {shape:?}"),
        };
        volume(&[batch, tokens, self.readers(), value_width])?;
        volume(&[self.window.max(1), batch, kv_heads, width, value_width])?;
        Ok(Sizes { batch, tokens, width, value_width, decays, rates })
    }
}

impl Operator for LinearAttention {
    fn name(&self) -> &'static str {
        "LinearAttention"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let dtype = required(inputs, 0)?.dtype;
        let state = optional(inputs, 3).map_or(dtype, |state| state.dtype);
        let Some(shapes) = known_shapes(inputs) else {
            let rank = self.state_shape([0; 4]).len();
            return Ok(tvec!(unknown_dims(dtype, 3), unknown_dims(state, rank)));
        };
        let s = self.sizes(&shapes)?;
        let of = |dtype, dims: &[usize]| with_dims(dtype, dims.iter().map(|dim| dim.to_dim()));
        Ok(tvec!(
            of(dtype, &[s.batch, s.tokens, self.readers() * s.value_width]),
            of(state, &self.state_shape([s.batch, self.kv_heads, s.width, s.value_width]))
        ))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let shapes = shapes(inputs);
        let s = self.sizes(&shapes)?;
        let dtype = required(inputs, 0)?.datum_type();
        let given = |at| optional(inputs, at).map(|tensor| floats(tensor)).transpose();
        let (queries, keys, values) = (
            floats(required(inputs, 0)?)?,
            floats(required(inputs, 1)?)?,
            floats(required(inputs, 2)?)?,
        );
        let (decays, rates) = (given(4)?.unwrap_or_default(), given(5)?.unwrap_or_default());
        let held = s.width * s.value_width;
        let all = s.batch * self.kv_heads * held;
        // The last of the states of a window is the one that this call continues.
        let mut states = match given(3)? {
            Some(states) => states[states.len() - all..].to_vec(),
            None => vec![0.0; all],
        };
        let mut window = vec![0.0; self.window * all];
        let scale = match f64::from(self.scale.get()) {
            0.0 => 1.0 / (s.width as f64).sqrt(),
            scale => scale,
        };
        let row = self.readers() * s.value_width;
        let mut output = vec![0.0; s.batch * s.tokens * row];
        let group = (self.heads / self.kv_heads).max(1);
        let sharing = (self.kv_heads / self.heads).max(1);
        let mut value = vec![0.0; s.value_width];
        for (batch, token) in (0..s.batch).flat_map(|b| (0..s.tokens).map(move |t| (b, t))) {
            let at = batch * s.tokens + token;
            for head in 0..self.kv_heads {
                let state = &mut states[(batch * self.kv_heads + head) * held..][..held];
                let place = at * self.kv_heads + head;
                let key = &keys[place * s.width..][..s.width];
                value.copy_from_slice(&values[place * s.value_width..][..s.value_width]);
                if self.decays {
                    let decay = &decays[place * s.decays..][..s.decays];
                    for (d, row) in state.chunks_mut(s.value_width.max(1)).enumerate() {
                        let factor = decay[d % s.decays].exp();
                        row.iter_mut().for_each(|value| *value *= factor);
                    }
                }
                if self.corrects {
                    let rate = rates[at * s.rates + head % s.rates];
                    for (m, value) in value.iter_mut().enumerate() {
                        let predicted: f64 =
                            (0..s.width).map(|d| state[d * s.value_width + m] * key[d]).sum();
                        *value = rate * (*value - predicted);
                    }
                }
                for (key, row) in key.iter().zip(state.chunks_mut(s.value_width.max(1))) {
                    row.iter_mut().zip(&value).for_each(|(state, value)| *state += key * value);
                }
                for reader in head * group..(head + 1) * group {
                    let from = at * self.heads + reader / sharing;
                    let query = &queries[from * s.width..][..s.width];
                    let to = &mut output[at * row + reader * s.value_width..][..s.value_width];
                    for (query, row) in query.iter().zip(state.chunks(s.value_width.max(1))) {
                        to.iter_mut().zip(row).for_each(|(to, state)| *to += query * state);
                    }
                    to.iter_mut().for_each(|to| *to *= scale);
                }
            }
            if let Some(slot) = (token + self.window).checked_sub(s.tokens) {
                let one = self.kv_heads * held;
                let from = &states[batch * one..][..one];
                if let Some(to) = window.get_mut(slot * all + batch * one..) {
                    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                }
            }
        }
        let shown = if self.window > 0 {
            // The last one also if there are no tokens.
            let last = window.len() - all;
            window[last..].copy_from_slice(&states);
            window
        } else {
            states
        };
        let state = optional(inputs, 3).map_or(dtype, |state| state.datum_type());
        Ok(tvec!(
            from_floats(dtype, &[s.batch, s.tokens, row], &output)?,
            from_floats(
                state,
                &self.state_shape([s.batch, self.kv_heads, s.width, s.value_width]),
                &shown
            )?
        ))
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::Tensor;

    use crate::testing::{Case, case, tensor};

    /// Three tokens of one head, whose keys and values are one number each.
    fn attention(rule: &str) -> Case {
        let token = |numbers: [f32; 3]| tensor(&[1, 3, 1], &numbers);
        let case = case("LinearAttention").text("update_rule", rule).outputs(2);
        let case = case.int("q_num_heads", 1).int("kv_num_heads", 1).input(token([1.0, 1.0, 2.0]));
        case.input(token([1.0, 2.0, 3.0])).input(token([10.0, 20.0, 30.0])).missing()
    }

    fn outputs(numbers: [f32; 3], state: f32) -> [Tensor; 2] {
        [tensor(&[1, 3, 1], &numbers), tensor(&[1, 1, 1, 1], &[state])]
    }

    #[test]
    fn state_adds_up_decays_and_is_corrected_by_the_rule() {
        let half = || tensor(&[1, 3, 1], &[0.5f32.ln(); 3]);
        let rate = || tensor(&[1, 3, 1], &[0.5f32; 3]);
        attention("linear").gives_all(&outputs([10.0, 50.0, 280.0], 140.0));
        let gated = attention("gated").input(half());
        gated.gives_all_near(&outputs([10.0, 45.0, 225.0], 112.5), 1e-6);
        let delta = attention("delta").missing().input(rate());
        delta.gives_all(&outputs([5.0, 15.0, -15.0], -7.5));
        let both = attention("gated_delta").input(half()).input(rate());
        both.gives_all_near(&outputs([5.0, 17.5, 28.75], 14.375), 1e-6);
    }

    #[test]
    fn rules_without_their_inputs_and_uneven_heads_are_refused() {
        attention("gated").fails("");
        attention("linear").int("q_num_heads", 3).fails("3");
    }
}
