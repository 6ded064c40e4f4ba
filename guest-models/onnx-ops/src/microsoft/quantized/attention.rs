//! QAttention: self-attention whose projections are products of bytes. What follows them is computed
//! in floats.

use std::sync::Arc;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::parameters::{check_one, scale, scales, zero, zeros};
use crate::framework::dims::volume;
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, known_shapes, optional, required, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{Bits, ints, shapes};
use crate::framework::upstream::BuildResult;
use crate::quantization::integers::{ByteProduct, Bytes, Rights, check_depth};
use crate::quantization::packed::Packed;

pub(crate) const OPERATORS: &[Registration] =
    &[own("QAttention", build).of(belljar_operators::MICROSOFT)];

fn build(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let heads: i64 = node.get_attr("num_heads")?;
    let Some(heads) = usize::try_from(heads).ok().filter(|heads| *heads > 0) else {
        bail!("num_heads is {heads}, but must be positive")
    };
    let op = Attention {
        heads,
        causal: node.get_attr_opt::<i64>("unidirectional")?.unwrap_or(0) != 0,
        filter: Bits::of(node, "mask_filter_value", -10000.0)?,
        scale: Bits::of(node, "scale", 0.0)?,
        packed: None,
    };
    built(op, node)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Attention {
    heads: usize,
    causal: bool,
    /// What is added to the scores of masked positions.
    filter: Bits,
    /// The factor of the scores, or 0 for the usual one.
    scale: Bits,
    packed: Option<Packed>,
}

struct Sizes {
    batch: usize,
    steps: usize,
    inputs: usize,
    hidden: usize,
    /// The size of a head.
    head: usize,
    past: usize,
}

impl Sizes {
    fn total(&self) -> usize {
        self.past + self.steps
    }
}

impl Attention {
    fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<Sizes> {
        let (x, w) = (required(shapes, 0)?, required(shapes, 1)?);
        let ([batch, steps, inputs], [of, wide]) = (&**x, &**w) else {
            bail!("the input's shape {x:?} does not match the weights' shape {w:?}")
        };
        let (batch, steps, inputs, wide) = (*batch, *steps, *inputs, *wide);
        ensure!(*of == inputs, "the input's shape {x:?} does not match the weights' shape {w:?}");
        let heads = self.heads;
        ensure!(
            wide > 0 && wide.is_multiple_of(3 * heads),
            "weights of {wide} columns cannot be divided into queries, keys and values of {heads} heads"
        );
        check_depth(inputs)?;
        let (hidden, head) = (wide / 3, wide / 3 / heads);
        for (at, what) in [(2, "the bias"), (4, "the scales"), (7, "the zero points")] {
            let Some(shape) = optional(shapes, at) else { continue };
            let one = at != 2 && shape.iter().all(|size| *size == 1);
            ensure!(
                one || **shape == [wide],
                "{what} of the weights has the shape {shape:?}, expected {wide} numbers"
            );
        }
        let past = match optional(shapes, 8) {
            None => 0,
            Some(shape) => {
                let [2, of, heads_of, past, head_of] = **shape else {
                    bail!(
                        "the past has the shape {shape:?}, expected 5 dimensions, the first of size 2"
                    )
                };
                ensure!(
                    [of, heads_of, head_of] == [batch, heads, head],
                    "the past has the shape {shape:?}, expected {:?}",
                    [2, batch, heads, past, head]
                );
                past
            }
        };
        let sizes = Sizes { batch, steps, inputs, hidden, head, past };
        let total = sizes.total();
        if let Some(mask) = optional(shapes, 5) {
            let forms: [&[usize]; 6] = [
                &[batch],
                &[2 * batch],
                &[batch, total],
                &[batch, steps, total],
                &[batch, 1],
                &[1, 1],
            ];
            ensure!(
                forms.contains(&&**mask),
                "a mask of the shape {mask:?} is not implemented; expected one of {forms:?}"
            );
        }
        volume(&[batch, steps, wide])?;
        volume(&[2, batch, heads, total, head])?;
        volume(&[steps, total])?;
        Ok(sizes)
    }

    /// What is added to the scores of each step of one sequence.
    fn mask(&self, s: &Sizes, mask: Option<&Tensor>, one: usize) -> TractResult<Vec<f32>> {
        let (steps, total, filter) = (s.steps, s.total(), self.filter.get());
        let mut added = vec![0.0; steps * total];
        if let Some(mask) = mask {
            let values = ints(mask)?;
            let masked = |step: usize, at: usize| match *mask.shape() {
                // The end of the sequence, and its start.
                [count] => {
                    let start = if count == s.batch { 0 } else { values[s.batch + one] };
                    let at = at as i64;
                    at >= values[one] || at < start
                }
                [_, width] if width == total && mask.shape()[0] == s.batch => {
                    values[one * total + at] <= 0
                }
                [_, _, _] => values[(one * steps + step) * total + at] <= 0,
                // A mask of one number for each sequence masks nothing.
                _ => false,
            };
            if mask.rank() == 1 {
                let ends = &values[..s.batch];
                if let Some(end) = ends.iter().find(|end| **end < 0) {
                    bail!("the end of a sequence in the mask is negative ({end})");
                }
            }
            for (place, added) in added.iter_mut().enumerate() {
                if masked(place / total, place % total) {
                    *added = filter;
                }
            }
        }
        if self.causal {
            for (step, added) in added.chunks_mut(total.max(1)).enumerate() {
                added[s.past + step + 1..].fill(f32::MIN);
            }
        }
        Ok(added)
    }

    /// The queries, keys and values: the products of each step, one after the other.
    fn projected(&self, s: &Sizes, inputs: &[Option<&Tensor>]) -> TractResult<Vec<f32>> {
        let given = |at| required(inputs, at).copied();
        let (packed, right_zeros) = (self.packed.as_ref(), zeros(optional(inputs, 7).copied())?);
        let product = ByteProduct {
            left: Bytes::of(given(0)?)?,
            left_zeros: &[zero(optional(inputs, 6).copied())?],
            right: Rights::of(inputs, 1, packed, false)?.matrix(0, s.inputs * 3 * s.hidden),
            right_zeros: &right_zeros,
            sizes: [s.batch * s.steps, s.inputs, 3 * s.hidden],
        };
        check_depth(s.inputs)?;
        let bias = given(2)?.try_as_plain_ram()?;
        let (scale, scales) = (scale(given(3)?)?, scales(given(4)?)?);
        let scales: Vec<f32> = scales.iter().map(|other| scale * other).collect();
        product.floats(&scales, Some(bias.as_slice()?))
    }

    /// The keys or values of all heads, those of the past first.
    fn state(&self, s: &Sizes, projected: &[f32], past: Option<&[f32]>, which: usize) -> Vec<f32> {
        let count = s.batch * self.heads;
        let mut state = Vec::with_capacity(count * s.total() * s.head);
        for (one, head) in (0..s.batch).flat_map(|one| (0..self.heads).map(move |h| (one, h))) {
            if let Some(past) = past {
                let block = s.past * s.head;
                let from = ((which - 1) * count + one * self.heads + head) * block;
                state.extend_from_slice(&past[from..from + block]);
            }
            for step in 0..s.steps {
                state.extend_from_slice(self.row(s, projected, one, step, head, which));
            }
        }
        state
    }

    /// The query, key or value of a step for one head.
    fn row<'p>(
        &self,
        s: &Sizes,
        projected: &'p [f32],
        one: usize,
        step: usize,
        head: usize,
        which: usize,
    ) -> &'p [f32] {
        let from = ((one * s.steps + step) * 3 + which) * s.hidden + head * s.head;
        &projected[from..from + s.head]
    }
}

