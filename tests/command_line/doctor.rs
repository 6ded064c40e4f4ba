//! `belljar doctor`: its report about this machine, and that it changes no files.

use crate::support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use serde_json::Value;
use support::belljar;

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|err| panic!("{err}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn finding<'a>(found: &'a Value, what: &str) -> &'a Value {
    let all = found["machine"].as_array().unwrap();
    all.iter().find(|each| each["what"] == what).unwrap_or_else(|| panic!("{what} in {found:#}"))
}

#[test]
fn doctor_checks_all_roles_and_layers() {
    let output = belljar(&["doctor", "--format", "json"]).output().unwrap();
    let found = json(&output);
    // The tests require a machine on which Belljar works.
    assert_eq!(output.status.code(), Some(0), "{found:#}");
    assert_eq!(found["strict"], true);
    let roles: Vec<_> = found["workers"].as_array().unwrap().iter().map(|w| &w["role"]).collect();
    let expected = ["compile", "prepare", "run", "compile-program", "program", "granted-program"];
    assert_eq!(roles, expected);
    for worker in found["workers"].as_array().unwrap() {
        assert_eq!(worker["strict"], true, "{worker}");
        assert_eq!(worker["error"], Value::Null);
        assert!(worker["ready_ms"].as_f64().unwrap() > 0.0);
        let missing = worker["missing"].as_array().unwrap();
        assert!(missing.iter().all(|lacks| lacks["needed"] == false), "{worker}");
        assert_eq!(worker["namespaces"] == "none", !missing.is_empty(), "{worker}");
    }
    for what in ["Linux", "openat2", "userfaultfd", "processors", "pagemap", "PAGEMAP_SCAN"] {
        let part = finding(&found, what);
        assert!(part["found"].as_str().is_some_and(|text| !text.is_empty()), "{part}");
        assert_eq!(part["needed"], false);
    }
    for what in ["Landlock", "seccomp: kill the process", "seccomp: return an error"] {
        let part = finding(&found, what);
        assert_eq!((&part["present"], &part["needed"]), (&true.into(), &true.into()), "{part}");
    }
    let landlock = finding(&found, "Landlock")["found"].as_str().unwrap();
    let version: i64 = landlock.split(' ').find_map(|word| word.parse().ok()).unwrap();
    for (since, part) in [(4, "TCP ports"), (6, "signals, abstract sockets")] {
        let part = finding(&found, &format!("Landlock: {part}"));
        assert_eq!(part["present"], version >= since, "{part}");
    }
}

#[test]
fn doctor_prints_a_table() {
    let output = belljar(&["doctor"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for says in ["worker", "ready after", "compile", "prepare", "Landlock", "vector instructions"] {
        assert!(text.contains(says), "{says} is not in\n{text}");
    }
    assert!(output.stderr.is_empty());
}

#[test]
fn doctor_creates_and_compiles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, state) = (folder.path().join("cache"), folder.path().join("state"));
    let mut command = belljar(&["doctor", "--format", "json"]);
    command.env("BELLJAR_CACHE_DIR", &cache).env("BELLJAR_STATE_DIR", &state);
    let output = command.output().unwrap();
    let found = json(&output);
    assert_eq!(output.status.code(), Some(0), "{found:#}");
    let code = finding(&found, "compiled code");
    assert_eq!(code["present"], false);
    assert!(code["found"].as_str().unwrap().contains("belljar warm"), "{code}");
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "a file was created");
}

#[test]
fn folder_writable_by_others_is_reported_with_exit_code_7() {
    let folder = tempfile::tempdir().unwrap();
    let code = folder.path().join("code");
    fs::create_dir(&code).unwrap();
    fs::set_permissions(&code, fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = belljar(&["doctor", "--format", "json"]);
    let output = command.env("BELLJAR_CACHE_DIR", folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    let found = json(&output);
    assert_eq!(found["strict"], false);
    assert_eq!(finding(&found, "folder of compiled code")["present"], false);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("closed to others"), "{text}");
}
