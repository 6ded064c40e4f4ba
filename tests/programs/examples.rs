//! Guest programs: granted requests work, and others are refused. The programs are in
//! `guest-models/programs`; `misbehaves` runs a command from its input.

use crate::support;

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use belljar::tensor::{DType, f16, npy};
use belljar::{
    Confinement, Digest, Error, ErrorKind, Event, Host, Isolation, Limit, ModelBytes, Policy,
    Program, Tensor, Value,
};
use support::{belljar, builder, host, repository};

/// A program built by `cargo xtask programs`.
fn program_file(name: &str) -> PathBuf {
    let path = repository().join("target/guest/programs").join(name).with_extension("wasm");
    assert!(path.is_file(), "{}: run `cargo xtask programs`", path.display());
    path
}

fn program_bytes(name: &str) -> Vec<u8> {
    std::fs::read(program_file(name)).unwrap()
}

const MAGIKA: &str = "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c";

/// A grant of magika's model, with or without its file.
fn magika(with_path: bool) -> String {
    let path = if with_path { "path = \"magika.onnx\"" } else { "" };
    format!("[[models]]\nname = \"magika\"\nsha256 = \"{MAGIKA}\"\n{path}\n")
}

/// A policy for a program, with these tables.
fn policy(tables: &str) -> Policy {
    let text = format!("version = 1\n{tables}\n");
    let text = if tables.contains("[program]") { text } else { text + "[program]\n" };
    let mut policy = Policy::parse(&text, "test.toml").unwrap();
    policy.resolve_in(&support::models());
    policy
}

fn load(host: &Host, bytes: &[u8], policy: &Policy) -> Result<Program, Error> {
    let bytes = ModelBytes::read(bytes, u64::MAX).unwrap().labelled("test.wasm");
    host.load_program(bytes, policy)
}

fn misbehaves(host: &Host, policy: &Policy) -> Program {
    load(host, &program_bytes("misbehaves"), policy).unwrap()
}

fn run_command(program: &Program, order: &str) -> Result<Vec<(String, Value)>, Error> {
    program.run(&[("do", Value::from(order))])
}

/// Checks that the program still returns correct outputs.
#[track_caller]
fn assert_answers(program: &Program) {
    let outputs = run_command(program, "bytes 3").unwrap();
    assert_eq!(outputs, [("y".to_owned(), Value::Bytes(vec![0; 3]))]);
}

#[track_caller]
fn assert_fails(outcome: Result<Vec<(String, Value)>, Error>, code: u8, says: &str) -> Error {
    let err = outcome.expect_err(says);
    assert_eq!(err.exit_code(), code, "{err}");
    assert!(err.to_string().contains(says), "{err}");
    assert!(err.to_string().chars().all(|c| !c.is_control()), "{err:?}");
    err
}

#[test]
fn model_of_a_program_matches_onnxruntime() {
    let (_folder, policy) = shipped("file-type.toml", "magika");
    names_the_type("file-type", &policy);
}

/// Built only by `cargo xtask programs --all`, and in the check before a release.
#[test]
fn model_of_a_python_program_matches_onnxruntime() {
    let file = repository().join("target/guest/programs/file-type-python.wasm");
    if !file.is_file() {
        let required = std::env::var_os("BELLJAR_PYTHON_PROGRAM").is_some();
        assert!(!required, "{}: run `cargo xtask programs --all`", file.display());
        return;
    }
    let (_folder, policy) = shipped("file-type-python.toml", "magika");
    names_the_type("file-type-python", &policy);
}

/// Gives a program the file from which magika's stored input was made.
#[track_caller]
fn names_the_type(name: &str, policy: &Policy) {
    let read = |file: &str| {
        let path = repository().join(format!("tests/expectations/magika/text.{file}.npy"));
        npy::read(std::fs::File::open(path).unwrap(), 1 << 20).unwrap()
    };
    let (input, expected) = (read("in0"), read("out0"));
    let numbers = input.as_slice::<i32>().unwrap();
    // A file whose start and end are the stored input.
    let content: Vec<u8> = numbers[..1024].iter().map_while(|n| u8::try_from(*n).ok()).collect();
    let host = host(Isolation::Process);
    let program = load(&host, &program_bytes(name), policy).unwrap();
    for _ in 0..2 {
        let outputs = program.run(&[("file", Value::Bytes(content.clone()))]).unwrap();
        let [(class, Value::Tensor(best)), (scores, Value::Tensor(all))] = &outputs[..] else {
            panic!("{outputs:?}")
        };
        assert_eq!((class.as_str(), scores.as_str()), ("class", "scores"));
        assert_eq!(all.shape(), [1, 214]);
        let (found, wanted) = (all.as_slice::<f32>().unwrap(), expected.as_slice::<f32>().unwrap());
        for (found, wanted) in found.iter().zip(wanted) {
            assert!((found - wanted).abs() <= 1e-5 + 1e-3 * wanted.abs(), "{found}, not {wanted}");
        }
        let greatest = (0..wanted.len()).max_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
        assert_eq!(best.as_slice::<i64>().unwrap(), [greatest.unwrap() as i64]);
    }
}

