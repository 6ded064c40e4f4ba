//! Mutates ONNX's own test cases. Each mutated model must end in an error of the model or of a
//! limit, or in the same answer with native kernels and without, and on a plan for other sizes.
//!
//! A case is generated from its number, so that it can be reproduced: `BELLJAR_FUZZ_FROM` and
//! `BELLJAR_FUZZ_RUNS` select the cases. `BELLJAR_FUZZ_KEEP` names a folder for the models that
//! were answered, with inputs and outputs, for `model_fuzz/compare.py`, which compares with
//! onnxruntime.

#[path = "../support/mod.rs"]
mod support;

mod mutate;
mod random;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use belljar::policy::Kernels;
use belljar::tensor::{bf16, f16};
use belljar::{DType, Dim, Error, ErrorKind, Host, Isolation, ModelBytes, Policy, Tensor};
use mutate::{Pool, mutate};
use random::Random;
use serde_json::Value;
use support::compare::difference;
use support::open_sizes::{larger, without_shapes};
use support::protobuf::{self, Kind, Message};
use support::{builder, fitting, repository};

/// Maximum size of a seed. Larger files take too much time.
const MAX_SEED: u64 = 64 << 10;

/// The number of cases in a normal run; a release runs more.
const RUNS: u64 = 1_500;

struct Seeds {
    pool: Pool,
    /// The inputs of each model, by name.
    inputs: Vec<BTreeMap<String, Tensor>>,
}

fn seeds() -> Seeds {
    let folder = repository().join("target/conformance");
    let list = folder.join("cases.json");
    let text = fs::read_to_string(&list)
        .unwrap_or_else(|err| panic!("{}: {err}; run `cargo xtask conformance`", list.display()));
    let listed: Value = serde_json::from_str(&text).unwrap();
    let (mut pool, mut inputs) = (Pool::default(), Vec::new());
    for case in listed["cases"].as_array().unwrap() {
        let place =
            folder.join(case["kind"].as_str().unwrap()).join(case["name"].as_str().unwrap());
        let model = place.join("model.onnx");
        if fs::metadata(&model).unwrap().len() > MAX_SEED {
            continue;
        }
        let bytes = fs::read(&model).unwrap();
        pool.add(Message::parse(Kind::Model, &bytes).expect("ONNX's own files are well-formed"));
        let given = case["sets"][0]["inputs"].as_array().unwrap();
        inputs.push(given.iter().filter_map(|entry| input(&place, entry)).collect());
    }
    Seeds { pool: pool.finish(), inputs }
}

fn input(place: &Path, entry: &Value) -> Option<(String, Tensor)> {
    let file = File::open(place.join(entry["file"].as_str()?)).unwrap();
    let mut tensor = belljar::tensor::npy::read(file, 64 << 20).ok()?;
    if let (Some("bf16"), Some(codes)) = (entry["codes"].as_str(), tensor.as_slice::<u16>()) {
        let values: Vec<bf16> = codes.iter().map(|code| bf16::from_bits(*code)).collect();
        tensor = Tensor::new(values, tensor.shape()).ok()?;
    }
    Some((entry["name"].as_str()?.to_owned(), tensor))
}

