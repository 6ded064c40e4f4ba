//! Models with external data files: granted files are read once and work, and everything else that
//! such a model may name is refused.

use crate::support;

use std::fs;
use std::os::unix::fs::symlink;

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
fn locations_outside_the_models_folder_are_refused() {
    let temp = Scratch::new();
    temp.file("granted/weights.bin", weights(1.0));
    temp.file("secret", weights(1.0));
    let host = host(Isolation::Process);
    for policy in [
        policy_for(&temp, "granted", "/"),
        policy_for(&temp, "granted/weights.bin", "/weights.bin"),
    ] {
        let secret = temp.path("secret");
        for location in [
            "..",
            "../secret",
            "a/../../secret",
            "weights.bin/..",
            "/etc/passwd",
            "//etc/passwd",
            secret.to_str().unwrap(),
            "/proc/self/root/etc/passwd",
            "weights.bin/",
            "sub//x",
            "",
            ".",
            "./",
            "\0",
            "weights.bin\0",
            "weights.bin\0/../../secret",
        ] {
            assert_refused(&host, &model_at(location), &policy, 4, "it keeps data in the file");
        }
        let long = "a/".repeat(40_000) + "a";
        let err =
            load(&host, &model_at(&long), &policy).and_then(|model| run_model(&model)).unwrap_err();
        assert!(matches!(err.exit_code(), 1 | 3 | 4) && err.to_string().len() < 2000, "{err}");
        let err = load(&host, &model_at("\u{1b}[2J\n\u{202e}"), &policy).map(drop).unwrap_err();
        assert!(!err.to_string().contains(['\u{1b}', '\n', '\u{202e}']), "{err:?}");
    }
}

