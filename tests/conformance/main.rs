//! ONNX's own test cases, run through the sandbox with all inputs given at run time. Each must end
//! in the class that is listed for it. `cargo xtask conformance` creates the cases
//! (tests/conformance/cases.py) and the list of classes.

mod open;
mod random;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use belljar::tensor::{Coded, DType, bf16};
use belljar::{ErrorKind, Host, Isolation, ModelBytes, Outputs, Policy, Tensor, Value};
use serde_json::{Value as Json, json};
use support::compare::{beyond, difference};
use support::inspected::contradiction_of_values;
use support::{builder, fitting, repository};

/// How a case ends.
struct End {
    class: &'static str,
    why: String,
}

fn end(class: &'static str, why: impl ToString) -> End {
    End { class, why: why.to_string() }
}

fn cases_folder() -> PathBuf {
    let folder = std::env::var_os("BELLJAR_CONFORMANCE");
    folder.map_or_else(|| repository().join("target/conformance"), PathBuf::from)
}

/// A tensor of a case, or why it cannot be read.
fn tensor(folder: &Path, entry: &Json) -> Result<Tensor, String> {
    if let Some(strings) = entry["strings"].as_array() {
        let strings: Vec<String> =
            strings.iter().map(|string| string.as_str().unwrap().to_owned()).collect();
        let shape: Vec<usize> = entry["shape"]
            .as_array()
            .unwrap()
            .iter()
            .map(|d| d.as_u64().unwrap() as usize)
            .collect();
        return Tensor::new(strings, &shape).map_err(|err| err.to_string());
    }
    let Some(file) = entry["file"].as_str() else {
        return Err(format!("{}: {}", entry["name"], entry["missing"].as_str().unwrap()));
    };
    let file = std::fs::File::open(folder.join(file)).unwrap();
    let stored = belljar::tensor::npy::read(file, 256 << 20).map_err(|err| err.to_string())?;
    match entry["codes"].as_str() {
        Some(name) => Ok(of_codes(name, &stored)),
        None => Ok(stored),
    }
}

/// A value of a case.
fn value(folder: &Path, entry: &Json) -> Result<Value, String> {
    if entry["absent"] == true {
        return Ok(Value::Absent);
    }
    match entry["sequence"].as_array() {
        Some(each) => {
            let tensors = each.iter().map(|entry| tensor(folder, entry));
            Ok(Value::Sequence(tensors.collect::<Result<_, _>>()?))
        }
        None => tensor(folder, entry).map(Value::Tensor),
    }
}

/// A tensor of a small element type, from its codes.
fn of_codes(name: &str, stored: &Tensor) -> Tensor {
    if let Some(codes) = stored.as_slice::<u16>() {
        assert_eq!(name, "bf16");
        let values: Vec<bf16> = codes.iter().map(|code| bf16::from_bits(*code)).collect();
        return Tensor::new(values, stored.shape()).unwrap();
    }
    let dtype = DType::ALL.iter().find(|dtype| dtype.name() == name).unwrap();
    let coded = Coded::new(*dtype, stored.as_slice::<u8>().unwrap().to_vec()).unwrap();
    Tensor::new(coded, stored.shape()).unwrap()
}

/// The inputs of a case, and what they must give.
struct Set {
    inputs: Vec<(String, Value)>,
    /// The expected outputs, or why they cannot be read.
    outputs: Result<Vec<(String, Value)>, String>,
}

/// Reads a set of inputs and outputs. `Err` says why an input is not supported.
fn set(folder: &Path, set: &Json) -> Result<Set, String> {
    let values = |key: &str| -> Result<Vec<(String, Value)>, String> {
        let each = set[key].as_array().unwrap().iter();
        each.map(|entry| Ok((entry["name"].as_str().unwrap().to_owned(), value(folder, entry)?)))
            .collect()
    };
    Ok(Set { inputs: values("inputs")?, outputs: values("outputs") })
}

/// How the outputs differ from what a case expects.
fn wrong(
    outputs: &Outputs,
    expected: &[(String, Value)],
    case: &Json,
    set: &Json,
) -> Option<String> {
    let (rtol, atol) = (case["rtol"].as_f64().unwrap(), case["atol"].as_f64().unwrap());
    for ((name, expected), entry) in expected.iter().zip(set["outputs"].as_array().unwrap()) {
        let Some(found) = outputs.value(name) else { return Some(format!("no {name}")) };
        // An output may have its own absolute tolerance, which is then the only one.
        let compare = |found: &Tensor, expected: &Tensor| match entry["atol"].as_f64() {
            _ if is_jpeg(case) => pixels_beyond(found, expected, 3),
            Some(atol) => beyond(found, expected, 0.0, atol),
            None => difference(found, expected, rtol, atol),
        };
        let why = match (&*found, expected) {
            (Value::Tensor(found), Value::Tensor(expected)) => compare(found, expected),
            (Value::Sequence(found), Value::Sequence(expected)) => {
                let (a, b) = (found.len(), expected.len());
                let length = (a != b).then(|| format!("{a} elements for {b}"));
                let each = found.iter().zip(expected);
                length.or_else(|| each.into_iter().find_map(|(a, b)| compare(a, b)))
            }
            (Value::Absent, Value::Absent) => None,
            (found, expected) => Some(format!("{} for {}", found.what(), expected.what())),
        };
        if let Some(why) = why {
            return Some(format!("{name}: {why}"));
        }
    }
    None
}

/// Whether a case decodes a JPEG file. Decoders may round its transform and its colours differently.
fn is_jpeg(case: &Json) -> bool {
    case["name"].as_str().unwrap().starts_with("test_image_decoder_decode_jpeg_")
}

