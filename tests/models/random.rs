//! Random numbers: a run is a function of the model, its inputs, the policy and the seed, however
//! the model was prepared and wherever it runs.

use crate::support;

use belljar::tensor::Data;
use belljar::{Host, InputShape, Isolation, Model, ModelBytes, Policy, Tensor};
use support::onnx::{
    FLOAT, Graph, INT64, Message, fixed, int_attribute, node, noises, value, value_of_any_shape,
};
use support::{builder, fitting};

fn load(host: &Host, bytes: &[u8], policy: &Policy) -> Model {
    let bytes = ModelBytes::read(bytes, u64::MAX).unwrap();
    host.load(bytes, &fitting(host, policy)).unwrap()
}

fn x(n: usize) -> Vec<(&'static str, Tensor)> {
    vec![("x", Tensor::new(vec![0.5f32; n], &[n]).unwrap())]
}

/// The bits of all outputs, by name.
fn run(model: &Model, n: usize, seed: Option<u32>) -> Vec<(String, Vec<u32>)> {
    let inputs = x(n);
    let mut bound = model.bind(&inputs).unwrap();
    if let Some(seed) = seed {
        bound = bound.seed(seed);
    }
    let outputs = bound.run().unwrap().validate().unwrap();
    let bits = |tensor: &Tensor| match tensor.data() {
        Data::F32(numbers) => numbers.iter().map(|number| number.to_bits()).collect(),
        other => panic!("{other:?}"),
    };
    outputs.tensors().iter().map(|(name, tensor)| (name.clone(), bits(tensor))).collect()
}

fn seeded(seed: Option<u32>) -> Policy {
    let mut policy = Policy::default();
    policy.compute.seed = seed;
    policy
}

#[test]
fn the_seed_is_that_of_the_run_or_the_policy_or_0() {
    let bytes = noises().bytes();
    let host = builder(Isolation::Thread).snapshot_store(false).build().unwrap();
    let with = |policy: Option<u32>, seed| run(&load(&host, &bytes, &seeded(policy)), 2, seed);
    let zero = with(None, None);
    assert_eq!(with(None, Some(0)), zero);
    assert_eq!(with(Some(0), None), zero);
    let five = with(Some(5), None);
    assert!(five != zero && five == with(None, Some(5)));
    assert_eq!(with(Some(5), Some(0)), zero);
}

#[test]
fn open_plans_draw_the_same_numbers_as_exact_ones() {
    let bytes = noises().bytes();
    let host = builder(Isolation::Thread).snapshot_store(false).build().unwrap();
    let open = load(&host, &bytes, &Policy::default());
    open.prepare_for(&[InputShape { name: "x".into(), dims: vec![9] }]).unwrap();
    for n in [5, 9, 2, 40] {
        let found = run(&open, n, Some(1));
        let exact = load(&host, &bytes, &Policy::default()).with_dims(&[("n", n as u64)]).unwrap();
        assert_eq!(found, run(&exact, n, Some(1)), "{n}");
    }
    assert_eq!(open.calls().prepare, 1);
}

#[test]
fn kernels_and_deterministic_code_draw_the_same_numbers() {
    let bytes = noises().bytes();
    let host = builder(Isolation::Thread).snapshot_store(false).build().unwrap();
    let usual = run(&load(&host, &bytes, &Policy::default()), 8, None);
    let mut sandboxed = Policy::default();
    sandboxed.compute.kernels = belljar::policy::Kernels::Sandbox;
    let mut deterministic = Policy::default();
    deterministic.compute.deterministic = true;
    for policy in [sandboxed, deterministic] {
        assert_eq!(run(&load(&host, &bytes, &policy), 8, None), usual);
    }
}

/// A model of one node that makes `y`.
fn one(made: Message, input: i64, output: i64) -> Vec<u8> {
    let graph = Graph {
        nodes: vec![made],
        inputs: vec![value("x", input, &fixed(&[64]))],
        outputs: vec![value_of_any_shape("y", output)],
        ..Graph::default()
    };
    graph.model().finish()
}

#[test]
fn random_tensors_have_every_type_that_the_schema_allows() {
    let host = builder(Isolation::Thread).snapshot_store(false).build().unwrap();
    let types = [(1, "f32"), (10, "f16"), (11, "f64"), (16, "bf16")];
    for (number, name) in types {
        for operator in ["RandomNormalLike", "RandomUniformLike", "Bernoulli"] {
            let made = node(operator, &["x"], &["y"], &[int_attribute("dtype", number)]);
            let model = load(&host, &one(made, FLOAT, number), &Policy::default());
            let outputs = model.run(&x(64)).unwrap().validate().unwrap();
            let y = outputs.get("y").unwrap();
            assert_eq!((y.dtype().name(), y.shape()), (name, &[64][..]), "{operator}");
        }
        // Without the attribute, the type of the input.
        for operator in ["RandomNormalLike", "RandomUniformLike", "Bernoulli"] {
            let cast = node("Cast", &["x"], &["c"], &[int_attribute("to", number)]);
            let graph = Graph {
                nodes: vec![cast, node(operator, &["c"], &["y"], &[])],
                inputs: vec![value("x", FLOAT, &fixed(&[64]))],
                outputs: vec![value_of_any_shape("y", number)],
                ..Graph::default()
            };
            let model = load(&host, &graph.bytes(), &Policy::default());
            let outputs = model.run(&x(64)).unwrap().validate().unwrap();
            assert_eq!(outputs.get("y").unwrap().dtype().name(), name, "{operator}");
        }
    }
    // An input of integers has no type of random numbers.
    let made = node("RandomNormalLike", &["x"], &["y"], &[]);
    let bytes = ModelBytes::read(&one(made, INT64, INT64)[..], u64::MAX).unwrap();
    let model = host.load(bytes, &fitting(&host, &Policy::default())).unwrap();
    let numbers = [("x", Tensor::new(vec![0i64; 64], &[64]).unwrap())];
    let why = model.run(&numbers).err().unwrap().to_string();
    assert!(why.contains("int64") && why.contains("dtype"), "{why}");
}
