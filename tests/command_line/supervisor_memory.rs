//! The supervisor's own memory: for all kinds of inputs and outputs, and all ways to read, print
//! and write them, the `belljar` process itself takes a constant plus a small multiple of their
//! size. Workers are not counted: their memory is limited by `limits.memory`.

use crate::support;

use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Duration;

use belljar::Tensor;
use belljar::tensor::{Coded, DType, Data, npz};
use support::belljar;
use support::onnx::{
    BOOL, Dim, FLOAT, Graph, INT64, Message, STRING, fixed, int_attribute, node, relu,
    tensor_attribute, tensor_i64, value, value_of_any_shape,
};
use support::pictures::flat_png;
use support::scratch::Scratch;

const MIB: u64 = 1 << 20;

/// Memory of the process without tensors: its program, the code of the sandboxed runner, buffers.
const CONSTANT: u64 = 32 * MIB;

/// Bytes of memory for each byte of inputs and outputs; a string counts 24 more than its text.
const FOR_EACH: u64 = 3;

impl Scratch {
    /// A model without inputs whose output has this many elements of this type.
    fn making(&self, name: &str, count: i64, onnx_type: i64) -> String {
        // Integers are written in only one way, floats in several.
        let one = match onnx_type {
            STRING => tensor_i64("", &[1], &[1]),
            _ => Message::new().int(1, 1).int(2, FLOAT).bytes(9, 1f32.to_le_bytes()),
        };
        let graph = Graph {
            nodes: vec![
                node("ConstantOfShape", &["s"], &["c"], &[tensor_attribute("value", one)]),
                node("Cast", &["c"], &["y"], &[int_attribute("to", onnx_type)]),
                node("Identity", &["x"], &["z"], &[]),
            ],
            initializers: vec![tensor_i64("s", &[1], &[count])],
            inputs: vec![value("x", FLOAT, &fixed(&[1]))],
            outputs: vec![
                value("y", onnx_type, &[Dim::Symbol("n")]),
                value("z", FLOAT, &fixed(&[1])),
            ],
        };
        let opset = Message::new().int(2, 21);
        let model = Message::new().int(1, 10).message(7, graph.message()).message(8, opset);
        self.file(name, model.finish())
    }
}

/// How a run ended, and the supervisor's peak resident memory.
struct Ended {
    code: Option<i32>,
    errors: String,
    printed: u64,
    peak: u64,
}

/// Runs `belljar` with data on standard input, and measures its memory during the run.
fn run(arguments: &[&str], mut input: Option<Box<dyn Read + Send>>) -> Ended {
    let mut command = belljar(arguments);
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child =
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let high_water = move || -> Option<u64> {
        // The line is missing after the process has exited.
        let text = fs::read_to_string(&status).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
    };
    let watch = std::thread::spawn(move || {
        let mut peak = 0;
        while let Some(found) = high_water() {
            peak = found;
            std::thread::sleep(Duration::from_micros(500));
        }
        peak
    });
    let mut stdin = child.stdin.take();
    let feed = std::thread::spawn(move || {
        if let (Some(input), Some(stdin)) = (&mut input, &mut stdin) {
            // The process may close the pipe early.
            let _ = std::io::copy(input, stdin);
        }
    });
    let mut stderr = child.stderr.take().unwrap();
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        text
    });
    let mut stdout = child.stdout.take().unwrap();
    let printed = std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
    let code = child.wait().unwrap().code();
    feed.join().unwrap();
    Ended { code, errors: errors.join().unwrap(), printed, peak: watch.join().unwrap() }
}

#[track_caller]
fn assert_within(ended: &Ended, bytes: u64, about: &str) {
    let Ended { peak, errors, .. } = ended;
    let bound = CONSTANT + FOR_EACH * bytes;
    eprintln!("{about}: {} MiB of {} MiB", peak / MIB, bound / MIB);
    assert!(*peak > MIB, "{about}: nothing was seen");
    assert!(*peak <= bound, "{about}: {} MiB of {} MiB\n{errors}", peak / MIB, bound / MIB);
}