/// A PNG file of these pixels, without compression.
fn png(width: u32, height: u32, rgb: &[u8]) -> Vec<u8> {
    fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
        })
    }
    let mut lines = Vec::new();
    for line in rgb.chunks_exact(3 * width as usize) {
        // No filter.
        lines.push(0);
        lines.extend(line);
    }
    let mut zlib = vec![0x78, 1];
    let mut blocks = lines.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        let len = u16::try_from(block.len()).unwrap();
        zlib.push(u8::from(blocks.peek().is_none()));
        zlib.extend(len.to_le_bytes());
        zlib.extend((!len).to_le_bytes());
        zlib.extend(block);
    }
    let (a, b) = lines.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65521;
        (a, (b + a) % 65521)
    });
    zlib.extend((b << 16 | a).to_be_bytes());
    let head = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, content) in [(b"IHDR", head), (b"IDAT", zlib), (b"IEND", Vec::new())] {
        let chunk = [&kind[..], &content].concat();
        file.extend(u32::try_from(content.len()).unwrap().to_be_bytes());
        file.extend(&chunk);
        file.extend(crc(&chunk).to_be_bytes());
    }
    file
}

/// The pixels of a stored image, row by row.
fn stored_pixels(name: &str) -> Vec<u8> {
    let path = repository().join(format!("tests/expectations/images/{name}.npy"));
    let planes = npy::read(std::fs::File::open(path).unwrap(), 1 << 20).unwrap();
    let planes = planes.as_slice::<u8>().unwrap();
    let size = 224 * 224;
    (0..size).flat_map(|at| [planes[at], planes[size + at], planes[2 * size + at]]).collect()
}

/// A policy of the repository, in a folder with the models that it names and their policies.
fn shipped(name: &str, model: &str) -> (tempfile::TempDir, Policy) {
    let folder = tempfile::tempdir().unwrap();
    let put = |from: PathBuf| {
        std::fs::copy(&from, folder.path().join(from.file_name().unwrap())).unwrap();
    };
    let policies = repository().join("policies");
    put(policies.join(name));
    put(policies.join(model).with_extension("toml"));
    put(support::models().join(model).with_extension("onnx"));
    let file = folder.path().join(name);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, mode).unwrap();
    let policy = Policy::load(&file).unwrap().policy;
    (folder, policy)
}

