//! Guest programs on the command line.

use crate::support;

use std::io::Write as _;
use std::path::PathBuf;

use belljar::tensor::npy;
use support::belljar;

use super::{magika, on_disk, program_file};

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