#[test]
fn outputs_of_every_width_are_written_in_bounded_memory() {
    let s = Scratch::new();
    let x = s.npy("x.npy", &Tensor::new(vec![1.0f32], &[1]).unwrap());
    let (u8, f8, u4) = (2, 17, 21);
    for (name, count, onnx_type, bytes) in [
        ("bool", 16 << 20, BOOL, 16 * MIB),
        ("u8", 16 << 20, u8, 16 * MIB),
        ("f8", 16 << 20, f8, 16 * MIB),
        ("u4", 16 << 20, u4, 16 * MIB),
        ("i64", 2 << 20, INT64, 16 * MIB),
        ("string", 1 << 20, STRING, 25 * MIB),
    ] {
        let model = s.making(&format!("{name}.onnx"), count, onnx_type);
        let base = ["run", &model, "--input", &x, "--no-store"];
        let (npz, json, folder) = (
            s.at(&format!("{name}.npz")),
            s.at(&format!("{name}.json")),
            s.at(&format!("{name}/")),
        );
        for more in [
            &["--format", "json", "--data"][..],
            &["--format", "json"],
            &["--top", "10000"],
            &["--output", &npz, "--quiet"],
            &["--output", &json, "--quiet"],
            &["--output", &folder, "--quiet"],
        ] {
            let ended = run(&[&base[..], more].concat(), None);
            assert_eq!(ended.code, Some(0), "{name} {more:?}: {}", ended.errors);
            assert!(!more.contains(&"--data") || ended.printed > count as u64 * 2);
            assert_within(&ended, bytes, &format!("{name} {more:?}"));
        }
        let _ = (fs::remove_file(npz), fs::remove_file(json), fs::remove_dir_all(folder));
    }
}

#[test]
fn value_rules_use_bounded_memory() {
    use std::os::unix::fs::PermissionsExt;

    let s = Scratch::new();
    let x = s.npy("x.npy", &Tensor::new(vec![1.0f32], &[1]).unwrap());
    let text =
        "version = 1\n[outputs.y]\nfinite = true\nmin = 0\nmax-norm = 1e9\ntop-k = 1000000\n";
    let policy = s.file("policy.toml", text);
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o644)).unwrap();
    for (name, onnx_type) in [("u8", 2), ("f8", 17)] {
        let model = s.making(name, 24 << 20, onnx_type);
        let ended = run(&["run", &model, "--input", &x, "--policy", &policy, "--no-store"], None);
        assert_eq!(ended.code, Some(0), "{name}: {}", ended.errors);
        assert_within(&ended, 24 * MIB, name);
    }
}

#[test]
fn endless_input_is_refused_in_bounded_memory() {
    use std::os::unix::fs::PermissionsExt;

    let s = Scratch::new();
    let model = s.file("relu.onnx", relu(&[Dim::Symbol("n")]).bytes());
    let policy = s.file("policy.toml", "version = 1\n[limits]\ninput-size = \"8 MiB\"\n");
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o644)).unwrap();
    let header = |descr: &str, count: u64| {
        let text =
            format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({count},), }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.bytes());
        bytes
    };
    let endless = |start: Vec<u8>, again: &'static [u8]| -> Box<dyn Read + Send> {
        let again = std::iter::repeat(again).flatten().copied();
        Box::new(std::io::Cursor::new(start).chain(Bytes(again)))
    };
    for (about, input) in [
        ("JSON", endless(b"[1.5".to_vec(), b", 2.25")),
        ("a string", endless(b"[\"".to_vec(), b"\\u0041")),
        ("white space", endless(b"[".to_vec(), b"    ")),
        ("CSV", endless(b"1.5".to_vec(), b"\n2.25")),
        ("one line of CSV", endless(b"1.5".to_vec(), b",2.25")),
        ("a field", endless(b"x\n\"".to_vec(), b"1111")),
        ("npy", endless(header("<f4", 1 << 40), b"\0\0\0\0")),
        ("strings of npy", endless(header("<U1", 1 << 20), b"a\0\0\0")),
        ("an archive", endless(b"PK\x03\x04".to_vec(), b"\0\0\0\0")),
        ("a tensor of ONNX", endless(b"\x08\x04\x10\x01\x3a".to_vec(), b"\xff\xff\xff\x7f\0\0")),
        ("nothing", endless(Vec::new(), b"\n")),
    ] {
        for name in ["x=-", "-"] {
            if name == "-" && about != "JSON" && about != "CSV" {
                continue;
            }
            let input = match name {
                "x=-" => None,
                _ if about == "JSON" => Some(endless(b"{\"x\": [1.5".to_vec(), b", 2.25")),
                _ => Some(endless(b"x\n1.5".to_vec(), b"\n2.25")),
            };
            let arguments = ["run", &model, "--policy", &policy, "--input", name];
            if let Some(input) = input {
                let ended = run(&arguments, Some(input));
                assert_eq!(ended.code, Some(5), "{about} by its name: {}", ended.errors);
                assert_within(&ended, 8 * MIB, about);
            }
        }
        let arguments = ["run", &model, "--policy", &policy, "--input", "x=-"];
        let ended = run(&arguments, Some(input));
        assert!(matches!(ended.code, Some(2 | 5)), "{about}: {}", ended.errors);
        assert_within(&ended, 8 * MIB, about);
    }
}

