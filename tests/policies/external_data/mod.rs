//! Models with external data files: granted files are read once and work, and everything else that
//! such a model may name is refused.

mod new_policy;
mod refused;

use crate::support;

use std::fs;

use belljar::policy::{Access, FileGrant};
use belljar::{
    Digest, Error, ErrorKind, Host, Isolation, Limit, Model, ModelBytes, Policy, Tensor,
};
use support::onnx::{FLOAT, Graph, Message, fixed, node, value};
use support::scratch::Scratch;
use support::{ISOLATIONS, builder, fitting, host};

/// `key = value`.
fn entry(key: &str, value: &str) -> Message {
    Message::new().bytes(1, key).bytes(2, value)
}

/// An f32 tensor with external data, described by these entries.
fn elsewhere(name: &str, dims: &[i64], entries: &[(&str, &str)]) -> Message {
    let tensor = dims.iter().fold(Message::new(), |tensor, dim| tensor.int(1, *dim));
    let tensor = tensor.int(2, FLOAT).bytes(8, name);
    let entries = entries.iter().map(|(key, value)| entry(key, value));
    // The data location: external.
    tensor.messages(13, entries).int(14, 1)
}

fn layer(w: Message, b: Message) -> Vec<u8> {
    Graph {
        nodes: vec![
            node("MatMul", &["x", "w"], &["p"], &[]),
            node("Add", &["p", "b"], &["s"], &[]),
            node("Sigmoid", &["s"], &["y"], &[]),
        ],
        initializers: vec![w, b],
        inputs: vec![value("x", FLOAT, &fixed(&[2, 3]))],
        outputs: vec![value("y", FLOAT, &fixed(&[2, 4]))],
    }
    .bytes()
}

/// `y = Sigmoid(x · w + b)`, with both in one file at this location.
fn model_at(location: &str) -> Vec<u8> {
    let w = [("location", location), ("offset", "0"), ("length", "48")];
    let b = [("location", location), ("offset", "48"), ("length", "16")];
    layer(elsewhere("w", &[3, 4], &w), elsewhere("b", &[4], &b))
}

/// The same model with these external data entries for `w`.
fn model_with(w: &[(&str, &str)]) -> Vec<u8> {
    let b = [("location", "weights.bin"), ("offset", "48"), ("length", "16")];
    layer(elsewhere("w", &[3, 4], w), elsewhere("b", &[4], &b))
}

fn weights(scale: f32) -> Vec<u8> {
    let w = (0..12).map(|at| (at as f32 * 0.37 - 2.1) * scale);
    let b = [0.11f32, -0.22, 0.33, -0.44];
    w.chain(b).flat_map(f32::to_le_bytes).collect()
}

const X: [f32; 6] = [1.0, 2.0, 3.0, -0.5, 0.25, 4.0];

/// The output of onnxruntime 1.32 for the same tensors in the same kind of file.
const Y: [f32; 8] = [
    0.342_989_74,
    0.775_564_1,
    0.982_189_6,
    0.995_764_5,
    0.988_399,
    0.995_94,
    0.999_413_1,
    0.999_683_4,
];

/// A policy that grants a file of this folder to a model.
fn policy_for(folder: &Scratch, name: &str, guest: &str) -> Policy {
    let mut policy = Policy::default();
    policy.filesystem = vec![FileGrant::new(folder.path(name), guest, Access::Read, "a test")];
    policy
}

fn load(host: &Host, bytes: &[u8], policy: &Policy) -> Result<Model, Error> {
    let bytes = ModelBytes::read(bytes, u64::MAX).unwrap().labelled("split.onnx");
    host.load(bytes, &fitting(host, policy))
}

fn run_model(model: &Model) -> Result<Vec<f32>, Error> {
    let x = Tensor::new(X.to_vec(), &[2, 3]).unwrap();
    let outputs = model.run(&[("x", x)])?.validate()?;
    Ok(outputs.get("y").unwrap().as_slice::<f32>().unwrap().to_vec())
}