#[test]
fn links_and_special_files_are_refused() {
    let temp = Scratch::new();
    temp.file("secret/weights.bin", weights(1.0));
    temp.file("granted/good.bin", weights(1.0));
    temp.file("granted/two-names.bin", weights(1.0));
    let at = |name: &str| temp.path("granted").join(name);
    symlink("../secret/weights.bin", at("link.bin")).unwrap();
    symlink("good.bin", at("inner-link.bin")).unwrap();
    symlink("../secret", at("way")).unwrap();
    symlink("/", at("root")).unwrap();
    fs::hard_link(at("two-names.bin"), temp.path("other-name")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap();
    assert!(made.success());
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let host = host(Isolation::Process);
    let folder = policy_for(&temp, "granted", "/");
    for (location, says) in [
        ("link.bin", "symbolic link"),
        ("inner-link.bin", "symbolic link"),
        ("way/weights.bin", "symbolic link"),
        ("root/etc/passwd", "symbolic link"),
        ("two-names.bin", "several hard links"),
        ("folder", "not a regular file"),
        ("pipe", "not a regular file"),
        ("socket", "not a regular file"),
    ] {
        assert_refused(&host, &model_at(location), &folder, 3, says);
        // Also when it is granted directly.
        let itself = policy_for(&temp, &format!("granted/{location}"), "/weights.bin");
        assert_refused(&host, &model_at("weights.bin"), &itself, 3, says);
    }
    for device in ["/dev/zero", "/dev/null", "/dev/stdin", "/proc/self/environ", "/proc/self/mem"] {
        let mut policy = policy_for(&temp, "x", "/weights.bin");
        policy.filesystem[0].host = device.into();
        let result =
            load(&host, &model_at("weights.bin"), &policy).and_then(|model| run_model(&model));
        let err = result.expect_err(device);
        assert!(matches!(err.exit_code(), 1 | 3 | 4), "{device}: {err}");
    }
    assert_refused(&host, &model_at("missing.bin"), &folder, 1, "No such file");
    assert_answers(&load(&host, &model_at("good.bin"), &folder).unwrap());
}

#[test]
fn tensors_outside_their_file_are_refused() {
    let temp = Scratch::new();
    temp.file("weights.bin", weights(1.0));
    let host = host(Isolation::Process);
    let file = policy_for(&temp, "weights.bin", "/weights.bin");
    let location = ("location", "weights.bin");
    for (offset, length) in [
        ("0", "65"),
        ("65", "0"),
        ("17", "48"),
        ("18446744073709551615", "48"),
        ("18446744073709551568", "48"),
        ("4294967295", "48"),
        ("0", "18446744073709551615"),
        ("-48", "48"),
        ("0x0", "48"),
        ("0", "4e1"),
        ("zero", "48"),
        (" 0", "48"),
        ("99999999999999999999999", "48"),
    ] {
        let model = model_with(&[location, ("offset", offset), ("length", length)]);
        assert_refused(&host, &model, &file, 4, "the tensor w");
    }
    // Within the file, but not the size of the shape.
    for (offset, length) in [("0", "44"), ("0", "64"), ("60", "4"), ("0", "0"), ("1", "47")] {
        let model = model_with(&[location, ("offset", offset), ("length", length)]);
        assert_refused(&host, &model, &file, 4, "");
    }
    for entries in [
        &[location, location][..],
        &[location, ("length", "48"), ("checksum", "00"), ("checksum", "00")],
        &[location, ("length", "48"), ("length", "48")],
        &[location, ("\u{1b}[2J", "48")],
    ] {
        assert_refused(&host, &model_with(entries), &file, 4, "");
    }
    // Inline data in addition to external data.
    let twice = elsewhere("w", &[3, 4], &[location, ("length", "48")]).bytes(9, vec![0; 48]);
    let b = elsewhere("b", &[4], &[location, ("offset", "48")]);
    assert_refused(&host, &layer(twice, b), &file, 4, "");
    // A file that has been truncated.
    temp.file("weights.bin", &weights(1.0)[..40]);
    assert_refused(&host, &model_at("weights.bin"), &file, 4, "ends after the end of its file");
    temp.file("weights.bin", "");
    assert_refused(&host, &model_at("weights.bin"), &file, 4, "ends after the end of its file");
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
    // More than fits its memory.
    file.limits.model_size = 1 << 30;
    file.limits.memory = 64 << 20;
    fs::File::options()
        .write(true)
        .open(temp.path("weights.bin"))
        .and_then(|file| file.set_len(200 << 20))
        .unwrap();
    assert_refused(&host, &model, &file, 5, "limits.memory");
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

/// Runs `belljar` in a folder: exit code, standard output, standard error.
fn belljar_in(temp: &Scratch, arguments: &[&str]) -> (i32, String, String) {
    let mut command = support::belljar(arguments);
    let output = command.current_dir(temp.path("")).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// The policy with its commented grants uncommented.
fn accepted(policy: &str) -> String {
    let mut inside = false;
    let line = |line: &str| {
        inside = line == "# [[filesystem]]" || (inside && line.starts_with("# "));
        let plain = line.strip_prefix("# ").filter(|_| inside);
        plain.unwrap_or(line).to_owned() + "\n"
    };
    policy.lines().map(line).collect()
}

/// A folder with the model in two files, its input, and the output of `new-policy` for it.
fn split() -> (Scratch, String) {
    let temp = Scratch::new();
    temp.file("split.onnx", model_at("data/weights.bin"));
    temp.file("data/weights.bin", weights(1.0));
    temp.file("x.json", "[[1, 2, 3], [-0.5, 0.25, 4]]");
    let (code, policy, err) = belljar_in(&temp, &["new-policy", "split.onnx", "-i", "x.json"]);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("limits were not measured"), "{err}");
    (temp, policy)
}

#[test]
fn new_policy_writes_external_data_grants_as_comments() {
    let (temp, policy) = split();
    let read = Policy::parse(&policy, "p").unwrap();
    assert!(
        read.filesystem.is_empty(),
        "nothing is granted before somebody has read it:\n{policy}"
    );
    let digest = Digest::of(&weights(1.0));
    for line in [
        "# host = \"data/weights.bin\"",
        "# guest = \"/data/weights.bin\"",
        &format!("# sha256 = \"{digest}\""),
    ] {
        assert!(policy.contains(line), "{line}:\n{policy}");
    }
    // Without the grants, the model is refused with an error that names what is missing.
    temp.file("bare.toml", &policy);
    let run = |policy: &str| {
        belljar_in(&temp, &["run", "split.onnx", "-p", policy, "-i", "x.json", "--no-store"])
    };
    let (code, _, err) = run("bare.toml");
    assert!(code == 4 && err.contains("belljar new-policy"), "{err}");
    // With the grants, it runs, and other weights are refused.
    temp.file("granted.toml", accepted(&policy));
    let (code, out, err) = run("granted.toml");
    assert!(code == 0 && out.contains("0.342"), "{out}{err}");
    // Its limits are measured under this policy.
    let arguments =
        ["new-policy", "split.onnx", "-p", "granted.toml", "-i", "x.json", "-o", "m.toml"];
    let (code, _, err) = belljar_in(&temp, &arguments);
    assert_eq!(code, 0, "{err}");
    let measured = Policy::load(&temp.path("m.toml")).unwrap().policy;
    let [grant] = &measured.filesystem[..] else { panic!("{measured:?}") };
    assert_eq!((&*grant.guest, grant.sha256), ("/data/weights.bin", Some(*digest.as_bytes())));
    assert_eq!(grant.reason, "the model's weights");
    assert!(measured.limits.memory < Policy::default().limits.memory);
    let (code, out, err) = run("m.toml");
    assert!(code == 0 && out.contains("0.342"), "{out}{err}");
    temp.file("data/weights.bin", weights(2.0));
    let (code, _, err) = run("m.toml");
    assert_eq!(code, 3, "{err}");
    for digest in [digest, Digest::of(&weights(2.0))] {
        assert!(err.contains(&digest.to_string()), "{err}");
    }
    assert!(err.contains("filesystem.sha256") && err.contains("hint: "), "{err}");
}

#[test]
fn new_policy_reports_unusable_external_data_files() {
    let temp = Scratch::new();
    let new = |model: Vec<u8>| {
        temp.file("m.onnx", model);
        belljar_in(&temp, &["new-policy", "m.onnx"])
    };
    // The file does not exist.
    let (code, out, err) = new(model_at("weights.bin"));
    assert!(
        code == 0 && err.contains("weights.bin, in which the model keeps data: it cannot be read"),
        "{err}"
    );
    assert!(out.contains("# sha256 = \"…\""), "{out}");
    assert!(Policy::parse(&out, "p").is_ok() && Policy::parse(&accepted(&out), "p").is_err());
    // A link, as in a model hub's cache: the file itself is granted.
    temp.file("blobs/af", weights(1.0));
    symlink("blobs/af", temp.path("weights.bin")).unwrap();
    let (code, out, err) = new(model_at("weights.bin"));
    assert!(
        code == 0 && out.contains("symbolic link") && out.contains("host = \"blobs/af\""),
        "{out}{err}"
    );
    temp.file("x.json", "[[1, 2, 3], [-0.5, 0.25, 4]]");
    temp.file("linked.toml", accepted(&out));
    let (code, out, err) =
        belljar_in(&temp, &["run", "m.onnx", "-p", "linked.toml", "-i", "x.json", "--no-store"]);
    assert!(code == 0 && out.contains("0.342"), "{out}{err}");
    // A file with two hard links, and something that is not a file.
    fs::hard_link(temp.path("blobs/af"), temp.path("other")).unwrap();
    let (code, _, err) = new(model_at("weights.bin"));
    assert!(code == 0 && err.contains("several hard links"), "{err}");
    fs::create_dir(temp.path("folder")).unwrap();
    let (code, _, err) = new(model_at("folder"));
    assert!(code == 0 && err.contains("not a regular file"), "{err}");
    // Two files, one of them in a folder.
    temp.file("a.bin", &weights(1.0)[..48]);
    temp.file("sub/b.bin", &weights(1.0)[48..]);
    let w = elsewhere("w", &[3, 4], &[("location", "a.bin")]);
    let b = elsewhere("b", &[4], &[("location", "sub/b.bin")]);
    let (code, out, err) = new(layer(w, b));
    assert_eq!((code, out.matches("# [[filesystem]]").count()), (0, 2), "{out}{err}");
    temp.file("two.toml", accepted(&out));
    let (code, out, err) =
        belljar_in(&temp, &["run", "m.onnx", "-p", "two.toml", "-i", "x.json", "--no-store"]);
    assert!(code == 0 && out.contains("0.342"), "{out}{err}");
    // Locations that lead out of the model's folder.
    for location in ["../secret", "/etc/passwd", "a/../../b"] {
        let (code, out, err) = new(model_at(location));
        assert!(code == 4 && out.is_empty() && err.contains("keeps data in the file"), "{err}");
    }
    // A name stays inside its comment.
    temp.file("a\u{1b}[2J\nversion = 2\n", weights(1.0));
    let (code, out, err) = new(model_at("a\u{1b}[2J\nversion = 2\n"));
    assert!(code == 0 && Policy::parse(&out, "p").unwrap().filesystem.is_empty(), "{out}{err}");
    assert!(!(out + &err).contains('\u{1b}'));
    assert!(out_of(&temp).contains("its path cannot be written in a policy"));
    // More files than one model may have.
    let many = (0..300).map(|at| {
        let location = format!("{at}.bin");
        elsewhere(&format!("w{at}"), &[1], &[("location", &location)])
    });
    let graph = Graph {
        nodes: vec![node("Relu", &["x"], &["y"], &[])],
        initializers: many.collect(),
        inputs: vec![value("x", FLOAT, &fixed(&[2]))],
        outputs: vec![value("y", FLOAT, &fixed(&[2]))],
    };
    let (code, _, err) = new(graph.bytes());
    assert!(code == 4 && err.contains("more than 256 files"), "{err}");
}

/// The output of `new-policy` for this model.
fn out_of(temp: &Scratch) -> String {
    belljar_in(temp, &["new-policy", "m.onnx"]).1
}

#[test]
fn new_policy_can_measure_with_more_than_the_default_limits() {
    let temp = Scratch::new();
    temp.file("m.onnx", support::onnx::relu(&fixed(&[2])).bytes());
    let new =
        |more: &[&str]| belljar_in(&temp, &[&["new-policy", "m.onnx", "--random"], more].concat());
    let (code, out, err) = new(&["--memory", "1.5 GiB"]);
    assert!(code == 0 && Policy::parse(&out, "p").unwrap().filesystem.is_empty(), "{err}");
    for memory in ["1", "5 GiB", "1 MiB", "\u{1b}[2J"] {
        let (code, _, err) = new(&["--memory", memory]);
        assert!(code == 2 && err.contains("--memory") && !err.contains('\u{1b}'), "{err}");
    }
    // The message of an exceeded limit names the option that raises it.
    temp.file("small.toml", "version = 1\n[limits]\nmodel-size = \"10 B\"\n");
    let (code, _, err) = new(&["--policy", "small.toml"]);
    assert!(code == 5 && err.contains("--memory") && err.contains("--policy"), "{err}");
    assert_eq!(new(&["--policy", "small.toml", "--memory", "64 MiB"]).0, 0);
    // Settings and rules of the policy are kept.
    let kept = "version = 1\nconfinement = \"best-effort\"\ndeclared-shapes = \"strict\"\n\
                [inputs.x]\nmax = 3\n[outputs.y]\ndecimals = 2\n[limits]\nsnapshots = 9\n\
                [compute]\nthreads = 2\n";
    temp.file("kept.toml", kept);
    let (code, out, err) = new(&["--policy", "kept.toml"]);
    assert_eq!(code, 0, "{err}");
    let (found, wanted) = (Policy::parse(&out, "p").unwrap(), Policy::parse(kept, "p").unwrap());
    assert_eq!(
        (found.confinement, found.declared_shapes),
        (wanted.confinement, wanted.declared_shapes)
    );
    assert_eq!((found.inputs, found.outputs), (wanted.inputs, wanted.outputs));
    assert_eq!((found.compute, found.limits.snapshots), (wanted.compute, 9));
    // A program is not measured.
    temp.file("p.wasm", b"\0asm\x0d\0\x01\0");
    let (code, _, err) = belljar_in(&temp, &["new-policy", "p.wasm", "--memory", "1 GiB"]);
    assert_eq!(code, 2, "{err}");
}

#[test]
fn recorded_policy_contains_all_files_of_the_model() {
    let temp = Scratch::new();
    // Much more external data than model.
    let padded = [weights(1.0), vec![0; 3 << 20]].concat();
    temp.file("weights.bin", &padded);
    temp.file("split.onnx", model_at("weights.bin"));
    temp.file("x.json", "[[1, 2, 3], [-0.5, 0.25, 4]]");
    let grant = "version = 1\n[[filesystem]]\nhost = \"weights.bin\"\nguest = \"/weights.bin\"\n\
                 reason = \"its weights\"\n";
    temp.file("grants.toml", grant);
    let record =
        ["policy", "record", "split.onnx", "--within", "grants.toml", "-i", "x.json", "-o"];
    let (code, _, err) = belljar_in(&temp, &[&record[..], &["rec.toml"]].concat());
    assert_eq!(code, 0, "{err}");
    let recorded = Policy::load(&temp.path("rec.toml")).unwrap().policy;
    assert!(recorded.limits.model_size >= padded.len() as u64, "{recorded:?}");
    assert_eq!(recorded.filesystem[0].sha256, Some(*Digest::of(&padded).as_bytes()));
    let (code, out, err) =
        belljar_in(&temp, &["run", "split.onnx", "-p", "rec.toml", "-i", "x.json", "--no-store"]);
    assert!(code == 0 && out.contains("0.342"), "{out}{err}");
    // A ceiling that requires pins refuses an unpinned file; recorded files have pins.
    let pins = temp
        .file("ceiling.toml", "version = 1\nrequire-pin = true\n[[filesystem]]\npath = \"/\"\n");
    let under = |arguments: &[&str]| {
        let mut command = support::belljar(arguments);
        command.current_dir(temp.path("")).env("BELLJAR_CEILING", &pins);
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let digest = Digest::of(&fs::read(temp.path("split.onnx")).unwrap());
    let model = format!("[model]\nsha256 = \"{digest}\"\n");
    temp.file("unpinned.toml", grant.replace("[[", &format!("{model}[[")));
    let run =
        |policy: &str| under(&["run", "split.onnx", "-p", policy, "-i", "x.json", "--no-store"]);
    let (code, err) = run("unpinned.toml");
    assert!(code == 3 && err.contains("pin every file") && err.contains("/weights.bin"), "{err}");
    let (code, err) = run("rec.toml");
    assert_eq!(code, 0, "{err}");
    let (code, err) = under(&[&record[..], &["again.toml"]].concat());
    assert_eq!(code, 0, "{err}");
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