#[test]
fn image_classification_matches_onnxruntime() {
    let host = host(Isolation::Process);
    let (_folder, policy) = shipped("classify.toml", "squeezenet");
    let classify = load(&host, &program_bytes("classify"), &policy).unwrap();
    let scores = |image: Vec<u8>| {
        let outputs = classify.run(&[("image", Value::Bytes(image))]).unwrap();
        let [(_, Value::Tensor(class)), (_, Value::Tensor(scores))] = &outputs[..] else {
            panic!("{outputs:?}")
        };
        (class.as_slice::<i64>().unwrap()[0], scores.as_slice::<f32>().unwrap().to_vec())
    };
    let expected = |path: &str| {
        let file = std::fs::File::open(repository().join("tests/expectations").join(path));
        let tensor = npy::read(file.unwrap(), 1 << 20).unwrap();
        tensor.as_slice::<f32>().unwrap().to_vec()
    };
    let assert_close = |(class, found): (i64, Vec<f32>), wanted: Vec<f32>, relative: f32| {
        assert_eq!(found.len(), wanted.len());
        let greatest = (0..wanted.len()).max_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
        assert_eq!(class, greatest.unwrap() as i64);
        for (found, wanted) in found.iter().zip(&wanted) {
            let tolerance = 1e-6 + relative * wanted.abs();
            assert!((found - wanted).abs() <= tolerance, "{found}, not {wanted}");
        }
    };
    for (image, name) in [("photo_one", "one"), ("photo_two", "two")] {
        let pixels = stored_pixels(image);
        let wanted = || expected(&format!("squeezenet/{name}.out0.npy"));
        assert_close(scores(png(224, 224, &pixels)), wanted(), 1e-3);
        // Twice the size, with each pixel four times: the same after resizing.
        let double: Vec<u8> = (0..448 * 448)
            .flat_map(|at| {
                let (y, x) = (at / 448 / 2, at % 448 / 2);
                pixels[3 * (y * 224 + x)..][..3].to_vec()
            })
            .collect();
        assert_close(scores(png(448, 448, &double)), wanted(), 1e-3);
    }
    // JPEG decoders may differ by one in each colour, which these weights amplify.
    let photo = std::fs::read(repository().join("tests/expectations/classify/photo.jpg")).unwrap();
    assert_close(scores(photo.clone()), expected("classify/photo.out0.npy"), 0.15);
    // The program refuses files that are not images, and its limits stop an image bomb.
    let refused = |image: Vec<u8>, says: &str| {
        assert_fails(classify.run(&[("image", Value::Bytes(image))]), 4, says);
    };
    refused(b"GIF89a".to_vec(), "neither a PNG nor a JPEG");
    refused(photo[..photo.len() / 2].to_vec(), "JPEG file");
    refused(png(60_000, 60_000, &[]), "the PNG file");
}

#[test]
fn values_of_every_kind_are_passed_unchanged() {
    let program = misbehaves(&host(Isolation::Process), &policy(""));
    let mut inputs = vec![
        ("do".to_owned(), Value::from("echo")),
        ("b".to_owned(), Value::Bytes((0..=255).collect())),
        ("empty".to_owned(), Value::Bytes(Vec::new())),
        ("t".to_owned(), Value::from("täxt \u{1f600} \u{0}")),
        ("scalar".to_owned(), Tensor::scalar(7i64).into()),
        ("none".to_owned(), Tensor::new(Vec::<f32>::new(), &[0, 3]).unwrap().into()),
        ("bools".to_owned(), Tensor::new(vec![true, false], &[2]).unwrap().into()),
        ("halves".to_owned(), Tensor::new(vec![f16::from_f32(1.5)], &[1, 1]).unwrap().into()),
    ];
    // The interface of programs does not have the small types.
    let small = |dtype: DType| dtype.to_onnx() >= DType::BF16.to_onnx();
    for dtype in DType::ALL.iter().filter(|dtype| **dtype != DType::String && !small(**dtype)) {
        inputs.push((dtype.name().to_owned(), Tensor::zeros(*dtype, &[2, 3]).unwrap().into()));
    }
    assert_eq!(program.run(&inputs).unwrap(), inputs);
    let strings = Tensor::new(vec!["a".to_owned()], &[1]).unwrap();
    let err = program.run(&[("do", Value::from("echo")), ("s", strings.into())]).unwrap_err();
    assert_eq!(err.exit_code(), 4, "{err}");
    for dtype in DType::ALL.iter().filter(|dtype| small(**dtype)) {
        let tensor = Tensor::zeros(*dtype, &[2]).unwrap();
        let err = program.run(&[("do", Value::from("echo")), ("s", tensor.into())]).unwrap_err();
        assert!(err.exit_code() == 4 && err.to_string().contains(dtype.name()), "{err}");
    }
    let twice = [("do", Value::from("echo")), ("do", Value::from("trap"))];
    assert!(program.run(&twice).unwrap_err().to_string().contains("duplicate"));
}

#[test]
fn failures_of_programs_have_distinct_errors() {
    let host = host(Isolation::Process);
    let program = misbehaves(&host, &policy("[limits]\nrun-time = \"500 ms\""));
    assert_fails(run_command(&program, "loop"), 5, "`limits.run-time`");
    assert_answers(&program);
    assert_fails(run_command(&program, "grow"), 5, "`limits.memory`");
    assert_fails(run_command(&program, "recurse"), 5, "`limits.stack`");
    assert_fails(run_command(&program, "trap"), 6, "unreachable");
    assert_fails(run_command(&program, "panic oh"), 6, "unreachable");
    let err = assert_fails(
        run_command(&program, "fail \u{1b}[31mno"),
        4,
        "the program says: \\u{1b}[31mno",
    );
    assert!(err.to_string().starts_with("test.wasm: "), "{err}");
    assert_fails(run_command(&program, &format!("fail {}", "x".repeat(1 << 20))), 4, "xxx");
    assert_fails(program.run::<&str>(&[]), 4, "expected the input `do`");
    assert_answers(&program);
}

