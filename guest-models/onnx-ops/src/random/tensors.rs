//! RandomNormal, RandomUniform, and both with the shape of an input (ONNX, operator set 1).

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::tract_hir::internal::*;

use super::fill::Shape;
use super::source;
use crate::framework::dims::sizes;
use crate::framework::element_type::ElementType;
use crate::framework::facts::{InputFact, OutputFact, like, required, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::randomness::{Distribution, Source};
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] = &[
    own("RandomNormal", build_normal),
    own("RandomNormalLike", build_normal_like),
    own("RandomUniform", build_uniform),
    own("RandomUniformLike", build_uniform_like),
];

fn build_normal(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    built(Random::of("RandomNormal", Shape::normal(node)?, node)?, node)
}

fn build_normal_like(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    built(Random::of("RandomNormalLike", Shape::normal(node)?, node)?, node)
}

fn build_uniform(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    built(Random::of("RandomUniform", Shape::uniform(node)?, node)?, node)
}

fn build_uniform_like(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    built(Random::of("RandomUniformLike", Shape::uniform(node)?, node)?, node)
}

#[derive(Clone, Debug)]
struct Random {
    name: &'static str,
    shape: Shape,
    source: Source,
    /// The element type, if it is not that of the input.
    elements: Option<ElementType>,
    /// The sizes, if they are not those of the input.
    dims: Option<Vec<usize>>,
}

impl Random {
    fn of(name: &'static str, shape: Shape, node: &NodeProto) -> TractResult<Random> {
        let (what, like) = match shape {
            Shape::Normal { .. } => (Distribution::Normal, name.ends_with("Like")),
            Shape::Uniform { .. } => (Distribution::Uniform, name.ends_with("Like")),
        };
        let dims = match like {
            true => None,
            false => Some(sizes(&node.get_attr_vec::<i64>("shape")?)?),
        };
        let elements = elements(node)?;
        let default = (!like).then_some(ElementType::Plain(DatumType::F32));
        Ok(Random {
            name,
            shape,
            source: source(node, what)?,
            elements: elements.or(default),
            dims,
        })
    }

    fn elements(&self, input: impl FnOnce() -> TractResult<DatumType>) -> TractResult<ElementType> {
        match self.elements {
            Some(elements) => Ok(elements),
            None => Ok(ElementType::Plain(input()?)),
        }
    }
}

/// The element type of the output: that which the gate has found, or the attribute's.
pub(super) fn elements(node: &NodeProto) -> TractResult<Option<ElementType>> {
    if let Some(found) = ElementType::of_attribute(node, "to")? {
        return Ok(Some(found));
    }
    let Some(dtype) = node.get_attr_opt::<i64>("dtype")? else { return Ok(None) };
    let dtype = DatumType::try_from(DataType::try_from(i32::try_from(dtype)?)?)?;
    Ok(Some(ElementType::Plain(dtype)))
}

impl Operator for Random {
    fn name(&self) -> &'static str {
        self.name
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let dtype = self.elements(|| Ok(required(inputs, 0)?.dtype))?.carrier();
        Ok(tvec!(match &self.dims {
            Some(dims) => with_dims(dtype, dims.iter().map(|size| size.to_dim())),
            None => (dtype, like(required(inputs, 0)?).1),
        }))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let elements = self.elements(|| Ok(required(inputs, 0)?.datum_type()))?;
        let dims = match &self.dims {
            Some(dims) => dims,
            None => required(inputs, 0)?.shape(),
        };
        Ok(tvec!(self.shape.tensor(self.source.numbers(), elements, dims)?))
    }

    fn draws(&self) -> bool {
        true
    }
}