/// The weights of scores, in their place.
fn softmax(scores: &mut [f32]) {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|score| *score = (*score - highest).exp());
    let total: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score /= total);
}

impl Operator for Attention {
    fn name(&self) -> &'static str {
        "QAttention"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        check_one(inputs, 3, "the scale of the input")?;
        check_one(inputs, 6, "the zero point of the input")?;
        if let Some(shapes) = known_shapes(inputs) {
            self.sizes(&shapes)?;
        }
        let (x, w) = (required(inputs, 0)?, required(inputs, 1)?);
        let ([batch, steps, _], [_, wide]) = (&*x.shape, &*w.shape) else {
            bail!("the input's shape {:?} does not match the weights' shape {:?}", x.shape, w.shape)
        };
        let past = match optional(inputs, 8) {
            None => 0.to_dim(),
            Some(past) => match &*past.shape {
                [_, _, _, past, _] => past.clone(),
                shape => bail!("the past has the shape {shape:?}, expected 5 dimensions"),
            },
        };
        let hidden = wide.clone() / 3;
        let head = hidden.clone() / self.heads;
        let dtype = f32::datum_type();
        let present = [2.to_dim(), batch.clone(), self.heads.to_dim(), past + steps.clone(), head];
        Ok(tvec!(
            with_dims(dtype, [batch.clone(), steps.clone(), hidden]),
            with_dims(dtype, present)
        ))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let mut all = shapes(inputs);
        if let Some(packed) = &self.packed {
            all[1] = Some(packed.shape.to_vec());
        }
        let s = self.sizes(&all)?;
        let projected = self.projected(&s, inputs)?;
        let past: Option<&[f32]> = match optional(inputs, 8).copied() {
            Some(past) => Some(past.try_as_plain_ram()?.as_slice()?),
            None => None,
        };
        let [keys, values] = [1, 2].map(|which| self.state(&s, &projected, past, which));
        let total = s.total();
        let factor = match self.scale.get() {
            0.0 => 1.0 / (s.head as f32).sqrt(),
            scale => scale,
        };
        let mask = optional(inputs, 5).copied();
        let mut results = vec![0f32; s.batch * s.steps * s.hidden];
        for one in 0..s.batch {
            let added = self.mask(&s, mask, one)?;
            for (head, step) in (0..self.heads).flat_map(|h| (0..s.steps).map(move |t| (h, t))) {
                let block = (one * self.heads + head) * total * s.head;
                let rows = |state: &'_ [f32]| block..block + state.len() / (s.batch * self.heads);
                let query = self.row(&s, &projected, one, step, head, 0);
                let keys = keys[rows(&keys)].chunks(s.head);
                let dot = |key: &[f32]| query.iter().zip(key).map(|(a, b)| a * b).sum::<f32>();
                let added = &added[step * total..][..total];
                let mut weights: Vec<f32> =
                    keys.zip(added).map(|(key, added)| factor * dot(key) + added).collect();
                softmax(&mut weights);
                let to = (one * s.steps + step) * s.hidden + head * s.head;
                let result = &mut results[to..to + s.head];
                for (weight, value) in weights.iter().zip(values[rows(&values)].chunks(s.head)) {
                    for (result, value) in result.iter_mut().zip(value) {
                        *result += weight * value;
                    }
                }
            }
        }
        let present = [keys, values].concat();
        Ok(tvec!(
            Tensor::from_shape(&[s.batch, s.steps, s.hidden], &results)?,
            Tensor::from_shape(&[2, s.batch, self.heads, total, s.head], &present)?
        ))
    }

    fn packed(
        &self,
        constants: &[Option<&Arc<Tensor>>],
    ) -> Option<(Arc<dyn Operator>, Vec<usize>)> {
        let packed = Packed::of(constants.get(1).copied().flatten(), false)?;
        Some((Arc::new(Attention { packed: Some(packed), ..self.clone() }), vec![1]))
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::Tensor;

    use crate::testing::{Case, microsoft, row, scalar, tensor};

    /// One head of one number: the query, the key and the value of a step are its input minus 10
    /// times 1, 2 and 3, times 0.1.
    fn node() -> Case {
        let case = microsoft("QAttention").int("num_heads", 1).outputs(2);
        let case = case.input(tensor(&[1, 2, 1], &[20u8, 15])).input(tensor(&[1, 3], &[1i8, 2, 3]));
        case.input(row(&[0f32; 3])).input(scalar(0.5f32)).input(scalar(0.2f32))
    }

    fn with(case: Case, mask: Option<Tensor>, past: Option<Tensor>) -> Case {
        let case = match mask {
            Some(mask) => case.input(mask),
            None => case.missing(),
        };
        let case = case.input(scalar(10u8)).missing();
        match past {
            Some(past) => case.input(past),
            None => case,
        }
    }

    /// The mean of values with the softmax of scores as weights.
    fn mean(scores: &[f64], values: &[f64]) -> f32 {
        let powers: Vec<f64> = scores.iter().map(|score| score.exp()).collect();
        let each = powers.iter().zip(values).map(|(power, value)| power * value);
        (each.sum::<f64>() / powers.iter().sum::<f64>()) as f32
    }

    /// Queries 1 and 0.5, keys 2 and 1, values 3 and 1.5.
    fn present() -> Tensor {
        tensor(&[2, 1, 1, 2, 1], &[2f32, 1.0, 3.0, 1.5])
    }

    #[test]
    fn q_attention_has_masks_and_is_causal() {
        let values = [3.0, 1.5];
        let full = [mean(&[2.0, 1.0], &values), mean(&[1.0, 0.5], &values)];
        let check = |case: Case, expected: [f32; 2]| {
            case.gives_all_near(&[tensor(&[1, 2, 1], &expected), present()], 1e-6);
        };
        check(with(node(), None, None), full);
        check(with(node().int("unidirectional", 1), None, None), [3.0, full[1]]);
        check(with(node(), Some(row(&[1i32])), None), [3.0, 3.0]);
        check(with(node(), Some(row(&[2i32, 1])), None), [1.5, 1.5]);
        check(with(node(), Some(tensor(&[1, 2], &[0i32, 1])), None), [1.5, 1.5]);
        check(with(node(), Some(tensor(&[1, 2, 2], &[1i32, 1, 1, 0])), None), [full[0], 3.0]);
        check(with(node(), Some(tensor(&[1, 1], &[0i32])), None), full);
        with(node(), Some(row(&[-1i32])), None).fails("-1");
        with(node(), Some(row(&[1i32, 1, 1])), None).fails("[3]");
        with(node().int("num_heads", 2), None, None).fails("2");
    }

    #[test]
    fn q_attention_continues_from_the_past() {
        let past = tensor(&[2, 1, 1, 1, 1], &[4f32, -1.0]);
        let values = [-1.0, 3.0, 1.5];
        let expected = [mean(&[4.0, 2.0, 1.0], &values), mean(&[2.0, 1.0, 0.5], &values)];
        let present = tensor(&[2, 1, 1, 3, 1], &[4f32, 2.0, 1.0, -1.0, 3.0, 1.5]);
        let outputs = [tensor(&[1, 2, 1], &expected), present];
        with(node(), None, Some(past)).gives_all_near(&outputs, 1e-6);
        let past = tensor(&[2, 1, 2, 1, 1], &[0f32; 4]);
        with(node(), None, Some(past)).fails("past");
    }
}
