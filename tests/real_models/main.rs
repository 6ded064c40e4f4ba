//! Real models, run inside sandboxes, give the same outputs as onnxruntime.

#[path = "../support/mod.rs"]
mod support;

mod serving;

use std::path::Path;

use belljar::{Dim, Isolation, Model, Policy, Tensor};
use serde_json::{Value, json};
use support::{ISOLATIONS, footprint, host, real_model, repository};

fn expectations() -> (Vec<Value>, std::path::PathBuf) {
    let folder = repository().join("tests/expectations");
    let text = std::fs::read_to_string(folder.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    (manifest["models"].as_array().unwrap().clone(), folder)
}

fn read(folder: &Path, entry: &Value) -> (String, Tensor) {
    let path = folder.join(entry["file"].as_str().unwrap());
    let file = std::fs::File::open(&path).unwrap();
    let tensor = belljar::tensor::npy::read(file, 64 << 20).unwrap();
    let tensor = match entry["from_u8"].as_object() {
        // Images are stored as bytes; make.py says how they become f32.
        Some(scale) => {
            let number = |key: &str| scale[key].as_f64().unwrap() as f32;
            let (offset, divisor) = (number("subtract"), number("divide"));
            let bytes = tensor.as_slice::<u8>().unwrap().iter();
            let floats: Vec<f32> = bytes.map(|b| (f32::from(*b) - offset) / divisor).collect();
            Tensor::new(floats, tensor.shape()).unwrap()
        }
        None => tensor,
    };
    (entry["name"].as_str().unwrap().to_owned(), tensor)
}

fn assert_close(what: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    let (found, expected) = (found.as_slice::<f32>().unwrap(), expected.as_slice::<f32>().unwrap());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let tolerance = 1e-5 + 1e-3 * expected.abs();
        assert!(
            (found - expected).abs() <= tolerance,
            "{what}: element {at} is {found}, onnxruntime says {expected}"
        );
    }
}

fn load(host: &belljar::Host, entry: &Value, policy: &Policy) -> Model {
    let bytes = real_model(entry["file"].as_str().unwrap());
    assert_eq!(bytes.digest().to_string(), entry["sha256"].as_str().unwrap(), "{entry}");
    host.load(bytes, &support::fitting(host, policy)).unwrap()
}

fn check_all(isolation: Isolation, policy: &Policy) {
    let host = host(isolation);
    let (models, folder) = expectations();
    for entry in models.iter().filter(|entry| entry["name"] != "silero_vad") {
        let model = load(&host, entry, policy);
        for case in entry["cases"].as_array().unwrap() {
            let what = format!("{} {}", entry["name"], case["name"]);
            let tensors = |key: &str| -> Vec<(String, Tensor)> {
                case[key].as_array().unwrap().iter().map(|each| read(&folder, each)).collect()
            };
            let outputs = model.run(&tensors("inputs")).and_then(|outputs| outputs.validate());
            let outputs = outputs.unwrap_or_else(|err| panic!("{what}: {err}"));
            let expected = tensors("outputs");
            assert_eq!(outputs.tensors().len(), expected.len());
            for (name, expected) in &expected {
                assert_close(&format!("{what}, {name}"), outputs.get(name).unwrap(), expected);
            }
        }
    }
}

#[test]
fn real_models_match_onnxruntime_in_worker_processes() {
    check_all(Isolation::Process, &Policy::default());
}

#[test]
fn real_models_match_onnxruntime_on_threads() {
    check_all(Isolation::Thread, &Policy::default());
}

#[test]
fn real_models_match_onnxruntime_in_deterministic_mode() {
    let mut policy = Policy::default();
    policy.compute.deterministic = true;
    check_all(Isolation::Process, &policy);
}

#[test]
fn real_models_match_onnxruntime_without_native_kernels() {
    let mut policy = Policy::default();
    policy.compute.kernels = belljar::policy::Kernels::Sandbox;
    check_all(Isolation::Process, &policy);
}

