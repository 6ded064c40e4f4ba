//! Nodes of functions that import another version of an operator set than the model. Within the
//! gate such a node carries its version in `doc_string`, which nothing else uses. At the end its
//! operator is replaced by one of onnx-ops, which builds the operator in that version.

use belljar_operators::{MICROSOFT, ML};
use onnx_ops::framework::synthetic::{
    CAST, DEQUANTIZE, OPERATOR, QUANTIZE, TEXT_CAST, VERSION, VERSIONED,
};
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto};

use super::attributes::find;

/// Clears the model's own doc strings.
pub(super) fn clear_doc_strings(proto: &mut ModelProto) {
    let functions = proto.functions.iter_mut().flat_map(|function| &mut function.node);
    functions.for_each(clear);
    proto.graph.iter_mut().flat_map(|graph| &mut graph.node).for_each(clear);
}

/// The protobuf decoder limits the nesting.
fn clear(node: &mut NodeProto) {
    node.doc_string = String::new();
    let bodies = node.attribute.iter_mut().flat_map(|a| a.g.iter_mut().chain(&mut a.graphs));
    bodies.flat_map(|body| &mut body.node).for_each(clear);
}

/// Records the version of a node.
pub(super) fn note(node: &mut NodeProto, version: i64) {
    node.doc_string = version.to_string();
}

/// The recorded version.
pub(super) fn of(node: &NodeProto) -> Option<i64> {
    node.doc_string.parse().ok()
}

/// The original operator of a node that the gate may have rewritten, for messages.
pub(crate) fn operator_of(node: &NodeProto) -> String {
    let versioned = find(node, OPERATOR).filter(|_| node.op_type == VERSIONED);
    let operator = match versioned {
        Some(attribute) => &*String::from_utf8_lossy(&attribute.s),
        None => &*node.op_type,
    };
    let operator = match operator {
        CAST | TEXT_CAST => "Cast",
        QUANTIZE => "QuantizeLinear",
        DEQUANTIZE => "DequantizeLinear",
        other => match belljar_operators::packed(other) {
            Some(_) => other.trim_start_matches("Belljar"),
            None => other,
        },
    };
    let operator = super::text::operator(operator);
    match &*node.domain {
        ML | MICROSOFT => format!("{}:{operator}", node.domain),
        _ => operator,
    }
}

/// Replaces the operators of nodes with a recorded version, because tract has one version per
/// model.
pub(super) fn mark(graph: &mut GraphProto) {
    for node in &mut graph.node {
        let bodies = node.attribute.iter_mut().filter_map(|attribute| attribute.g.as_mut());
        bodies.for_each(mark);
        let noted = of(node);
        node.doc_string = String::new();
        // Operators of other domains do not depend on the version of the ONNX operator set.
        if let Some(version) = noted.filter(|_| super::domain_of(node).is_empty()) {
            let operator = std::mem::replace(&mut node.op_type, VERSIONED.into());
            node.attribute.push(AttributeProto {
                name: OPERATOR.into(),
                r#type: AttributeType::String as i32,
                s: operator.into_bytes(),
                ..AttributeProto::default()
            });
            node.attribute.push(AttributeProto {
                name: VERSION.into(),
                r#type: AttributeType::Int as i32,
                i: version,
                ..AttributeProto::default()
            });
        }
    }
}
