//! Multinomial (ONNX, operator set 7): draws classes by their logarithmic probabilities, which need
//! no common normalization.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::tensors::elements;
use super::{filled, source};
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, required};
use crate::framework::operator::{Operator, built};
use crate::framework::randomness::{Distribution, Source};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::floats;
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] = &[own("Multinomial", build)];

fn build(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let dtype = elements(node)?.map_or(DatumType::I32, |elements| elements.carrier());
    let samples: i64 = node.get_attr_opt("sample_size")?.unwrap_or(1);
    ensure!(samples >= 1, "sample_size is {samples}, expected 1 or more");
    let samples = usize::try_from(samples)?;
    built(Multinomial { source: source(node, Distribution::Multinomial)?, dtype, samples }, node)
}

#[derive(Clone, Debug)]
struct Multinomial {
    source: Source,
    dtype: DatumType,
    samples: usize,
}

impl Operator for Multinomial {
    fn name(&self) -> &'static str {
        "Multinomial"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let input = required(inputs, 0)?;
        ensure!(
            input.rank() == 2,
            "the input has {} dimensions, expected samples and classes",
            input.rank()
        );
        Ok(tvec!((self.dtype, tvec![Some(input.shape[0].clone()), Some(self.samples.to_dim())])))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let input = *required(inputs, 0)?;
        let [rows, classes] = *input.shape() else { bail!("expected a matrix") };
        let logits = floats(input)?;
        let mut sums = logits;
        for (at, row) in sums.chunks_mut(classes.max(1)).enumerate() {
            accumulate(row, at)?;
        }
        ensure!(classes > 0 || rows == 0, "there is no class to draw");
        let numbers = self.source.numbers();
        let drawn = filled(&[rows, self.samples], |at| {
            let [first, second] = numbers.halves(at);
            let class = |number: f64, at: usize| {
                let row = at / self.samples * classes;
                sums.get(row..row + classes).map_or(0, |sums| drawn_class(sums, number))
            };
            [class(first, 2 * at), class(second, 2 * at + 1)]
        })?;
        Ok(tvec!(drawn.cast_to_dt(self.dtype)?.into_owned()))
    }

    fn draws(&self) -> bool {
        true
    }
}

/// Replaces logarithms of probabilities by the sums of the probabilities up to each class, relative
/// to the largest.
fn accumulate(row: &mut [f64], at: usize) -> TractResult<()> {
    let largest = row.iter().fold(f64::NEG_INFINITY, |largest, value| largest.max(*value));
    ensure!(
        largest.is_finite() && row.iter().all(|value| !value.is_nan()),
        "the logarithmic probabilities of row {at} contain NaN or infinity, or are all -infinity"
    );
    let mut sum = 0.0;
    for value in row {
        sum += libm::exp(*value - largest);
        *value = sum;
    }
    Ok(())
}

/// The class whose part of the sum contains this fraction of it.
fn drawn_class(sums: &[f64], fraction: f64) -> i64 {
    let total = sums.last().copied().unwrap_or(0.0);
    let found = sums.partition_point(|sum| *sum <= fraction * total);
    // Rounding may reach the total: the last class with a part of it is meant then.
    let last = sums.partition_point(|sum| *sum < total);
    found.min(last) as i64
}
