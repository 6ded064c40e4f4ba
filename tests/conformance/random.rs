//! Cases whose outputs are random: ONNX's are the numbers of one library and one seed. An answer is
//! judged by its shapes, its types and its distribution over many seeds instead.

use belljar::tensor::Data;
use belljar::{Model, Outputs, Tensor, Value};
use serde_json::Value as Json;

/// The seeds of the runs. In a case whose node has a seed of its own, all runs are the same.
const SEEDS: u32 = 100;

/// Whether the outputs of a case are random.
pub(crate) fn is_random(case: &Json) -> bool {
    let name = case["name"].as_str().unwrap();
    let has = |wanted: &str| case["operators"].as_array().unwrap().iter().any(|op| op == wanted);
    let random = ["Bernoulli", "RandomUniformLike", "RandomNormalLike", "Multinomial"];
    random.into_iter().any(has) || has("Dropout") && name.contains("training")
}

/// Why the outputs are not random numbers of the case's distribution.
pub(crate) fn fault(
    model: &Model,
    inputs: &[(String, Value)],
    expected: &[(String, Value)],
    case: &Json,
) -> Option<String> {
    let name = case["name"].as_str().unwrap();
    let mut runs = Vec::new();
    for seed in 0..SEEDS {
        let run = model.bind_values(inputs).and_then(|bound| bound.seed(seed).run()?.validate());
        match run {
            Ok(outputs) => runs.push(outputs),
            Err(err) => return Some(format!("seed {seed}: {err}")),
        }
    }
    for outputs in &runs {
        for (name, expected) in expected {
            let Some(found) = outputs.get(name) else { return Some(format!("no {name}")) };
            let Value::Tensor(expected) = expected else { return Some("no tensor".into()) };
            if (found.shape(), found.dtype()) != (expected.shape(), expected.dtype()) {
                return Some(format!("{name} is {} {:?}", found.dtype(), found.shape()));
            }
        }
    }
    let input = |wanted: &str| {
        inputs.iter().find_map(|(name, value)| match value {
            Value::Tensor(tensor) if name == wanted => Some(tensor),
            _ => None,
        })
    };
    let Some(data) = input("x") else { return Some("the case has no input x".into()) };
    let data = numbers(data);
    let ratio = input("r").map_or(0.5, |ratio| numbers(ratio)[0]);
    let own_seed = name.contains("seed") || name.contains("dropout");
    if own_seed && runs.iter().any(|run| values(run) != values(&runs[0])) {
        return Some("runs differ although the node has a seed of its own".into());
    }
    if !own_seed && runs.iter().all(|run| values(run) == values(&runs[0])) {
        return Some("all seeds give the same numbers".into());
    }
    let counted = if own_seed { &runs[..1] } else { &runs[..] };
    match name.contains("dropout") {
        true => counted.iter().find_map(|run| dropout(run, &data, ratio)),
        // The function body of Bernoulli in ONNX's schema compares a uniform number with the
        // probability the other way around, so its ones are as frequent as the operator's zeros.
        false if name.ends_with("_expanded") => {
            bernoulli(counted, &data.iter().map(|p| 1.0 - p).collect::<Vec<f64>>())
        }
        false => bernoulli(counted, &data),
    }
}

/// The numbers of all outputs.
fn values(outputs: &Outputs) -> Vec<f64> {
    outputs.tensors().iter().flat_map(|(_, tensor)| numbers(tensor)).collect()
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    match tensor.data() {
        Data::F32(list) => list.iter().map(|number| f64::from(*number)).collect(),
        Data::F64(list) => list.clone(),
        Data::Bool(list) => list.iter().map(|bit| f64::from(u8::from(*bit))).collect(),
        other => panic!("no case has {other:?}"),
    }
}

/// Each element is 0 or 1, and there are as many ones as the probabilities say.
fn bernoulli(runs: &[Outputs], probabilities: &[f64]) -> Option<String> {
    let all: Vec<f64> = runs.iter().flat_map(values).collect();
    if all.iter().any(|bit| ![0.0, 1.0].contains(bit)) {
        return Some("an element is neither 0 nor 1".into());
    }
    let runs = runs.len() as f64;
    let expected = runs * probabilities.iter().sum::<f64>();
    let variance = runs * probabilities.iter().map(|p| p * (1.0 - p)).sum::<f64>();
    beyond("ones", all.iter().sum(), expected, variance)
}

/// Each element is 0 or scaled, as the mask says, and the ratio is dropped.
fn dropout(run: &Outputs, data: &[f64], ratio: f64) -> Option<String> {
    let Some(output) = run.get("y") else { return Some("no y".into()) };
    let output = numbers(output);
    let scaled = |x: &f64| x / (1.0 - ratio);
    let near = |found: f64, expected: f64| (found - expected).abs() <= 1e-5 * expected.abs();
    let kept: Vec<bool> = output.iter().map(|y| *y != 0.0).collect();
    let right = |at: usize| near(output[at], if kept[at] { scaled(&data[at]) } else { 0.0 });
    if !(0..data.len()).all(right) {
        return Some("an element is neither dropped nor scaled".into());
    }
    let mask = run.tensors().iter().find(|(name, _)| name != "y").map(|(_, mask)| numbers(mask));
    let same = |mask: &Vec<f64>| mask.iter().zip(&kept).all(|(bit, kept)| (*bit == 1.0) == *kept);
    if mask.is_some_and(|mask| !same(&mask)) {
        return Some("the mask differs from the output".into());
    }
    let (count, dropped) = (data.len() as f64, kept.iter().filter(|kept| !**kept).count());
    beyond("dropped elements", dropped as f64, count * ratio, count * ratio * (1.0 - ratio))
}

/// Whether a count is more than four standard deviations from its mean.
fn beyond(what: &str, found: f64, expected: f64, variance: f64) -> Option<String> {
    let off = (found - expected).abs() > 4.0 * variance.sqrt();
    off.then(|| format!("{found} {what}, expected about {expected}"))
}
