//! Guest programs: granted requests work, and others are refused. The programs are in
//! `guest-models/programs`; `misbehaves` runs a command from its input.

mod command_line;
mod models;
mod shipped;

use crate::support;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use belljar::tensor::{DType, f16, npy};
use belljar::{
    Confinement, Digest, Error, ErrorKind, Event, Host, Isolation, Limit, ModelBytes, Policy,
    Program, Tensor, Value,
};
use support::{builder, host, repository};

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

/// A folder with the files of a program and its policy.
fn on_disk(tables: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("version = 1\n[program]\n{tables}");
    std::fs::write(folder.path().join("policy.toml"), text).unwrap();
    std::fs::copy(support::models().join("magika.onnx"), folder.path().join("magika.onnx"))
        .unwrap();
    folder
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
