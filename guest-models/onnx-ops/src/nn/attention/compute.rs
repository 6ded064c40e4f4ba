//! The outputs of an attention: their types and shapes, and their values, which are computed in 64
//! bits, and rounded where ONNX gives a value an element type.

use tract_onnx::tract_hir::internal::*;

use super::{Attention, ScoresStep};
use crate::framework::dims::volume;
use crate::framework::errors::ensure;
use crate::framework::facts::{
    InputFact, OutputFact, known_shapes, optional, required, unknown_dims, with_dims,
};
use crate::framework::operator::Operator;
use crate::framework::tensors::{floats, from_floats, rounded, shapes};

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
