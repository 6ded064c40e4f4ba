//! Squeeze and Unsqueeze (ONNX).

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::assumptions::{equal, is_known_in_runs_only};
use crate::framework::axes::resolve;
use crate::framework::errors::ensure;
use crate::framework::registration::{Registration, wrapped, wrapped_by};
use crate::framework::tensors::ints;
use crate::framework::upstream::BuildResult;
use crate::framework::wiring::constant_ints;
use crate::framework::wrapped::{AxisSpace, Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] = &[
    wrapped_by("Squeeze", build_squeeze_1).until(12),
    wrapped("Squeeze", SQUEEZE).since(13),
    wrapped("Unsqueeze", UNSQUEEZE),
];

const SQUEEZE: Wrapping = Wrapping::new(axes)
    .constant_from(1)
    .axes_input()
    .check(check_axes)
    .rules(squeeze_rules)
    .deferred_rank(|_, rank, axes| Ok(rank.checked_sub(axes)));

const UNSQUEEZE: Wrapping = Wrapping::new(axes)
    .constant_from(1)
    .axes_of(AxisSpace::Output)
    .axes_input()
    .check(check_axes)
    .deferred_rank(|_, rank, axes| Ok(Some(rank + axes)));

/// Squeeze with its axes in an attribute.
fn build_squeeze_1(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    if node.get_attr_opt_vec::<i64>("axes")?.is_some() {
        return SQUEEZE.build(context, node);
    }
    // tract implements Squeeze without axes only for version 13 and later. The meaning is the same
    // before.
    let context = ParsingContext { onnx_operator_set_version: 13, ..context.clone() };
    SQUEEZE.build(&context, node)
}

/// Checks that no two axes of the attribute are the same.
fn check_axes<'r>(
    op: &'r Wrapped,
    s: &mut Solver<'r>,
    inputs: &'r [TensorProxy],
) -> InferenceResult {
    match op.node.get_attr_opt_vec::<i64>("axes")? {
        Some(axes) => s.given(&inputs[0].rank, move |_, rank| op.check_distinct(&axes, rank)),
        None => Ok(()),
    }
}

/// Axes in any order. tract removes them in the order of the list.
fn squeeze_rules<'r>(
    op: &'r Wrapped,
    s: &mut Solver<'r>,
    inputs: &'r [TensorProxy],
    outputs: &'r [TensorProxy],
) -> InferenceResult {
    check_output_arity(outputs, 1)?;
    s.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
    // The sizes of the other axes may only be known when the model runs.
    let of_rank = move |s: &mut Solver<'r>, axes: Vec<i64>| {
        s.given(&inputs[0].rank, move |s, rank| {
            let gone = |axis: &&i64| resolve(**axis, rank as usize).is_ok();
            s.equals(&outputs[0].rank, rank - axes.iter().filter(gone).count() as i64)
        })
    };
    let squeezed = |shape: &[TDim], axes: &[i64]| -> TractResult<ShapeFactoid> {
        let mut gone = vec![false; shape.len()];
        for axis in axes {
            let at = resolve(*axis, shape.len())?;
            ensure!(
                shape[at].is_one(),
                "cannot remove axis {axis}: its size is {}, not 1",
                shape[at]
            );
            gone[at] = true;
        }
        let kept = shape.iter().zip(gone).filter(|(_, gone)| !gone);
        Ok(kept.map(|(dim, _)| dim.clone()).collect::<TVec<TDim>>().into())
    };
    if let Some(axes) = inputs.get(1) {
        s.given(&axes.value, move |s, axes| of_rank(s, ints(&axes)?))?;
        return s.given_2(&inputs[0].shape, &axes.value, move |s, shape, axes: Arc<Tensor>| {
            s.equals(&outputs[0].shape, squeezed(&shape, &ints(&axes)?)?)
        });
    }
    match op.node.get_attr_opt_vec::<i64>("axes")? {
        Some(axes) => {
            of_rank(s, axes.clone())?;
            s.given(&inputs[0].shape, move |s, shape| {
                s.equals(&outputs[0].shape, squeezed(&shape, &axes)?)
            })
        }
        // Without axes, the number of dimensions follows from the sizes.
        None => s.given(&inputs[0].shape, move |s, shape| {
            if shape.iter().any(is_known_in_runs_only) {
                return Ok(());
            }
            let mut kept: TVec<TDim> = tvec!();
            for dim in shape {
                if !equal(&dim, &1.to_dim())? {
                    kept.push(dim);
                }
            }
            s.equals(&outputs[0].shape, ShapeFactoid::from(kept))
        }),
    }
}

