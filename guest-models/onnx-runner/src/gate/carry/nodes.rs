//! The conversions that are added to a graph, and the attributes that tell operators the types of
//! values that are carried in others.

use belljar_operators::{F32, Types};
use onnx_ops::framework::synthetic::{CAST, ROUND};
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, NodeProto};

/// An attribute with the number of an element type.
pub(super) fn number(name: &str, types: Types) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: AttributeType::Int as i32,
        i: types.number().unwrap_or_default().into(),
        ..AttributeProto::default()
    }
}

/// Adds the element type of an input or output as an attribute.
pub(super) fn add_type(node: &mut NodeProto, name: &str, types: Types) {
    node.attribute.push(number(&format!("type_{name}"), types));
}

pub(super) fn conversion(from: String, to: String, from_type: Types, to_type: Types) -> NodeProto {
    let mut node = NodeProto {
        op_type: CAST.into(),
        input: vec![from],
        output: vec![to],
        ..NodeProto::default()
    };
    add_type(&mut node, "from", from_type);
    add_type(&mut node, "to", to_type);
    node
}

/// Rounds float32 to the values of a narrow type; the result is still float32.
pub(super) fn rounding(from: String, to: String, types: Types) -> NodeProto {
    let mut node = conversion(from, to, F32, types);
    node.op_type = ROUND.into();
    node
}
