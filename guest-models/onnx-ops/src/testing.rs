//! Helpers for the operators' unit tests: models of one node, which go through tract as in the
//! runner. A test gives the operator, its attributes and inputs, and the outputs that ONNX
//! specifies:
//!
//! ```ignore
//! case("Gather").int("axis", -1).input(row(&[1f32, 2.0])).input(scalar(-1i64)).gives(scalar(2f32));
//! ```
//!
//! Each case runs several times: with all inputs given at run time, with all but the first as
//! constants, and with constants only. tract handles these differently, and the results must be
//! equal.

use std::sync::OnceLock;

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TypeProto,
    ValueInfoProto, type_proto,
};
use tract_onnx::tract_hir::internal::*;

use crate::framework::dtypes;
use crate::optimizer::{self, Passes};
use crate::registry;

/// A tensor of a shape.
pub(crate) fn tensor<T: Datum + Clone>(shape: &[usize], values: &[T]) -> Tensor {
    tract_ndarray::ArrayD::from_shape_vec(shape, values.to_vec()).unwrap().into_tensor()
}

/// A tensor of one dimension.
pub(crate) fn row<T: Datum + Clone>(values: &[T]) -> Tensor {
    tensor(&[values.len()], values)
}

/// A tensor without dimensions.
pub(crate) fn scalar<T: Datum + Clone>(value: T) -> Tensor {
    tensor(&[], &[value])
}

/// A tensor of one dimension of strings.
pub(crate) fn texts(values: &[&str]) -> Tensor {
    row(&values.iter().map(|text| (*text).to_owned()).collect::<Vec<String>>())
}

/// The numbers 0, 1, 2, ... in a shape.
pub(crate) fn counting(shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    tensor(shape, &(0..count).map(|number| number as f32).collect::<Vec<f32>>())
}

/// A node of the newest version of its operator, to which attributes and inputs are added.
pub(crate) fn case(name: &str) -> Case {
    let found = registry::all().chain(registry::synthetic()).find(|op| op.name == name);
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

/// The tolerance of an output.
#[derive(Clone, Copy)]
enum Tolerance {
    Exact,
    Relative(f64),
    Absolute(f64),
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

    #[track_caller]
    fn compare(self, expected: &[Tensor], tolerance: Tolerance) {
        if let Err(difference) = self.check(expected, tolerance) {
            panic!("{difference}");
        }
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
        run(graph, self.opset, given).map_err(|error| format!("{error:#}"))
    }
}

/// The body of a control-flow operator.
pub(crate) struct Graph(GraphProto);

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
    pub(crate) fn last_int(mut self, name: &str, i: i64) -> Graph {
        if let Some(node) = self.0.node.last_mut() {
            let r#type = AttributeType::Int as i32;
            node.attribute.push(AttributeProto {
                name: name.into(),
                r#type,
                i,
                ..Default::default()
            });
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

    pub(crate) fn constant(mut self, name: &str, tensor: &Tensor) -> Graph {
        self.0.initializer.push(proto(name, tensor));
        self
    }
}

fn value_info(name: &str, dtype: DatumType) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: element_type(dtype), shape: None };
    let value = Some(type_proto::Value::TensorType(tensor));
    let r#type = Some(TypeProto { value, ..TypeProto::default() });
    ValueInfoProto { name: name.into(), r#type, ..ValueInfoProto::default() }
}

/// The number of an element type in ONNX.
fn element_type(dtype: DatumType) -> i32 {
    let dtype = dtypes::from_tract(dtype).unwrap_or_else(|| panic!("{dtype:?} is not in ONNX"));
    dtype.to_onnx() as i32
}

fn proto(name: &str, tensor: &Tensor) -> TensorProto {
    let dtype = tensor.datum_type();
    let mut proto = TensorProto {
        name: name.into(),
        dims: tensor.shape().iter().map(|dim| *dim as i64).collect(),
        data_type: element_type(dtype),
        ..TensorProto::default()
    };
    if dtype == DatumType::String {
        let view = tensor.to_plain_array_view::<String>().unwrap();
        proto.string_data = view.iter().map(|text| text.as_bytes().to_vec()).collect();
    } else {
        proto.raw_data = tensor.as_bytes().to_vec();
    }
    proto
}

/// tract with this crate's operators, set up as the runner does.
fn onnx() -> &'static tract_onnx::Onnx {
    static ONNX: OnceLock<tract_onnx::Onnx> = OnceLock::new();
    ONNX.get_or_init(|| {
        let onnx = tract_onnx::onnx().with_ignore_value_info(true);
        let mut onnx = onnx.with_ignore_output_shapes(true);
        crate::register(&mut onnx.op_register, optimize);
        onnx
    })
}

