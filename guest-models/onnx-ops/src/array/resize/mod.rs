//! Resize (ONNX): tract computes the modes in which it follows the specification, this crate the
//! others.

mod coordinates;
pub(crate) mod nearest;
mod sampled;
mod targets;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use self::sampled::Resize as Sampled;
use crate::framework::axes::resolve;
use crate::framework::checks::{BoundsCheck, COUNTS, check_fits};
use crate::framework::errors::ensure;
use crate::framework::operator::{built, wire_operator};
use crate::framework::registration::{Registration, wrapped_by};
use crate::framework::tensors::dims;
use crate::framework::upstream::BuildResult;
use crate::framework::wiring::{constant_ints, is_empty, wire_with_bounds};
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] = &[
    wrapped_by("Resize", build_10).until(10),
    wrapped_by("Resize", build_11).since(11).until(12),
    wrapped_by("Resize", build_13).since(13),
];

const RESIZE_10: Wrapping = Wrapping::new(resize_10).constant_from(1);

const RESIZE_11: Wrapping = Wrapping::new(resize_11).constant_from(1).check(check_inputs);

/// Resize whose second input is the scales.
fn build_10(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    match node.get_attr_opt::<&str>("mode")? {
        Some("linear") => RESIZE_10.build(context, node),
        _ => nearest::resize_10(node),
    }
}

/// Resize whose inputs may not be left out: tract relies on empty tensors in their place.
fn build_11(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    let all = !node.input.iter().any(String::is_empty);
    ensure!(all, "Resize needs all of its inputs in this version of the operator set");
    build_13(context, node)
}

fn build_13(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    match sampled::is_needed(node)? {
        true => built(Sampled::of(node)?, node),
        false => RESIZE_11.build(context, node),
    }
}

/// Checks that either scales or sizes are given.
fn check_inputs<'r>(
    op: &'r Wrapped,
    s: &mut Solver<'r>,
    inputs: &'r [TensorProxy],
) -> InferenceResult {
    if let (Some(scales), sizes) = (op.input(2), op.input(3)) {
        // tract uses the sizes if the scales are empty.
        let sizes = sizes.is_some();
        s.given(&inputs[scales].shape, move |_, scales| {
            let none = scales.iter().any(|dim| dim.as_i64() == Some(0));
            ensure!(sizes || !none, "neither scales nor sizes are given");
            ensure!(!sizes || none, "both scales and sizes are given");
            Ok(())
        })?;
    }
    if let (None, Some(sizes)) = (op.input(2), op.input(3)) {
        // tract treats empty sizes as scales, which are missing.
        s.given(&inputs[sizes].shape, move |_, sizes| {
            ensure!(sizes.iter().all(|dim| dim.as_i64() != Some(0)), "sizes is empty");
            Ok(())
        })?;
    }
    Ok(())
}

/// tract's own wiring, with scales that give a valid output.
fn resize_10(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let dtype = model.outlet_fact(inputs[0])?.datum_type;
    ensure!(
        dtype == f32::datum_type(),
        "interpolation between elements of type {dtype:?} is not implemented in this version"
    );
    check_scales(op, model, inputs, Some(1))?;
    op.wire_original(prefix, model, inputs)
}

/// tract's own wiring, with scales and sizes that give a valid output.
fn resize_11(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    // tract computes every element type in 32 bits.
    if model.outlet_fact(inputs[0])?.datum_type != f32::datum_type() {
        return wire_operator(Sampled::of(&op.node)?, &op.node, prefix, model, inputs);
    }
    if needs_exact_positions(op, model, inputs)? {
        return wire_operator(Sampled::of(&op.node)?, &op.node, prefix, model, inputs);
    }
    check_scales(op, model, inputs, op.input(2))?;
    match op.input(3) {
        Some(sizes) => {
            if model.outlet_fact(inputs[sizes])?.konst.is_some() {
                let list = constant_ints(model, inputs[sizes], "the sizes")?;
                check_fits(list.iter().map(|size| *size as f64))?;
            }
            let positive = BoundsCheck { min: 1, ..COUNTS };
            wire_with_bounds(op, prefix, model, inputs, sizes, positive)
        }
        None => op.wire_original(prefix, model, inputs),
    }
}