/// A tensor of the declared type and shape: the seed's, if it matches.
fn fitting_input(
    declared: &belljar::ValueInfo,
    seed: Option<&Tensor>,
    random: &mut Random,
) -> Option<Tensor> {
    let dtype = declared.dtype()?;
    let seeds = seed.map(Tensor::shape).unwrap_or_default();
    let dims = match &declared.shape {
        None => seeds.to_vec(),
        Some(dims) => dims
            .iter()
            .enumerate()
            .map(|(axis, dim)| match dim {
                Dim::Fixed(size) => usize::try_from(*size).unwrap_or(usize::MAX),
                _ => seeds.get(axis).copied().unwrap_or(2),
            })
            .collect(),
    };
    if let Some(seed) = seed
        && seed.dtype() == dtype
        && seed.shape() == dims
    {
        return Some(seed.clone());
    }
    let count = dims.iter().try_fold(1usize, |count, dim| count.checked_mul(*dim))?;
    if count > 1 << 20 {
        return None;
    }
    let random_size = random.next();
    let mut ints = || (random.next() % 7) as i64 - 2;
    macro_rules! numbers {
        ($type:ty) => {
            Tensor::new((0..count).map(|_| ints() as $type).collect::<Vec<$type>>(), &dims).ok()
        };
    }
    // Also narrow floats whose sums are out of the range of float16, and some that are a few steps
    // of it.
    let size = [1.0, 1.0, 20000.0, 1e-6][(random_size % 4) as usize];
    macro_rules! narrow {
        ($type:ty) => {{
            let numbers = (0..count).map(|_| <$type>::from_f32(ints() as f32 * size));
            Tensor::new(numbers.collect::<Vec<$type>>(), &dims).ok()
        }};
    }
    match dtype {
        DType::F16 => narrow!(f16),
        DType::BF16 => narrow!(bf16),
        DType::F32 => numbers!(f32),
        DType::F64 => numbers!(f64),
        DType::I8 => numbers!(i8),
        DType::I16 => numbers!(i16),
        DType::I32 => numbers!(i32),
        DType::I64 => numbers!(i64),
        DType::U8 => numbers!(u8),
        DType::U16 => numbers!(u16),
        DType::U32 => numbers!(u32),
        DType::U64 => numbers!(u64),
        other => Tensor::zeros(other, &dims).ok(),
    }
}

enum End {
    Answer(Vec<(String, Tensor)>),
    Refused(String),
    /// Native kernels and the sandbox may differ in time and memory.
    Limit,
    Bad(String),
}

fn end(result: Result<Vec<(String, Tensor)>, Error>) -> End {
    match result {
        Ok(outputs) => End::Answer(outputs),
        Err(err) => match err.kind() {
            _ if err.to_string().contains("panicked") => End::Bad(err.to_string()),
            ErrorKind::Limit(_) => End::Limit,
            ErrorKind::Model(_) | ErrorKind::Input { .. } | ErrorKind::Run(_) => {
                End::Refused(err.to_string())
            }
            _ => End::Bad(err.to_string()),
        },
    }
}

fn policy(kernels: Kernels) -> Policy {
    let mut policy = Policy::default();
    policy.limits.memory = 256 << 20;
    policy.limits.run_time = Duration::from_secs(5);
    policy.limits.prepare_time = Duration::from_secs(10);
    policy.compute.kernels = kernels;
    policy
}

/// Runs a model with generated inputs.
fn run(
    host: &Host,
    bytes: &[u8],
    kernels: Kernels,
    seed: &BTreeMap<String, Tensor>,
    random: &mut Random,
) -> (End, Vec<(String, Tensor)>) {
    let bytes = ModelBytes::read(bytes, u64::MAX).unwrap().labelled("case");
    let model = match host.load(bytes, &fitting(host, &policy(kernels))) {
        Ok(model) => model,
        Err(err) => return (end(Err(err)), Vec::new()),
    };
    let mut inputs = Vec::new();
    for declared in model.description().inputs.iter().filter(|input| !input.has_default) {
        let Some(tensor) = fitting_input(declared, seed.get(&declared.name), random) else {
            return (End::Refused("no such input can be made".into()), Vec::new());
        };
        inputs.push((declared.name.clone(), tensor));
    }
    let outputs = model.run(&inputs).and_then(|outputs| outputs.validate());
    (end(outputs.map(|outputs| outputs.into_tensors())), inputs)
}

/// Runs a model without the declared shapes of its inputs on a plan that was made for larger ones.
/// `None` if there is no plan for both.
fn on_a_plan_for_other_sizes(
    host: &Host,
    bytes: &[u8],
    inputs: &[(String, Tensor)],
) -> Option<End> {
    let bytes = without_shapes(bytes);
    let bytes = ModelBytes::read(&bytes[..], u64::MAX).unwrap().labelled("case");
    let model = host.load(bytes, &fitting(host, &policy(Kernels::Native))).ok()?;
    model.prepare_for(&larger(inputs, 3)).ok()?;
    let before = model.calls().prepare;
    let outputs = model.run(inputs).and_then(|outputs| outputs.validate());
    let is_open = model.calls().prepare == before;
    is_open.then(|| end(outputs.map(|outputs| outputs.into_tensors())))
}