fn optimize(model: InferenceModel) -> TractResult<TypedModel> {
    optimizer::optimize(model, Passes::NONE)
}

/// Takes a graph through tract as the runner does.
fn run(graph: GraphProto, opset: i64, inputs: Vec<Tensor>) -> TractResult<Vec<Tensor>> {
    let set = |domain: &str, version| OperatorSetIdProto { domain: domain.into(), version };
    let mut proto = ModelProto {
        ir_version: 10,
        opset_import: vec![
            set("", opset),
            set(belljar_operators::ML, belljar_operators::NEWEST_ML),
        ],
        graph: Some(graph),
        ..ModelProto::default()
    };
    // As the gate of the runner does.
    proto.graph.iter_mut().for_each(optimizer::move_negative_zeros_to_nodes);
    let mut model = onnx().parse(&proto, None)?.model;
    for (at, input) in inputs.iter().enumerate() {
        let fact = InferenceFact::dt_shape(input.datum_type(), input.shape());
        model.set_input_fact(at, fact)?;
    }
    let plan = optimize(model)?.into_runnable()?;
    let outputs = plan.run(inputs.into_iter().map(Tensor::into_tvalue).collect())?;
    outputs.into_iter().map(plain).collect()
}

/// An output as it leaves the runner.
fn plain(output: TValue) -> TractResult<Tensor> {
    let output = output.into_tensor();
    Ok(match output.datum_type() {
        DatumType::TDim => output.cast_to::<i64>()?.into_owned(),
        dtype => output.cast_to_dt(dtype.unquantized())?.into_owned(),
    })
}

/// The first difference between two tensors, if there is one.
fn difference(output: &Tensor, expected: &Tensor, tolerance: Tolerance) -> Option<String> {
    let whole = |tensor: &Tensor| format!("{tensor:?} {:?}", shown(tensor));
    let kind = |tensor: &Tensor| (tensor.datum_type(), tensor.shape().to_vec());
    let values = shown(output).into_iter().zip(shown(expected));
    let same = kind(output) == kind(expected)
        && match expected.datum_type() {
            dtype if dtype.is_float() => {
                let pairs = numbers(output).into_iter().zip(numbers(expected));
                pairs.into_iter().all(|(one, other)| near(one, other, tolerance))
            }
            _ => values.into_iter().all(|(one, other)| one == other),
        };
    (!same).then(|| format!("{} instead of {}", whole(output), whole(expected)))
}

fn near(one: f64, other: f64, tolerance: Tolerance) -> bool {
    if one.is_nan() || other.is_nan() {
        return one.is_nan() && other.is_nan();
    }
    let most = match tolerance {
        Tolerance::Exact => {
            return one == other && one.is_sign_negative() == other.is_sign_negative();
        }
        Tolerance::Relative(part) => part * other.abs(),
        Tolerance::Absolute(most) => most,
    };
    one == other || one.is_finite() && other.is_finite() && (one - other).abs() <= most
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    let wide = tensor.cast_to::<f64>().unwrap();
    wide.to_plain_array_view::<f64>().unwrap().iter().copied().collect()
}