#[test]
fn outputs_are_bounded_and_checked_against_the_interface() {
    let host = host(Isolation::Process);
    let limits = "[limits]\noutput-size = \"1 MiB\"\ninput-size = \"1 MiB\"";
    let program = misbehaves(&host, &policy(limits));
    assert_eq!(run_command(&program, "bytes 1048576").unwrap()[0].1.byte_len(), 1 << 20);
    assert_fails(run_command(&program, "bytes 1048577"), 5, "`limits.output-size`");
    assert_fails(run_command(&program, "bytes 100000000"), 5, "`limits.output-size`");
    assert_eq!(run_command(&program, "outputs 1024").unwrap().len(), 1024);
    assert_fails(run_command(&program, "outputs 1025"), 4, "it has 1025 outputs");
    assert_fails(run_command(&program, "outputs 1000000"), 5, "limits.output-size");
    assert_fails(run_command(&program, "twice"), 4, "duplicated");
    assert_fails(run_command(&program, "name 5000"), 4, "has a name that is too long");
    assert_fails(run_command(&program, "lie"), 4, "its shape");
    assert_fails(run_command(&program, "bool"), 4, "booleans");
    // Texts are returned unchanged; the caller must escape them for display.
    let outputs = run_command(&program, "escape").unwrap();
    assert_eq!(outputs, [("\u{1b}[2J".to_owned(), Value::from("\u{1b}[31mred"))]);
    let inputs = [("do", Value::from("echo")), ("b", Value::Bytes(vec![0; 1 << 20]))];
    assert_fails(program.run(&inputs), 5, "`limits.input-size`");
    assert_answers(&program);
}

#[test]
fn host_memory_for_a_program_counts_as_its_memory() {
    let host = host(Isolation::Process);
    let program = misbehaves(&host, &policy("[limits]\nmemory = \"32 MiB\""));
    run_command(&program, "tensors 8").unwrap();
    assert_fails(run_command(&program, "tensors 64"), 5, "`limits.memory`");
    assert_answers(&program);
    let program = misbehaves(&host, &policy("[limits]\nmemory = \"256 MiB\""));
    assert_fails(run_command(&program, "empty-tensors 1000000"), 5, "the limit is 100000");
    assert_answers(&program);
}

#[test]
fn program_loads_only_models_of_its_policy() {
    let host = host(Isolation::Process);
    let both = format!(
        "{}[[models]]\nname = \"silero\"\nsha256 = \"{}\"\npath = \"magika.onnx\"\n",
        magika(true),
        "00".repeat(32)
    );
    let program = misbehaves(&host, &policy(&both));
    run_command(&program, "model magika").unwrap();
    run_command(&program, "compute").unwrap();
    run_command(&program, "names 100").unwrap();
    for name in ["Magika", "magika.onnx", "", "../magika", "magika\u{0}", "\u{1b}[2J"] {
        let err =
            assert_fails(run_command(&program, &format!("model {name}")), 3, "add [[models]]");
        assert!(matches!(err.kind(), ErrorKind::NotGranted(_)), "{err}");
    }
    // A refused request alone does not fail the run.
    run_command(&program, "model-anyway other").unwrap();
    // The file does not have the granted digest.
    let err = assert_fails(run_command(&program, "model silero"), 3, "the policy pins");
    assert!(err.to_string().contains("model silero"), "{err}");
    // An error of the model is reported as such.
    let err = assert_fails(run_command(&program, "misfit"), 4, "the model declares bytes: i32 [");
    assert!(err.to_string().contains("model magika"), "{err}");
    assert_answers(&program);
    // Without a grant the model cannot be loaded, even if its file exists.
    let program = misbehaves(&host, &policy(""));
    assert_fails(run_command(&program, "model magika"), 3, "add [[models]]");
}

