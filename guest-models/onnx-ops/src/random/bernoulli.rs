//! Bernoulli (ONNX, operator set 15): each element is 1 with the probability that the input has at
//! its place.

use belljar_abi::DType;
use belljar_abi::narrow::Narrow;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::tensors::elements;
use super::{filled, source};
use crate::framework::element_type::ElementType;
use crate::framework::facts::{InputFact, OutputFact, like, required};
use crate::framework::operator::{Operator, built};
use crate::framework::randomness::{Distribution, Source};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::floats;
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] = &[own("Bernoulli", build)];

fn build(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let source = source(node, Distribution::Bernoulli)?;
    built(Bernoulli { source, elements: elements(node)? }, node)
}

#[derive(Clone, Debug)]
struct Bernoulli {
    source: Source,
    /// The element type of the output, if it is not that of the input.
    elements: Option<ElementType>,
}

impl Bernoulli {
    fn elements(&self, input: DatumType) -> ElementType {
        self.elements.unwrap_or(ElementType::Plain(input))
    }
}

impl Operator for Bernoulli {
    fn name(&self) -> &'static str {
        "Bernoulli"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let input = required(inputs, 0)?;
        Ok(tvec!((self.elements(input.dtype).carrier(), like(input).1)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let input = *required(inputs, 0)?;
        let (probabilities, numbers) = (floats(input)?, self.source.numbers());
        // A number is below a probability of 1, and not below one of 0.
        let ones = filled(input.shape(), |at| {
            let [first, second] = numbers.halves(at);
            let one = |number: f64, at: usize| {
                u8::from(probabilities.get(at).is_some_and(|probability| number < *probability))
            };
            [one(first, 2 * at), one(second, 2 * at + 1)]
        })?;
        Ok(tvec!(match self.elements(input.datum_type()) {
            ElementType::Small(DType::BF16) => {
                let one = Narrow::Bf16.encode(1.0);
                let plain = ones.try_as_plain_ram()?;
                let codes: Vec<u16> =
                    plain.as_slice::<u8>()?.iter().map(|bit| u16::from(*bit) * one).collect();
                Tensor::from_shape(input.shape(), &codes)?
            }
            elements => ones.cast_to_dt(elements.carrier())?.into_owned(),
        }))
    }

    fn draws(&self) -> bool {
        true
    }
}