#[test]
fn shipped_policies_let_their_models_run() {
    let host = host(Isolation::Process);
    let (models, folder) = expectations();
    let mut tried = 0;
    for entry in &models {
        let name = entry["name"].as_str().unwrap().replace('_', "-");
        let path = repository().join(format!("policies/{name}.toml"));
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|err| panic!("{}: {err}", path.display()));
        let policy = Policy::parse(&text, &name).unwrap();
        assert!(policy.model.sha256.is_some(), "{name} pins its model");
        let model = load(&host, entry, &policy);
        let case = &entry["cases"][0];
        let inputs: Vec<_> =
            case["inputs"].as_array().unwrap().iter().map(|each| read(&folder, each)).collect();
        model.run(&inputs).and_then(|outputs| outputs.validate()).unwrap();
        tried += 1;
    }
    assert_eq!(tried, 8);
}

/// The sample rate selects one of two halves of the model, which is known when it runs.
#[test]
fn silero_runs_with_nothing_but_its_inputs() {
    let (models, folder) = expectations();
    let entry = models.iter().find(|entry| entry["name"] == "silero_vad").unwrap();
    let host = host(Isolation::Process);
    let model = load(&host, entry, &Policy::default());
    for case in entry["cases"].as_array().unwrap() {
        let tensors = |key: &str| -> Vec<(String, Tensor)> {
            case[key].as_array().unwrap().iter().map(|each| read(&folder, each)).collect()
        };
        let mut inputs = tensors("inputs");
        let outputs = model.run(&inputs).unwrap().validate().unwrap();
        for (name, expected) in &tensors("outputs") {
            let what = format!("{} {name}", case["name"]);
            assert_close(&what, outputs.get(name).unwrap(), expected);
        }
        // The other half does not take frames of this length.
        let rate = inputs.iter_mut().find(|(name, _)| name == "sr").unwrap();
        rate.1 = Tensor::scalar(8000i64);
        let err = model.run(&inputs).err().unwrap();
        assert!(err.exit_code() == 4 && err.to_string().contains("LSTM"), "{err}");
        assert_eq!(model.calls().prepare, 1);
    }
}

/// A policy may fix the rate, so that the other half is not prepared.
#[test]
fn silero_runs_if_the_policy_fixes_the_sample_rate() {
    let (models, folder) = expectations();
    let entry = models.iter().find(|entry| entry["name"] == "silero_vad").unwrap();
    let text = std::fs::read_to_string(repository().join("policies/silero-vad.toml")).unwrap();
    let policy = Policy::parse(&text, "silero-vad").unwrap();
    for isolation in ISOLATIONS {
        let host = host(isolation);
        let model = load(&host, entry, &policy);
        for case in entry["cases"].as_array().unwrap() {
            let tensors = |key: &str| -> Vec<(String, Tensor)> {
                case[key].as_array().unwrap().iter().map(|each| read(&folder, each)).collect()
            };
            let inputs = tensors("inputs");
            assert!(inputs.iter().any(|(name, _)| name == "sr"));
            let open: Vec<_> = inputs.iter().filter(|(name, _)| name != "sr").cloned().collect();
            // With and without the rate as an input.
            for inputs in [&inputs, &open] {
                let outputs = model.run(inputs).unwrap().validate().unwrap();
                for (name, expected) in &tensors("outputs") {
                    let what = format!("{} {name}", case["name"]);
                    assert_close(&what, outputs.get(name).unwrap(), expected);
                }
            }
            let mut other = open.clone();
            other.push(("sr".into(), Tensor::scalar(8000i64)));
            let err = model.run(&other).err().unwrap();
            assert!(err.exit_code() == 4 && err.to_string().contains("inputs.sr.value"), "{err}");
        }
    }
}

