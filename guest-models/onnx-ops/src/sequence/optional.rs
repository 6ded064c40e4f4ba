//! OptionalGetElement of a sequence of which only the run decides whether it is there. The gate of
//! the guest represents such an optional by the two tensors of a sequence, and a bool.

use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::ensure;
use crate::framework::facts::{InputFact, OutputFact, like, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};

pub(crate) const OPERATORS: &[Registration] =
    &[own("BelljarOptionalGetElement", |_, node| built(GetElement, node))];

#[derive(Debug)]
struct GetElement;

impl Operator for GetElement {
    fn name(&self) -> &'static str {
        "OptionalGetElement"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        Ok(tvec!(like(required(inputs, 0)?), like(required(inputs, 1)?)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let present = required(inputs, 2)?.try_as_plain_ram()?.as_slice::<bool>()? == [true];
        ensure!(present, "the optional is empty");
        Ok(tvec!((*required(inputs, 0)?).clone(), (*required(inputs, 1)?).clone()))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, scalar, tensor};

    #[test]
    fn a_sequence_is_taken_from_an_optional_that_has_it() {
        let (elements, shapes) = (row(&[1f32, 2.0]), tensor(&[2, 1], &[1i64, 1]));
        let given = case("BelljarOptionalGetElement").input(elements.clone()).input(shapes.clone());
        given.clone().input(scalar(true)).outputs(2).gives_all(&[elements, shapes]);
        given.input(scalar(false)).outputs(2).fails("the optional is empty");
    }
}