/// The elements as text.
fn shown(tensor: &Tensor) -> Vec<String> {
    fn each<T: Datum + std::fmt::Debug>(tensor: &Tensor) -> Vec<String> {
        let view = tensor.to_plain_array_view::<T>().unwrap();
        view.iter().map(|value| format!("{value:?}")).collect()
    }
    dispatch_datum!(each(tensor.datum_type())(tensor))
}

/// Tests in a module for WebAssembly, which has no harness, no output and no randomness.
#[cfg(exported_tests)]
mod exported {
    use std::sync::Mutex;

    /// Why the test failed.
    static FAILURE: Mutex<String> = Mutex::new(String::new());

    /// Runs a test. If it fails, it traps, and the reason can be read.
    pub(crate) fn run_exported(test: fn()) {
        std::panic::set_hook(Box::new(|panic| {
            *FAILURE.lock().unwrap() = panic.to_string();
        }));
        test();
    }

    /// The address of the reason in the lower half, and its length in the upper half.
    #[unsafe(no_mangle)]
    extern "C" fn failure() -> u64 {
        let failure = FAILURE.lock().unwrap();
        (failure.len() as u64) << 32 | failure.as_ptr() as u64
    }

    /// tract's random operators, which no model can use, are linked anyway.
    #[unsafe(no_mangle)]
    unsafe extern "Rust" fn __getrandom_v03_custom(
        _: *mut u8,
        _: usize,
    ) -> Result<(), getrandom::Error> {
        Err(getrandom::Error::UNSUPPORTED)
    }
}
#[cfg(exported_tests)]
pub(crate) use exported::run_exported;

// Reads the sources, which a sandbox does not have.
#[cfg(not(target_family = "wasm"))]
mod coverage {
    use std::collections::BTreeSet;
    use std::path::Path;

    use crate::framework::registration::Source;
    use crate::registry;

    /// The names of operators for which there is a `case` in the sources under a folder.
    fn tested(folder: &Path, names: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                tested(&path, names);
            } else if !path.ends_with("testing.rs") {
                let source = std::fs::read_to_string(&path).unwrap();
                for case in source.split("case(\"").skip(1) {
                    names.extend(case.split_once('"').map(|(name, _)| name.to_owned()));
                }
            }
        }
    }

    #[test]
    fn every_operator_has_a_unit_test_unless_the_gate_replaces_it() {
        let mut names = BTreeSet::new();
        tested(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut names);
        let untested: Vec<_> = registry::all()
            .chain(registry::synthetic())
            .filter(|operator| operator.source != Source::Lowered)
            .filter(|operator| !names.contains(operator.name))
            .map(|operator| operator.name)
            .collect();
        assert!(untested.is_empty(), "{} operators have no test: {untested:?}", untested.len());
    }
}

mod tests {
    use super::*;

    #[test]
    fn difference_tells_nan_and_zeros_apart() {
        let differs = |one: f32, other: f32| {
            difference(&scalar(one), &scalar(other), Tolerance::Exact).is_some()
        };
        assert!(!differs(f32::NAN, f32::NAN));
        assert!(differs(f32::NAN, 0.0) && differs(0.0, f32::NAN));
        assert!(differs(0.0, -0.0) && differs(1.0, 1.000_000_1));
        assert!(difference(&scalar(1i64), &scalar(1i32), Tolerance::Exact).is_some());
        assert!(difference(&scalar(1i64), &row(&[1i64]), Tolerance::Exact).is_some());
        assert!(
            difference(&scalar(f32::INFINITY), &scalar(1f32), Tolerance::Absolute(0.1)).is_some()
        );
    }

    #[test]
    fn wrong_output_of_an_operator_is_detected() {
        let relu = case("Relu").input(row(&[-1f32]));
        assert!(relu.check(&[row(&[0f32])], Tolerance::Exact).is_ok());
        assert!(relu.check(&[row(&[-1f32])], Tolerance::Exact).is_err());
        assert!(relu.check(&[row(&[0f32]), row(&[0f32])], Tolerance::Exact).is_err());
    }
}