#[test]
fn program_provides_only_models_with_a_granted_digest() {
    let host = host(Isolation::Process);
    let program = misbehaves(&host, &policy(&magika(false)));
    let model = std::fs::read(support::models().join("magika.onnx")).unwrap();
    let bring = |order: &str, bytes: Vec<u8>| {
        program.run(&[("do", Value::from(order)), ("model", Value::Bytes(bytes))])
    };
    bring("bring-and-run", model.clone()).unwrap();
    bring("bring", model.clone()).unwrap();
    let mut other = model.clone();
    other.push(0);
    let err = assert_fails(bring("bring", other.clone()), 3, "add [[models]]");
    assert!(err.to_string().contains(&Digest::of(&other).to_string()), "{err}");
    assert_fails(bring("bring", Vec::new()), 3, "add [[models]]");
    // It cannot be loaded by its name.
    assert_fails(run_command(&program, "model magika"), 3, "add path");
}

#[test]
fn models_run_under_their_own_limits_and_within_the_programs_time() {
    let host = host(Isolation::Process);
    let grant = magika(true);
    let program = misbehaves(&host, &policy(&format!("[limits]\nrun-time = \"1 s\"\n{grant}")));
    assert_fails(run_command(&program, "compute-for-ever"), 5, "`limits.run-time`");
    run_command(&program, "compute").unwrap();
    // The program's limits apply to a model without its own policy.
    let limits = "[limits]\nmodel-size = \"1 MiB\"";
    let program = misbehaves(&host, &policy(&format!("{limits}\n{grant}")));
    let err = assert_fails(run_command(&program, "compute"), 5, "`limits.model-size`");
    assert!(err.to_string().contains("magika"), "{err}");
}

/// Magika with its larger initializers in a file `magika.data`; and that file.
fn magika_in_two() -> (Vec<u8>, Vec<u8>) {
    use support::onnx;
    use support::protobuf::{Field, Kind, Message, Value};
    let whole = std::fs::read(support::models().join("magika.onnx")).unwrap();
    let mut model = Message::parse(Kind::Model, &whole).unwrap();
    let mut data = Vec::new();
    model.visit(&mut |tensor| {
        let raw_data = tensor.fields.iter().position(|field| field.number == 9);
        let Some(at) = raw_data.filter(|_| tensor.kind == Kind::Tensor) else { return };
        let Value::Bytes(bytes) = &tensor.fields[at].value else { return };
        if bytes.len() < 1000 {
            return;
        }
        let (offset, length) = (data.len().to_string(), bytes.len().to_string());
        data.extend_from_slice(bytes);
        tensor.fields.remove(at);
        let entries = [("location", "magika.data"), ("offset", &offset), ("length", &length)];
        let mut put = |number, value| tensor.fields.push(Field { number, value });
        for (key, value) in entries {
            let entry = onnx::Message::new().bytes(1, key).bytes(2, value).finish();
            put(13, Value::Bytes(entry));
        }
        put(14, Value::Int(1));
    });
    assert!(data.len() > whole.len() / 2);
    (model.bytes(), data)
}

#[test]
fn model_of_a_program_gets_files_of_its_own_policy() {
    let host = host(Isolation::Process);
    let (model, data) = magika_in_two();
    let folder = on_disk("");
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("magika.onnx"), &model).unwrap();
    std::fs::write(at("magika.data"), &data).unwrap();
    // With grants in the program's policy, and in the model's.
    let policy = |of_program: &str, of_model: &str| {
        std::fs::write(at("magika.toml"), format!("version = 1\n{of_model}")).unwrap();
        let (grant, digest) = (magika(true), Digest::of(&model).to_string());
        let grant = grant.replace(MAGIKA, &digest) + "policy = \"magika.toml\"\n";
        let text = format!("version = 1\n[program]\n{grant}{of_program}");
        std::fs::write(at("policy.toml"), text).unwrap();
        Policy::load(&at("policy.toml")).unwrap().policy
    };
    let grant = |guest: &str| {
        format!("[[filesystem]]\nhost = \"magika.data\"\nguest = {guest:?}\nreason = \"r\"\n")
    };
    let weights = grant("/magika.data");
    names_the_type("file-type", &policy("", &weights));
    // The file is granted to the model, not to the program.
    let attacks = load(&host, &program_bytes("attacks"), &policy("", &weights)).unwrap();
    for (order, says) in [("folders", ""), ("open a / magika.data read", "error not held")] {
        let outputs = run_command(&attacks, order).unwrap();
        let [(_, Value::Text(found))] = &outputs[..] else { panic!("{outputs:?}") };
        assert_eq!(found.trim(), says, "{order}");
    }
    let refused = |policy: &Policy, code: u8, says: &str| {
        let program = misbehaves(&host, policy);
        let err = assert_fails(run_command(&program, "compute"), code, says);
        assert!(err.to_string().contains("model magika"), "{err}");
        assert_answers(&program);
    };
    // The model cannot use the program's files, nor a file with another digest.
    refused(&policy(&weights, ""), 4, "[[filesystem]]");
    refused(&policy("", &grant("/other.data")), 3, "guest = \"/magika.data\"");
    let granted = policy("", &weights);
    std::fs::rename(at("magika.data"), at("elsewhere")).unwrap();
    std::os::unix::fs::symlink(at("elsewhere"), at("magika.data")).unwrap();
    refused(&granted, 3, "symbolic link");
}

