//! MultiHeadAttention as nodes of the plan.

use tract_onnx::tract_hir::internal::*;

use super::{BIAS, MASK, MultiHead, PAST_KEY, PAST_LENGTH, PAST_VALUE, SCORE_BIAS};
use crate::framework::facts::{optional, required};
use crate::framework::operator::OperatorExpansion;
use crate::microsoft::attention::core::factor;
use crate::microsoft::attention::wired::{Hidden, Wires, Wiring, broadcasts, is_plain, shape_of};

impl MultiHead {
    /// The widths of keys and of values, if the attention can be wired.
    fn wires(
        &self,
        model: &TypedModel,
        inputs: &[Option<OutletId>],
    ) -> TractResult<Option<[usize; 2]>> {
        let shape = |at| shape_of(model, inputs, at);
        for (at, input) in inputs.iter().enumerate().filter(|(at, _)| *at != MASK) {
            if let Some(input) = input
                && (at >= PAST_LENGTH || !is_plain(model, *input)?)
            {
                return Ok(None);
            }
        }
        let (Some(query), Some(key), Some(value)) = (shape(0)?, shape(1)?, shape(2)?) else {
            return Ok(None);
        };
        let heads = self.heads;
        let width = |all: &TDim| {
            let all = usize::try_from(all.as_i64()?).ok()?;
            (all % heads == 0).then_some(all / heads)
        };
        let (batch, new, widths) = match (&*query, &*key, &*value) {
            ([batch, _, all], [b, new, c], [v_b, v_new, values])
                if [b, v_b] == [batch; 2] && new == v_new && all == c =>
            {
                (batch, new, [width(all), width(values)])
            }
            ([batch, _, all], [b, n, new, w], [v_b, v_n, v_new, v_width])
                if [b, v_b] == [batch; 2]
                    && [n, v_n] == [&heads.to_dim(); 2]
                    && new == v_new
                    && w.clone() * heads == *all =>
            {
                (batch, new, [width(all), width(&(v_width.clone() * heads))])
            }
            _ => return Ok(None),
        };
        let [Some(width), Some(value_width)] = widths else { return Ok(None) };
        let biased = heads * (2 * width + value_width);
        if self.shows || shape(BIAS)?.is_some_and(|bias| *bias != [biased.to_dim()]) {
            return Ok(None);
        }
        let mut keys = new.clone();
        match (shape(PAST_KEY)?, shape(PAST_VALUE)?) {
            (None, None) => {}
            (Some(key), Some(value)) if key.len() == 4 => {
                let of = |width: usize| {
                    tvec!(batch.clone(), heads.to_dim(), key[2].clone(), width.to_dim())
                };
                if key != of(width) || value != of(value_width) {
                    return Ok(None);
                }
                keys = key[2].clone() + new;
            }
            _ => return Ok(None),
        }
        let wanted = [batch.clone(), heads.to_dim(), query[1].clone(), keys];
        let fits = shape(SCORE_BIAS)?.is_none_or(|bias| broadcasts(&bias, &wanted));
        Ok(fits.then_some([width, value_width]))
    }

    /// Wires the attention: its output, and the caches of keys and values.
    fn wired(
        &self,
        wiring: &mut Wiring<'_>,
        inputs: &[Option<OutletId>],
        [width, value_width]: [usize; 2],
    ) -> TractResult<TVec<OutletId>> {
        let (heads, all) = (self.heads, self.heads * width);
        let bias = optional(inputs, BIAS).copied();
        let parts = [0..all, all..2 * all, 2 * all..2 * all + heads * value_width];
        let past = [PAST_KEY, PAST_VALUE].map(|at| optional(inputs, at).copied());
        let mut rows = tvec!();
        for (at, name) in ["query", "key", "value"].into_iter().enumerate() {
            let input = *required(inputs, at)?;
            if wiring.shape(input)?.len() == 4 {
                rows.push(input);
                continue;
            }
            let bias = match bias {
                Some(bias) => {
                    Some(wiring.part(&format!("{name}.bias"), bias, parts[at].clone())?)
                }
                None => None,
            };
            rows.push(wiring.heads(name, input, bias, heads)?);
        }
        let (queries, new) = (rows[0], rows[1]);
        let keys = wiring.after("key", past[0], new)?;
        let values = wiring.after("value", past[1], rows[2])?;
        let hidden = Hidden {
            causal: self.causal,
            mask: optional(inputs, MASK).copied(),
            fill: self.fill,
            name: self.mask,
            starts: false,
            bias: optional(inputs, SCORE_BIAS).copied(),
        };
        let scale = factor(self.scale, width);
        let output = wiring.attention([queries, keys, values], new, scale, &hidden)?;
        Ok(tvec!(output, keys, values))
    }
}

impl Wires for MultiHead {
    fn wire(
        &self,
        whole: &OperatorExpansion,
        wiring: &mut Wiring<'_>,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let placed = whole.by_position(inputs.iter().copied());
        match self.wires(wiring.model, &placed)? {
            Some(widths) => whole.named_outputs(self.wired(wiring, &placed, widths)?),
            None => whole.wire(wiring.prefix, wiring.model, inputs),
        }
    }
}
