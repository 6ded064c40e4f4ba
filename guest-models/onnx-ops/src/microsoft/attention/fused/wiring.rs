//! Attention as nodes of the plan: the projection, and then the attention.

use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_hir::internal::*;

use super::{Attention, BIAS, MASK, PAST, PAST_LENGTH, SCORE_BIAS, WEIGHTS};
use crate::framework::equal_sizes::check_equal_sizes;
use crate::framework::errors::ensure;
use crate::framework::facts::optional;
use crate::framework::operator::OperatorExpansion;
use crate::microsoft::attention::core::factor;
use crate::microsoft::attention::wired::{Hidden, Wires, Wiring, broadcasts, is_plain, shape_of};

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