#[test]
fn files_that_are_not_programs_are_refused() {
    let host = host(Isolation::Process);
    let component = program_bytes("file-type");
    const HEAD: &[u8] = b"\0asm\x0d\0\x01\0";
    let imports = [
        HEAD,
        // An interface with one function `f`.
        &[7, 14, 1, 0x42, 2, 0x01, 0x40, 0, 1, 0, 0x04, 0, 1, b'f', 1, 0],
        &[10, 16, 1, 0, 11],
        b"foo:bar/baz",
        &[5, 0],
    ]
    .concat();
    let mut flipped = component.clone();
    flipped[100] ^= 0x40;
    let cases: [(&str, Vec<u8>, &str); 8] = [
        ("nothing", Vec::new(), "not a WebAssembly component"),
        ("garbage", b"#!/bin/sh\n".to_vec(), "not a WebAssembly component"),
        ("a core module", program_bytes("nn-module"), "core module"),
        ("a truncated component", component[..component.len() / 2].to_vec(), "refused"),
        ("garbage after the head", [HEAD, &[0xff; 100]].concat(), "refused"),
        ("a flipped bit", flipped, "refused"),
        ("an interface that nobody has", imports, "foo:bar/baz"),
        ("no export", HEAD.to_vec(), "run"),
    ];
    for (what, bytes, says) in cases {
        let err = load(&host, &bytes, &policy("")).map(drop).expect_err(what);
        assert_eq!(err.exit_code(), 4, "{what}: {err}");
        assert!(err.to_string().contains(says), "{what}: {err}");
    }
}

#[test]
fn compile_time_of_a_program_is_limited() {
    let host = host(Isolation::Process);
    let bytes = program_bytes("classify");
    let late = policy("[limits]\nprepare-time = \"1 ms\"");
    let err = load(&host, &bytes, &late).map(drop).expect_err("a millisecond is too short");
    assert!(matches!(err.kind(), ErrorKind::Limit(Limit::PrepareTime { .. })), "{err}");
    assert_eq!(err.exit_code(), 5);
    // No process is left, and with enough time it is compiled.
    load(&host, &bytes, &policy("")).unwrap();
}

/// A program with the longest functions that WebAssembly allows, which take gigabytes to compile.
fn endless_functions(count: u8) -> Vec<u8> {
    fn number(mut value: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
        out
    }
    let sized = |bytes: &[u8]| [number(bytes.len()), bytes.to_vec()].concat();
    let section = |id: u8, bytes: &[u8]| [vec![id], sized(bytes)].concat();
    // x = x + the number at address x + 4.
    let step = [0x20, 0, 0x20, 0, 0x28, 2, 4, 0x6a, 0x21, 0];
    let function = sized(&[&[0][..], &step.repeat(700_000), &[0x20, 0, 0x0b]].concat());
    let module = [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, &[1, 0x60, 1, 0x7f, 1, 0x7f]),
        section(3, &[vec![count], vec![0; usize::from(count)]].concat()),
        section(5, &[1, 0, 1]),
        section(10, &[vec![count], function.repeat(usize::from(count))].concat()),
    ];
    [b"\0asm\x0d\0\x01\0".to_vec(), section(1, &module.concat())].concat()
}