/// Whether a scale that follows from a constant size is not a number of 32 bits, in which tract
/// computes positions: the nearest of two elements may then be the other one.
fn needs_exact_positions(
    op: &Wrapped,
    model: &TypedModel,
    inputs: &[OutletId],
) -> TractResult<bool> {
    let nearest = op.node.get_attr_opt::<&str>("mode")?.is_none_or(|mode| mode == "nearest");
    let empty = match op.input(2) {
        // Before operator set 13 scales that are not given are an empty list.
        Some(scales) => is_empty(model, inputs[scales])?,
        None => true,
    };
    let Some(sizes) = op.input(3).filter(|_| empty) else { return Ok(false) };
    let Some(sizes) = model.outlet_fact(inputs[sizes])?.konst.clone().filter(|_| nearest) else {
        return Ok(false);
    };
    let (shape, sizes) = (model.outlet_fact(inputs[0])?.shape.to_tvec(), dims(&sizes)?);
    let axes = op.node.get_attr_opt_vec::<i64>("axes")?;
    let axes = axes.unwrap_or_else(|| (0..shape.len() as i64).collect());
    let sizes: Option<Vec<i64>> = sizes.iter().map(TDim::as_i64).collect();
    let Some(sizes) = sizes.filter(|sizes| sizes.len() == axes.len()) else { return Ok(false) };
    for (axis, size) in axes.iter().zip(sizes) {
        let exact = match shape[resolve(*axis, shape.len())?].as_i64() {
            Some(from) => f64::from(size as f32 / from as f32) * from as f64 == size as f64,
            None => false,
        };
        if !exact && size > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Checks the axes and the scales, which are this input.
fn check_scales(
    op: &Wrapped,
    model: &TypedModel,
    inputs: &[OutletId],
    scales: Option<usize>,
) -> TractResult<()> {
    let rank = model.outlet_fact(inputs[0])?.rank();
    ensure!(!is_empty(model, inputs[0])?, "cannot resize a tensor with a zero dimension");
    let mode = op.node.get_attr_opt::<&str>("coordinate_transformation_mode")?;
    for input in scales.into_iter().filter_map(|at| inputs.get(at)) {
        let Some(scales) = model.outlet_fact(*input)?.konst.clone() else { continue };
        let scales = scales.cast_to::<f32>()?.into_owned();
        let scales = scales.try_as_plain_ram()?.as_slice::<f32>()?.to_vec();
        let fits = |scale: &f32| scale.is_finite() && *scale > 0.0;
        ensure!(
            scales.len() <= rank && scales.iter().all(fits),
            "scales must be positive and finite, at most one for each dimension: {scales:?}"
        );
        let shape = model.outlet_fact(inputs[0])?.shape.to_tvec();
        let known = shape.iter().map(|dim| dim.to_i64().unwrap_or(1) as f64);
        check_fits(known.chain(scales.iter().map(|scale| f64::from(*scale))))?;
        // Implementations disagree on fractional output sizes.
        if mode == Some("align_corners") {
            let shape = model.outlet_fact(inputs[0])?.shape.to_tvec();
            let axes = op.node.get_attr_opt_vec::<i64>("axes")?;
            let axes = axes.unwrap_or_else(|| (0..rank as i64).collect());
            for (axis, scale) in axes.iter().zip(&scales) {
                let size = shape[resolve(*axis, rank)?].to_i64()? as f32 * scale;
                let whole = (size - size.round()).abs() < 1e-4;
                ensure!(
                    whole,
                    "align_corners with an output size of {size}, which is not whole, is not implemented"
                );
            }
        }
    }
    if let Some(axes) = op.node.get_attr_opt_vec::<i64>("axes")? {
        for (at, axis) in axes.iter().enumerate() {
            resolve(*axis, rank)?;
            ensure!(!axes[..at].contains(axis), "duplicate axis {axis}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, counting, row, tensor};

    #[test]
    fn nearest_resize_rounds_by_nearest_mode() {
        let resize = |mode| {
            let case = case("Resize").text("mode", "nearest").text("nearest_mode", mode);
            let case = case.text("coordinate_transformation_mode", "asymmetric");
            let case = case.input(counting(&[1, 1, 1, 4])).missing().missing();
            case.input(row(&[1i64, 1, 1, 8]))
        };
        let expected = |numbers: [f32; 8]| tensor(&[1, 1, 1, 8], &numbers);
        resize("floor").gives(expected([0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]));
        resize("ceil").gives(expected([0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 3.0]));
    }

    #[test]
    fn resize_interpolates_between_centres_or_corners() {
        let resize = |mode| {
            let case = case("Resize").text("mode", "linear");
            let case = case.text("coordinate_transformation_mode", mode);
            let case = case.input(tensor(&[1, 1, 1, 2], &[0f32, 3.0])).missing().missing();
            case.input(row(&[1i64, 1, 1, 4]))
        };
        let expected = |numbers: [f32; 4]| tensor(&[1, 1, 1, 4], &numbers);
        resize("half_pixel").gives_within(expected([0.0, 0.75, 2.25, 3.0]), 1e-6);
        resize("align_corners").gives_within(expected([0.0, 1.0, 2.0, 3.0]), 1e-6);
        resize("asymmetric").gives_within(expected([0.0, 1.5, 3.0, 3.0]), 1e-6);
    }

    #[test]
    fn resize_takes_scales_for_some_axes() {
        let node = case("Resize").text("mode", "linear").ints("axes", &[-1]);
        let node = node.input(tensor(&[1, 1, 1, 2], &[0f32, 3.0])).missing().input(row(&[2f32]));
        node.gives_within(tensor(&[1, 1, 1, 4], &[0f32, 0.75, 2.25, 3.0]), 1e-6);
        let none = case("Resize").input(counting(&[1, 1, 1, 2])).missing().missing();
        none.input(row(&[1i64, 1, 1, 0])).fails("0");
    }

    #[test]
    fn antialiased_resize_weighs_all_elements_in_between() {
        // At half of the size, the triangle reaches two elements to either side. The first output
        // is between the first two elements.
        let resize = || {
            let case = case("Resize").text("mode", "linear").int("antialias", 1);
            let case = case.input(tensor(&[1, 1, 1, 4], &[1f32, 2.0, 3.0, 4.0])).missing();
            case.input(row(&[1f32, 1.0, 1.0, 0.5]))
        };
        let inside = 0.75 * 1.0 + 0.75 * 2.0 + 0.25 * 3.0;
        let expected = |first: f64| tensor(&[1, 1, 1, 2], &[first as f32, (5.0 - first) as f32]);
        // The first element again, before itself.
        resize().gives_within(expected((0.25 * 1.0 + inside) / 2.0), 1e-6);
        resize().int("exclude_outside", 1).gives_within(expected(inside / 1.75), 1e-6);
    }

    #[test]
    fn cropped_resize_uses_the_extrapolation_value_outside() {
        let case = case("Resize").text("mode", "linear").float("extrapolation_value", 9.0);
        let case = case.text("coordinate_transformation_mode", "tf_crop_and_resize");
        let case = case.input(tensor(&[1, 1, 1, 3], &[0f32, 1.0, 2.0]));
        // From the middle to one and a half times the width, in three steps: 1, 2 and 3.
        let case = case.input(row(&[0f32, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.5])).missing();
        let expected = tensor(&[1, 1, 1, 3], &[1f32, 2.0, 9.0]);
        case.input(row(&[1i64, 1, 1, 3])).gives_within(expected, 1e-6);
    }

    #[test]
    fn integers_are_resized_to_the_nearest_without_loss() {
        let wide = (1i64 << 53) + 1;
        let resize = |mode: &str| {
            let case = case("Resize").text("mode", mode).ints("axes", &[1]);
            let case = case.input(tensor(&[1, 2], &[wide, 3])).missing().missing();
            case.input(row(&[4i64]))
        };
        resize("nearest").gives(tensor(&[1, 4], &[wide, wide, 3, 3]));
        resize("linear").fails("I64");
        let bytes = case("Resize").input(tensor(&[2, 1], &[200u8, 7])).missing();
        bytes.input(row(&[1.5f32, 2.0])).gives(tensor(&[3, 2], &[200u8, 200, 200, 200, 7, 7]));
        let crop = case("Resize").text("coordinate_transformation_mode", "tf_crop_and_resize");
        let crop = crop.float("extrapolation_value", 9.0).input(row(&[1i8, 2, 3]));
        let crop = crop.input(row(&[-0.5f32, 0.5])).missing().input(row(&[3i64]));
        crop.gives(row(&[9i8, 1, 2]));
    }

    #[test]
    fn positions_are_exact_where_sizes_are_given() {
        // The third of four elements is at 3.5 of 7, which the scale in 32 bits does not show.
        let resize = || {
            let case = case("Resize").text("nearest_mode", "round_prefer_ceil");
            case.text("coordinate_transformation_mode", "asymmetric").input(counting(&[7]))
        };
        let expected = row(&[0f32, 2.0, 4.0, 5.0]);
        resize().missing().missing().input(row(&[4i64])).gives(expected.clone());
        let none = || row::<f32>(&[]);
        resize().opset(12).input(none()).input(none()).input(row(&[4i64])).gives(expected.clone());
        let open = resize().constants().missing().missing().input(row(&[4i64]));
        open.gives_open(&[(0, 0, "n")], &["4"], &[expected], 0.0);
    }

    #[test]
    fn result_may_be_empty() {
        let case = case("Resize").input(row(&[7u8])).missing().input(row(&[0.3f32]));
        case.gives(row::<u8>(&[]));
    }

    #[test]
    fn double_precision_is_kept() {
        let case = case("Resize").text("mode", "linear").input(row(&[0f64, 1.0])).missing();
        let case = case.missing().input(row(&[3i64]));
        case.gives_within(row(&[0f64, 0.5, 1.0]), 1e-15);
    }

    #[test]
    fn resize_10_takes_scales_as_its_second_input() {
        let case = case("Resize").opset(10).input(counting(&[1, 1, 1, 2]));
        let expected = tensor(&[1, 1, 1, 4], &[0f32, 0.0, 1.0, 1.0]);
        case.input(row(&[1f32, 1.0, 1.0, 2.0])).gives(expected);
    }

    #[test]
    fn resize_11_takes_scales_as_its_third_input_and_13_may_leave_inputs_out() {
        let node = |opset| case("Resize").opset(opset).input(counting(&[1, 1, 1, 2]));
        let (none, scales) = (|| row::<f32>(&[]), || row(&[1f32, 1.0, 1.0, 2.0]));
        let floor = |case: Case| {
            let case = case.text("coordinate_transformation_mode", "asymmetric");
            case.text("nearest_mode", "floor")
        };
        let expected = || tensor(&[1, 1, 1, 4], &[0f32, 0.0, 1.0, 1.0]);
        for opset in [11, 12, 13] {
            floor(node(opset).input(none()).input(scales())).gives(expected());
        }
        floor(node(12).missing().input(scales())).fails("inputs");
        floor(node(13).missing().input(scales())).gives(expected());
    }
}
