//! QEmbedLayerNormalization: the embeddings of words, positions and segments, which are bytes, added
//! up and normalized. A row of an embedding is decoded when it is read.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::parameters::{check_one, scale, zero};
use crate::framework::dims::{index, volume};
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, known_shapes, optional, required, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{Bits, ints, shapes};
use crate::framework::upstream::BuildResult;
use crate::quantization::integers::Bytes;

pub(crate) const OPERATORS: &[Registration] =
    &[own("QEmbedLayerNormalization", build).of(belljar_operators::MICROSOFT)];

fn build(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let segments = [1, 4, 10, 15].map(|at| node.input.get(at).is_some_and(|name| !name.is_empty()));
    ensure!(
        segments.iter().all(|given| *given == segments[0]),
        "segment_ids, segment_embedding, its scale and its zero point must be given together"
    );
    built(Embedding { epsilon: Bits::of(node, "epsilon", 1e-12)?, segments: segments[0] }, node)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Embedding {
    epsilon: Bits,
    /// Whether words also have segments.
    segments: bool,
}

/// Rows of bytes, with their parameters.
struct Rows<'t> {
    values: Bytes<'t>,
    scale: f32,
    zero: i32,
    width: usize,
}

impl<'t> Rows<'t> {
    /// Those of an input, its scale and its zero point.
    fn of(
        inputs: &[Option<&'t Tensor>],
        [at, scale_at, zero_at]: [usize; 3],
        width: usize,
    ) -> TractResult<Rows<'t>> {
        let given = |at| required(inputs, at).copied();
        let (scale, zero) = (scale(given(scale_at)?)?, zero(Some(given(zero_at)?))?);
        Ok(Rows { values: Bytes::of(given(at)?)?, scale, zero, width })
    }

    /// The numbers of a row.
    fn row(&self, row: usize) -> impl Iterator<Item = f32> {
        let value =
            move |at| (self.values.get(row * self.width + at) - self.zero) as f32 * self.scale;
        (0..self.width).map(value)
    }

    fn count(&self) -> usize {
        self.values.len() / self.width.max(1)
    }
}

impl Embedding {
    /// The batch, the steps and the hidden size.
    fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<[usize; 3]> {
        let (ids, words) = (required(shapes, 0)?, required(shapes, 2)?);
        let (&[batch, steps], &[_, hidden]) = (&**ids, &**words) else {
            bail!("words of the shape {ids:?} and embeddings of the shape {words:?} do not match")
        };
        for (at, what) in [(1, "the segments"), (7, "the mask")] {
            let fits = optional(shapes, at).is_none_or(|shape| **shape == [batch, steps]);
            ensure!(fits, "{what} and the words have different shapes");
        }
        for at in [3, 4] {
            let Some(shape) = optional(shapes, at) else { continue };
            let fits = shape.len() == 2 && shape[1] == hidden;
            ensure!(fits, "input {at} has the shape {shape:?}, expected rows of {hidden} elements");
        }
        for at in [5, 6] {
            let shape = required(shapes, at)?;
            ensure!(**shape == [hidden], "input {at} has the shape {shape:?}, expected [{hidden}]");
        }
        let positions = required(shapes, 3)?;
        ensure!(
            steps <= positions[0],
            "{steps} words are more than the {} positions",
            positions[0]
        );
        volume(&[batch, steps, hidden])?;
        Ok([batch, steps, hidden])
    }
}

