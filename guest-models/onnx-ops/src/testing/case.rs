//! Models of one node, and the assertions about them.

use belljar_operators::MICROSOFT;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, ValueInfoProto};
use tract_onnx::tract_hir::internal::*;

use super::Graph;
use super::compare::{Tolerance, difference};
use super::protos::{proto, value_info};
use super::run::{run, run_open, run_seeded};
use crate::registry;

/// A node of the newest version of its operator, to which attributes and inputs are added.
pub(crate) fn case(name: &str) -> Case {
    of_domain(name, |domain| domain != MICROSOFT)
}

/// A node of an operator of the domain `com.microsoft`, some of which have names of ONNX's.
pub(crate) fn microsoft(name: &str) -> Case {
    of_domain(name, |domain| domain == MICROSOFT)
}

fn of_domain(name: &str, is_meant: fn(&str) -> bool) -> Case {
    let mut operators = registry::all().chain(registry::synthetic());
    let found = operators.find(|op| op.name == name && is_meant(op.domain));
    let operator = found.unwrap_or_else(|| panic!("no operator is called {name}"));
    Case {
        node: NodeProto {
            name: "node".into(),
            op_type: name.into(),
            domain: operator.domain.into(),
            output: vec!["out_0".into()],
            ..NodeProto::default()
        },
        opset: belljar_operators::NEWEST,
        inputs: vec![],
        around: vec![],
        run_time: usize::MAX,
        fewest: 0,
    }
}

/// A model of one node.
#[derive(Clone)]
pub(crate) struct Case {
    node: NodeProto,
    opset: i64,
    inputs: Vec<Option<Tensor>>,
    /// Values of the enclosing graph, which the graphs of the node read by name.
    around: Vec<(String, Tensor)>,
    /// Maximum number of inputs that are given at run time.
    run_time: usize,
    /// Minimum number of inputs that are given at run time.
    fewest: usize,
}

impl Case {
    /// Sets the version of the ONNX operator set.
    pub(crate) fn opset(mut self, version: i64) -> Case {
        self.opset = version;
        self
    }

    pub(crate) fn input(mut self, tensor: Tensor) -> Case {
        let name = format!("in_{}", self.inputs.len());
        self.node.input.push(name);
        self.inputs.push(Some(tensor));
        self
    }

    /// An optional input that is left out.
    pub(crate) fn missing(mut self) -> Case {
        self.node.input.push(String::new());
        self.inputs.push(None);
        self
    }

    /// A value of the model that is not an input of the node, for its graphs to read.
    pub(crate) fn around(mut self, name: &str, tensor: Tensor) -> Case {
        self.around.push((name.into(), tensor));
        self
    }

    /// The inputs that follow are constants in every run.
    pub(crate) fn constants(mut self) -> Case {
        self.run_time = self.inputs.len();
        self
    }

    /// The first input is not a constant in any run.
    pub(crate) fn first_at_run_time(mut self) -> Case {
        self.fewest = 1;
        self
    }

    /// The number of outputs, if it is not one.
    pub(crate) fn outputs(mut self, count: usize) -> Case {
        self.node.output = (0..count).map(|at| format!("out_{at}")).collect();
        self
    }

    /// Leaves out an output.
    pub(crate) fn without_output(mut self, at: usize) -> Case {
        self.node.output[at] = String::new();
        self
    }