/// The first pixel that differs by more than this.
fn pixels_beyond(found: &Tensor, expected: &Tensor, most: u8) -> Option<String> {
    let (Some(a), Some(b)) = (found.as_slice::<u8>(), expected.as_slice::<u8>()) else {
        return Some("not uint8".into());
    };
    if found.shape() != expected.shape() {
        return Some(format!("{:?} for {:?}", found.shape(), expected.shape()));
    }
    let at = a.iter().zip(b).position(|(a, b)| a.abs_diff(*b) > most)?;
    Some(format!("element {at} is {} for {}", a[at], b[at]))
}

fn run(host: &Host, policy: &Policy, folder: &Path, case: &Json) -> End {
    let content = std::fs::read(folder.join("model.onnx")).unwrap();
    let bytes = ModelBytes::read(&content[..], u64::MAX).unwrap().labelled("case");
    let model = match host.load(bytes, &fitting(host, policy)) {
        Ok(model) => model,
        Err(err) => return failed(&err),
    };
    let mut class = "pass";
    for listed in case["sets"].as_array().unwrap() {
        let Set { inputs, outputs: expected } = match set(folder, listed) {
            Ok(set) => set,
            Err(why) => return end("refused", format!("the input is not supported: {why}")),
        };
        let ended = model.run_values(&inputs).and_then(|outputs| outputs.validate());
        let how = ended.as_ref().map(|_| ());
        if let Some(why) = contradiction_of_values(host, policy, &content, &inputs, how) {
            return end("contradiction", why);
        }
        let outputs = match ended {
            Ok(outputs) => outputs,
            Err(err) => return failed(&err),
        };
        let expected = match expected {
            Ok(expected) => expected,
            Err(why) => {
                return end(
                    "wrong",
                    format!("answered, but the expected output is not supported: {why}"),
                );
            }
        };
        if let Some(why) = wrong(&outputs, &expected, case, listed) {
            if !random::is_random(case) {
                return end("wrong", why);
            }
            if let Some(why) = random::fault(&model, &inputs, &expected, case) {
                return end("wrong", why);
            }
            class = "random";
        }
    }
    end(class, "")
}

fn failed(err: &belljar::Error) -> End {
    let text = err.to_string();
    let class = match err.kind() {
        _ if text.contains("panicked") => "crash",
        _ if support::plain::internal(&text).is_some() => "internal",
        ErrorKind::Limit(_) => "limit",
        ErrorKind::Model(_) | ErrorKind::Input { .. } | ErrorKind::Run(_) => "refused",
        _ => "crash",
    };
    end(class, text)
}

fn policy() -> Policy {
    let mut policy = Policy::default();
    policy.limits.memory = 1 << 30;
    policy.limits.run_time = Duration::from_secs(20);
    policy.limits.prepare_time = Duration::from_secs(20);
    policy
}

/// Runs all cases and returns how each ended, by kind and name.
fn run_all(
    run: impl Fn(&Host, &Policy, &Path, &Json) -> End + Sync,
) -> BTreeMap<String, (End, Json)> {
    let folder = cases_folder();
    let text = std::fs::read_to_string(folder.join("cases.json")).unwrap_or_else(|err| {
        panic!("{}: {err}; run `cargo xtask conformance`", folder.join("cases.json").display())
    });
    let listed: Json = serde_json::from_str(&text).unwrap();
    let cases = listed["cases"].as_array().unwrap();
    let only = std::env::var("BELLJAR_CONFORMANCE_ONLY").unwrap_or_default();
    let wanted = |case: &&Json| case["name"].as_str().unwrap().contains(&only);
    let queue = Mutex::new(cases.iter().filter(wanted));
    let ends = Mutex::new(BTreeMap::new());
    let threads = std::thread::available_parallelism().map_or(2, |count| count.get().min(8));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let host = builder(Isolation::Thread).snapshot_store(false).build().unwrap();
                loop {
                    let next = queue.lock().unwrap().next();
                    let Some(case) = next else { break };
                    let (kind, name) = (&case["kind"], &case["name"]);
                    let (kind, name) = (kind.as_str().unwrap(), name.as_str().unwrap());
                    let end = run(&host, &policy(), &folder.join(kind).join(name), case);
                    ends.lock().unwrap().insert(format!("{kind} {name}"), (end, case.clone()));
                }
            });
        }
    });
    ends.into_inner().unwrap()
}

#[test]
fn every_case_has_its_expected_class() {
    let ends = run_all(run);
    if let Some(path) = std::env::var_os("BELLJAR_CONFORMANCE_RESULTS") {
        let results: Vec<Json> = ends
            .iter()
            .map(|(name, (end, case))| {
                json!({
                    "name": name, "class": end.class, "why": end.why,
                    "operators": case["operators"], "onnxruntime": case["onnxruntime"],
                })
            })
            .collect();
        std::fs::write(path, serde_json::to_string_pretty(&results).unwrap()).unwrap();
        return;
    }
    let known =
        std::fs::read_to_string(repository().join("tests/conformance/classes.txt")).unwrap();
    let known: BTreeMap<&str, &str> =
        known.lines().filter_map(|line| line.rsplit_once(' ')).collect();
    let mut changed = Vec::new();
    for (name, (end, _)) in &ends {
        match known.get(&**name) {
            Some(class) if *class == end.class => {}
            class => changed.push(format!("{name}: {} for {class:?} ({})", end.class, end.why)),
        }
    }
    assert!(changed.is_empty(), "{} cases changed:\n{}", changed.len(), changed.join("\n"));
    assert_eq!(ends.len(), known.len(), "cases are missing");
}
