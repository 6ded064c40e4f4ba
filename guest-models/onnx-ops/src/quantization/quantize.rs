//! QuantizeLinear, `saturate(round_half_to_even(x / scale) + zero_point)` with a true division, and
//! DequantizeLinear (ONNX).

use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_core::ops::math::{add, round_half_to_even};
use tract_onnx::tract_hir::internal::*;

use crate::elementwise::binary::{Div, Max, Min, wire};
use crate::framework::axes::resolve;
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, required, with_dims};
use crate::framework::operator::{Operator, wire_operator};
use crate::framework::registration::{Registration, wrapped};
use crate::framework::wiring::constant_like;
use crate::framework::wrapped::{Wrapped, Wrapping};
use crate::quantization::dynamic;
use crate::quantization::integers::{Rounding, of_bytes};
use crate::quantization::quantize_any::Quantize;

pub(crate) const OPERATORS: &[Registration] = &[
    wrapped("QuantizeLinear", Wrapping::new(quantize).constant_from(1)),
    wrapped("DequantizeLinear", Wrapping::new(dequantize).constant_from(1)),
];

/// A scale or zero point, per axis or per tensor, as a broadcast `f32` constant.
fn parameter(
    op: &Wrapped,
    name: String,
    model: &mut TypedModel,
    outlet: OutletId,
    rank: usize,
) -> TractResult<OutletId> {
    let Some(konst) = model.outlet_fact(outlet)?.konst.clone() else {
        bail!("scales and zero points that are only known when the model runs are not implemented")
    };
    let wide = konst.cast_to::<f32>()?.into_owned();
    let mut shape = tvec!(1; rank);
    if wide.len() > 1 {
        ensure!(
            wide.rank() == 1,
            "scales and zero points of {} dimensions are not implemented",
            wide.rank()
        );
        shape[resolve(op.int("axis", 1)?, rank)?] = wide.len();
    }
    model.add_const(name, wide.into_shape(&shape)?)
}

/// A tensor of float32 that is quantized with one scale and one zero point.
#[derive(Clone, Debug, PartialEq, Eq)]
struct QuantizeBytes;

impl Operator for QuantizeBytes {
    fn name(&self) -> &'static str {
        "QuantizeBytes"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let dtype = required(inputs, 2)?.dtype;
        Ok(tvec!(with_dims(dtype, required(inputs, 0)?.shape.iter().cloned())))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let x = *required(inputs, 0)?;
        let plain = x.try_as_plain_ram()?;
        let scale = required(inputs, 1)?.cast_to::<f32>()?;
        let [scale] = *scale.try_as_plain_ram()?.as_slice::<f32>()? else {
            bail!("expected one scale, found {}", scale.len())
        };
        let rounding = Rounding::of(required(inputs, 2)?)?;
        let bytes = dynamic::quantize(plain.as_slice()?, scale, rounding, 0);
        Ok(tvec!(of_bytes(rounding.signed, x.shape(), &bytes)?))
    }
}

fn quantize(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let x = inputs[0];
    let rank = model.outlet_fact(x)?.rank();
    let Some(zero) = op.input(2) else {
        bail!("quantizing without a zero point is not implemented")
    };
    let to = model.outlet_fact(inputs[zero])?.datum_type;
    let (min, max) = match to {
        DatumType::U8 => (0.0, 255.0),
        DatumType::I8 => (-128.0, 127.0),
        other => bail!("quantizing to {other:?} is not implemented"),
    };
    let one = |model: &TypedModel, at: usize| {
        let konst = model.outlet_fact(inputs[at])?.konst.as_ref();
        Ok::<_, TractError>(konst.is_some_and(|konst| konst.len() == 1))
    };
    let fact = model.outlet_fact(x)?;
    let single = fact.datum_type == f32::datum_type() && fact.konst.is_none();
    if single && one(model, 1)? && one(model, zero)? {
        return wire_operator(QuantizeBytes, &op.node, prefix, model, inputs);
    }
    let zero = parameter(op, format!("{prefix}.zero"), model, inputs[zero], rank)?;
    let scale = parameter(op, format!("{prefix}.scale"), model, inputs[1], rank)?;
    let min = constant_like(model, format!("{prefix}.least"), min, x)?;
    let max = constant_like(model, format!("{prefix}.most"), max, x)?;
    let scaled = wire(&format!("{prefix}.div"), model, Div, &[x, scale])?;
    let rounded = model.wire_node(format!("{prefix}.round"), round_half_to_even(), &[scaled])?[0];
    let shifted = model.wire_node(format!("{prefix}.add"), add(), &[rounded, zero])?[0];
    let above = wire(&format!("{prefix}.max"), model, Max, &[shifted, min])?;
    let below = wire(&format!("{prefix}.min"), model, Min, &[above, max])?;
    model.wire_node(prefix, cast(to), &[below])
}