/// How a case ended, or why that is a failure.
fn case(number: u64, host: &Host, seeds: &Seeds) -> Result<&'static str, (Vec<u8>, String)> {
    let mut random = Random(number.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let which = random.below(seeds.pool.models.len());
    let mut model = seeds.pool.models[which].clone();
    mutate(&mut model, &seeds.pool, &mut random);
    let bytes = model.bytes();
    let inputs_from = random.next();
    let ends = [Kernels::Native, Kernels::Sandbox]
        .map(|kernels| run(host, &bytes, kernels, &seeds.inputs[which], &mut Random(inputs_from)));
    let wrong = |why: String| Err((bytes.clone(), why));
    match ends {
        [(End::Bad(why), _), _] | [_, (End::Bad(why), _)] => wrong(why),
        [(End::Limit, _), _] | [_, (End::Limit, _)] => Ok("limit"),
        [(End::Refused(_), _), (End::Refused(_), _)] => Ok("refused"),
        [(End::Answer(native), inputs), (End::Answer(sandbox), _)] => {
            for ((name, native), (_, sandbox)) in native.iter().zip(&sandbox) {
                if let Some(why) = difference(native, sandbox, 1e-3, 1e-3) {
                    return wrong(format!("{name}, with native kernels and without: {why}"));
                }
            }
            keep(number, &bytes, &inputs, &native);
            match on_a_plan_for_other_sizes(host, &bytes, &inputs) {
                Some(End::Answer(open)) => {
                    for ((name, native), (_, open)) in native.iter().zip(&open) {
                        if let Some(why) = difference(native, open, 1e-3, 1e-3) {
                            return wrong(format!("{name}, on a plan for other sizes: {why}"));
                        }
                    }
                    Ok("answered, also on a plan for other sizes")
                }
                Some(End::Bad(why)) => wrong(format!("on a plan for other sizes: {why}")),
                // What no declared shape excludes may need what is refused.
                Some(End::Refused(_) | End::Limit) | None => Ok("answered"),
            }
        }
        [(End::Answer(_), _), (End::Refused(why), _)] => wrong(format!("without kernels: {why}")),
        [(End::Refused(why), _), (End::Answer(_), _)] => wrong(format!("with kernels: {why}")),
    }
}

fn keep(number: u64, bytes: &[u8], inputs: &[(String, Tensor)], outputs: &[(String, Tensor)]) {
    let Some(folder) = std::env::var_os("BELLJAR_FUZZ_KEEP").map(PathBuf::from) else { return };
    fs::write(folder.join(format!("{number}.onnx")), bytes).unwrap();
    for (what, tensors) in [("in", inputs), ("out", outputs)] {
        let file = File::create(folder.join(format!("{number}.{what}.npz"))).unwrap();
        belljar::tensor::npz::write(tensors, file).unwrap();
    }
}

fn from_environment(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn mutated_models_are_refused_or_answered_equally_by_all_kernels() {
    let (from, runs) =
        (from_environment("BELLJAR_FUZZ_FROM", 0), from_environment("BELLJAR_FUZZ_RUNS", RUNS));
    let seeds = seeds();
    let next = AtomicU64::new(from);
    let (counts, found) = (Mutex::new(BTreeMap::<_, u64>::new()), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(2, |count| count.get().min(8));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let host = builder(Isolation::Thread).snapshot_store(false).build().unwrap();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= from + runs {
                        break;
                    }
                    match case(number, &host, &seeds) {
                        Ok(how) => *counts.lock().unwrap().entry(how).or_default() += 1,
                        Err((bytes, why)) => {
                            let file =
                                repository().join(format!("target/model-fuzz-{number}.onnx"));
                            fs::write(&file, bytes).unwrap();
                            found.lock().unwrap().push(format!("{}: {why}", file.display()));
                        }
                    }
                }
            });
        }
    });
    let found = found.into_inner().unwrap();
    println!("{:?}", counts.into_inner().unwrap());
    assert!(found.is_empty(), "{} findings:\n{}", found.len(), found.join("\n"));
}