#[test]
#[ignore = "takes 3 GiB and a minute of two processors: `cargo xtask release-check`"]
fn compile_memory_of_a_program_is_limited() {
    let host = host(Isolation::Process);
    // As many functions are compiled at a time as there are processors.
    let count = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 100) as u8;
    let outcome = load(&host, &endless_functions(count), &policy("")).map(drop);
    let err = outcome.expect_err("3 GiB are not enough for it");
    assert_eq!(err.exit_code(), 6, "{err}");
    assert!(err.to_string().contains("memory"), "{err}");
    assert_answers(&misbehaves(&host, &policy("")));
}

#[test]
fn program_runs_only_under_a_policy_for_it() {
    let host = host(Isolation::Process);
    let bytes = program_bytes("misbehaves");
    let refused = |policy: &Policy, says: &str| {
        let err = load(&host, &bytes, policy).map(drop).expect_err(says);
        assert_eq!(err.exit_code(), 3, "{err}");
        assert!(err.to_string().contains(says), "{err}");
    };
    refused(&Policy::default(), "[program]");
    let pin = |digest: &str| policy(&format!("[program]\nsha256 = \"{digest}\""));
    refused(&pin(MAGIKA), "not the program that was approved");
    assert_answers(&load(&host, &bytes, &pin(&Digest::of(&bytes).to_string())).unwrap());
    let small = policy("[limits]\nmodel-size = \"1 KiB\"");
    let err = load(&host, &bytes, &small).map(drop).unwrap_err();
    assert!(matches!(err.kind(), ErrorKind::Limit(Limit::ModelSize { .. })), "{err}");
    // Granted files must exist.
    let file = "[[filesystem]]\nhost = \"/nowhere\"\nguest = \"/x\"\nreason = \"test\"";
    let err = load(&host, &bytes, &policy(file)).map(drop).unwrap_err();
    assert!(err.to_string().contains("[[filesystem]] host = \"/nowhere\""), "{err}");
}

#[test]
fn program_never_runs_on_a_thread() {
    for isolation in [Isolation::Thread, Isolation::InProcessWithoutAnyConfinement] {
        for confinement in [Confinement::Strict, Confinement::BestEffort] {
            let policy = policy("").with_confinement(confinement);
            let err = load(&host(isolation), &program_bytes("misbehaves"), &policy).map(drop);
            assert_eq!(err.unwrap_err().exit_code(), 7);
        }
    }
}

#[test]
fn decisions_about_programs_are_logged() {
    let place = tempfile::tempdir().unwrap();
    let log = place.path().join("decisions");
    let host = builder(Isolation::Process).decisions(&log).build().unwrap();
    let program = misbehaves(&host, &policy(&magika(true)));
    run_command(&program, "model magika").unwrap();
    run_command(&program, "model other").unwrap_err();
    run_command(&program, "grow").unwrap_err();
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let program_digest = program.digest().to_string();
    let has = |digest: &str, resource: &str, access: &str, verdict: &str, rule: &str| {
        let found = lines.iter().any(|line| {
            line["model"] == digest
                && line["resource"] == resource
                && line["access"] == access
                && line["verdict"] == verdict
                && line["rule"].as_str().unwrap().contains(rule)
        });
        assert!(found, "{resource} {access} {verdict}: {text}");
    };
    has(&program_digest, "program", "load", "allowed", "no pin");
    has(&program_digest, "program", "run", "allowed", "limits");
    has(MAGIKA, "model", "load", "allowed", "model.sha256");
    has(&program_digest, "model other", "load", "refused", "models");
    has(&program_digest, "limits.memory", "use more", "refused", "limits.memory");
}

#[test]
fn output_without_a_grant_is_not_printed() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&lines);
    let listener = move |event| {
        if let Event::Printed { line, .. } = event {
            heard.lock().unwrap().push(line);
        }
    };
    let host = builder(Isolation::Process).on_event(listener).build().unwrap();
    run_command(&misbehaves(&host, &policy("")), "panic secret").unwrap_err();
    assert!(lines.lock().unwrap().is_empty());
}

/// A folder with the files of a program and its policy.
fn on_disk(tables: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("version = 1\n[program]\n{tables}");
    std::fs::write(folder.path().join("policy.toml"), text).unwrap();
    std::fs::copy(support::models().join("magika.onnx"), folder.path().join("magika.onnx"))
        .unwrap();
    folder
}

