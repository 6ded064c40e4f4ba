//! EmbedLayerNormalization (com.microsoft): sums the embeddings of words, positions and segments,
//! and normalizes each sum.

use belljar_operators::MICROSOFT;
use tract_onnx::tract_hir::internal::*;

use crate::framework::assumptions;
use crate::framework::dims;
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, optional, required, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::Bits;

pub(crate) const OPERATORS: &[Registration] = &[own("EmbedLayerNormalization", |_, node| {
    let epsilon = Bits::of(node, "epsilon", 1e-12)?;
    ensure!(epsilon.get() >= 0.0, "an \"epsilon\" of {} is negative", epsilon.get());
    built(EmbedLayerNormalization { epsilon }, node)
})
.of(MICROSOFT)];

#[derive(Debug)]
struct EmbedLayerNormalization {
    epsilon: Bits,
}

/// The positions of the inputs.
const WORD_IDS: usize = 0;
const SEGMENT_IDS: usize = 1;
const WORDS: usize = 2;
const POSITIONS: usize = 3;
const SEGMENTS: usize = 4;
const GAMMA: usize = 5;
const BETA: usize = 6;
const MASK: usize = 7;
const POSITION_IDS: usize = 8;

impl EmbedLayerNormalization {
    fn check(&self, inputs: &[Option<InputFact>]) -> TractResult<()> {
        let ids = required(inputs, WORD_IDS)?;
        ensure!(ids.rank() == 2, "expected word IDs of 2 dimensions, found {}", ids.rank());
        let words = required(inputs, WORDS)?;
        ensure!(words.rank() == 2, "expected embeddings of 2 dimensions, found {}", words.rank());
        let hidden = &words.shape[1];
        for at in [POSITIONS, SEGMENTS, GAMMA, BETA] {
            let Some(input) = optional(inputs, at) else {
                ensure!(at == SEGMENTS, "input {at} is missing");
                continue;
            };
            let rank = if at < GAMMA { 2 } else { 1 };
            ensure!(
                input.rank() == rank,
                "expected input {at} to have {rank} dimensions, found {}",
                input.rank()
            );
            equal(&input.shape[rank - 1], hidden, at)?;
        }
        let both = optional(inputs, SEGMENT_IDS).is_some() == optional(inputs, SEGMENTS).is_some();
        ensure!(both, "segment IDs and the embeddings of segments need each other");
        for at in [SEGMENT_IDS, MASK, POSITION_IDS] {
            let Some(input) = optional(inputs, at) else { continue };
            ensure!(
                input.rank() == 2,
                "expected input {at} to have 2 dimensions, found {}",
                input.rank()
            );
            if at != POSITION_IDS || !input.shape[0].is_one() {
                equal(&input.shape[0], &ids.shape[0], at)?;
            }
            equal(&input.shape[1], &ids.shape[1], at)?;
        }
        if optional(inputs, POSITION_IDS).is_none() {
            let (length, known) = (&ids.shape[1], &required(inputs, POSITIONS)?.shape[0]);
            let fits = assumptions::at_most(length, known)?;
            ensure!(fits, "{length} positions exceed the {known} that have embeddings");
        }
        Ok(())
    }
}

/// Refuses an input whose size is not this one.
fn equal(found: &TDim, expected: &TDim, at: usize) -> TractResult<()> {
    let equal = assumptions::equal(found, expected)?;
    ensure!(equal, "a dimension of input {at} is {found}, expected {expected}");
    Ok(())
}

/// Adds a row of a table to a sum.
fn add_row(sum: &mut [f32], table: &[f32], id: i32, what: &str) -> TractResult<()> {
    let rows = table.len() / sum.len().max(1);
    let Some(row) = usize::try_from(id).ok().filter(|row| *row < rows) else {
        bail!("the ID {id} of a {what} is not between 0 and {}", rows as i64 - 1)
    };
    let row = &table[row * sum.len()..][..sum.len()];
    sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    Ok(())
}

/// The position of the first 0 in a row of a mask, or its length. Masks that are not words followed
/// by padding are refused: onnxruntime counts their words instead.
fn mask_index(mask: &[i32]) -> TractResult<i32> {
    let words = mask.iter().take_while(|value| **value == 1).count();
    match mask[words..].iter().find(|value| **value != 0) {
        Some(value) => {
            bail!("expected a mask of ones followed by zeros, found a {value} at or after a zero")
        }
        None => Ok(words as i32),
    }
}

