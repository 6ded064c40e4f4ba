//! Graphs for the bodies of control-flow operators.

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, ValueInfoProto};
use tract_onnx::tract_hir::internal::*;

use super::protos::{proto, value_info};
use super::run::{constant_bytes, run};

/// The body of a control-flow operator.
pub(crate) struct Graph(pub(super) GraphProto);

/// A graph with these inputs and outputs, to which nodes and constants are added.
pub(crate) fn graph(inputs: &[(&str, DatumType)], outputs: &[&str]) -> Graph {
    let input = inputs.iter().map(|(name, dtype)| value_info(name, *dtype)).collect();
    let output = |name: &&str| ValueInfoProto { name: (*name).into(), ..Default::default() };
    let output = outputs.iter().map(output).collect();
    Graph(GraphProto { name: "body".into(), input, output, ..GraphProto::default() })
}

impl Graph {
    /// A node without attributes.
    pub(crate) fn node(mut self, name: &str, inputs: &[&str], output: &str) -> Graph {
        self.0.node.push(NodeProto {
            name: format!("makes_{output}"),
            op_type: name.into(),
            input: inputs.iter().map(|name| (*name).into()).collect(),
            output: vec![output.into()],
            ..NodeProto::default()
        });
        self
    }

    /// Sets an attribute of the last node.
    pub(crate) fn last_int(self, name: &str, i: i64) -> Graph {
        self.last(name, AttributeType::Int, AttributeProto { i, ..Default::default() })
    }

    pub(crate) fn last_ints(self, name: &str, ints: &[i64]) -> Graph {
        let ints = ints.to_vec();
        self.last(name, AttributeType::Ints, AttributeProto { ints, ..Default::default() })
    }

    pub(crate) fn last_float(self, name: &str, f: f32) -> Graph {
        self.last(name, AttributeType::Float, AttributeProto { f, ..Default::default() })
    }

    pub(crate) fn last_graph(self, name: &str, graph: Graph) -> Graph {
        let g = Some(graph.0);
        self.last(name, AttributeType::Graph, AttributeProto { g, ..Default::default() })
    }

    fn last(mut self, name: &str, kind: AttributeType, value: AttributeProto) -> Graph {
        if let Some(node) = self.0.node.last_mut() {
            let attribute = AttributeProto { name: name.into(), r#type: kind as i32, ..value };
            node.attribute.push(attribute);
        }
        self
    }

    /// A Scan over one input.
    pub(crate) fn scan(mut self, body: Graph, inputs: &[&str], outputs: &[&str]) -> Graph {
        self = self.node("Scan", inputs, "");
        if let Some(node) = self.0.node.last_mut() {
            node.output = outputs.iter().map(|name| (*name).into()).collect();
            let r#type = AttributeType::Graph as i32;
            let body = AttributeProto {
                name: "body".into(),
                r#type,
                g: Some(body.0),
                ..Default::default()
            };
            let r#type = AttributeType::Int as i32;
            let name = "num_scan_inputs".into();
            node.attribute =
                vec![body, AttributeProto { name, r#type, i: 1, ..Default::default() }];
        }
        self
    }

    /// A MaxPool over two neighbours.
    pub(crate) fn pool(mut self, input: &str, output: &str) -> Graph {
        self = self.node("MaxPool", &[input], output);
        if let Some(node) = self.0.node.last_mut() {
            node.attribute.push(AttributeProto {
                name: "kernel_shape".into(),
                r#type: AttributeType::Ints as i32,
                ints: vec![2],
                ..AttributeProto::default()
            });
        }
        self
    }

    /// The bytes of the constants of a plan of this graph, for inputs like these.
    pub(crate) fn planned_constants(self, inputs: &[Tensor]) -> usize {
        constant_bytes(self.0, belljar_operators::NEWEST, inputs).unwrap()
    }

    /// The outputs of this graph.
    pub(crate) fn outputs(self, inputs: Vec<Tensor>) -> Vec<Tensor> {
        run(self.0, belljar_operators::NEWEST, inputs).unwrap()
    }

    pub(crate) fn constant(mut self, name: &str, tensor: &Tensor) -> Graph {
        self.0.initializer.push(proto(name, tensor));
        self
    }
}
