//! `Scan` before version 9, which runs once for each entry of a batch. It is a `Scan` of version 9 over
//! the batch, whose body is one over the sequence.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, ValueInfoProto};

use crate::framework::errors::{OrUserError, ensure};
use crate::framework::upstream::BuildResult;

/// The attribute of a `Scan` over the sequence, which is not batched itself.
const SEQUENCE: &str = "belljar_sequence";

pub(super) fn build(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    if node.attribute.iter().any(|attribute| attribute.name == SEQUENCE) {
        return super::build(context, node);
    }
    let (lengths, read) = node.input.split_first().or_user_error("the inputs are missing")?;
    ensure!(lengths.is_empty(), "lengths of sequences (input 0) are not implemented");
    let body: &GraphProto = node.get_attr("body")?;
    let scanned: i64 = node.get_attr("num_scan_inputs")?;
    let directions: Option<Vec<i64>> = node.get_attr_opt_vec("directions")?;
    ensure!(
        body.input.len() == read.len(),
        "the body has {} inputs, which do not match {} values",
        body.input.len(),
        read.len()
    );
    let named = |kind: &str, count: usize| -> Vec<String> {
        (0..count).map(|at| format!("{}.{kind}_of_entry_{at}", node.name)).collect()
    };
    let (entries, made) = (named("input", read.len()), named("output", node.output.len()));
    let mut sequence = NodeProto {
        input: entries.clone(),
        output: made.clone(),
        name: format!("{}.entry", node.name),
        op_type: node.op_type.clone(),
        attribute: vec![
            graph("body", body.clone()),
            int("num_scan_inputs", scanned),
            int(SEQUENCE, 1),
        ],
        ..NodeProto::default()
    };
    if let Some(directions) = directions {
        sequence.attribute.push(ints("scan_input_directions", directions));
    }
    let typed = body.input.iter().zip(entries);
    let over_batch = GraphProto {
        name: format!("{}.batch", node.name),
        node: vec![sequence],
        // The shapes of the body's inputs are without the sequence, which these have.
        input: typed.map(|(of, name)| ValueInfoProto { name, ..without_shape(of) }).collect(),
        output: made
            .into_iter()
            .map(|name| ValueInfoProto { name, ..ValueInfoProto::default() })
            .collect(),
        ..GraphProto::default()
    };
    let batch = NodeProto {
        input: read.to_vec(),
        attribute: vec![graph("body", over_batch), int("num_scan_inputs", read.len() as i64)],
        ..node.clone()
    };
    super::build(context, &batch)
}

fn without_shape(value: &ValueInfoProto) -> ValueInfoProto {
    use tract_onnx::pb::type_proto::Value;
    let mut value = value.clone();
    let declared = value.r#type.as_mut().and_then(|declared| declared.value.as_mut());
    if let Some(Value::TensorType(tensor)) = declared {
        tensor.shape = None;
    }
    value
}

fn attribute(name: &str, kind: AttributeType, value: AttributeProto) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: kind as i32, ..value }
}

fn graph(name: &str, graph: GraphProto) -> AttributeProto {
    attribute(name, AttributeType::Graph, AttributeProto { g: Some(graph), ..Default::default() })
}

fn int(name: &str, i: i64) -> AttributeProto {
    attribute(name, AttributeType::Int, AttributeProto { i, ..Default::default() })
}

fn ints(name: &str, ints: Vec<i64>) -> AttributeProto {
    attribute(name, AttributeType::Ints, AttributeProto { ints, ..Default::default() })
}

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::DatumType;

    use crate::testing::{Case, case, graph, row, scalar, tensor};

    const F32: DatumType = DatumType::F32;

    /// The running sums of numbers, and ten times each.
    fn sums() -> Case {
        let body = graph(&[("sum", F32), ("x", F32)], &["next", "each"]);
        let body = body.node("Add", &["sum", "x"], "next").node("Mul", &["next", "factor"], "each");
        let body = body.constant("factor", &scalar(10f32));
        case("Scan").opset(8).graph("body", body).int("num_scan_inputs", 1).outputs(2)
    }

    #[test]
    fn scan_8_runs_once_for_each_entry_of_a_batch() {
        let of = || {
            let case = sums().missing().input(row(&[0f32, 100.0]));
            case.input(tensor(&[2, 3], &[1f32, 2.0, 4.0, 10.0, 20.0, 30.0]))
        };
        let each = [10f32, 30.0, 70.0, 1100.0, 1300.0, 1600.0];
        of().gives_all(&[row(&[7f32, 160.0]), tensor(&[2, 3], &each)]);
        let each = [40f32, 60.0, 70.0, 1300.0, 1500.0, 1600.0];
        let reverse = of().ints("directions", &[1]);
        reverse.gives_all(&[row(&[7f32, 160.0]), tensor(&[2, 3], &each)]);
    }

    #[test]
    fn scan_8_refuses_lengths_of_sequences() {
        let case = sums().input(row(&[2i64])).input(row(&[0f32]));
        case.input(tensor(&[1, 2], &[1f32, 2.0])).fails("lengths");
    }
}
