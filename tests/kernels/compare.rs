//! Builds small models, and compares the results of native kernels and of the sandbox's own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};

use belljar::policy::Kernels;
use belljar::tensor::Data;
use belljar::{Error, Event, Host, Isolation, ModelBytes, Policy, Tensor};
use belljar_abi::narrow::Narrow;
use half::{bf16, f16};
use proptest::test_runner::Config;

use crate::support;
use crate::support::onnx::{
    FLOAT, Graph, MICROSOFT, Message, UINT8, fixed, import_of_microsoft, node, tensor, tensor_f32,
    tensor_i64, value, value_of_any_shape,
};

/// The lines about a plan that the runner logged, by the label of the model.
static PLANS: LazyLock<Mutex<BTreeMap<String, String>>> = LazyLock::new(Mutex::default);

static HOST: LazyLock<Host> = LazyLock::new(|| {
    support::builder(Isolation::Thread)
        .snapshot_store(false)
        .on_event(|event| {
            if let Event::Log { model, line } = event
                && line.contains("the plan: ")
            {
                PLANS.lock().unwrap().insert(model, line);
            }
        })
        .build()
        .unwrap()
});

/// The number of cases of a property test.
pub(crate) fn cases(cases: u32) -> Config {
    // Allows a longer search than in ordinary test runs.
    let times = std::env::var("BELLJAR_TEST_TIMES").ok().and_then(|times| times.parse().ok());
    Config {
        cases: cases * times.unwrap_or(1),
        failure_persistence: None,
        max_shrink_iters: 300,
        ..Config::default()
    }
}

pub(crate) fn policy(kernels: Kernels) -> Policy {
    let mut policy = Policy::default();
    policy.compute.kernels = kernels;
    policy
}

/// The outputs of a model, and the operators of its plan.
pub(crate) struct Answer {
    pub(crate) outputs: Vec<(String, Tensor)>,
    pub(crate) plan: String,
}

/// A model under construction, and its inputs.
#[derive(Clone, Default)]
pub(crate) struct Net {
    graph: Graph,
    inputs: Vec<(String, Tensor)>,
    values: usize,
    drawn: u64,
    /// The version of the operator set.
    version: i64,
}

fn count(dims: &[i64]) -> usize {
    dims.iter().product::<i64>() as usize
}

impl Net {
    pub(crate) fn new() -> Net {
        Net::of_version(17)
    }

    pub(crate) fn of_version(version: i64) -> Net {
        Net { version, ..Net::default() }
    }

    fn name(&mut self) -> String {
        self.values += 1;
        format!("v{}", self.values)
    }

