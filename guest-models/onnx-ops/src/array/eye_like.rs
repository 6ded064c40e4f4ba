//! EyeLike (ONNX, operator set 9), of the type of its input.

use belljar_abi::codes;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::volume;
use crate::framework::element_type::{ElementType, encode_elements};
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, like, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] = &[own("EyeLike", build_eye_like)];

fn build_eye_like(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let dtype = match node.get_attr_opt::<i64>("dtype")? {
        Some(dtype) => Some(ElementType::of(u32::try_from(dtype)?)?),
        None => None,
    };
    built(Eye { dtype, shift: node.get_attr_opt("k")?.unwrap_or(0) }, node)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Eye {
    dtype: Option<ElementType>,
    shift: i64,
}

impl Operator for Eye {
    fn name(&self) -> &'static str {
        "EyeLike"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let data = required(inputs, 0)?;
        ensure!(data.rank() == 2, "a matrix cannot have {} dimensions", data.rank());
        let dtype = self.dtype.map_or(data.dtype, ElementType::carrier);
        Ok(tvec!((dtype, like(data).1)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *required(inputs, 0)?;
        let shape = data.shape();
        let dtype = self.dtype.unwrap_or(ElementType::Plain(data.datum_type()));
        let [_, columns] = *shape else { bail!("expected a matrix") };
        let one = |at: usize| (at % columns) as i64 - (at / columns) as i64 == self.shift;
        let values = (0..volume(shape)?).map(|at| u8::from(one(at)));
        Ok(tvec!(match dtype {
            ElementType::Plain(dtype) => {
                let ones = Tensor::from_shape(shape, &values.collect::<Vec<u8>>())?;
                ones.cast_to_dt(dtype)?.into_owned()
            }
            ElementType::Small(dtype) => {
                let one = codes::encode(dtype, 1.0, codes::Beyond::Saturate);
                encode_elements(dtype, shape, values.map(|value| u16::from(value) * one))?
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, tensor};

    #[test]
    fn eye_like_has_its_diagonal_at_k() {
        let eye = |k| case("EyeLike").int("k", k).input(tensor(&[2, 3], &[9i32; 6]));
        eye(0).gives(tensor(&[2, 3], &[1i32, 0, 0, 0, 1, 0]));
        eye(1).gives(tensor(&[2, 3], &[0i32, 1, 0, 0, 0, 1]));
        eye(-1).gives(tensor(&[2, 3], &[0i32, 0, 0, 1, 0, 0]));
        eye(7).gives(tensor(&[2, 3], &[0i32; 6]));
        // bfloat16 as its codes.
        let narrow = tensor(&[2, 3], &[0x3f80u16, 0, 0, 0, 0x3f80, 0]);
        eye(0).int("dtype", 16).gives(narrow);
        eye(0).int("dtype", 11).gives(tensor(&[2, 3], &[1f64, 0.0, 0.0, 0.0, 1.0, 0.0]));
    }
}