/// Bytes of an iterator.
struct Bytes<I>(I);

impl<I: Iterator<Item = u8>> Read for Bytes<I> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut count = 0;
        for (to, from) in buffer.iter_mut().zip(&mut self.0) {
            *to = from;
            count += 1;
        }
        Ok(count)
    }
}

#[test]
fn inputs_of_every_kind_are_read_in_bounded_memory() {
    let s = Scratch::new();
    let graph = |onnx_type| Graph {
        nodes: vec![node("Identity", &["x"], &["y"], &[])],
        inputs: vec![value("x", onnx_type, &[Dim::Symbol("n")])],
        outputs: vec![value_of_any_shape("y", onnx_type)],
        ..Graph::default()
    };
    let model = |onnx_type| {
        let opset = Message::new().int(2, 21);
        let message = graph(onnx_type).message();
        Message::new().int(1, 10).message(7, message).message(8, opset).finish()
    };
    let count = 16usize << 20;
    let floats = Tensor::new(vec![0.5f32; count / 4], &[count / 4]).unwrap();
    let coded = Coded::new(DType::F8E4M3FN, vec![0x38; count]).unwrap();
    let small = Tensor::new(Data::from(coded), &[count]).unwrap();
    let bools = Tensor::new(vec![true; count], &[count]).unwrap();
    let strings = Tensor::new(vec!["a".to_owned(); 1 << 19], &[1 << 19]).unwrap();
    for (name, onnx_type, tensor) in [
        ("f32", FLOAT, &floats),
        ("f8", 17, &small),
        ("bool", BOOL, &bools),
        ("string", STRING, &strings),
    ] {
        let model = s.file(&format!("{name}.onnx"), model(onnx_type));
        let npy = s.npy("x.npy", tensor);
        let archive = s.at("x.npz");
        let file = fs::File::create(&archive).unwrap();
        npz::write(&[("x".to_owned(), tensor.clone())], file).unwrap();
        let json = s.at("x.json");
        let file = std::io::BufWriter::new(fs::File::create(&json).unwrap());
        belljar::tensor::json::write_one(tensor, file).unwrap();
        let csv = s.at("x.csv");
        let mut file = std::io::BufWriter::new(fs::File::create(&csv).unwrap());
        let line = match name {
            "bool" => "true",
            "string" => "a",
            _ => "1.0",
        };
        (0..tensor.len()).for_each(|_| writeln!(file, "{line}").unwrap());
        drop(file);
        // As input and as output.
        let bytes = 2 * 16 * MIB;
        for path in [&npy, &archive, &json, &csv] {
            let arguments = ["run", &model, "--input", &format!("x={path}"), "--no-store"];
            let ended = run(&arguments, None);
            assert_eq!(ended.code, Some(0), "{name} {path}: {}", ended.errors);
            assert_within(&ended, bytes, &format!("{name} {path}"));
            let from_stdin = ["run", &model, "--input", "x=-", "--no-store"];
            let ended = run(&from_stdin, Some(Box::new(fs::File::open(path).unwrap())));
            assert_eq!(ended.code, Some(0), "{name} {path}: {}", ended.errors);
            assert_within(&ended, bytes, &format!("{name} {path} from standard input"));
        }
    }
}

