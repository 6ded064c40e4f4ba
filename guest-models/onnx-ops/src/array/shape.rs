//! Shape and Size (ONNX) as 64-bit integers. tract's own type for dimensions narrows other integers
//! to 32 bits.

use std::ops::Range;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::{OrUserError, ensure};
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] =
    &[own("Shape", build_shape), own("Size", |_, _| Ok((expand(Size), vec![])))];

fn build_shape(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let start = node.get_attr_opt("start")?.unwrap_or(0);
    let end = node.get_attr_opt("end")?;
    Ok((expand(Shape { start, end }), vec![]))
}

#[derive(Clone, Debug)]
struct Shape {
    start: i64,
    end: Option<i64>,
}

impl Shape {
    /// The requested range of dimensions.
    fn range(&self, rank: usize) -> Range<usize> {
        let place = |at: i64| {
            let at = if at < 0 { at.saturating_add(rank as i64) } else { at };
            at.clamp(0, rank as i64) as usize
        };
        let (start, end) = (place(self.start), self.end.map_or(rank, place));
        start..end.max(start)
    }

    fn part<'s>(&self, shape: &'s [TDim]) -> &'s [TDim] {
        &shape[self.range(shape.len())]
    }
}

/// Sizes of a tensor that are only known when the model runs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sizes {
    /// These dimensions; `None` for the number of elements.
    of: Option<Range<usize>>,
}

impl Op for Sizes {
    fn name(&self) -> StaticName {
        "Sizes".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Sizes {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let shape = inputs[0].shape();
        let sizes = match &self.of {
            Some(range) => {
                let sizes: Vec<i64> = shape[range.clone()].iter().map(|dim| *dim as i64).collect();
                tensor1(&sizes)
            }
            None => tensor0(shape.iter().product::<usize>() as i64),
        };
        Ok(tvec!(sizes.into_tvalue()))
    }
}

impl TypedOp for Sizes {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let within = self.of.as_ref().is_none_or(|range| range.end <= inputs[0].rank());
        ensure!(within, "{self:?} of {} dimensions", inputs[0].rank());
        let dims: TVec<usize> = self.of.iter().map(Range::len).collect();
        Ok(tvec!(i64::fact(&*dims)))
    }

    as_op!();
}

/// Sizes as integers, if they are known.
fn integers(dims: &[TDim]) -> Option<Vec<i64>> {
    dims.iter().map(|dim| dim.to_i64().ok()).collect()
}

impl Expansion for Shape {
    fn name(&self) -> StaticName {
        "Shape".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].rank, 1)?;
        s.equals(&outputs[0].datum_type, i64::datum_type())?;
        s.given(&inputs[0].shape, |s, shape| {
            let part = self.part(&shape);
            s.equals(&outputs[0].shape[0], part.len().to_dim())?;
            match integers(part) {
                Some(sizes) => s.equals(&outputs[0].value, rctensor1(&sizes)),
                None => Ok(()),
            }
        })
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let shape = model.outlet_fact(inputs[0])?.shape.to_tvec();
        let part = self.part(&shape);
        if let Some(sizes) = integers(part) {
            return Ok(tvec!(model.add_const(prefix, tensor1(&sizes))?));
        }
        model.wire_node(prefix, Sizes { of: Some(self.range(shape.len())) }, inputs)
    }
}

#[derive(Clone, Debug)]
struct Size;

impl Expansion for Size {
    fn name(&self) -> StaticName {
        "Size".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].rank, 0)?;
        s.equals(&outputs[0].datum_type, i64::datum_type())
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let shape = model.outlet_fact(inputs[0])?.shape.to_tvec();
        if let Some(sizes) = integers(&shape) {
            let size = sizes.iter().try_fold(1i64, |size, dim| size.checked_mul(*dim));
            let size = size.or_user_error("the tensor has too many elements")?;
            return Ok(tvec!(model.add_const(prefix, tensor0(size))?));
        }
        model.wire_node(prefix, Sizes { of: None }, inputs)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, counting, row, scalar, tensor};

    #[test]
    fn shape_has_a_start_and_an_end_that_are_clamped() {
        let shape = || case("Shape").input(counting(&[2, 0, 3]));
        shape().gives(row(&[2i64, 0, 3]));
        shape().int("start", -2).gives(row(&[0i64, 3]));
        shape().int("end", -1).gives(row(&[2i64, 0]));
        shape().int("start", -9).int("end", 99).gives(row(&[2i64, 0, 3]));
        shape().int("start", 2).int("end", 1).gives(row::<i64>(&[]));
        case("Shape").input(scalar(1f32)).gives(row::<i64>(&[]));
    }

    #[test]
    fn size_of_no_elements_is_zero_and_of_a_scalar_one() {
        case("Size").input(counting(&[2, 0, 3])).gives(scalar(0i64));
        case("Size").input(counting(&[2, 3])).gives(scalar(6i64));
        case("Size").input(scalar(1f32)).gives(scalar(1i64));
    }

    #[test]
    fn shapes_of_constants_and_inputs_have_no_dimensions_of_their_own() {
        case("Shape").input(tensor::<i64>(&[0], &[])).gives(row(&[0i64]));
    }
}