impl Operator for EmbedLayerNormalization {
    fn name(&self) -> &'static str {
        "EmbedLayerNormalization"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        self.check(inputs)?;
        let (ids, words) = (required(inputs, WORD_IDS)?, required(inputs, WORDS)?);
        let dims = [ids.shape[0].clone(), ids.shape[1].clone(), words.shape[1].clone()];
        let sums = with_dims(words.dtype, dims);
        Ok(tvec!(sums.clone(), with_dims(i32::datum_type(), [ids.shape[0].clone()]), sums))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let ids = *required(inputs, WORD_IDS)?;
        let hidden = required(inputs, WORDS)?.shape()[1];
        let (batch, length) = (ids.shape()[0], ids.shape()[1]);
        let floats = |at: usize| required(inputs, at)?.try_as_plain_ram();
        let ints = |at: usize| optional(inputs, at).map(|input| input.try_as_plain_ram());
        let (words, positions) = (floats(WORDS)?, floats(POSITIONS)?);
        let (words, positions) = (words.as_slice::<f32>()?, positions.as_slice::<f32>()?);
        let segments = optional(inputs, SEGMENTS).map(|input| input.try_as_plain_ram());
        let segments = segments.transpose()?;
        let segments = segments.as_ref().map(|view| view.as_slice::<f32>()).transpose()?;
        let (gamma, beta) = (floats(GAMMA)?, floats(BETA)?);
        let (gamma, beta) = (gamma.as_slice::<f32>()?, beta.as_slice::<f32>()?);
        let ids = ids.try_as_plain_ram()?;
        let ids = ids.as_slice::<i32>()?;
        let segment_ids = ints(SEGMENT_IDS).transpose()?;
        let segment_ids = segment_ids.as_ref().map(|view| view.as_slice::<i32>()).transpose()?;
        let position_ids = ints(POSITION_IDS).transpose()?;
        let position_ids = position_ids.as_ref().map(|view| view.as_slice::<i32>()).transpose()?;

