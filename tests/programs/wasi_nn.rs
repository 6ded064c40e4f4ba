//! The backend for `wasi:nn`: programs written for other backends get the same outputs as from
//! onnxruntime, and only models that a policy allows are loaded.

use crate::support;

use std::path::Path;

use belljar::wasi_nn::{Backend, Failures, Models, Refusal};
use belljar::{Digest, Host, Isolation, Model, Policy};
use support::{host, real_model, repository};
use wasmtime::{Engine, Linker, Module, Store};
use wasmtime_wasi_nn::backend::{BackendInner, Id, NamedTensor};
use wasmtime_wasi_nn::wit::{ExecutionTarget, TensorType};
use wasmtime_wasi_nn::{ExecutionContext, Graph, GraphRegistry, Tensor as NnTensor};

/// A program that `cargo xtask programs` has built.
fn program(name: &str) -> std::path::PathBuf {
    let path = repository().join("target/guest/programs").join(name);
    assert!(path.is_file(), "{}: run `cargo xtask programs`", path.display());
    path
}

/// An input of magika's model and onnxruntime's output for it.
fn case(name: &str) -> (Vec<i32>, Vec<f32>) {
    let read = |file: &str| {
        let path = repository().join(format!("tests/expectations/magika/{name}.{file}.npy"));
        belljar::tensor::npy::read(std::fs::File::open(path).unwrap(), 1 << 20).unwrap()
    };
    let input = read("in0").as_slice::<i32>().unwrap().to_vec();
    (input, read("out0").as_slice::<f32>().unwrap().to_vec())
}

fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let tolerance = 1e-5 + 1e-3 * expected.abs();
        assert!((found - expected).abs() <= tolerance, "{at}: {found}, not {expected}");
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn bytes(numbers: &[i32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn magika_bytes() -> Vec<u8> {
    std::fs::read(support::models().join("magika.onnx")).unwrap()
}

fn magika(host: &Host) -> Model {
    host.load(real_model("magika.onnx"), &Policy::default()).unwrap()
}

/// A backend that may load magika from bytes.
fn backend(host: &Host) -> Backend {
    let mut policy = Policy::default();
    policy.model.sha256 = Some(*Digest::of(&magika_bytes()).as_bytes());
    let mut backend = Backend::new(host);
    backend.allow(policy).unwrap();
    backend
}

/// The result of the program from the registry's `wasi-nn` crate: the number of its error, or the
/// output.
fn core_module(
    backend: Backend,
    models: Models,
    model: &[u8],
    input: &[u8],
) -> Result<Vec<u8>, i32> {
    let engine = Engine::default();
    let module = Module::from_file(&engine, program("nn-module.wasm")).unwrap();
    let mut linker = Linker::new(&engine);
    wasmtime_wasi_nn::witx::add_to_linker(&mut linker, |state| state).unwrap();
    let mut store = Store::new(&engine, context(backend, models));
    // Its standard library imports more than is used here.
    linker.define_unknown_imports_as_default_values(&mut store, &module).unwrap();
    let instance = linker.instantiate(&mut store, &module).unwrap();
    let start = instance.get_typed_func::<(), ()>(&mut store, "_initialize").unwrap();
    start.call(&mut store, ()).unwrap();
    let memory = instance.get_memory(&mut store, "memory").unwrap();
    let buffer = instance.get_typed_func::<(u32, u32), u32>(&mut store, "buffer").unwrap();
    let mut put = |which, bytes: &[u8]| {
        let at = buffer.call(&mut store, (which, bytes.len() as u32)).unwrap();
        memory.write(&mut store, at as usize, bytes).unwrap();
        at as usize
    };
    put(0, model);
    put(1, input);
    let mut output = vec![0; 4 * 214];
    let at = put(2, &output);
    let infer = instance.get_typed_func::<(), i32>(&mut store, "infer").unwrap();
    match infer.call(&mut store, ()).unwrap() {
        0 => {
            memory.read(&store, at, &mut output).unwrap();
            Ok(output)
        }
        error => Err(error),
    }
}

fn context(backend: Backend, models: Models) -> wasmtime_wasi_nn::witx::WasiNnCtx {
    wasmtime_wasi_nn::witx::WasiNnCtx::new([backend.into()], models.into())
}

#[test]
fn core_module_runs_an_allowed_model_like_onnxruntime() {
    let host = host(Isolation::Process);
    for name in ["random", "text", "padding"] {
        let (input, expected) = case(name);
        let backend = backend(&host);
        let output = core_module(backend, Models::new(), &magika_bytes(), &bytes(&input)).unwrap();
        assert_close(&floats(&output), &expected);
    }
}

#[test]
fn core_module_loads_a_model_by_name() {
    let host = host(Isolation::Process);
    let (input, expected) = case("text");
    let mut models = Models::new();
    models.insert("model", &magika(&host));
    let output = core_module(Backend::new(&host), models, b"", &bytes(&input)).unwrap();
    assert_close(&floats(&output), &expected);
    // But not by another name.
    let mut models = Models::new();
    models.insert("Model", &magika(&host));
    assert!(core_module(Backend::new(&host), models, b"", &bytes(&input)).is_err());
}

#[test]
fn model_without_a_policy_is_not_loaded() {
    let host = host(Isolation::Process);
    let (input, _) = case("text");
    let mut other = magika_bytes();
    other.push(0);
    let backend = backend(&host);
    let failures = backend.failures();
    assert!(core_module(backend, Models::new(), &other, &bytes(&input)).is_err());
    let refusal = failures.take().unwrap();
    assert!(matches!(refusal, Refusal::NotAllowed(found) if found == Digest::of(&other)));
    // A backend that allows nothing refuses this model, too.
    let backend = Backend::new(&host);
    assert!(core_module(backend, Models::new(), &magika_bytes(), &bytes(&input)).is_err());
}

#[test]
fn policy_without_a_pin_allows_no_model() {
    let host = host(Isolation::Process);
    let err = Backend::new(&host).allow(Policy::default()).unwrap_err();
    assert!(err.to_string().contains("model.sha256"), "{err}");
}

#[test]
fn model_runs_in_its_own_worker_process() {
    let host = host(Isolation::Process);
    let (input, _) = case("text");
    let model = magika(&host);
    let mut models = Models::new();
    models.insert("model", &model);
    core_module(Backend::new(&host), models, b"", &bytes(&input)).unwrap();
    let calls = model.calls();
    assert_eq!((calls.run, calls.adopt), (1, 1));
}

/// A context for magika, and the failures it reports.
fn prepared() -> (ExecutionContext, Failures) {
    let host = host(Isolation::Process);
    let mut models = Models::new();
    models.insert("m", &magika(&host));
    let graph: &Graph = models.get("m").unwrap();
    (graph.init_execution_context().unwrap(), models.failures())
}

fn numbers(shape: &[u32], count: usize) -> NnTensor {
    NnTensor::new(shape.to_vec(), TensorType::I32, bytes(&vec![1; count]))
}

#[test]
fn inputs_that_do_not_fit_the_model_are_refused_with_a_reason() {
    let (mut context, failures) = prepared();
    let mut refused = |id: Id, tensor: NnTensor, why: &str| {
        let set = context.set_input(id, &tensor);
        let failed = set.and_then(|()| context.compute());
        assert!(failed.is_err(), "{why}");
        let reported = failures.take().unwrap().to_string();
        assert!(reported.contains(why), "{reported:?} does not say {why:?}");
        // A failed run has no outputs, not even those of an earlier run.
        assert!(context.get_output(Id::Index(0)).is_err());
        failures.take();
    };
    refused(Id::Index(1), numbers(&[1, 2048], 2048), "no input number 1");
    refused(Id::Index(u32::MAX), numbers(&[1, 2048], 2048), "no input number 4294967295");
    refused(Id::Name("byte\u{1b}s".into()), numbers(&[1, 2048], 2048), "\\u{1b}");
    refused(Id::Index(0), numbers(&[1, 2048], 2047), "has 8192 bytes, not 8188");
    refused(Id::Index(0), numbers(&[2, 1024], 2048), "bytes");
    let floats = NnTensor::new(vec![1, 2048], TensorType::Fp32, vec![0; 8192]);
    refused(Id::Index(0), floats, "i32");
    let large = NnTensor::new(vec![300 << 20], TensorType::U8, vec![0; 300 << 20]);
    refused(Id::Index(0), large, "limits.input-size");
}

#[test]
fn failed_run_clears_outputs_of_the_previous_run() {
    let (mut context, _) = prepared();
    let (input, expected) = case("text");
    let good = NnTensor::new(vec![1, 2048], TensorType::I32, bytes(&input));
    context.set_input(Id::Name("bytes".into()), &good).unwrap();
    context.compute().unwrap();
    let output = context.get_output(Id::Name("target_label".into())).unwrap();
    assert_eq!(output.dimensions, [1, 214]);
    assert_close(&floats(&output.data), &expected);
    assert!(context.get_output(Id::Index(1)).is_err());
    context.set_input(Id::Index(0), &numbers(&[2048], 2048)).unwrap();
    assert!(context.compute().is_err());
    assert!(context.get_output(Id::Index(0)).is_err());
    // And can be used again.
    context.set_input(Id::Index(0), &good).unwrap();
    context.compute().unwrap();
}

#[test]
fn named_inputs_give_named_outputs_and_are_not_kept() {
    let (mut context, failures) = prepared();
    let (input, expected) = case("random");
    let good = || NnTensor::new(vec![1, 2048], TensorType::I32, bytes(&input));
    let named = |name: &str| NamedTensor { name: name.into(), tensor: good() };
    let outputs = context.compute_with_io(vec![named("bytes")]).unwrap();
    assert_eq!(outputs.len(), 1);
    assert_eq!(outputs[0].name, "target_label");
    assert_close(&floats(&outputs[0].tensor.data), &expected);
    assert!(context.compute().is_err(), "inputs of another run were used");
    for inputs in [vec![], vec![named("byte")], vec![named("bytes"), named("bytes")]] {
        assert!(context.compute_with_io(inputs).is_err());
        assert!(failures.take().is_some());
    }
}

#[test]
fn wrongly_declared_shapes_are_accepted() {
    use support::onnx::{FLOAT, fixed, relu, value};
    let mut graph = relu(&fixed(&[2]));
    graph.outputs = vec![value("y", FLOAT, &fixed(&[1, 5]))];
    let host = host(Isolation::Process);
    let answer = |policy: &Policy| {
        let mut models = Models::new();
        models.insert("m", &support::load_under(&host, &graph.bytes(), policy).unwrap());
        let graph: &Graph = models.get("m").unwrap();
        let mut context = graph.init_execution_context().unwrap();
        let x = [1f32, -1.0].iter().flat_map(|number| number.to_le_bytes()).collect();
        context.set_input(Id::Index(0), &NnTensor::new(vec![2], TensorType::Fp32, x)).unwrap();
        let computed = context.compute().map(drop);
        (computed.is_ok(), context.get_output(Id::Index(0)))
    };
    let (computed, output) = answer(&Policy::default());
    let output = output.unwrap();
    assert!(computed);
    assert_eq!((output.dimensions, floats(&output.data)), (vec![2], vec![1.0, 0.0]));
    let declared_shapes = belljar::policy::DeclaredShapes::Strict;
    let (computed, output) = answer(&Policy::default().with_declared_shapes(declared_shapes));
    assert!(!computed && output.is_err());
}

#[test]
fn only_the_cpu_and_a_single_byte_array_are_accepted() {
    let host = host(Isolation::Process);
    let mut backend = backend(&host);
    let model = magika_bytes();
    for target in [ExecutionTarget::Gpu, ExecutionTarget::Tpu] {
        assert!(backend.load(&[&model], target).is_err());
    }
    let (first, second) = model.split_at(1000);
    for pieces in [&[][..], &[first, second], &[&model, b""]] {
        assert!(backend.load(pieces, ExecutionTarget::Cpu).is_err());
    }
    assert!(backend.as_dir_loadable().is_none(), "it reads no files");
    backend.load(&[&model], ExecutionTarget::Cpu).unwrap();
}

mod component {
    wasmtime::component::bindgen!({
        path: "../../guest-models/wit",
        world: "belljar:program/program",
    });
}

struct State {
    nn: wasmtime_wasi_nn::wit::WasiNnCtx,
    table: wasmtime::component::ResourceTable,
}

/// The result of the component `file-type` for these bytes.
fn file_type(
    models: Models,
    content: &[u8],
) -> Result<Vec<(String, component::belljar::program::values::Value)>, String> {
    use wasmtime_wasi_nn::wit::{self, WasiNnCtx, WasiNnView};
    let engine = Engine::default();
    let mut linker = wasmtime::component::Linker::new(&engine);
    wit::add_to_linker(&mut linker, |state: &mut State| {
        WasiNnView::new(&mut state.table, &mut state.nn)
    })
    .unwrap();
    let nn = WasiNnCtx::new([], models.into());
    let mut store =
        Store::new(&engine, State { nn, table: wasmtime::component::ResourceTable::new() });
    let path = program("file-type.wasm");
    let component = wasmtime::component::Component::from_file(&engine, path).unwrap();
    let program = component::Program::instantiate(&mut store, &component, &linker).unwrap();
    let value = component::belljar::program::values::Value::Bytes(content.to_vec());
    program.call_run(&mut store, &[("file".to_owned(), value)]).unwrap()
}

#[test]
fn component_gets_the_same_outputs_as_onnxruntime() {
    use component::belljar::program::values::Value;
    // A file whose start and end are the stored input.
    let (input, expected) = case("text");
    let content: Vec<u8> = input[..1024].iter().map_while(|n| u8::try_from(*n).ok()).collect();
    let host = host(Isolation::Process);
    let mut models = Models::new();
    models.insert("magika", &magika(&host));
    let outputs = file_type(models, &content).unwrap();
    let [(class, Value::Tensor(best)), (scores, Value::Tensor(all))] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!((class.as_str(), scores.as_str()), ("class", "scores"));
    assert_close(&floats(&all.data), &expected);
    let greatest = (0..expected.len()).max_by(|a, b| expected[*a].total_cmp(&expected[*b]));
    assert_eq!(best.data, (greatest.unwrap() as i64).to_le_bytes());
}

#[test]
fn component_reports_a_missing_model() {
    let said = file_type(Models::new(), b"some text that is long enough").unwrap_err();
    assert!(said.contains("magika"), "{said}");
}

#[test]
fn example_is_short_and_works() {
    let source = include_str!("../../host/belljar/examples/wasi_nn.rs");
    assert!(source.lines().count() < 60);
    let example = Path::new(support::BELLJAR).with_file_name("examples").join("wasi_nn");
    let mut command = std::process::Command::new(&example);
    command.arg(support::models().join("magika.onnx")).arg(program("file-type.wasm"));
    command.arg(repository().join("README.md")).current_dir(repository());
    command.env("BELLJAR_CACHE_DIR", support::cache_dir());
    command.env("BELLJAR_STATE_DIR", support::state_dir());
    let built = "built by `cargo build --release --example wasi_nn`";
    let output = command.output();
    let output = output.unwrap_or_else(|err| panic!("{}, {built}: {err}", example.display()));
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text, "class: ElementType::I64 []\nscores: ElementType::F32 [1, 214]\n");
    assert!(output.status.success());
}
