//! Quantisation: `saturate(round_half_to_even(x / scale) + zero_point)`, with a true division.

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_core::ops::math::{add, round_half_to_even};
use tract_onnx::tract_hir::internal::*;

use super::binary::{Div, Max, Min, wire};
use super::{Ours, resolve, scalar};

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("QuantizeLinear", |context, node| Ours::build_late(context, node, 1, quantize));
}

/// A parameter for each place along an axis, or for all, as `f32` and broadcast.
fn parameter(
    ours: &Ours,
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
        shape[resolve(ours.int("axis", 1)?, rank)?] = wide.len();
    }
    model.add_const(name, wide.into_shape(&shape)?)
}

fn quantize(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let x = inputs[0];
    let rank = model.outlet_fact(x)?.rank();
    let Some(zero) = ours.input(2) else { bail!("without a zero point this is not implemented") };
    let to = model.outlet_fact(inputs[zero])?.datum_type;
    let (least, most) = match to {
        DatumType::U8 => (0.0, 255.0),
        DatumType::I8 => (-128.0, 127.0),
        other => bail!("quantising to {other:?} is not implemented"),
    };
    let zero = parameter(ours, format!("{prefix}.zero"), model, inputs[zero], rank)?;
    let scale = parameter(ours, format!("{prefix}.scale"), model, inputs[1], rank)?;
    let least = scalar(model, format!("{prefix}.least"), least, x)?;
    let most = scalar(model, format!("{prefix}.most"), most, x)?;
    let scaled = wire(&format!("{prefix}.div"), model, Div, &[x, scale])?;
    let rounded = model.wire_node(format!("{prefix}.round"), round_half_to_even(), &[scaled])?[0];
    let shifted = model.wire_node(format!("{prefix}.add"), add(), &[rounded, zero])?[0];
    let above = wire(&format!("{prefix}.max"), model, Max, &[shifted, least])?;
    let below = wire(&format!("{prefix}.min"), model, Min, &[above, most])?;
    model.wire_node(prefix, cast(to), &[below])
}
