//! Hosts that serve several requests, threads, shapes and element types.

use crate::support;

use belljar::{Policy, Tensor};
use support::{ISOLATIONS, builder, host};

use super::{assert_close, expectations, load, read};

#[test]
fn fifty_threads_run_three_models_concurrently() {
    for isolation in ISOLATIONS {
        let host = builder(isolation).idle_sandboxes(4).build().unwrap();
        let (models, folder) = expectations();
        let names = ["magika", "pp_ocr_cls", "silero_vad_openvino_16k"];
        let models: Vec<_> = names
            .iter()
            .map(|name| {
                let entry = models.iter().find(|entry| entry["name"] == *name).unwrap();
                let case = &entry["cases"][0];
                let inputs: Vec<_> = case["inputs"].as_array().unwrap().to_vec();
                let inputs: Vec<_> = inputs.iter().map(|each| read(&folder, each)).collect();
                let (name, expected) = read(&folder, &case["outputs"][0]);
                (load(&host, entry, &Policy::default()), inputs, name, expected)
            })
            .collect();
        std::thread::scope(|scope| {
            for number in 0..50 {
                let (model, inputs, name, expected) = &models[number % models.len()];
                scope.spawn(move || {
                    for _ in 0..2 {
                        let outputs = model.run(inputs).unwrap().validate().unwrap();
                        assert_close(name, outputs.get(name).unwrap(), expected);
                    }
                });
            }
        });
    }
}

#[test]
fn warmed_up_sandboxes_have_already_served_a_request() {
    for isolation in ISOLATIONS {
        let host = builder(isolation).idle_sandboxes(3).build().unwrap();
        let model = support::load(&host, &support::onnx::relu(&support::onnx::fixed(&[2])).bytes());
        let model = model.unwrap();
        let tensor = |values: [f32; 2]| [("x", Tensor::new(values.to_vec(), &[2]).unwrap())];
        // No more sandboxes are started than are kept.
        model.warm_up(&tensor([-1.0, 2.0]), 5).unwrap();
        let begin = std::sync::Barrier::new(3);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    begin.wait();
                    let outputs = model.run(&tensor([3.0, -4.0])).unwrap().validate().unwrap();
                    assert!(
                        !outputs.cost().reset.is_zero(),
                        "the sandbox has not served a request yet"
                    );
                    let expected = Tensor::new(vec![3.0f32, 0.0], &[2]).unwrap();
                    assert_eq!(outputs.tensors(), [("y".to_owned(), expected)]);
                });
            }
        });
        // Warming up with invalid inputs fails, and has no other effect.
        assert_eq!(
            model.warm_up(&[("z", tensor([0.0; 2])[0].1.clone())], 1).unwrap_err().exit_code(),
            4
        );
        model.run(&tensor([0.0, 1.0])).unwrap().validate().unwrap();
        let mut policy = Policy::default();
        policy.limits.input_size = 4;
        let bytes = support::onnx::relu(&support::onnx::fixed(&[2])).bytes();
        let model = support::load_under(&host, &bytes, &policy).unwrap();
        assert_eq!(model.warm_up(&tensor([0.0; 2]), 1).unwrap_err().exit_code(), 5);
    }
}

/// A sandbox that idles too long is ended, and restarts from its snapshot. Without a limit it is
/// kept.
#[test]
fn idle_sandboxes_are_released() {
    use std::time::Duration;
    for isolation in ISOLATIONS {
        let run = |model: &belljar::Model| {
            let x = Tensor::new(vec![-1.0f32, 2.0], &[2]).unwrap();
            let outputs = model.run(&[("x", x)]).unwrap().validate().unwrap();
            assert_eq!(outputs.tensors()[0].1.as_slice::<f32>(), Some(&[0.0, 2.0][..]));
        };
        let loaded = |time| {
            let host = builder(isolation).idle_time(time).build().unwrap();
            let bytes = support::onnx::relu(&support::onnx::fixed(&[2])).bytes();
            support::load(&host, &bytes).unwrap()
        };
        let short = loaded(Some(Duration::from_millis(50)));
        let long = loaded(None);
        run(&short);
        run(&long);
        let ended = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(100));
            run(&short);
            short.calls().adopt > 1
        });
        assert!(ended, "{isolation:?}");
        run(&long);
        assert_eq!((long.calls().prepare, long.calls().adopt), (1, 1), "{isolation:?}");
        // The model was prepared only once.
        assert_eq!(short.calls().prepare, 1, "{isolation:?}");
    }
}

