//! Hostile models: bombs, cycles, false declarations, invalid attributes. Each ends in a clear
//! error within its limits, or in the answer that the specification gives.

#[path = "../support/mod.rs"]
mod support;

mod attention;
mod attributes;
mod bombs;
mod bytes;
mod classical;
mod corpus;
mod functions;
mod nonsense;
mod numbers;
mod recurrent;
mod rounds;
mod run_time;
mod scans;
mod shapes;
mod simplified;
mod small;
mod structure;
mod texts;
mod undetermined;
mod unusual;

use std::sync::LazyLock;
use std::time::Duration;

use belljar::{Error, Host, Isolation, Policy, Tensor};
use support::onnx::{FLOAT, Graph, Message, fixed, node, value, value_of_any_shape};

/// One host for all tests, because a model must not affect the next one.
static HOST: LazyLock<Host> = LazyLock::new(|| support::host(Isolation::Thread));

fn policy() -> Policy {
    let mut policy = Policy::default();
    policy.limits.memory = 256 << 20;
    policy.limits.prepare_time = Duration::from_secs(10);
    policy.limits.run_time = Duration::from_secs(5);
    policy
}

/// Runs a model in the library. The command line must end in the same way, `inspect` must not
/// contradict it, and an error must be a message for users.
#[track_caller]
fn run(bytes: &[u8], inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, Error> {
    let ended = in_library(bytes, inputs);
    if let Err(error) = &ended {
        support::plain::check(error);
    }
    let how = ended.as_ref().map(|_| ());
    let contradiction = support::inspected::contradiction(&HOST, &policy(), bytes, inputs, how);
    assert_eq!(contradiction, None);
    corpus::again(bytes, inputs, how);
    ended
}

fn in_library(bytes: &[u8], inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, Error> {
    within(&HOST, bytes, inputs)
}

fn within(
    host: &Host,
    bytes: &[u8],
    inputs: &[(&str, Tensor)],
) -> Result<Vec<(String, Tensor)>, Error> {
    let model = support::load_under(host, bytes, &policy())?;
    Ok(model.run(inputs)?.validate()?.into_tensors())
}

fn ones(shape: &[usize]) -> Tensor {
    Tensor::new(vec![1.0f32; shape.iter().product()], shape).unwrap()
}

/// Asserts that the model is refused with exit code 4 and this reason.
#[track_caller]
fn refused(bytes: &[u8], inputs: &[(&str, Tensor)], why: &str) {
    let err = run(bytes, inputs).expect_err(why);
    let text = err.to_string();
    assert_eq!(err.exit_code(), 4, "{text}");
    assert!(text.contains(why), "{text:?} does not contain {why:?}");
    assert!(!text.contains("panicked"), "{text}");
    assert!(text.len() < 4096 && !text.chars().any(char::is_control), "{text:?}");
}

/// Asserts that the run ends in an error of the model, of a limit, or of the sandbox.
#[track_caller]
fn ends(bytes: &[u8], inputs: &[(&str, Tensor)]) {
    let err = run(bytes, inputs).expect_err("it was answered");
    assert!([4, 5, 6].contains(&err.exit_code()), "{} {err}", err.exit_code());
    assert!(!err.to_string().contains("panicked"), "{err}");
    host_still_answers();
}

/// Asserts that the host still answers an ordinary model.
#[track_caller]
fn host_still_answers() {
    let relu = support::onnx::relu(&fixed(&[2])).bytes();
    let outputs = in_library(&relu, &[("x", ones(&[2]))]).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [1.0, 1.0]);
}

/// A model of one node that reads `x` of this shape and the initializers, and makes `y`.
fn one(
    op: &str,
    dims: &[i64],
    initializers: &[Message],
    names: &[&str],
    attributes: &[Message],
) -> Vec<u8> {
    let inputs: Vec<&str> = std::iter::once("x").chain(names.iter().copied()).collect();
    Graph {
        nodes: vec![node(op, &inputs, &["y"], attributes)],
        initializers: initializers.to_vec(),
        inputs: vec![value("x", FLOAT, &fixed(dims))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    }
    .bytes()
}

/// The same with one list of integers as the second input.
fn with_ints(op: &str, dims: &[i64], ints: &[i64], attributes: &[Message]) -> Vec<u8> {
    let list = support::onnx::tensor_i64("ints", &[ints.len() as i64], ints);
    one(op, dims, &[list], &["ints"], attributes)
}