#[test]
fn command_line_runs_programs_like_models() {
    let folder = on_disk(&magika(true));
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (file_type, misbehaves) = (program_file("file-type"), program_file("misbehaves"));
    let run = |program: &PathBuf, more: &[&str]| {
        let policy = at("policy.toml");
        let mut arguments = vec!["run", program.to_str().unwrap(), "--policy", &policy];
        arguments.extend(more);
        belljar(&arguments).output().unwrap()
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let labels = support::models().join("magika.labels.txt");
    let labels = labels.to_str().unwrap();
    let found = run(
        &file_type,
        &["--input", "file=README.md", "--labels", labels, "--format", "json", "--top", "1"],
    );
    assert!(found.status.success(), "{}", text(&found.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(answer["outputs"][1]["top"][0]["label"], "markdown", "{answer}");
    assert_eq!(answer["outputs"][0]["name"], "class");
    let found = run(&file_type, &["--input", "file=README.md", "--labels", labels]);
    assert!(text(&found.stdout).contains("markdown"), "{}", text(&found.stdout));

    // Texts, bytes and tensors by name, as inputs and outputs.
    std::fs::write(at("a.json"), "[1, 2, 3]").unwrap();
    let output = format!("{}/", at("out"));
    let json = format!("t={}", at("a.json"));
    let raw = format!("b=bytes:{}", at("a.json"));
    let inputs = ["--input", "do=text:echo", "--input", &json, "--input", &raw];
    let found = run(&misbehaves, &[&inputs[..], &["--output", &output]].concat());
    assert!(found.status.success(), "{}", text(&found.stderr));
    assert_eq!(std::fs::read_to_string(at("out/do.txt")).unwrap(), "echo");
    assert_eq!(std::fs::read_to_string(at("out/b.bin")).unwrap(), "[1, 2, 3]");
    let tensor = npy::read(std::fs::File::open(at("out/t.npy")).unwrap(), 1 << 10).unwrap();
    assert_eq!(tensor.shape(), [3]);
    assert!(text(&found.stdout).contains("do:\n  echo"), "{}", text(&found.stdout));

    // Texts of outputs are escaped for the terminal.
    let found = run(&misbehaves, &["--input", "do=text:escape"]);
    assert!(found.status.success() && !text(&found.stdout).contains('\u{1b}'));

    for (order, code, says) in [
        ("loop", 5, "limits.run-time"),
        ("grow", 5, "limits.memory"),
        ("trap", 6, "trapped"),
        ("model other", 3, "add [[models]] with name = \"other\""),
        ("fail no", 4, "the program says: no"),
    ] {
        let more = if order == "loop" { "\n[limits]\nrun-time = \"300 ms\"" } else { "" };
        let text_of_policy = format!("version = 1\n[program]\n{}{more}", magika(true));
        std::fs::write(at("policy.toml"), text_of_policy).unwrap();
        let found = run(&misbehaves, &["--input", &format!("do=text:{order}")]);
        assert_eq!(found.status.code(), Some(code), "{order}: {}", text(&found.stderr));
        assert!(text(&found.stderr).contains(says), "{order}: {}", text(&found.stderr));
        assert!(found.stdout.is_empty());
    }
}

#[test]
fn command_line_requires_a_policy_for_a_program() {
    let folder = on_disk("");
    let program = program_file("misbehaves");
    let program = program.to_str().unwrap();
    let model_policy = folder.path().join("model.toml");
    std::fs::File::create(&model_policy).unwrap().write_all(b"version = 1\n").unwrap();
    let model_policy = model_policy.to_str().unwrap();
    for arguments in [vec!["run", program], vec!["run", program, "--policy", model_policy]] {
        let output = belljar(&arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert!(text.contains("[program]") && text.contains("[[models]]"), "{text}");
    }
    // The generated policy pins it.
    let made = folder.path().join("made.toml");
    let made = made.to_str().unwrap();
    assert!(belljar(&["new-policy", program, "--output", made]).status().unwrap().success());
    let run = |program: &str| {
        let arguments = ["run", program, "--policy", made, "--input", "do=text:echo"];
        belljar(&arguments).output().unwrap().status.code()
    };
    assert_eq!(run(program), Some(0));
    assert_eq!(run(program_file("file-type").to_str().unwrap()), Some(3));
    let policy = folder.path().join("policy.toml");
    let policy = policy.to_str().unwrap();
    for (input, says) in [("README.md", "the input has no name"), ("file=/nowhere", "No such file")]
    {
        let arguments = ["run", program, "--policy", policy, "--input", input];
        let output = belljar(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(says), "{output:?}");
    }
}
