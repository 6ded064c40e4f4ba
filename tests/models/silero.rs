//! Compares all variants of silero-vad with onnxruntime, at every rate that each supports. If the
//! rate selects one of two halves of a model, the policy sets it.

use crate::support;

use belljar::{Isolation, Policy, Tensor};
use serde_json::Value;
use support::{host, real_model, repository};

fn read(file: &Value) -> Tensor {
    let path = repository().join("tests/expectations/silero").join(file.as_str().unwrap());
    belljar::tensor::npy::read(std::fs::File::open(path).unwrap(), 1 << 20).unwrap()
}

fn assert_close(what: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    let (found, expected) = (found.as_slice::<f32>().unwrap(), expected.as_slice::<f32>().unwrap());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let near = (found - expected).abs() <= 1e-5 + 1e-3 * expected.abs();
        assert!(near, "{what}: element {at} is {found}, onnxruntime says {expected}");
    }
}

#[test]
fn every_variant_gives_onnxruntimes_answers_at_every_rate() {
    let text =
        std::fs::read_to_string(repository().join("tests/expectations/silero/manifest.json"));
    let manifest: Value = serde_json::from_str(&text.unwrap()).unwrap();
    let host = host(Isolation::Thread);
    let models = manifest["models"].as_array().unwrap();
    assert_eq!(models.len(), 8);
    for entry in models {
        let (file, rate) = (entry["file"].as_str().unwrap(), &entry["rate"]);
        let asks = entry["asks"].as_bool().unwrap();
        let rule = if asks { format!("[inputs.sr]\nvalue = {rate}\n") } else { String::new() };
        let policy = Policy::parse(&format!("version = 1\n{rule}"), "silero").unwrap();
        let model = host.load(real_model(file), &support::fitting(&host, &policy)).unwrap();
        let shape = entry["state_shape"].as_array().unwrap().iter();
        let shape: Vec<usize> = shape.map(|size| size.as_u64().unwrap() as usize).collect();
        for (at, case) in entry["cases"].as_array().unwrap().iter().enumerate() {
            let what = format!("{file} at {rate} Hz, window {at}");
            let mut inputs = vec![("input".to_owned(), read(&case["sound"]))];
            for (name, file) in case["states"].as_object().unwrap() {
                let state = match file {
                    Value::Null => Tensor::new(vec![0f32; shape.iter().product()], &shape).unwrap(),
                    file => read(file),
                };
                inputs.push((name.clone(), state));
            }
            let outputs = model.run(&inputs).and_then(|outputs| outputs.validate());
            let outputs = outputs.unwrap_or_else(|err| panic!("{what}: {err}"));
            let expected = case["outputs"].as_object().unwrap();
            assert_eq!(outputs.tensors().len(), expected.len(), "{what}");
            for (name, file) in expected {
                let found = outputs.get(name).unwrap();
                assert_close(&format!("{what}, {name}"), found, &read(file));
            }
        }
    }
}