    /// Pseudorandom numbers between −1 and 1, the same in every run.
    pub(crate) fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| {
                self.drawn += 1;
                let mixed = self.drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                (mixed >> 40) as f32 / (1u32 << 23) as f32 - 1.0
            })
            .collect()
    }

    /// An input of such numbers.
    pub(crate) fn input(&mut self, dims: &[i64]) -> String {
        let numbers = self.numbers(count(dims));
        self.input_of(dims, numbers)
    }

    pub(crate) fn input_of(&mut self, dims: &[i64], numbers: Vec<f32>) -> String {
        let name = self.name();
        let shape: Vec<usize> = dims.iter().map(|dim| *dim as usize).collect();
        self.graph.inputs.push(value(&name, FLOAT, &fixed(dims)));
        self.inputs.push((name.clone(), Tensor::new(numbers, &shape).unwrap()));
        name
    }

    /// A constant of such numbers.
    pub(crate) fn constant(&mut self, dims: &[i64]) -> String {
        let numbers = self.numbers(count(dims));
        self.constant_of(dims, &numbers)
    }

    pub(crate) fn constant_of(&mut self, dims: &[i64], numbers: &[f32]) -> String {
        let name = self.name();
        self.graph.initializers.push(tensor_f32(&name, dims, numbers));
        name
    }

    /// An input of float16 (10) or bfloat16 (16).
    pub(crate) fn narrow_input_of(&mut self, dims: &[i64], numbers: &[f32], to: i64) -> String {
        let name = self.name();
        let shape: Vec<usize> = dims.iter().map(|dim| *dim as usize).collect();
        let numbers = numbers.iter().copied();
        let data = match to {
            10 => Data::F16(numbers.map(f16::from_f32).collect()),
            _ => Data::BF16(numbers.map(bf16::from_f32).collect()),
        };
        self.graph.inputs.push(value(&name, to, &fixed(dims)));
        self.inputs.push((name.clone(), Tensor::new(data, &shape).unwrap()));
        name
    }

    /// A constant of float16 (10) or bfloat16 (16).
    pub(crate) fn narrow_constant_of(&mut self, dims: &[i64], numbers: &[f32], to: i64) -> String {
        let narrow = if to == 10 { Narrow::F16 } else { Narrow::Bf16 };
        let codes = numbers.iter().flat_map(|number| narrow.encode(*number).to_le_bytes());
        let name = self.name();
        self.graph.initializers.push(tensor(&name, to, dims, &codes.collect::<Vec<u8>>()));
        name
    }

    /// A constant of pseudorandom integers: uint8 (2), int8 (3), uint4 (21) or int4 (22).
    pub(crate) fn bytes_of(&mut self, dims: &[i64], elem_type: i64) -> String {
        let in_byte = if elem_type > 20 { 2 } else { 1 };
        let numbers = self.numbers(count(dims).div_ceil(in_byte));
        let bytes: Vec<u8> = numbers.iter().map(|number| (number * 1e6) as i32 as u8).collect();
        let name = self.name();
        self.graph.initializers.push(tensor(&name, elem_type, dims, &bytes));
        name
    }

    pub(crate) fn bytes(&mut self, dims: &[i64]) -> String {
        self.bytes_of(dims, UINT8)
    }

    /// A node of an operator of onnxruntime's domain.
    pub(crate) fn op_of_microsoft(
        &mut self,
        op: &str,
        inputs: &[&str],
        attributes: &[Message],
    ) -> String {
        let name = self.name();
        self.graph.nodes.push(node(op, inputs, &[&name], attributes).bytes(7, MICROSOFT));
        name
    }

    pub(crate) fn integers(&mut self, numbers: &[i64]) -> String {
        let name = self.name();
        self.graph.initializers.push(tensor_i64(&name, &[numbers.len() as i64], numbers));
        name
    }

    pub(crate) fn op(&mut self, op: &str, inputs: &[&str], attributes: &[Message]) -> String {
        let name = self.name();
        self.graph.nodes.push(node(op, inputs, &[&name], attributes));
        name
    }

    /// A node with several outputs.
    pub(crate) fn op_with_outputs(
        &mut self,
        op: &str,
        inputs: &[&str],
        outputs: usize,
        attributes: &[Message],
    ) -> Vec<String> {
        let names: Vec<String> = (0..outputs).map(|_| self.name()).collect();
        let borrowed: Vec<&str> = names.iter().map(String::as_str).collect();
        self.graph.nodes.push(node(op, inputs, &borrowed, attributes));
        names
    }

    pub(crate) fn output(&mut self, name: &str) {
        self.graph.outputs.push(value_of_any_shape(name, FLOAT));
    }

    /// Whether the model has an output.
    pub(crate) fn has_output(&self) -> bool {
        !self.graph.outputs.is_empty()
    }

    pub(crate) fn run(&self, policy: &Policy) -> Result<Answer, Error> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let label = format!("model {}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let bytes = Message::new().int(1, 10).bytes(2, "belljar tests");
        let bytes = bytes.message(7, self.graph.message());
        let bytes = bytes.message(8, Message::new().int(2, self.version));
        let bytes = bytes.message(8, import_of_microsoft()).finish();
        let bytes = ModelBytes::read(&bytes[..], u64::MAX).unwrap();
        let model = HOST.load(bytes.labelled(&label), &support::fitting(&HOST, policy))?;
        let outputs = model.run(&self.inputs)?.validate()?.into_tensors();
        drop(model);
        let plan = PLANS.lock().unwrap().remove(&label).unwrap_or_default();
        Ok(Answer { outputs, plan })
    }

    /// The operators of the plan with native kernels.
    pub(crate) fn plan(&self) -> String {
        self.run(&policy(Kernels::Native)).expect("native kernels").plan
    }

    /// Runs the model in both ways and compares the outputs. The native plan must contain these
    /// operators.
    #[track_caller]
    pub(crate) fn agrees(&self, operators: &[&str]) {
        self.compare(operators, false);
    }

    /// Like [`Net::agrees`], and requires the same bits.
    #[track_caller]
    pub(crate) fn agrees_exactly(&self, operators: &[&str]) {
        self.compare(operators, true);
    }

    #[track_caller]
    fn compare(&self, operators: &[&str], exactly: bool) {
        let native = self.run(&policy(Kernels::Native)).expect("native kernels");
        let sandbox = self.run(&policy(Kernels::Sandbox)).expect("the sandbox's own kernels");
        for operator in operators {
            assert!(native.plan.contains(operator), "no {operator} in {:?}", native.plan);
        }
        assert!(!sandbox.plan.is_empty() && !sandbox.plan.contains("Native"), "{}", sandbox.plan);
        same(&native.outputs, &sandbox.outputs, exactly);
    }
}

/// Compares two sets of outputs.
#[track_caller]
pub(crate) fn same(left: &[(String, Tensor)], right: &[(String, Tensor)], exactly: bool) {
    assert_eq!(left.len(), right.len());
    for ((name, left), (other, right)) in left.iter().zip(right) {
        assert_eq!(name, other);
        assert_eq!(left.shape(), right.shape());
        let (left, right) = (left.as_slice::<f32>().unwrap(), right.as_slice::<f32>().unwrap());
        for (at, (a, b)) in left.iter().zip(right).enumerate() {
            let tolerance = if exactly { 0.0 } else { 1e-5 + 1e-4 * a.abs().max(b.abs()) };
            let close = a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= tolerance;
            assert!(close, "{name}: element {at} is {a:e}, and {b:e} in the sandbox");
        }
    }
}
