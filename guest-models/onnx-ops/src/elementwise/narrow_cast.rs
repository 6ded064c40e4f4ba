//! The conversions that the rule for narrow floats (gate/narrow.rs) adds to every computation:
//! from a narrow float to float32, from float32 to a narrow float, and rounding a float32 to a
//! narrow float. They are element-wise, so that tract can move changes of axes past them.

use belljar_abi::DType;
use belljar_abi::narrow::Narrow;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::element_wise::{ElementWiseMiniOp, ElementWiseOp};
use tract_onnx::tract_hir::internal::*;

use crate::framework::element_type::ElementType;
use crate::framework::registration::{Registration, own};
use crate::framework::synthetic;
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] = &[own(synthetic::ROUND, build_round)];

fn build_round(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let to = narrow(ElementType::required(node, "to")?).context("a rounding to no narrow float")?;
    Ok((expand(NarrowCast::Round(to)), vec![]))
}

/// The narrow float that a type is, if it is one.
fn narrow(elements: ElementType) -> Option<Narrow> {
    match elements {
        ElementType::Plain(DatumType::F16) => Some(Narrow::F16),
        ElementType::Small(DType::BF16) => Some(Narrow::Bf16),
        _ => None,
    }
}

/// The conversion between float32 and a narrow float, if these are the two types.
pub(crate) fn between(from: ElementType, to: ElementType) -> Option<BuildResult> {
    let single = ElementType::Plain(DatumType::F32);
    let conversion = match (narrow(from), narrow(to)) {
        (Some(from), None) if to == single => NarrowCast::Widen(from),
        (None, Some(to)) if from == single => NarrowCast::Narrow(to),
        _ => return None,
    };
    Some(Ok((expand(conversion), vec![])))
}

/// A conversion of each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NarrowCast {
    /// From a narrow float to the float32 of the same value.
    Widen(Narrow),
    /// From float32 to the nearest narrow float.
    Narrow(Narrow),
    /// From float32 to the float32 of the nearest narrow float.
    Round(Narrow),
}

/// The type of the tensors that narrow floats are carried in.
fn carrier(narrow: Narrow) -> DatumType {
    match narrow {
        Narrow::F16 => DatumType::F16,
        Narrow::Bf16 => DatumType::U16,
    }
}

impl NarrowCast {
    fn types(self) -> (DatumType, DatumType) {
        match self {
            NarrowCast::Widen(from) => (carrier(from), DatumType::F32),
            NarrowCast::Narrow(to) => (DatumType::F32, carrier(to)),
            NarrowCast::Round(_) => (DatumType::F32, DatumType::F32),
        }
    }
}

/// Applies a function to each element, with the type of the narrow float known to the compiler.
macro_rules! each {
    ($narrow:expr, $function:ident, $elements:expr, $place:expr) => {
        match $narrow {
            Narrow::F16 => {
                $elements.for_each(|(from, to)| *to = Narrow::F16.$function($place(from)))
            }
            Narrow::Bf16 => {
                $elements.for_each(|(from, to)| *to = Narrow::Bf16.$function($place(from)))
            }
        }
    };
}

fn widen(narrow: Narrow, input: &Tensor) -> TractResult<Tensor> {
    let mut output = Tensor::zero_dt(DatumType::F32, input.shape())?;
    let mut plain = output.try_as_plain_ram_mut()?;
    let to = plain.as_slice_mut::<f32>()?;
    let from = input.as_bytes().as_chunks::<2>().0;
    ensure!(from.len() == to.len(), "the elements have another width");
    each!(narrow, decode, from.iter().zip(to), |bytes: &[u8; 2]| u16::from_le_bytes(*bytes));
    Ok(output)
}

fn narrowed(narrow: Narrow, input: &Tensor) -> TractResult<Tensor> {
    let plain = input.try_as_plain_ram()?;
    let from = plain.as_slice::<f32>()?;
    let mut codes = vec![0u16; from.len()];
    each!(narrow, encode, from.iter().zip(&mut codes), |value: &f32| *value);
    match narrow {
        Narrow::F16 => {
            let floats: Vec<f16> = codes.into_iter().map(f16::from_bits).collect();
            Tensor::from_shape(input.shape(), &floats)
        }
        Narrow::Bf16 => Tensor::from_shape(input.shape(), &codes),
    }
}

impl ElementWiseMiniOp for NarrowCast {
    fn name(&self) -> String {
        match self {
            NarrowCast::Widen(_) => "Widen",
            NarrowCast::Narrow(_) => "Narrow",
            NarrowCast::Round(_) => "Round16",
        }
        .into()
    }

    fn output_type(&self, input_type: DatumType) -> Option<DatumType> {
        let (from, to) = self.types();
        (from != to && input_type == from).then_some(to)
    }

    fn eval_in_place(&self, tensor: &mut Tensor, _: Option<DatumType>) -> TractResult<()> {
        let NarrowCast::Round(narrow) = self else { bail!("{self:?} of {tensor:?}") };
        ensure!(tensor.datum_type() == f32::datum_type(), "{self:?} of {tensor:?}");
        let mut plain = tensor.try_as_plain_ram_mut()?;
        let values = plain.as_slice_mut::<f32>()?;
        match narrow {
            Narrow::F16 => values.iter_mut().for_each(|value| *value = Narrow::F16.round(*value)),
            Narrow::Bf16 => values.iter_mut().for_each(|value| *value = Narrow::Bf16.round(*value)),
        }
        Ok(())
    }

    fn eval_out_of_place(&self, tensor: &Tensor, _: Option<DatumType>) -> TractResult<Tensor> {
        ensure!(tensor.datum_type() == self.types().0, "{self:?} of {tensor:?}");
        match self {
            NarrowCast::Widen(narrow) => widen(*narrow, tensor),
            NarrowCast::Narrow(narrow) => narrowed(*narrow, tensor),
            NarrowCast::Round(_) => bail!("{self:?} is done in place"),
        }
    }
}

impl Expansion for NarrowCast {
    fn name(&self) -> StaticName {
        ElementWiseMiniOp::name(self).into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        let (from, to) = self.types();
        s.equals(&inputs[0].datum_type, from)?;
        s.equals(&outputs[0].datum_type, to)?;
        s.equals(&outputs[0].shape, &inputs[0].shape)
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, ElementWiseOp(Box::new(*self), None), inputs)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row};

    const INF: f32 = f32::INFINITY;

    #[test]
    fn rounding_to_bfloat16_is_to_nearest_and_ties_go_to_even() {
        let ulp = 1.0 / 128.0;
        let numbers =
            [1.0 + ulp / 2.0, 1.0 + ulp * 1.5, 1.0 + ulp * 0.51, f32::MAX, f32::NAN, -INF];
        let expected = [1.0, 1.0 + 2.0 * ulp, 1.0 + ulp, INF, f32::NAN, -INF];
        case("BelljarRound").int("type_to", 16).input(row(&numbers)).gives(row(&expected));
    }

    #[test]
    fn rounding_to_float16_keeps_small_numbers_and_overflows() {
        let ulp = 1.0 / 1024.0;
        let smallest = 2f32.powi(-24);
        let numbers = [1.0 + ulp / 2.0, 65519.0, 65520.0, smallest, smallest / 2.0, -f32::NAN];
        let expected = [1.0, 65504.0, INF, smallest, 0.0, f32::NAN];
        case("BelljarRound").int("type_to", 10).input(row(&numbers)).gives(row(&expected));
    }

    #[test]
    fn rounding_to_another_type_is_refused() {
        case("BelljarRound").int("type_to", 1).input(row(&[1f32])).fails("");
    }
}
