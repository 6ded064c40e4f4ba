//! Moves Gather before operators that compute a table element by element from constants, for
//! example before those that dequantize a table of embeddings. Each element is computed as before,
//! but only those that a run needs. tract keeps such a table narrow if the wide one is large, and
//! would compute all of it in every run.

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::TypedNode;
use tract_onnx::tract_core::ops::array::Gather;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cast::Cast;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::quant::DequantizeLinearF32;
use tract_onnx::tract_core::optim::CONST_FOLD_MEM_BUDGET;

/// Operators in a row that a Gather is moved before. Dequantizing takes three.
const MAX_OPERATORS: usize = 8;

/// Moves a Gather before the operator whose output it reads.
pub(crate) fn move_gathers(
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<TypedModelPatch>> {
    let Some(gather) = node.op_as::<Gather>() else { return Ok(None) };
    let (&[data, indices], None) = (&*node.inputs, gather.output_type) else { return Ok(None) };
    let table = model.node(data.node);
    let bytes = model.outlet_fact(data)?.mem_size().as_i64();
    // A smaller table is computed when the model is prepared.
    if bytes.is_none_or(|bytes| bytes as u64 <= CONST_FOLD_MEM_BUDGET) {
        return Ok(None);
    }
    if !is_table(model, data, MAX_OPERATORS)? {
        return Ok(None);
    }
    let (axis, rank) = (gather.axis, model.outlet_fact(indices)?.rank());
    let mut patch = TypedModelPatch::new("gather before computing");
    let indices = patch.tap_model(model, indices)?;
    let name = &node.name;
    let mut inputs: TVec<OutletId> = tvec!();
    for (at, input) in table.inputs.iter().enumerate() {
        let mut part = patch.tap_model(model, *input)?;
        let name = format!("{name}.{at}");
        if model.outlet_fact(*input)?.shape[axis].is_one() {
            // All elements along the axis are the same.
            part = repeat_axis(&mut patch, &name, part, axis, rank)?;
        } else {
            part = patch.wire_node(name, gather.clone(), &[part, indices])?[0];
        }
        inputs.push(part);
    }
    let made = patch.wire_node(name, table.op.clone(), &inputs)?[0];
    patch.shunt_outside(model, node.id.into(), made)?;
    Ok(Some(patch))
}

/// Replaces an axis of size 1 by as many as indices of this rank would.
fn repeat_axis(
    patch: &mut TypedModelPatch,
    name: &str,
    part: OutletId,
    axis: usize,
    rank: usize,
) -> TractResult<OutletId> {
    if rank == 0 {
        return Ok(patch.wire_node(name, AxisOp::Rm(axis), &[part])?[0]);
    }
    (1..rank).try_fold(part, |part, at| {
        Ok(patch.wire_node(format!("{name}.{at}"), AxisOp::Add(axis), &[part])?[0])
    })
}

/// Whether an output is computed in each run, element by element, from constants, by at most so many
/// operators in a row.
fn is_table(model: &TypedModel, outlet: OutletId, operators: usize) -> TractResult<bool> {
    let node = model.node(outlet.node);
    let fact = model.outlet_fact(outlet)?;
    if operators == 0 || fact.konst.is_some() || fact.shape.as_concrete().is_none() {
        return Ok(false);
    }
    let by_element = node.op_is::<Cast>()
        || node.op_is::<DequantizeLinearF32>()
        || node.op_is::<TypedBinOp>()
        || node.op_is::<ElementWiseOp>();
    if !by_element || model.outlet_fact(node.inputs[0])?.datum_type == TDim::datum_type() {
        return Ok(false);
    }
    for input in &node.inputs {
        if model.outlet_fact(*input)?.konst.is_none() && !is_table(model, *input, operators - 1)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use tract_onnx::tract_core::ops::math::mul;

    use super::*;
    use crate::framework::rewrite::rewrite_each_node;

    /// Enough for a table that is not computed ahead.
    const ROWS: usize = 160_000;

    /// Gathers from a dequantized table, whose scales have this shape.
    fn model(scales: [usize; 2], axis: usize, indices: &[usize]) -> TypedModel {
        let mut model = TypedModel::default();
        let bytes: Vec<i8> = (0..ROWS * 7).map(|at| (at * 37 % 251) as u8 as i8).collect();
        let bytes = model.add_const("bytes", Tensor::from_shape(&[ROWS, 7], &bytes).unwrap());
        let numbers: Vec<f32> = (1..=scales[0] * scales[1]).map(|at| 0.1 * at as f32).collect();
        let scales = model.add_const("scales", Tensor::from_shape(&scales, &numbers).unwrap());
        let cast = Cast { to: f32::datum_type() };
        let floats = model.wire_node("floats", cast, &[bytes.unwrap()]).unwrap()[0];
        let table = model.wire_node("table", mul(), &[floats, scales.unwrap()]).unwrap()[0];
        let indices = model.add_source("indices", i64::fact(indices)).unwrap();
        let out = model.wire_node("out", Gather::new(axis), &[table, indices]).unwrap();
        model.select_output_outlets(&out).unwrap();
        model
    }

    #[test]
    fn only_the_gathered_rows_are_dequantized() {
        for scales in [[1, 1], [1, 7], [ROWS, 1], [ROWS, 7]] {
            for axis in [0, 1] {
                for shape in [&[][..], &[0], &[3], &[2, 3]] {
                    let count = shape.iter().product();
                    let indices: Vec<i64> = [6i64, 0, -1, 3, -7, 6][..count].to_vec();
                    let indices = Tensor::from_shape(shape, &indices).unwrap().into_tvalue();
                    let before = model(scales, axis, shape);
                    let mut after = before.clone();
                    rewrite_each_node(&mut after, vec![move_gathers]).unwrap();
                    after = after.into_compact().unwrap();
                    let dequantized = after.nodes.iter().filter(|node| node.op_is::<TypedBinOp>());
                    for node in dequantized {
                        let expected = before.output_fact(0).unwrap().shape.to_tvec();
                        assert_eq!(node.outputs[0].fact.shape.to_tvec(), expected);
                    }
                    let run = |model: TypedModel| {
                        let plan = model.into_runnable().unwrap();
                        plan.run(tvec![indices.clone()]).unwrap().remove(0)
                    };
                    assert_eq!(run(after), run(before), "{scales:?} {axis} {shape:?}");
                }
            }
        }
    }
}