#[track_caller]
fn assert_answers(model: &Model) {
    for (found, wanted) in run_model(model).unwrap().iter().zip(Y) {
        assert!((found - wanted).abs() <= 1e-6, "{found}, not {wanted}");
    }
}

#[track_caller]
fn assert_refused(host: &Host, bytes: &[u8], policy: &Policy, code: u8, says: &str) -> Error {
    let result = load(host, bytes, policy).and_then(|model| run_model(&model));
    let err = result.expect_err(says);
    assert_eq!(err.exit_code(), code, "{says}: {err}");
    assert!(err.to_string().contains(says), "{says}: {err}");
    assert!(err.to_string().chars().all(|c| !c.is_control()), "{err:?}");
    err
}

#[test]
fn granted_files_give_the_same_outputs_as_onnxruntime() {
    let temp = Scratch::new();
    temp.file("weights.bin", weights(1.0));
    temp.file("sub/deep/weights.bin", weights(1.0));
    for isolation in ISOLATIONS {
        let host = host(isolation);
        // The file itself, the model's folder, and a subfolder.
        let file = policy_for(&temp, "weights.bin", "/weights.bin");
        assert_answers(&load(&host, &model_at("weights.bin"), &file).unwrap());
        assert_answers(&load(&host, &model_at("./weights.bin"), &file).unwrap());
        let folder = policy_for(&temp, "", "/");
        assert_answers(&load(&host, &model_at("weights.bin"), &folder).unwrap());
        assert_answers(&load(&host, &model_at("sub/deep/weights.bin"), &folder).unwrap());
        let inner = policy_for(&temp, "sub", "/data");
        assert_answers(&load(&host, &model_at("data/deep/weights.bin"), &inner).unwrap());
        // Another host path under the model's name for the file.
        let renamed = policy_for(&temp, "weights.bin", "/model.data");
        assert_answers(&load(&host, &model_at("model.data"), &renamed).unwrap());
    }
    let host = host(Isolation::Process);
    let file = policy_for(&temp, "weights.bin", "/weights.bin");
    // Omitted offsets and lengths mean the start and the rest.
    let only = |name: &str| temp.file(name, &weights(1.0)[..48]);
    only("w.bin");
    let mut both = policy_for(&temp, "w.bin", "/w.bin");
    both.filesystem.extend(file.filesystem.clone());
    for entries in [
        &[("location", "w.bin")][..],
        &[("location", "w.bin"), ("offset", "0")],
        &[("length", "48"), ("location", "w.bin")],
        // The model's own checksum, which is not relied on.
        &[("location", "w.bin"), ("checksum", "da39a3ee5e6b4b0d3255bfef95601890afd80709")],
    ] {
        assert_answers(&load(&host, &model_with(entries), &both).unwrap());
    }
    // Granted files that the model does not use are not read, and an extra grant is harmless.
    let whole = layer(
        support::onnx::tensor_f32("w", &[3, 4], &floats(&weights(1.0)[..48])),
        support::onnx::tensor_f32("b", &[4], &floats(&weights(1.0)[48..])),
    );
    assert_answers(&load(&host, &whole, &policy_for(&temp, "nothing-there", "/w")).unwrap());
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

#[test]
fn without_a_grant_no_file_is_opened() {
    let temp = Scratch::new();
    temp.file("weights.bin", weights(1.0));
    temp.file("secret", weights(1.0));
    let host = host(Isolation::Process);
    // Without grants, the model is described, and refused when it is prepared.
    let model = load(&host, &model_at("weights.bin"), &Policy::default()).unwrap();
    assert_eq!(model.description().external_data.len(), 2);
    assert_refused(&host, &model_at("weights.bin"), &Policy::default(), 4, "another file");
    let file = policy_for(&temp, "weights.bin", "/weights.bin");
    for other in ["secret", "weights.bin.bak", "weights", "sub/weights.bin", "WEIGHTS.BIN"] {
        let says = "add [[filesystem]] with its path on this machine";
        let err = assert_refused(&host, &model_at(other), &file, 3, says);
        assert!(matches!(err.kind(), ErrorKind::NotGranted(_)));
        assert!(err.to_string().contains(&format!("guest = \"/{other}\"")), "{err}");
    }
    // A program's grants are not for its models.
    let mut both = file;
    both.program = Some(belljar::policy::Program::default());
    assert_refused(&host, &model_at("weights.bin"), &both, 3, "program");
}

#[test]
fn external_data_counts_against_the_model_size() {
    let temp = Scratch::new();
    let padded = [weights(1.0), vec![0; 1 << 20]].concat();
    temp.file("weights.bin", &padded);
    let host = host(Isolation::Process);
    let mut file = policy_for(&temp, "weights.bin", "/weights.bin");
    let model = model_at("weights.bin");
    file.limits.model_size = (padded.len() + model.len()) as u64;
    assert_answers(&load(&host, &model, &file).unwrap());
    file.limits.model_size -= 1;
    let err = load(&host, &model, &file).map(drop).unwrap_err();
    assert!(matches!(err.kind(), ErrorKind::Limit(Limit::ModelSize { .. })), "{err}");
    // Of a file that is larger than the memory, only the weights take memory.
    file.limits.model_size = 1 << 30;
    file.limits.memory = 64 << 20;
    fs::File::options()
        .write(true)
        .open(temp.path("weights.bin"))
        .and_then(|file| file.set_len(200 << 20))
        .unwrap();
    assert_answers(&load(&host, &model, &file).unwrap());
}

#[test]
fn prepared_models_depend_on_their_external_data() {
    let temp = Scratch::new();
    let model = model_at("weights.bin");
    let file = policy_for(&temp, "weights.bin", "/weights.bin");
    let answer = |content: &[u8]| {
        temp.file("weights.bin", content);
        let host = builder(Isolation::Process).snapshot_store(true).build().unwrap();
        let loaded = load(&host, &model, &file).unwrap();
        let answer = run_model(&loaded).unwrap();
        host.snapshot_store().finish();
        (answer, loaded.calls().prepare)
    };
    // No other process has prepared these.
    let seed = u32::from(std::process::id() as u16) as f32 / 65_536.0 + 1.0;
    let (first, prepared) = answer(&weights(seed));
    assert_eq!(prepared, 1);
    let (again, prepared) = answer(&weights(seed));
    assert_eq!((prepared, &again), (0, &first), "it comes from the store");
    let (other, prepared) = answer(&weights(seed * 2.0));
    assert_eq!(prepared, 1, "other weights are another model");
    assert_ne!(other, first);
    let (back, prepared) = answer(&weights(seed));
    assert_eq!((prepared, back), (0, first));
    // A loaded model keeps the content it was loaded with.
    temp.file("weights.bin", weights(1.0));
    let host = host(Isolation::Process);
    let loaded = load(&host, &model, &file).unwrap();
    temp.file("weights.bin", weights(9.0));
    assert_answers(&loaded);
}

#[test]
fn command_line_reads_granted_external_data() {
    let temp = Scratch::new();
    temp.file("weights.bin", weights(1.0));
    let model = temp.file("split.onnx", model_at("weights.bin"));
    let input = temp.file("x.json", "[[1, 2, 3], [-0.5, 0.25, 4]]");
    let policy = temp.file(
        "policy.toml",
        "version = 1\n[[filesystem]]\nhost = \"weights.bin\"\nguest = \"/weights.bin\"\n\
         reason = \"its weights\"\n[[filesystem]]\nhost = \"x.json\"\nguest = \"/x\"\nreason = \"r\"\n",
    );
    let log = temp.path("log.jsonl");
    let log = log.to_str().unwrap();
    let run = |arguments: &[&str]| {
        let output = support::belljar(arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let arguments = ["run", &model, "--policy", &policy, "--input", &input, "--decisions", log];
    let (code, text) = run(&arguments);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("0.342"), "{text}");
    let decided = fs::read_to_string(log).unwrap();
    assert!(decided.contains("\"resource\":\"/weights.bin\""), "{decided}");
    // A grant that no run has used is reported, as for a program.
    let (code, text) = run(&["policy", "check", &policy, "--unused", log]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("never used: /x") && !text.contains("/weights.bin"), "{text}");
    let bare = temp.file("bare.toml", "version = 1\n");
    let (code, text) = run(&["run", &model, "--policy", &bare, "--input", &input]);
    assert_eq!(code, Some(4), "{text}");
    // A recorded policy contains the files that were read.
    let recorded = temp.path("recorded.toml");
    let arguments =
        ["policy", "record", &model, "--within", &policy, "--input", &input, "--output"];
    let (code, text) = run(&[&arguments[..], &[recorded.to_str().unwrap()]].concat());
    assert_eq!(code, Some(0), "{text}");
    let policy = Policy::load(&recorded).unwrap().policy;
    let [grant] = &policy.filesystem[..] else { panic!("{policy:?}") };
    assert_eq!((grant.host.clone(), &*grant.guest), (temp.path("weights.bin"), "/weights.bin"));
}

#[test]
fn pinned_file_must_have_the_approved_content() {
    let temp = Scratch::new();
    temp.file("sub/weights.bin", weights(1.0));
    let approved = Digest::of(&weights(1.0));
    let pinned = |name: &str, guest: &str| {
        let mut policy = policy_for(&temp, name, guest);
        policy.filesystem[0].sha256 = Some(*approved.as_bytes());
        policy
    };
    let file = pinned("sub/weights.bin", "/weights.bin");
    for isolation in ISOLATIONS {
        let host = host(isolation);
        assert_answers(&load(&host, &model_at("weights.bin"), &file).unwrap());
    }
    let host = host(Isolation::Process);
    // A digest pins a single file, not the files in a folder.
    let folder = pinned("sub", "/");
    assert_refused(&host, &model_at("weights.bin"), &folder, 3, "grant the file itself");
    let mut changed = weights(1.0);
    changed[7] ^= 1;
    for content in [changed, weights(1.0)[..63].to_vec(), vec![]] {
        temp.file("sub/weights.bin", &content);
        let err = assert_refused(&host, &model_at("weights.bin"), &file, 3, "/weights.bin");
        assert!(matches!(err.kind(), ErrorKind::FilePin { .. }), "{err}");
        for digest in [approved, Digest::of(&content)] {
            assert!(err.to_string().contains(&digest.to_string()), "{err}");
        }
    }
    // This is detected before the model's size is checked, and before anything is prepared.
    temp.file("sub/weights.bin", weights(1.0));
    assert_answers(&load(&host, &model_at("weights.bin"), &file).unwrap());
}

#[test]
fn many_tensors_can_share_one_file() {
    let temp = Scratch::new();
    let count = 500;
    let numbers: Vec<u8> = (0..count).flat_map(|n| (n as f32).to_le_bytes()).collect();
    temp.file("all.bin", &numbers);
    let names: Vec<String> = (0..count).map(|at| format!("w{at}")).collect();
    let tensor = |(at, name): (usize, &String)| {
        let (offset, length) = ((4 * at).to_string(), "4".to_owned());
        elsewhere(name, &[1], &[("location", "all.bin"), ("offset", &offset), ("length", &length)])
    };
    let mut inputs: Vec<&str> = names.iter().map(String::as_str).collect();
    inputs.push("x");
    let graph = Graph {
        nodes: vec![node("Concat", &inputs, &["y"], &[support::onnx::int_attribute("axis", 0)])],
        initializers: names.iter().enumerate().map(tensor).collect(),
        inputs: vec![value("x", FLOAT, &fixed(&[1]))],
        outputs: vec![value("y", FLOAT, &fixed(&[count as i64 + 1]))],
    };
    let host = host(Isolation::Process);
    let model = load(&host, &graph.bytes(), &policy_for(&temp, "all.bin", "/all.bin")).unwrap();
    let x = Tensor::new(vec![-1f32], &[1]).unwrap();
    let outputs = model.run(&[("x", x)]).unwrap().validate().unwrap();
    let y = outputs.get("y").unwrap().as_slice::<f32>().unwrap();
    assert!(y.iter().take(count).enumerate().all(|(at, found)| *found == at as f32), "{y:?}");
}
