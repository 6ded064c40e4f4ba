//! Expand, Tile and ConstantOfShape (ONNX): tensors whose shape is an input.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::checks::{BoundsCheck, COUNTS, SIZES};
use crate::framework::registration::{Registration, wrapped, wrapped_by};
use crate::framework::upstream::BuildResult;
use crate::framework::wiring::wire_with_bounds;
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] = &[
    wrapped("Expand", EXPAND),
    wrapped("Tile", TILE),
    wrapped_by("ConstantOfShape", build_constant_of_shape),
];

const EXPAND: Wrapping = Wrapping::new(expand)
    .constant_from(1)
    .deferred_rank(|_, rank, sizes| Ok(Some(rank.max(sizes))));

const TILE: Wrapping = Wrapping::new(tile).constant_from(1);

const CONSTANT_OF_SHAPE: Wrapping = Wrapping::new(constant_of_shape).constant_from(0);

fn expand(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    wire_with_bounds(op, prefix, model, inputs, 1, BoundsCheck { min: 0, ..SIZES })
}

fn tile(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    wire_with_bounds(op, prefix, model, inputs, 1, COUNTS)
}

fn build_constant_of_shape(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    let mut node = node.clone();
    if node.attribute.is_empty() {
        node.attribute.push(zero());
    }
    CONSTANT_OF_SHAPE.build(context, &node)
}

fn constant_of_shape(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    wire_with_bounds(op, prefix, model, inputs, 0, COUNTS)
}

/// ONNX's default value: zero as float32.
fn zero() -> tract_onnx::pb::AttributeProto {
    use tract_onnx::pb::attribute_proto::AttributeType;
    use tract_onnx::pb::tensor_proto::DataType;
    use tract_onnx::pb::{AttributeProto, TensorProto};
    AttributeProto {
        name: "value".into(),
        r#type: AttributeType::Tensor as i32,
        t: Some(TensorProto {
            dims: vec![1],
            data_type: DataType::Float as i32,
            raw_data: vec![0; 4],
            ..TensorProto::default()
        }),
        ..AttributeProto::default()
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, counting, row, scalar, tensor};

    #[test]
    fn expand_broadcasts_both_ways() {
        let expand =
            |shape: &[i64]| case("Expand").input(tensor(&[2, 1], &[1i64, 2])).input(row(shape));
        expand(&[1, 3]).gives(tensor(&[2, 3], &[1i64, 1, 1, 2, 2, 2]));
        expand(&[2, 1, 1]).gives(tensor(&[2, 2, 1], &[1i64, 2, 1, 2]));
        expand(&[1]).gives(tensor(&[2, 1], &[1i64, 2]));
        expand(&[2, 0]).gives(tensor::<i64>(&[2, 0], &[]));
        expand(&[3, 1]).fails("3");
    }

    #[test]
    fn tile_repeats_also_zero_times() {
        let tile = |repeats: &[i64]| case("Tile").input(counting(&[1, 2])).input(row(repeats));
        tile(&[2, 2]).gives(tensor(&[2, 4], &[0f32, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]));
        tile(&[1, 0]).gives(tensor::<f32>(&[1, 0], &[]));
        tile(&[1, -1]).fails("-1");
        tile(&[1, 1 << 33]).fails("");
    }

    #[test]
    fn constant_of_shape_is_float_zeros_unless_a_value_is_given() {
        case("ConstantOfShape").input(row(&[2i64])).gives(row(&[0f32, 0.0]));
        let value = |value| case("ConstantOfShape").tensor("value", &value);
        value(row(&[1i64 << 40])).input(row(&[1i64, 2])).gives(tensor(&[1, 2], &[1i64 << 40; 2]));
        value(row(&[true])).input(row(&[0i64, 2])).gives(tensor::<bool>(&[0, 2], &[]));
        case("ConstantOfShape").input(row::<i64>(&[])).gives(scalar(0f32));
        case("ConstantOfShape").input(row(&[-1i64])).fails("-1");
    }
}
