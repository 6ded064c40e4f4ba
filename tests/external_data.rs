//! Models that keep weights in files beside them: what a policy grants is read once and works, and
//! everything else that such a model may name is refused.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use belljar::policy::{Access, FileGrant};
use belljar::{Error, ErrorKind, Host, Isolation, Limit, Model, ModelBytes, Policy, Tensor};
use support::onnx::{FLOAT, Graph, Message, fixed, node, value};
use support::{ISOLATIONS, builder, fitting, host};

/// `key = value`.
fn entry(key: &str, value: &str) -> Message {
    Message::new().bytes(1, key).bytes(2, value)
}

/// A tensor of f32 that keeps its data elsewhere, as these entries say.
fn elsewhere(name: &str, dims: &[i64], entries: &[(&str, &str)]) -> Message {
    let tensor = dims.iter().fold(Message::new(), |tensor, dim| tensor.int(1, *dim));
    let tensor = tensor.int(2, FLOAT).bytes(8, name);
    let entries = entries.iter().map(|(key, value)| entry(key, value));
    // The location of the data: outside.
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

/// The same with what `w` says of its data.
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

/// As onnxruntime 1.32 answers for the same tensors in the same kind of file.
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

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A policy that grants this to a model.
    fn policy(&self, name: &str, guest: &str) -> Policy {
        let (host, guest) = (self.path(name), guest.to_owned());
        let grant = FileGrant { host, guest, access: Access::Read, reason: "a test".to_owned() };
        Policy { filesystem: vec![grant], ..Policy::default() }
    }
}

fn load(host: &Host, bytes: &[u8], policy: &Policy) -> Result<Model, Error> {
    let bytes = ModelBytes::read(bytes, u64::MAX).unwrap().labelled("split.onnx");
    host.load(bytes, &fitting(host, policy))
}

fn ask(model: &Model) -> Result<Vec<f32>, Error> {
    let x = Tensor::new(X.to_vec(), &[2, 3]).unwrap();
    let outputs = model.run(&[("x", x)])?.validate()?;
    Ok(outputs.get("y").unwrap().as_slice::<f32>().unwrap().to_vec())
}

#[track_caller]
fn assert_answers(model: &Model) {
    for (found, wanted) in ask(model).unwrap().iter().zip(Y) {
        assert!((found - wanted).abs() <= 1e-6, "{found}, not {wanted}");
    }
}

#[track_caller]
fn assert_refused(host: &Host, bytes: &[u8], policy: &Policy, code: u8, says: &str) -> Error {
    let result = load(host, bytes, policy).and_then(|model| ask(&model));
    let err = result.expect_err(says);
    assert_eq!(err.exit_code(), code, "{says}: {err}");
    assert!(err.to_string().contains(says), "{says}: {err}");
    assert!(err.to_string().chars().all(|c| !c.is_control()), "{err:?}");
    err
}