#[test]
fn one_model_runs_at_several_shapes() {
    use support::onnx::{Dim::Symbol, relu};
    for isolation in ISOLATIONS {
        let host = host(isolation);
        let model = support::load(&host, &relu(&[Symbol("n"), Symbol("m")]).bytes()).unwrap();
        for shape in [[1, 1], [2, 3], [0, 5], [7, 1], [2, 3]] {
            let values: Vec<f32> = (0..shape[0] * shape[1]).map(|v| v as f32 - 2.0).collect();
            let expected: Vec<f32> = values.iter().map(|v| v.max(0.0)).collect();
            let outputs = model.run(&[("x", Tensor::new(values, &shape).unwrap())]).unwrap();
            let outputs = outputs.validate().unwrap();
            assert_eq!(outputs.get("y").unwrap(), &Tensor::new(expected, &shape).unwrap());
        }
    }
}

#[test]
fn tensors_of_every_element_type_are_passed_unchanged() {
    use belljar::tensor::{Coded, DType, Data, bf16, f16};
    use support::onnx::{Graph, fixed, node, value};
    let mut datas: Vec<(i64, Data)> = vec![
        (10, vec![f16::from_f32(1.5), f16::NEG_INFINITY].into()),
        (1, vec![f32::MIN_POSITIVE, -0.0].into()),
        (11, vec![f64::MAX, 1e-300].into()),
        (3, vec![i8::MIN, i8::MAX].into()),
        (5, vec![i16::MIN, i16::MAX].into()),
        (6, vec![i32::MIN, i32::MAX].into()),
        (7, vec![i64::MIN, i64::MAX].into()),
        (2, vec![0u8, u8::MAX].into()),
        (4, vec![0u16, u16::MAX].into()),
        (12, vec![0u32, u32::MAX].into()),
        (13, vec![0u64, u64::MAX].into()),
        (9, vec![true, false].into()),
        (8, vec![String::from("Grüße\0"), String::new()].into()),
        (16, vec![bf16::from_f32(-1.5), bf16::INFINITY].into()),
    ];
    let known: Vec<DType> = datas.iter().map(|(_, data)| data.dtype()).collect();
    for dtype in DType::ALL.iter().filter(|dtype| !known.contains(dtype)) {
        let most = belljar_abi::codes::bits(*dtype).map(|bits| u8::MAX >> (8 - bits)).unwrap();
        datas.push((dtype.to_onnx().into(), Coded::new(*dtype, vec![1, most - 1]).unwrap().into()));
    }
    assert_eq!(datas.len(), DType::ALL.len());
    for isolation in ISOLATIONS {
        let host = host(isolation);
        for (elem_type, data) in &datas {
            let graph = Graph {
                nodes: vec![node("Identity", &["x"], &["y"], &[])],
                inputs: vec![value("x", *elem_type, &fixed(&[2]))],
                outputs: vec![value("y", *elem_type, &fixed(&[2]))],
                ..Graph::default()
            };
            let tensor = Tensor::new(data.clone(), &[2]).unwrap();
            let model = support::load(&host, &graph.bytes()).unwrap();
            let outputs = model.run(&[("x", tensor.clone())]).and_then(|out| out.validate());
            let outputs = outputs.unwrap_or_else(|err| panic!("{}: {err}", tensor.dtype()));
            assert_eq!(outputs.get("y"), Some(&tensor));
        }
    }
}
