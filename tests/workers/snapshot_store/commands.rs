//! The store on the command line.

use crate::support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use belljar::{Isolation, StoredModel};
use support::onnx::{fixed, relu};

use super::{Folders, belljar, flip, product_file};

fn list(folders: &Folders) -> Vec<StoredModel> {
    folders.host(Isolation::Thread).0.snapshot_store().list().unwrap()
}

#[test]
fn the_command_line_prepares_lists_prunes_and_verifies() {
    let folders = Folders::new();
    let model = product_file(&folders);
    let run = |arguments: &[&str]| {
        let output = belljar(&folders, arguments).stdin(Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    };
    // A symbolic dimension needs a shape, and the message explains how to set one.
    let (code, _, errors) = run(&["prepare", &model]);
    assert!(code == 2 && errors.contains("--input-shape x="), "{errors}");
    let (code, _, errors) = run(&["prepare", &model, "--input-shape", "z=1,7"]);
    assert!(code == 2 && errors.contains("no input z"), "{errors}");
    let (code, _, errors) = run(&["prepare", &model, "--input-shape", "x=1,8"]);
    assert!(code == 4 && errors.contains('x'), "{errors}");
    let shapes: Vec<String> = (1..=5).map(|rows| format!("x={rows},7")).collect();
    let many: Vec<&str> = shapes.iter().flat_map(|shape| ["--input-shape", shape]).collect();
    let (code, _, errors) = run(&[&["prepare", &*model][..], &many].concat());
    assert!(code == 2 && errors.contains("limits.snapshots"), "{errors}");

    let two = ["prepare", &model, "--input-shape", "x=1,7", "--input-shape", "x=2,7"];
    let (code, table, errors) = run(&two);
    assert!(code == 0 && table.matches("prepared").count() == 2, "{table}{errors}");
    let (code, table, _) = run(&two);
    assert!(code == 0 && table.matches("in the store").count() == 2, "{table}");
    let (_, json, _) = run(&[&two[..], &["--format", "json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["snapshots"][1]["was_stored"], true);

    let (code, table, _) = run(&["snapshots", "list"]);
    assert!(code == 0 && table.contains("product.onnx") && table.contains("x 2×7"), "{table}");
    let (_, json, _) = run(&["snapshots", "list", "--format", "json"]);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&json).unwrap().as_array().unwrap().len(),
        3
    );
    let (code, table, _) = run(&["snapshots", "verify"]);
    assert!(code == 0 && table.contains("3 files"), "{table}");

    // Damaged data that listing does not read.
    let bad = folders.files(".snapshot")[0].clone();
    flip(&bad, fs::read(&bad).unwrap().len() - 1);
    for arguments in [&["snapshots", "verify"][..], &["snapshots", "verify", "--remove"]] {
        let (code, table, errors) = run(arguments);
        assert!(code == 1 && table.contains("seal"), "{table}");
        assert!(errors.contains(bad.to_str().unwrap()), "{errors}");
    }
    assert!(!bad.exists());
    assert_eq!(run(&["snapshots", "verify"]).0, 0);

    let (code, table, _) = run(&["snapshots", "prune", "--older-than", "1 h"]);
    assert!(code == 0 && table.contains("nothing"), "{table}");
    assert_eq!(run(&["snapshots", "prune", "--model", "another.onnx"]).0, 0);
    assert_eq!(list(&folders).len(), 2);
    assert_eq!(run(&["snapshots", "prune", "--max-size", "100 KiB"]).0, 0);
    assert!(folders.files(".snapshot").is_empty());
    assert_eq!(run(&["snapshots", "prune", "--older-than", "soon"]).0, 2);
    assert_eq!(run(&["snapshots", "prune", "--model", "product.onnx"]).0, 0);
    assert!(folders.files("").is_empty());

    // With `--no-store` nothing is kept.
    let x = folders.root.path().join("x.json");
    fs::write(&x, "[[1,1,1,1,1,1,1]]").unwrap();
    let input = format!("x={}", x.display());
    assert_eq!(run(&["run", &model, "--input", &input, "--no-store"]).0, 0);
    assert!(folders.files("").is_empty());
    // A folder that others can write to.
    fs::set_permissions(folders.snapshots(), fs::Permissions::from_mode(0o777)).unwrap();
    for arguments in [&["snapshots", "list"][..], &["snapshots", "verify"], &two[..]] {
        let (code, _, errors) = run(arguments);
        assert!(code == 7 && errors.contains("chmod"), "{errors}");
    }
    assert_eq!(run(&["run", &model, "--input", &input, "--quiet"]).0, 0);
}

#[test]
fn hostile_labels_are_escaped_in_lists() {
    let folders = Folders::new();
    let path = folders.root.path().join("a\u{1b}[2J\u{202e}\nb.onnx");
    fs::write(&path, relu(&fixed(&[2])).bytes()).unwrap();
    let output = belljar(&folders, &["prepare", path.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for arguments in [&["snapshots", "list"][..], &["snapshots", "prune"]] {
        let output = belljar(&folders, arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("b.onnx"), "{text}");
        assert!(
            !text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'),
            "{text:?}"
        );
    }
}