/// tract's own wiring, except for weights with scales along an axis: tract would convert, subtract
/// and multiply in three passes, each with a whole tensor of float32.
fn dequantize(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let (x, scale) = (model.outlet_fact(inputs[0])?, model.outlet_fact(inputs[1])?);
    let dtype = x.datum_type;
    let bytes = [DatumType::I8, DatumType::U8].contains(&dtype);
    let along_axis = scale.konst.as_ref().is_some_and(|scale| scale.rank() == 1 && scale.len() > 1);
    let zero = op.input(2).map(|at| model.outlet_fact(inputs[at])).transpose()?;
    let fits = zero.is_none_or(|zero| zero.shape == scale.shape && zero.konst.is_some());
    if x.konst.is_none() || !bytes || !along_axis || !fits {
        return op.wire_original(prefix, model, inputs);
    }
    let weights = Quantize::of_weights(dtype, zero.is_some(), op.int("axis", 1)?);
    wire_operator(weights, &op.node, prefix, model, inputs)
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, scalar, tensor};

    #[test]
    fn quantize_linear_rounds_ties_to_even_and_saturates() {
        let numbers = || row(&[2.5f32, 3.5, -2.5, 1000.0, -1000.0, f32::INFINITY]);
        let unsigned = case("QuantizeLinear").input(numbers()).input(scalar(1f32));
        unsigned.input(scalar(128u8)).gives(row(&[130u8, 132, 126, 255, 0, 255]));
        let signed = case("QuantizeLinear").input(numbers()).input(scalar(1f32));
        signed.input(scalar(-3i8)).gives(row(&[-1i8, 1, -5, 127, -128, 127]));
    }

    #[test]
    fn quantize_linear_divides_instead_of_multiplying_with_an_inverse() {
        // 4.5 scales, which is a tie; by the rounded inverse of the scale it is not.
        let scale = 0.1f32;
        let x = 4.5 * scale;
        let expected = (x / scale).round_ties_even() as u8;
        let case = case("QuantizeLinear").input(row(&[x])).input(scalar(scale));
        case.input(scalar(0u8)).gives(row(&[expected]));
    }

    #[test]
    fn quantize_linear_has_parameters_along_an_axis() {
        let node = |axis| {
            let case = case("QuantizeLinear").int("axis", axis);
            case.input(tensor(&[2, 2], &[1f32, 2.0, 3.0, 4.0])).input(row(&[1f32, 2.0]))
        };
        node(0).input(row(&[0u8, 10])).gives(tensor(&[2, 2], &[1u8, 2, 12, 12]));
        node(-1).input(row(&[0u8, 10])).gives(tensor(&[2, 2], &[1u8, 11, 3, 12]));
        node(2).input(row(&[0u8, 10])).fails("2");
    }

    #[test]
    fn dequantize_linear_has_parameters_along_an_axis() {
        let data = || tensor(&[2, 2], &[0u8, 128, 255, 3]);
        let whole =
            case("DequantizeLinear").input(data()).input(scalar(0.5f32)).input(scalar(128u8));
        whole.gives(tensor(&[2, 2], &[-64f32, 0.0, 63.5, -62.5]));
        let rows = case("DequantizeLinear").int("axis", -2).input(data()).input(row(&[1f32, 2.0]));
        rows.input(row(&[0u8, 3])).gives(tensor(&[2, 2], &[0f32, 128.0, 504.0, 0.0]));
        let columns = case("DequantizeLinear").input(tensor(&[2, 2], &[-128i8, 1, 2, 127]));
        columns.input(row(&[1f32, 0.5])).gives(tensor(&[2, 2], &[-128f32, 0.5, 2.0, 63.5]));
        let wrong = case("DequantizeLinear").input(data()).input(row(&[1f32, 2.0, 3.0]));
        wrong.fails("");
    }

    #[test]
    fn dequantize_linear_of_int32_has_no_zero_point() {
        let case = case("DequantizeLinear").input(row(&[i32::MIN, 3])).input(scalar(0.5f32));
        case.gives(row(&[-1_073_741_824f32, 1.5]));
    }
}