#[test]
fn images_of_any_size_use_bounded_supervisor_memory() {
    use std::os::unix::fs::PermissionsExt;

    let s = Scratch::new();
    let graph = Graph {
        nodes: vec![node("Identity", &["x"], &["y"], &[])],
        inputs: vec![value(
            "x",
            FLOAT,
            &[Dim::Symbol("n"), Dim::Fixed(1), Dim::Symbol("h"), Dim::Symbol("w")],
        )],
        outputs: vec![value_of_any_shape("y", FLOAT)],
        ..Graph::default()
    };
    let model = s.file("model.onnx", graph.bytes());
    // 400 MB of pixels in a file of 2.5 MB: they are decoded only in the sandbox.
    let file = flat_png(20_000, 20_000);
    let size = file.len() as u64;
    let bomb = format!("x={}", s.file("bomb.png", file));
    for input in [&*bomb, "x=-"] {
        let arguments = ["run", &model, "--input", input, "--resize", "4x4", "--no-store"];
        let path = s.path("bomb.png");
        let stdin = || -> Box<dyn Read + Send> { Box::new(fs::File::open(path).unwrap()) };
        let ended = run(&arguments, (input == "x=-").then(stdin));
        assert_eq!(ended.code, Some(0), "{}", ended.errors);
        assert_within(&ended, size, "an image that is resized to a small size");
    }
    // A tensor of 64 MB, as input and as output.
    let large = format!("x={}", s.file("large.png", flat_png(4_000, 4_000)));
    let ended = run(&["run", &model, "--input", &large, "--no-store"], None);
    assert_eq!(ended.code, Some(0), "{}", ended.errors);
    assert_within(&ended, 2 * 64_000_000, "a large image");
    // An endless image.
    let policy = s.file("policy.toml", "version = 1\n[limits]\ninput-size = \"8 MiB\"\n");
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o644)).unwrap();
    for start in [&b"\x89PNG\r\n\x1a\n"[..], b"\xff\xd8\xff"] {
        let endless = std::io::Cursor::new(start.to_vec()).chain(std::io::repeat(0));
        let arguments = ["run", &model, "--policy", &policy, "--input", "x=-"];
        let ended = run(&arguments, Some(Box::new(endless)));
        assert_eq!(ended.code, Some(5), "{}", ended.errors);
        assert!(ended.errors.contains("limits.input-size"), "{}", ended.errors);
        assert_within(&ended, 8 * MIB, "an endless image");
    }
}

#[test]
fn all_inputs_share_one_limit() {
    use std::os::unix::fs::PermissionsExt;

    let s = Scratch::new();
    let names: Vec<String> = (0..8).map(|at| format!("x{at}")).collect();
    let inputs: Vec<&str> = names.iter().map(String::as_str).collect();
    let graph = Graph {
        nodes: vec![node("Max", &inputs, &["y"], &[])],
        inputs: inputs.iter().map(|name| value(name, FLOAT, &[Dim::Symbol("n")])).collect(),
        outputs: vec![value("y", FLOAT, &[Dim::Symbol("n")])],
        ..Graph::default()
    };
    let model = s.file("max.onnx", graph.bytes());
    let policy = s.file("policy.toml", "version = 1\n[limits]\ninput-size = \"17 MiB\"\n");
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o644)).unwrap();
    let count = 4 << 20;
    let large = s.npy("large.npy", &Tensor::new(vec![1f32; count], &[count]).unwrap());
    let given: Vec<String> = names.iter().map(|name| format!("{name}={large}")).collect();
    let mut arguments = vec!["run", &*model, "--policy", &*policy];
    given.iter().for_each(|each| arguments.extend(["--input", each]));
    let ended = run(&arguments, None);
    assert_eq!(ended.code, Some(5), "{}", ended.errors);
    for expected in ["together with the inputs before it", "17825792 bytes", "limits.input-size"] {
        assert!(ended.errors.contains(expected), "{}", ended.errors);
    }
    assert_within(&ended, 17 * MIB, "eight inputs");
}
