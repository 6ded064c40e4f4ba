//! Classical models that skl2onnx converted from scikit-learn: trees, linear models, support
//! vectors, pipelines of columns, texts. The models and onnxruntime's answers are stored as JSON by
//! tests/expectations/classical/make.py.

use crate::support;

use belljar::{Isolation, Tensor};
use support::stored::{assert_same, entries, given, list, model};
use support::{host, load};

#[test]
fn classical_models_give_onnxruntimes_answers() {
    let models = entries("classical");
    assert_eq!(models.len(), 22);
    let host = host(Isolation::Thread);
    for (name, described) in &models {
        let model = load(&host, &model(&described["model"])).unwrap();
        let inputs: Vec<(String, Tensor)> = list(described, "inputs").iter().map(given).collect();
        let outputs = model.run(&inputs).and_then(|outputs| outputs.validate());
        let outputs = outputs.unwrap_or_else(|err| panic!("{name}: {err}"));
        let expected = list(described, "outputs");
        assert_eq!(outputs.tensors().len(), expected.len(), "{name}");
        for expected in expected {
            let (output, expected) = given(expected);
            assert_same(
                &format!("{name}, {output}"),
                outputs.get(&output).unwrap(),
                &expected,
                2e-5,
            );
        }
    }
}

/// In a worker process, as models run by default.
#[test]
fn a_pipeline_with_texts_runs_in_a_worker_process() {
    let models = entries("classical");
    let (_, described) = models.iter().find(|(name, _)| name == "columns").unwrap();
    let model = load(&host(Isolation::Process), &model(&described["model"])).unwrap();
    let inputs: Vec<(String, Tensor)> = list(described, "inputs").iter().map(given).collect();
    let outputs = model.run(&inputs).unwrap().validate().unwrap();
    for expected in list(described, "outputs") {
        let (output, expected) = given(expected);
        assert_same(&output, outputs.get(&output).unwrap(), &expected, 2e-5);
    }
}