/// tract's own wiring, with axes that are valid and distinct.
fn axes(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let rank = model.outlet_fact(inputs[0])?.rank();
    let axes = match inputs.get(1) {
        Some(axes) => Some(constant_ints(model, *axes, "the axes")?),
        None => op.node.get_attr_opt_vec::<i64>("axes")?,
    };
    match axes {
        Some(axes) => {
            op.check_distinct(&axes, rank as i64)?;
            if op.node.op_type == "Squeeze" && axes.is_empty() {
                check_nothing_to_remove(&model.outlet_fact(inputs[0])?.shape)?;
            }
        }
        None => {
            let shape = &model.outlet_fact(inputs[0])?.shape;
            let known = shape.iter().all(|dim| dim.as_i64().is_some());
            ensure!(known, "which dimensions have the size 1 is only known when the model runs");
        }
    }
    op.wire_original(prefix, model, inputs)
}

/// With an empty list of axes the specification removes no dimension, and onnxruntime all of size
/// 1. Only shapes for which both agree are accepted.
fn check_nothing_to_remove(shape: &ShapeFact) -> TractResult<()> {
    for (axis, size) in shape.iter().enumerate() {
        ensure!(
            size.as_i64().is_some_and(|size| size != 1),
            "an empty list of axes has no agreed meaning where an axis may have the size 1 (axis \
             {axis}). Leave the axes out to remove all such axes, or name them"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, counting, row};

    #[test]
    fn squeeze_takes_negative_axes_and_only_dimensions_of_one() {
        let squeeze = || case("Squeeze").input(counting(&[1, 2, 1]));
        squeeze().gives(counting(&[2]));
        squeeze().input(row(&[-1i64])).gives(counting(&[1, 2]));
        squeeze().input(row(&[1i64])).fails("1");
        squeeze().input(row(&[3i64])).fails("3");
        squeeze().input(row(&[0i64, -3])).fails("-3");
    }

    #[test]
    fn axes_of_squeeze_are_an_attribute_before_version_13() {
        let squeeze = |opset| case("Squeeze").opset(opset).input(counting(&[1, 2, 1]));
        squeeze(12).ints("axes", &[0]).gives(counting(&[2, 1]));
        squeeze(13).input(row(&[0i64])).gives(counting(&[2, 1]));
        for opset in [1, 12, 13] {
            squeeze(opset).gives(counting(&[2]));
        }
    }

    #[test]
    fn squeeze_refuses_an_empty_list_of_axes_if_implementations_disagree() {
        let squeeze = |shape: &[usize]| {
            case("Squeeze").input(counting(shape)).input(row::<i64>(&[])).constants()
        };
        squeeze(&[3, 1, 2]).fails("axis 1");
        squeeze(&[3, 2]).gives(counting(&[3, 2]));
        squeeze(&[3, 0]).gives(counting(&[3, 0]));
        case("Squeeze").opset(11).ints("axes", &[]).input(counting(&[1, 2])).fails("axis 0");
    }

    #[test]
    fn unsqueeze_counts_axes_in_the_output() {
        let unsqueeze = |axes: &[i64]| case("Unsqueeze").input(counting(&[2])).input(row(axes));
        unsqueeze(&[-1, 0]).gives(counting(&[1, 2, 1]));
        unsqueeze(&[2, 0]).gives(counting(&[1, 2, 1]));
        unsqueeze(&[0, -3]).fails("-3");
        unsqueeze(&[3]).fails("3");
        let unsqueeze = |opset| case("Unsqueeze").opset(opset).input(counting(&[2]));
        unsqueeze(12).ints("axes", &[1]).gives(counting(&[2, 1]));
        unsqueeze(13).input(row(&[1i64])).gives(counting(&[2, 1]));
    }
}