    /// Sets an attribute, replacing an earlier value.
    fn attribute(mut self, name: &str, kind: AttributeType, value: AttributeProto) -> Case {
        let attribute = AttributeProto { name: name.into(), r#type: kind as i32, ..value };
        self.node.attribute.retain(|other| other.name != name);
        self.node.attribute.push(attribute);
        self
    }

    pub(crate) fn int(self, name: &str, i: i64) -> Case {
        self.attribute(name, AttributeType::Int, AttributeProto { i, ..Default::default() })
    }

    pub(crate) fn ints(self, name: &str, ints: &[i64]) -> Case {
        let value = AttributeProto { ints: ints.to_vec(), ..Default::default() };
        self.attribute(name, AttributeType::Ints, value)
    }

    pub(crate) fn float(self, name: &str, f: f32) -> Case {
        self.attribute(name, AttributeType::Float, AttributeProto { f, ..Default::default() })
    }

    pub(crate) fn floats(self, name: &str, floats: &[f32]) -> Case {
        let value = AttributeProto { floats: floats.to_vec(), ..Default::default() };
        self.attribute(name, AttributeType::Floats, value)
    }

    pub(crate) fn text(self, name: &str, text: &str) -> Case {
        let value = AttributeProto { s: text.into(), ..Default::default() };
        self.attribute(name, AttributeType::String, value)
    }

    pub(crate) fn texts(self, name: &str, texts: &[&str]) -> Case {
        let strings = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        let value = AttributeProto { strings, ..Default::default() };
        self.attribute(name, AttributeType::Strings, value)
    }

    pub(crate) fn tensor(self, name: &str, tensor: &Tensor) -> Case {
        let value = AttributeProto { t: Some(proto("", tensor)), ..Default::default() };
        self.attribute(name, AttributeType::Tensor, value)
    }

    pub(crate) fn graph(self, name: &str, graph: Graph) -> Case {
        let value = AttributeProto { g: Some(graph.0), ..Default::default() };
        self.attribute(name, AttributeType::Graph, value)
    }

    /// Asserts that the node gives one output, element for element. NaN is NaN; zeros have signs.
    #[track_caller]
    pub(crate) fn gives(self, expected: Tensor) {
        self.gives_all(&[expected]);
    }

    /// Asserts that the node gives these outputs.
    #[track_caller]
    pub(crate) fn gives_all(self, expected: &[Tensor]) {
        self.compare(expected, Tolerance::Exact);
    }

    /// Asserts that the node gives one output, up to this fraction of each number.
    #[track_caller]
    pub(crate) fn gives_near(self, expected: Tensor, tolerance: f64) {
        self.compare(&[expected], Tolerance::Relative(tolerance));
    }

    /// Asserts that the node gives one output, up to this difference.
    #[track_caller]
    pub(crate) fn gives_within(self, expected: Tensor, difference: f64) {
        self.compare(&[expected], Tolerance::Absolute(difference));
    }

    /// Asserts that the node gives these outputs, up to this fraction of each number.
    #[track_caller]
    pub(crate) fn gives_all_near(self, expected: &[Tensor], tolerance: f64) {
        self.compare(expected, Tolerance::Relative(tolerance));
    }

    /// Asserts that the node gives these outputs, up to this difference. The title is for messages.
    #[track_caller]
    pub(crate) fn gives_all_within(self, title: &str, expected: &[Tensor], difference: f64) {
        if let Err(difference) = self.check(expected, Tolerance::Absolute(difference)) {
            panic!("{title}: {difference}");
        }
    }

    #[track_caller]
    fn compare(self, expected: &[Tensor], tolerance: Tolerance) {
        if let Err(difference) = self.check(expected, tolerance) {
            panic!("{difference}");
        }
    }

    /// The outputs with all inputs given at run time, for tests of a few elements of large ones.
    #[track_caller]
    pub(crate) fn outputs_at_run_time(&self) -> Vec<Tensor> {
        self.run(usize::MAX).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The outputs with each seed, with this many inputs given at run time. The node is prepared
    /// once, before the seeds are known.
    #[track_caller]
    pub(crate) fn outputs_with_seeds(&self, run_time: usize, seeds: &[u32]) -> Vec<Vec<Tensor>> {
        let (graph, given) = self.graph_of(run_time);
        let outputs = run_seeded(graph, self.opset, &given, seeds);
        outputs.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Compares the outputs of every run.
    fn check(&self, expected: &[Tensor], tolerance: Tolerance) -> Result<(), String> {
        for run_time in self.ways() {
            let way = self.way(run_time);
            let outputs = self.run(run_time).map_err(|error| format!("{way}: {error}"))?;
            if outputs.len() != expected.len() {
                return Err(format!(
                    "{way}: {} outputs, expected {}",
                    outputs.len(),
                    expected.len()
                ));
            }
            for (at, (output, expected)) in outputs.iter().zip(expected).enumerate() {
                if let Some(difference) = difference(output, expected, tolerance) {
                    return Err(format!("{way}: output {at}: {difference}"));
                }
            }
        }
        Ok(())
    }

    /// Asserts that the node is refused with an error that contains this text, usually the invalid
    /// value, so that the test does not depend on the wording.
    #[track_caller]
    pub(crate) fn fails(self, naming: &str) {
        for run_time in self.ways() {
            let way = self.way(run_time);
            match self.run(run_time) {
                Ok(outputs) => panic!("{way}: not refused, but gives {outputs:?}"),
                Err(error) => assert!(error.contains(naming), "{way}: {error}"),
            }
        }
    }

    /// The numbers of inputs that are given at run time, one for each run.
    fn ways(&self) -> Vec<usize> {
        let all = self.inputs.len().min(self.run_time);
        let mut ways = vec![all, all.min(1), 0];
        ways.retain(|run_time| *run_time >= self.fewest);
        ways.dedup();
        ways
    }

    fn way(&self, run_time: usize) -> String {
        let (name, count) = (&self.node.op_type, self.inputs.len());
        format!("{name} with {run_time} of {count} inputs at run time")
    }

    /// Runs the node with this many inputs given at run time.
    fn run(&self, run_time: usize) -> Result<Vec<Tensor>, String> {
        let (graph, given) = self.graph_of(run_time);
        run(graph, self.opset, given).map_err(|error| format!("{error:#}"))
    }

    /// Asserts that a plan with symbols for some dimensions, each an input, an axis and a name,
    /// gives these outputs in these shapes. Inputs that are left out do not count.
    #[track_caller]
    pub(crate) fn gives_open(
        self,
        open: &[(usize, usize, &str)],
        shapes: &[&str],
        expected: &[Tensor],
        most: f64,
    ) {
        let (graph, given) = self.graph_of(self.run_time.min(self.inputs.len()));
        let (found, outputs) = run_open(graph, self.opset, given, open).unwrap();
        assert_eq!(found, shapes);
        for (output, expected) in outputs.iter().zip(expected) {
            let difference = difference(output, expected, Tolerance::Absolute(most));
            assert!(difference.is_none(), "{}", difference.unwrap_or_default());
        }
    }

    /// The model of the node, and the inputs of its run.
    fn graph_of(&self, run_time: usize) -> (GraphProto, Vec<Tensor>) {
        let mut graph = GraphProto { name: "graph".into(), ..GraphProto::default() };
        let mut given = vec![];
        for (at, tensor) in self.inputs.iter().enumerate() {
            let Some(tensor) = tensor else { continue };
            let name = &self.node.input[at];
            if at < run_time {
                graph.input.push(value_info(name, tensor.datum_type()));
                given.push(tensor.clone());
            } else {
                graph.initializer.push(proto(name, tensor));
            }
        }
        for (name, tensor) in &self.around {
            if run_time > 0 {
                graph.input.push(value_info(name, tensor.datum_type()));
                given.push(tensor.clone());
            } else {
                graph.initializer.push(proto(name, tensor));
            }
        }
        for name in self.node.output.iter().filter(|name| !name.is_empty()) {
            graph.output.push(ValueInfoProto { name: name.clone(), ..ValueInfoProto::default() });
        }
        let mut node = self.node.clone();
        // As the gate of the runner does.
        while node.input.last().is_some_and(String::is_empty) {
            node.input.pop();
        }
        graph.node.push(node);
        (graph, given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::row;

    #[test]
    fn wrong_output_of_an_operator_is_detected() {
        let relu = case("Relu").input(row(&[-1f32]));
        assert!(relu.check(&[row(&[0f32])], Tolerance::Exact).is_ok());
        assert!(relu.check(&[row(&[-1f32])], Tolerance::Exact).is_err());
        assert!(relu.check(&[row(&[0f32]), row(&[0f32])], Tolerance::Exact).is_err());
    }
}
