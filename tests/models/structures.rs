//! Models whose sizes are only known when they run: detectors, speech synthesis, embedding bags,
//! decoders with a cache. The models and onnxruntime's answers are stored as JSON by
//! tests/expectations/structures/make.py.

use crate::support;

use std::collections::HashMap;

use belljar::{Isolation, Tensor};
use support::stored::{assert_same, entries, given, list, model};
use support::{host, load};

/// Runs a model on its inputs in their order, and compares its outputs with those that are stored.
/// Caches are passed from run to run. Returns how often the model was prepared.
fn answers_as_onnxruntime(name: &str, tolerance: f32) -> u64 {
    let entries = entries("structures");
    let (_, described) = entries.iter().find(|(other, _)| other == name).unwrap();
    let model = load(&host(Isolation::Thread), &model(&described["model"])).unwrap();
    let (mut last, mut first): (HashMap<String, Tensor>, HashMap<String, Tensor>) =
        Default::default();
    for (at, run) in list(described, "runs").iter().enumerate() {
        let mut inputs: Vec<(String, Tensor)> = list(run, "inputs").iter().map(given).collect();
        for (passed, from) in [("feedback", &last), ("kept", &first)] {
            for (input, output) in described[passed].as_object().unwrap() {
                if inputs.iter().all(|(given, _)| given != input) {
                    inputs.push((input.clone(), from[output.as_str().unwrap()].clone()));
                }
            }
        }
        let outputs = model.run(&inputs).and_then(|outputs| outputs.validate());
        let outputs = outputs.unwrap_or_else(|err| panic!("{name}, run {at}: {err}"));
        for expected in list(run, "outputs") {
            let (output, expected) = given(expected);
            let what = format!("{name}, run {at}, {output}");
            assert_same(&what, outputs.get(&output).unwrap(), &expected, tolerance);
        }
        last = outputs.into_tensors().into_iter().collect();
        if at == 0 {
            first.clone_from(&last);
        }
    }
    model.calls().prepare
}

/// A test for each structure. Decoders are prepared for their first step, whose cache is empty or not
/// used, and once for all others.
macro_rules! structures {
    ($($name:ident $(= $times:literal)?)*) => {
        $(#[test]
        fn $name() {
            let prepared = answers_as_onnxruntime(stringify!($name), 1e-4);
            $(assert_eq!(prepared, $times);)?
            let _ = prepared;
        })*

        #[test]
        fn every_stored_structure_has_a_test() {
            let stored: Vec<String> = entries("structures").into_iter().map(|(n, _)| n).collect();
            assert_eq!(stored, [$(stringify!($name)),*]);
        }
    };
}

structures! {
    branches_of_ranks
    compress
    dlrm
    faster_rcnn
    gathered_in_loop
    gpt2 = 2
    kokoro
    llama = 2
    merged_decoder = 2
    optionals
    pasted_masks
    sequences
    ssdlite
    top_k
    unique
    vits
    whisper = 2
    yolo
}
