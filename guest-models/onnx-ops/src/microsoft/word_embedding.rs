//! WordConvEmbedding: a vector for each word, the hyperbolic tangent of the maximum of a convolution
//! over the vectors of its characters.

use belljar_operators::MICROSOFT;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::assumptions::{at_most, equal};
use crate::framework::dims::volume;
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, required, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] = &[own("WordConvEmbedding", build).of(MICROSOFT)];

fn build(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let op = WordConvEmbedding {
        filters: node.get_attr_opt("embedding_size")?,
        window: node.get_attr_opt("conv_window_size")?,
        width: node.get_attr_opt("char_embedding_size")?,
    };
    built(op, node)
}

/// The sizes that the attributes give, which must be those of the weights.
#[derive(Debug)]
struct WordConvEmbedding {
    filters: Option<i64>,
    window: Option<i64>,
    width: Option<i64>,
}

impl Operator for WordConvEmbedding {
    fn name(&self) -> &'static str {
        "WordConvEmbedding"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (words, w) = (required(inputs, 0)?, required(inputs, 1)?);
        let (bias, table) = (required(inputs, 2)?, required(inputs, 3)?);
        let ([count, longest], [filters, one, window, width]) = (&*words.shape, &*w.shape) else {
            bail!(
                "the words have the shape {:?} and the weights {:?}, expected 2 and 4 dimensions",
                words.shape,
                w.shape
            )
        };
        let ([biases], [letters, of_letter]) = (&*bias.shape, &*table.shape) else {
            bail!(
                "the bias has the shape {:?} and the characters' vectors {:?}, expected 1 and 2 \
                 dimensions",
                bias.shape,
                table.shape
            )
        };
        let fit = one.is_one() && equal(biases, filters)? && equal(of_letter, width)?;
        ensure!(
            fit,
            "weights of the shape {:?} do not match {biases} biases and vectors of {of_letter} numbers",
            w.shape
        );
        for (name, expected, found) in [
            ("embedding_size", self.filters, filters),
            ("conv_window_size", self.window, window),
            ("char_embedding_size", self.width, width),
        ] {
            let Some(expected) = expected else { continue };
            let same = equal(&expected.to_dim(), found)?;
            ensure!(same, "the attribute {name:?} is {expected}, but the weights have {found}");
        }
        for (size, what) in [(window, "window"), (letters, "table of characters")] {
            ensure!(at_most(&1.to_dim(), size)?, "the {what} is empty");
        }
        let fits = at_most(window, longest)?;
        ensure!(fits, "words of {longest} characters are shorter than a window of {window}");
        Ok(tvec!(with_dims(w.dtype, [count.clone(), filters.clone()])))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (words, w) = (*required(inputs, 0)?, *required(inputs, 1)?);
        let (bias, table) = (*required(inputs, 2)?, *required(inputs, 3)?);
        let (count, longest) = (words.shape()[0], words.shape()[1]);
        let (filters, window, width) = (w.shape()[0], w.shape()[2], w.shape()[3]);
        let letters = table.shape()[0];
        let (words, w) = (words.try_as_plain_ram()?, w.try_as_plain_ram()?);
        let (bias, table) = (bias.try_as_plain_ram()?, table.try_as_plain_ram()?);
        let (words, w) = (words.as_slice::<i32>()?, w.as_slice::<f32>()?);
        let (bias, table) = (bias.as_slice::<f32>()?, table.as_slice::<f32>()?);
        let shape = [count, filters];
        let mut output = Vec::with_capacity(volume(&shape)?);
        for word in (0..count).map(|word| &words[word * longest..][..longest]) {
            let known = |id: &i32| usize::try_from(*id).is_ok_and(|id| id < letters);
            if let Some(id) = word.iter().find(|id| !known(id)) {
                bail!("the character {id} is not between 0 and {}", letters - 1);
            }
            let length = word.iter().position(|id| *id == 0).unwrap_or(longest);
            ensure!(
                word[length..].iter().all(|id| *id == 0),
                "a word has characters after its first 0, which must fill it up to its end"
            );
            // A word is at least as long as a window.
            let length = length.max(window);
            let vectors: Vec<f32> = word[..length]
                .iter()
                .flat_map(|id| &table[*id as usize * width..][..width])
                .copied()
                .collect();
            for (filter, bias) in bias.iter().enumerate() {
                let weights = &w[filter * window * width..][..window * width];
                let sum = |start: usize| -> f64 {
                    let vectors = &vectors[start * width..][..window * width];
                    let products = vectors.iter().zip(weights);
                    products.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>()
                };
                let best = (0..=length - window).map(sum).fold(f64::NEG_INFINITY, f64::max);
                output.push((best + f64::from(*bias)).tanh() as f32);
            }
        }
        Ok(tvec!(Tensor::from_shape(&shape, &output)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, microsoft, row, tensor};

    fn node(words: &[i32]) -> Case {
        let node = microsoft("WordConvEmbedding").input(tensor(&[words.len() / 3, 3], words));
        let node = node.input(tensor(&[2, 1, 2, 1], &[0.5f32, 0.25, -1.0, 1.0]));
        node.input(row(&[0f32, 0.5])).input(tensor(&[3, 1], &[0.5f32, 1.0, -1.0]))
    }

    #[test]
    fn the_vector_of_a_word_is_the_maximum_of_a_convolution() {
        let tanh = |x: f64| x.tanh() as f32;
        // Of the sums 0.25 and -0.25, and -2 and 2; then only of one window, which has a 0.
        let expected = [tanh(0.25), tanh(2.5), tanh(0.625), tanh(0.0)];
        node(&[1, 2, 1, 1, 0, 0]).gives_within(tensor(&[2, 2], &expected), 1e-6);
        node(&[1, 2, 1])
            .int("embedding_size", 2)
            .gives_within(tensor(&[1, 2], &expected[..2]), 1e-6);
    }

    #[test]
    fn unknown_characters_and_sizes_that_disagree_are_refused() {
        node(&[1, 3, 1]).fails("the character 3");
        node(&[1, -1, 1]).fails("the character -1");
        node(&[1, 0, 1]).fails("after its first 0");
        node(&[1, 1, 1]).int("conv_window_size", 3).fails("conv_window_size");
        node(&[1, 1, 1]).int("embedding_size", -2).fails("embedding_size");
        let short = microsoft("WordConvEmbedding").input(tensor(&[1, 1], &[1i32]));
        let short = short.input(tensor(&[1, 1, 2, 1], &[1f32, 1.0])).input(row(&[0f32]));
        short.input(tensor(&[2, 1], &[0f32, 1.0])).fails("shorter");
    }
}