impl Operator for Embedding {
    fn name(&self) -> &'static str {
        "QEmbedLayerNormalization"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        if let Some(shapes) = known_shapes(inputs) {
            self.sizes(&shapes)?;
        }
        (8..13).try_for_each(|at| check_one(inputs, at, "a scale"))?;
        (13..18).try_for_each(|at| check_one(inputs, at, "a zero point"))?;
        let (ids, words) = (required(inputs, 0)?, required(inputs, 2)?);
        let ([batch, steps], [_, hidden]) = (&*ids.shape, &*words.shape) else {
            bail!(
                "words of the shape {:?} and embeddings of the shape {:?} do not match",
                ids.shape,
                words.shape
            )
        };
        Ok(tvec!(
            with_dims(f32::datum_type(), [batch.clone(), steps.clone(), hidden.clone()]),
            with_dims(i32::datum_type(), [batch.clone()])
        ))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let [batch, steps, hidden] = self.sizes(&shapes(inputs))?;
        let words = Rows::of(inputs, [2, 8, 13], hidden)?;
        let positions = Rows::of(inputs, [3, 9, 14], hidden)?;
        let segments = match self.segments {
            true => Some((ints(required(inputs, 1)?)?, Rows::of(inputs, [4, 10, 15], hidden)?)),
            false => None,
        };
        let gamma: Vec<f32> = Rows::of(inputs, [5, 11, 16], hidden)?.row(0).collect();
        let beta: Vec<f32> = Rows::of(inputs, [6, 12, 17], hidden)?.row(0).collect();
        let ids = ints(required(inputs, 0)?)?;
        let mut results = Vec::with_capacity(volume(&[batch, steps, hidden])?);
        for (at, id) in ids.iter().enumerate() {
            let row = |id: i64, rows: &Rows<'_>| {
                ensure!(id >= 0, "the index {id} of an embedding is negative");
                index(id, rows.count())
            };
            let sums = words.row(row(*id, &words)?).zip(positions.row(at % steps));
            let mut sums: Vec<f32> = sums.map(|(word, position)| word + position).collect();
            if let Some((ids, rows)) = &segments {
                let more = rows.row(row(ids[at], rows)?);
                sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
            }
            let mean = sums.iter().map(|sum| f64::from(*sum)).sum::<f64>() / hidden as f64;
            let squares = sums.iter().map(|sum| (f64::from(*sum) - mean).powi(2));
            let variance = squares.sum::<f64>() / hidden as f64;
            let deviation = (variance + f64::from(self.epsilon.get())).sqrt();
            let each = sums.iter().zip(&gamma).zip(&beta);
            results.extend(each.map(|((sum, gamma), beta)| {
                ((f64::from(*sum) - mean) / deviation) as f32 * gamma + beta
            }));
        }
        let counts: Vec<i32> = match optional(inputs, 7) {
            Some(mask) => {
                let mask = ints(mask)?;
                let row = |at: usize| &mask[at * steps..][..steps];
                let count = |at| row(at).iter().filter(|value| **value == 1).count() as i32;
                (0..batch).map(count).collect()
            }
            None => vec![0; batch],
        };
        Ok(tvec!(
            Tensor::from_shape(&[batch, steps, hidden], &results)?,
            Tensor::from_shape(&[batch], &counts)?
        ))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, microsoft, row, scalar, tensor};

    /// Two words of two numbers each, with or without segments.
    fn node(segments: bool, mask: Option<&[i32]>, ids: &[i32]) -> Case {
        let given = |case: Case, tensor, wanted| match wanted {
            true => case.input(tensor),
            false => case.missing(),
        };
        let case = microsoft("QEmbedLayerNormalization").outputs(2).float("epsilon", 0.0);
        let case = case.input(tensor(&[1, 2], ids));
        let case = given(case, tensor(&[1, 2], &[0i32, 0]), segments);
        let case = case.input(tensor(&[2, 2], &[10u8, 14, 30, 20]));
        let case = case.input(tensor(&[2, 2], &[4u8, 4, 8, 6]));
        let case = given(case, tensor(&[1, 2], &[5u8, 9]), segments);
        let case = case.input(row(&[3u8, 5])).input(row(&[2u8, 4]));
        let case = given(case, tensor(&[1, 2], mask.unwrap_or(&[0, 0])), mask.is_some());
        let case = case.input(scalar(0.5f32)).input(scalar(1f32));
        let case = given(case, scalar(2f32), segments).input(scalar(1f32)).input(scalar(0.5f32));
        let case = case.input(scalar(10u8)).input(scalar(4u8));
        given(case, scalar(5u8), segments).input(scalar(1u8)).input(scalar(2u8))
    }

    #[test]
    fn q_embed_layer_normalization_adds_rows_and_normalizes() {
        // Words 0, 2 and 10, 5; positions 0, 0 and 4, 2; gamma 2, 4; beta 0, 1.
        let expected = tensor(&[1, 2, 2], &[-2f32, 5.0, 2.0, -3.0]);
        let plain = node(false, None, &[0, 1]);
        plain.gives_all_near(&[expected, row(&[0i32])], 1e-6);
        // Segments 0, 8: the second word gets 14, 15.
        let expected = tensor(&[1, 2, 2], &[-2f32, 5.0, -2.0, 5.0]);
        let masked = node(true, Some(&[1, 0]), &[0, 1]);
        masked.gives_all_near(&[expected, row(&[1i32])], 1e-6);
        node(false, None, &[0, 2]).fails("2");
        node(false, None, &[0, -1]).fails("-1");
    }
}