#[test]
fn descriptions_match_the_onnx_package() {
    let path = repository().join("tests/expectations/descriptions.json");
    let expected: Vec<Value> =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(expected.len(), 8);
    let host = host(Isolation::Thread);
    let values = |values: &[belljar::ValueInfo]| -> Vec<Value> {
        let values = values.iter().filter(|value| !value.has_default);
        let dim = |dim: &Dim| match dim {
            Dim::Fixed(size) => json!(size),
            Dim::Symbol(name) => json!(name),
            Dim::Unknown => Value::Null,
        };
        let shape = |dims: &Vec<Dim>| dims.iter().map(dim).collect::<Vec<_>>();
        values
            .map(|value| {
                // ONNX's names of its element types.
                let name = match value.elem_type {
                    1 => "FLOAT",
                    6 => "INT32",
                    7 => "INT64",
                    other => panic!("element type {other}"),
                };
                json!({ "name": value.name, "type": name, "shape": value.shape.as_ref().map(shape) })
            })
            .collect()
    };
    for expected in expected {
        let file = expected["file"].as_str().unwrap();
        let model =
            host.load(real_model(file), &support::fitting(&host, &Policy::default())).unwrap();
        let d = model.description();
        let operators: serde_json::Map<_, _> =
            d.operators.iter().map(|o| (o.op_type.clone(), json!(o.count))).collect();
        let opsets: serde_json::Map<_, _> =
            d.opset_imports.iter().map(|i| (i.domain.clone(), json!(i.version))).collect();
        let metadata: serde_json::Map<_, _> =
            d.metadata.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        let found = json!({
            "file": file,
            "ir_version": d.ir_version,
            "producer_name": d.producer_name,
            "producer_version": d.producer_version,
            "graph_name": d.graph_name,
            "opset_imports": opsets,
            "inputs": values(&d.inputs),
            "outputs": values(&d.outputs),
            "operators": operators,
            "nodes": d.nodes,
            "parameters": d.parameters,
            "metadata": metadata,
        });
        assert_eq!(found, expected, "{file}");
        assert!(d.functions.is_empty() && d.external_data.is_empty() && !d.truncated, "{file}");
    }
}

#[test]
fn guest_contains_the_simd_kernels() {
    let kernels = host(Isolation::Thread).kernels().unwrap();
    for expected in [
        "matmul belljar_f32_32x32",
        "matmul belljar_f32_16x32",
        "matmul belljar_f32_8x32",
        "matmul wasm_f32_8x8",
        "matmul wasm_f32_32x1",
        "matmul wasm_i32_4x4",
    ] {
        assert!(kernels.lines().any(|line| line == expected), "{expected} is not in\n{kernels}");
    }
    assert!(kernels.lines().filter(|line| line.starts_with("routine ")).count() > 10, "{kernels}");
}

/// Runs in a separate process, so that other tests do not change the measurements.
#[test]
fn a_thousand_runs_leak_no_memory_or_descriptors() {
    if !support::alone("a_thousand_runs_leak_no_memory_or_descriptors") {
        return;
    }
    let (models, folder) = expectations();
    let entry = models.iter().find(|entry| entry["name"] == "silero_vad_openvino_16k").unwrap();
    let inputs: Vec<_> = entry["cases"][0]["inputs"].as_array().unwrap().to_vec();
    let inputs: Vec<_> = inputs.iter().map(|each| read(&folder, each)).collect();
    for isolation in ISOLATIONS {
        let host = host(isolation);
        let model = load(&host, entry, &Policy::default());
        let run = || model.run(&inputs).unwrap().validate().unwrap().cost().memory;
        let mut warm = (0, 0, 0);
        let mut memory = 0;
        for number in 0..1000 {
            let now = run();
            if number == 100 {
                (warm, memory) = (footprint(), now);
            }
            assert!(number < 100 || now == memory, "the sandbox grows: {memory} to {now}");
        }
        let end = footprint();
        let grown = end.0.saturating_sub(warm.0);
        assert!(grown < 4 << 20, "{isolation:?}: 900 runs added {grown} bytes");
        assert_eq!(end.1, warm.1, "descriptors");
        // The thread for idle sandboxes of the previous host may end in the meantime.
        assert!(end.2 <= warm.2, "{} threads became {}", warm.2, end.2);
    }
    // Loading and dropping models.
    let before = {
        for isolation in ISOLATIONS {
            load(&host(isolation), entry, &Policy::default()).run(&inputs).map(drop).unwrap();
        }
        footprint()
    };
    for isolation in ISOLATIONS {
        let host = host(isolation);
        for _ in 0..30 {
            load(&host, entry, &Policy::default()).run(&inputs).map(drop).unwrap();
        }
    }
    let after = footprint();
    assert!(after.0.saturating_sub(before.0) < 32 << 20, "{before:?} to {after:?}");
    assert_eq!(after.1, before.1, "descriptors");
}
