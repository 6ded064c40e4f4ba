//! SequenceMap over sequences whose lengths are only known when the model runs: a loop over their
//! elements, as in ONNX's own definition of the operator.

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, ValueInfoProto, type_proto};

use super::make::{identity, operation};
use super::{Known, Resolver, Value};

/// The declared element type of an output of a body.
fn element_type(output: &ValueInfoProto) -> Result<i32, String> {
    let declared = output.r#type.as_ref().and_then(|declared| declared.value.as_ref());
    match declared {
        Some(type_proto::Value::TensorType(tensor)) if tensor.elem_type != 0 => {
            Ok(tensor.elem_type)
        }
        _ => Err("its body does not declare the element types of its outputs".into()),
    }
}

impl Resolver<'_> {
    pub(super) fn mapped_in_run(
        &mut self,
        node: &NodeProto,
        body: GraphProto,
        given: &[Value],
        known: &mut Known,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<(), String> {
        let untyped = |name: &str| ValueInfoProto { name: name.into(), ..Default::default() };
        let (round, going, on) = (self.name(), self.name(), self.name());
        let mut within = vec![identity(going.clone(), on.clone())];
        let mut count = None;
        for (input, value) in body.input.iter().zip(given) {
            if let Value::Tensor(name) = value {
                within.push(identity(name.clone(), input.name.clone()));
                continue;
            }
            let (elements, shapes) = self.pack(value, nodes)?;
            count = match count {
                None => Some(self.length(shapes.clone(), nodes)),
                known => known,
            };
            let sequence = self.name();
            known.insert(sequence.clone(), Value::Packed(elements, shapes));
            let at = vec![sequence, round.clone()];
            within.push(operation("SequenceAt", at, input.name.clone(), Vec::new()));
        }
        let count = count.ok_or("none of its inputs is a sequence")?;
        within.extend(body.node);
        let mut replacement = operation("Loop", vec![count, String::new()], String::new(), vec![]);
        replacement.output.clone_from(&node.output);
        let mut inputs = vec![untyped(&round), untyped(&going)];
        let mut outputs = vec![untyped(&on)];
        for made in &body.output {
            let (empty, so_far, longer) = (self.name(), self.name(), self.name());
            let dtype = element_type(made)?;
            DataType::try_from(dtype).map_err(|_| "the element type of an output is unknown")?;
            known.insert(empty.clone(), Value::Empty(dtype));
            replacement.input.push(empty);
            let grown = vec![so_far.clone(), made.name.clone()];
            within.push(operation("SequenceInsert", grown, longer.clone(), Vec::new()));
            inputs.push(untyped(&so_far));
            outputs.push(untyped(&longer));
        }
        let body = GraphProto {
            node: within,
            initializer: body.initializer,
            sparse_initializer: body.sparse_initializer,
            input: inputs,
            output: outputs,
            ..GraphProto::default()
        };
        replacement.attribute.push(AttributeProto {
            name: "body".into(),
            r#type: AttributeType::Graph as i32,
            g: Some(body),
            ..AttributeProto::default()
        });
        self.node(replacement, known, nodes)
    }
}