        let shape = [batch, length, hidden];
        let mut sums = vec![0f32; dims::volume(&shape)?];
        for at in 0..batch * length {
            let sum = &mut sums[at * hidden..][..hidden];
            add_row(sum, words, ids[at], "word")?;
            let position = match position_ids {
                // One row of them may serve the whole batch.
                Some(ids) => ids[at % ids.len()],
                None => (at % length) as i32,
            };
            add_row(sum, positions, position, "position")?;
            if let (Some(ids), Some(segments)) = (segment_ids, segments) {
                add_row(sum, segments, ids[at], "segment")?;
            }
        }
        let mut output = sums.clone();
        for row in output.chunks_exact_mut(hidden.max(1)) {
            let count = row.len() as f64;
            let mean = row.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
            let squares = row.iter().map(|value| (f64::from(*value) - mean).powi(2));
            let variance = squares.sum::<f64>() / count;
            let inverse = 1.0 / (variance + f64::from(self.epsilon.get())).sqrt();
            for ((value, gamma), beta) in row.iter_mut().zip(gamma).zip(beta) {
                *value = ((f64::from(*value) - mean) * inverse) as f32 * gamma + beta;
            }
        }
        let mask = ints(MASK).transpose()?;
        let index = match &mask {
            Some(mask) => {
                let mask = mask.as_slice::<i32>()?;
                let rows = (0..batch).map(|row| mask_index(&mask[row * length..][..length]));
                rows.collect::<TractResult<Vec<i32>>>()?
            }
            None => vec![0; batch],
        };
        Ok(tvec!(
            Tensor::from_shape(&shape, &output)?,
            Tensor::from_shape(&[batch], &index)?,
            Tensor::from_shape(&shape, &sums)?
        ))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, microsoft, row, tensor};
    use tract_onnx::tract_hir::internal::Tensor;

    // The expected numbers are those of onnxruntime 1.32 and of the definition in float64, which
    // agree to 1e-6.

    fn ids(values: [i32; 4]) -> Tensor {
        tensor(&[2, 2], &values)
    }

    fn words(case: Case) -> Case {
        case.input(tensor(&[3, 3], &[1f32, 2.0, 3.0, -1.0, 0.0, 4.0, 2.0, 2.0, 0.0]))
            .input(tensor(&[2, 3], &[0.5f32, 0.0, -0.5, 1.0, 1.0, 0.0]))
    }

    fn parameters(case: Case) -> Case {
        case.input(row(&[1f32, 2.0, -1.0])).input(row(&[0.5f32, 0.0, -0.25]))
    }

    fn with_segments(word_ids: [i32; 4], segment_ids: [i32; 4]) -> Case {
        let node = microsoft("EmbedLayerNormalization").float("epsilon", 0.01);
        let node = words(node.input(ids(word_ids)).input(ids(segment_ids)));
        parameters(node.input(tensor(&[2, 3], &[0f32, 1.0, 0.0, 2.0, -1.0, 0.5])))
    }

    #[test]
    fn embeddings_of_words_positions_and_segments_are_added_and_normalized() {
        let node = with_segments([0, 2, 1, 0], [0, 1, 1, 0]).input(ids([1, 1, 1, 0])).outputs(3);
        let output = [
            -0.819_449_5,
            2.111_119_3,
            -0.513_889_9,
            1.834_401_3,
            -0.533_760_5,
            0.817_521,
            0.5,
            -2.446_555_6,
            -1.473_277_8,
            -0.715_661_35,
            2.431_322_7,
            -0.25f32,
        ];
        let sum = [1.5f32, 3.0, 2.5, 5.0, 2.0, 0.5, 1.5, -1.0, 4.0, 2.0, 4.0, 3.0];
        let shape = [2, 2, 3];
        let outputs = [tensor(&shape, &output), row(&[2i32, 1]), tensor(&shape, &sum)];
        node.gives_all_near(&outputs, 2e-6);
    }

    #[test]
    fn positions_may_be_given_and_segments_left_out() {
        let node = microsoft("EmbedLayerNormalization").float("epsilon", 0.01);
        let node = parameters(words(node.input(ids([0, 2, 1, 0])).missing()).missing()).missing();
        let output = [
            -0.883_428_93,
            1.383_428_9,
            -0.941_714_46,
            1.386_431_1,
            1.013_064_1,
            1.142_963_2,
            -0.478_887_9,
            -0.783_110_3,
            -1.620_443_1,
            -0.689_577_4,
            0.0,
            -1.439_577_4f32,
        ];
        let sum = [2f32, 3.0, 3.0, 2.5, 2.0, -0.5, 0.0, 1.0, 4.0, 1.5, 2.0, 2.5];
        let shape = [2, 2, 3];
        // Without a mask its index is zero.
        let outputs = [tensor(&shape, &output), row(&[0i32, 0]), tensor(&shape, &sum)];
        let one_row = node.clone().input(tensor(&[1, 2], &[1i32, 0])).outputs(3);
        one_row.gives_all_near(&outputs, 2e-6);
        node.input(ids([1, 0, 1, 0])).outputs(3).gives_all_near(&outputs, 2e-6);
    }

    #[test]
    fn ids_without_embeddings_and_broken_masks_are_refused() {
        with_segments([0, 3, 1, 0], [0; 4]).fails("the ID 3 of a word");
        with_segments([0, -1, 1, 0], [0; 4]).fails("the ID -1 of a word");
        with_segments([0; 4], [0, 0, 2, 0]).fails("the ID 2 of a segment");
        let masked = |mask| with_segments([0; 4], [0; 4]).input(ids(mask));
        // onnxruntime counts the ones; the documentation has the position of the first zero.
        masked([0, 1, 1, 1]).fails("found a 1");
        masked([2, 0, 1, 1]).fails("found a 2");
        let positions = |at| masked([1; 4]).input(tensor(&[1, 2], &[0i32, at]));
        positions(2).fails("the ID 2 of a position");
        with_segments([0; 4], [0; 4]).input(tensor(&[2, 1], &[1i32; 2])).fails("1");
        let long = microsoft("EmbedLayerNormalization").input(tensor(&[1, 3], &[0i32; 3]));
        parameters(words(long.missing()).missing()).fails("3 positions");
        let alone = microsoft("EmbedLayerNormalization").input(ids([0; 4])).input(ids([0; 4]));
        parameters(words(alone).missing()).fails("segment");
        microsoft("EmbedLayerNormalization").input(ids([0; 4])).fails("input 2 is missing");
    }
}
