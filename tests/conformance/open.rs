//! ONNX's own test cases on plans that were made for other sizes: the declared shapes of all inputs
//! are removed, the model is prepared for larger inputs, and the case must have the same answer.

use std::collections::BTreeMap;
use std::path::Path;

use belljar::{Host, ModelBytes, Policy, Tensor};
use serde_json::Value;

use super::random::{fault, is_random};
use super::support::fitting;
use super::support::open_sizes::{larger, without_shapes};
use super::{End, Set, end, failed, run_all, set, wrong};

fn run(from_one: u64, host: &Host, policy: &Policy, folder: &Path, case: &Value) -> End {
    let content = without_shapes(&std::fs::read(folder.join("model.onnx")).unwrap());
    for listed in case["sets"].as_array().unwrap() {
        let Ok(Set { inputs: values, outputs: Ok(expected) }) = set(folder, listed) else {
            return end("unsupported", "");
        };
        // The gate plans sequences and optionals for any length, or for the one that they have.
        let tensors =
            values.iter().map(|(name, value)| Some((name.clone(), value.as_tensor()?.clone())));
        let Some(inputs) = tensors.collect::<Option<Vec<(String, Tensor)>>>() else {
            return end("unsupported", "");
        };
        let bytes = ModelBytes::read(&content[..], u64::MAX).unwrap().labelled("case");
        let model = match host.load(bytes, &fitting(host, policy)) {
            Ok(model) => model,
            Err(err) => return failed(&err),
        };
        // The larger sizes need not suit the model.
        if model.prepare_for(&larger(&inputs, from_one)).is_err() {
            return end("no other sizes", "");
        }
        let before = model.calls().prepare;
        match model.run(&inputs).and_then(|outputs| outputs.validate()) {
            Ok(outputs) => {
                let why = match is_random(case) {
                    true => fault(&model, &values, &expected, case),
                    false => wrong(&outputs, &expected, case, listed),
                };
                if let Some(why) = why {
                    return end("wrong", why);
                }
            }
            Err(err) => return failed(&err),
        }
        if model.calls().prepare > before {
            return end("prepared again", "");
        }
    }
    end("pass", "")
}

#[test]
fn plans_for_other_sizes_answer_every_case() {
    check(1);
}

#[test]
fn plans_for_other_sizes_answer_every_case_with_dimensions_of_one() {
    check(3);
}

fn check(from_one: u64) {
    let known =
        std::fs::read_to_string(super::repository().join("tests/conformance/classes.txt")).unwrap();
    let passes: Vec<&str> = known.lines().filter_map(|line| line.strip_suffix(" pass")).collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut different = Vec::new();
    for (name, (end, _)) in
        &run_all(|host, policy, folder, case| run(from_one, host, policy, folder, case))
    {
        *counts.entry(end.class).or_default() += 1;
        let expected = ["pass", "prepared again", "no other sizes", "unsupported"];
        // Random graphs are in no list: those may be refused, but never answered wrongly.
        let unexpected = ["wrong", "crash", "internal"].contains(&end.class)
            || passes.contains(&&**name) && !expected.contains(&end.class);
        if unexpected {
            different.push(format!("{name}: {} ({})", end.class, end.why));
        }
    }
    println!("{counts:?}");
    assert!(different.is_empty(), "{} cases:\n{}", different.len(), different.join("\n"));
}