#[test]
fn granted_files_give_onnxruntimes_answer() {
    let place = Place::new();
    place.write("weights.bin", weights(1.0));
    place.write("sub/deep/weights.bin", weights(1.0));
    for isolation in ISOLATIONS {
        let host = host(isolation);
        // The file itself, its folder as the model's, and a folder in that.
        let file = place.policy("weights.bin", "/weights.bin");
        assert_answers(&load(&host, &model_at("weights.bin"), &file).unwrap());
        assert_answers(&load(&host, &model_at("./weights.bin"), &file).unwrap());
        let folder = place.policy("", "/");
        assert_answers(&load(&host, &model_at("weights.bin"), &folder).unwrap());
        assert_answers(&load(&host, &model_at("sub/deep/weights.bin"), &folder).unwrap());
        let inner = place.policy("sub", "/data");
        assert_answers(&load(&host, &model_at("data/deep/weights.bin"), &inner).unwrap());
        // Another host path under the name that the model knows.
        let renamed = place.policy("weights.bin", "/model.data");
        assert_answers(&load(&host, &model_at("model.data"), &renamed).unwrap());
    }
    let host = host(Isolation::Process);
    let file = place.policy("weights.bin", "/weights.bin");
    // Offsets and lengths that are left out are the start and the rest.
    let only = |name: &str| place.write(name, &weights(1.0)[..48]);
    only("w.bin");
    let mut both = place.policy("w.bin", "/w.bin");
    both.filesystem.extend(file.filesystem.clone());
    for entries in [
        &[("location", "w.bin")][..],
        &[("location", "w.bin"), ("offset", "0")],
        &[("length", "48"), ("location", "w.bin")],
    ] {
        assert_answers(&load(&host, &model_with(entries), &both).unwrap());
    }
    // What is not a model's file is not read: a grant more does no harm.
    let whole = layer(
        support::onnx::tensor_f32("w", &[3, 4], &floats(&weights(1.0)[..48])),
        support::onnx::tensor_f32("b", &[4], &floats(&weights(1.0)[48..])),
    );
    assert_answers(&load(&host, &whole, &place.policy("nothing-there", "/w")).unwrap());
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

#[test]
fn without_a_grant_no_file_is_opened() {
    let place = Place::new();
    place.write("weights.bin", weights(1.0));
    place.write("secret", weights(1.0));
    let host = host(Isolation::Process);
    // As before: what is described is refused when it is to be prepared.
    let model = load(&host, &model_at("weights.bin"), &Policy::default()).unwrap();
    assert_eq!(model.description().external_data.len(), 2);
    assert_refused(&host, &model_at("weights.bin"), &Policy::default(), 4, "another file");
    let file = place.policy("weights.bin", "/weights.bin");
    for other in ["secret", "weights.bin.bak", "weights", "sub/weights.bin", "WEIGHTS.BIN"] {
        let says = "add [[filesystem]] with its place on this machine";
        let err = assert_refused(&host, &model_at(other), &file, 3, says);
        assert!(matches!(err.kind(), ErrorKind::NotGranted(_)));
        assert!(err.to_string().contains(&format!("guest = \"/{other}\"")), "{err}");
    }
    // A program's grants are for its program.
    let both = Policy { program: Some(belljar::policy::Program::default()), ..file };
    assert_refused(&host, &model_at("weights.bin"), &both, 3, "program");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let place = Place::new();
    place.write("granted/weights.bin", weights(1.0));
    place.write("secret", weights(1.0));
    let host = host(Isolation::Process);
    for policy in
        [place.policy("granted", "/"), place.policy("granted/weights.bin", "/weights.bin")]
    {
        let secret = place.path("secret");
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
        let err = load(&host, &model_at(&long), &policy).and_then(|model| ask(&model)).unwrap_err();
        assert!(matches!(err.exit_code(), 1 | 3 | 4) && err.to_string().len() < 2000, "{err}");
        let err = load(&host, &model_at("\u{1b}[2J\n\u{202e}"), &policy).map(drop).unwrap_err();
        assert!(!err.to_string().contains(['\u{1b}', '\n', '\u{202e}']), "{err:?}");
    }
}

#[test]
fn links_and_what_is_no_file_are_refused() {
    let place = Place::new();
    place.write("secret/weights.bin", weights(1.0));
    place.write("granted/good.bin", weights(1.0));
    place.write("granted/two-names.bin", weights(1.0));
    let at = |name: &str| place.path("granted").join(name);
    symlink("../secret/weights.bin", at("link.bin")).unwrap();
    symlink("good.bin", at("inner-link.bin")).unwrap();
    symlink("../secret", at("way")).unwrap();
    symlink("/", at("root")).unwrap();
    fs::hard_link(at("two-names.bin"), place.path("other-name")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap();
    assert!(made.success());
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let host = host(Isolation::Process);
    let folder = place.policy("granted", "/");
    for (location, says) in [
        ("link.bin", "symbolic link"),
        ("inner-link.bin", "symbolic link"),
        ("way/weights.bin", "symbolic link"),
        ("root/etc/passwd", "symbolic link"),
        ("two-names.bin", "several names"),
        ("folder", "not a regular file"),
        ("pipe", "not a regular file"),
        ("socket", "not a regular file"),
    ] {
        assert_refused(&host, &model_at(location), &folder, 3, says);
        // Also when it is granted itself.
        let itself = place.policy(&format!("granted/{location}"), "/weights.bin");
        assert_refused(&host, &model_at("weights.bin"), &itself, 3, says);
    }
    for device in ["/dev/zero", "/dev/null", "/dev/stdin", "/proc/self/environ", "/proc/self/mem"] {
        let mut policy = place.policy("x", "/weights.bin");
        policy.filesystem[0].host = device.into();
        let result = load(&host, &model_at("weights.bin"), &policy).and_then(|model| ask(&model));
        let err = result.expect_err(device);
        assert!(matches!(err.exit_code(), 1 | 3 | 4), "{device}: {err}");
    }
    assert_refused(&host, &model_at("missing.bin"), &folder, 1, "No such file");
    assert_answers(&load(&host, &model_at("good.bin"), &folder).unwrap());
}

#[test]
fn tensors_lie_within_their_file() {
    let place = Place::new();
    place.write("weights.bin", weights(1.0));
    let host = host(Isolation::Process);
    let file = place.policy("weights.bin", "/weights.bin");
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
    // Whole, and not what the shape asks for.
    for (offset, length) in [("0", "44"), ("0", "64"), ("60", "4"), ("0", "0"), ("1", "47")] {
        let model = model_with(&[location, ("offset", offset), ("length", length)]);
        assert_refused(&host, &model, &file, 4, "");
    }
    for entries in [
        &[location, location][..],
        &[location, ("checksum", "da39a3ee5e6b4b0d3255bfef95601890afd80709")],
        &[location, ("length", "48"), ("length", "48")],
        &[location, ("\u{1b}[2J", "48")],
    ] {
        assert_refused(&host, &model_with(entries), &file, 4, "");
    }
    // Data of its own beside that elsewhere.
    let twice = elsewhere("w", &[3, 4], &[location, ("length", "48")]).bytes(9, vec![0; 48]);
    let b = elsewhere("b", &[4], &[location, ("offset", "48")]);
    assert_refused(&host, &layer(twice, b), &file, 4, "");
    // A file that has become shorter.
    place.write("weights.bin", &weights(1.0)[..40]);
    assert_refused(&host, &model_at("weights.bin"), &file, 4, "ends behind the end of its file");
    place.write("weights.bin", "");
    assert_refused(&host, &model_at("weights.bin"), &file, 4, "ends behind the end of its file");
}

#[test]
fn what_lies_beside_counts_as_the_model() {
    let place = Place::new();
    let padded = [weights(1.0), vec![0; 1 << 20]].concat();
    place.write("weights.bin", &padded);
    let host = host(Isolation::Process);
    let mut file = place.policy("weights.bin", "/weights.bin");
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
        .open(place.path("weights.bin"))
        .and_then(|file| file.set_len(200 << 20))
        .unwrap();
    assert_refused(&host, &model, &file, 5, "limits.memory");
}

#[test]
fn a_prepared_model_is_one_with_its_files() {
    let place = Place::new();
    let model = model_at("weights.bin");
    let file = place.policy("weights.bin", "/weights.bin");
    let answer = |content: &[u8]| {
        place.write("weights.bin", content);
        let host = builder(Isolation::Process).image_store(true).build().unwrap();
        let loaded = load(&host, &model, &file).unwrap();
        let answer = ask(&loaded).unwrap();
        host.image_store().finish();
        (answer, loaded.calls().prepare)
    };
    // Nobody else has prepared these.
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
    // A loaded model has what it was loaded with.
    place.write("weights.bin", weights(1.0));
    let host = host(Isolation::Process);
    let loaded = load(&host, &model, &file).unwrap();
    place.write("weights.bin", weights(9.0));
    assert_answers(&loaded);
}

#[test]
fn the_command_line_reads_what_its_policy_grants() {
    let place = Place::new();
    place.write("weights.bin", weights(1.0));
    let model = place.write("split.onnx", model_at("weights.bin"));
    let input = place.write("x.json", "[[1, 2, 3], [-0.5, 0.25, 4]]");
    let policy = place.write(
        "policy.toml",
        "version = 1\n[[filesystem]]\nhost = \"weights.bin\"\nguest = \"/weights.bin\"\n\
         reason = \"its weights\"\n[[filesystem]]\nhost = \"x.json\"\nguest = \"/x\"\nreason = \"r\"\n",
    );
    let log = place.path("log.jsonl");
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
    // The grant that no run has used is told, as of a program.
    let (code, text) = run(&["policy", "check", &policy, "--unused", log]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("never used: /x") && !text.contains("/weights.bin"), "{text}");
    let bare = place.write("bare.toml", "version = 1\n");
    let (code, text) = run(&["run", &model, "--policy", &bare, "--input", &input]);
    assert_eq!(code, Some(4), "{text}");
    // What a recorded policy has is what was read.
    let recorded = place.path("recorded.toml");
    let arguments =
        ["policy", "record", &model, "--within", &policy, "--input", &input, "--output"];
    let (code, text) = run(&[&arguments[..], &[recorded.to_str().unwrap()]].concat());
    assert_eq!(code, Some(0), "{text}");
    let policy = Policy::load(&recorded).unwrap().policy;
    let [grant] = &policy.filesystem[..] else { panic!("{policy:?}") };
    assert_eq!((grant.host.clone(), &*grant.guest), (place.path("weights.bin"), "/weights.bin"));
}
