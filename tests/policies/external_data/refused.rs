//! Locations, links and ranges that a model may name, and that are refused.

use crate::support;

use std::fs;
use std::os::unix::fs::symlink;

use belljar::Isolation;
use support::host;
use support::scratch::Scratch;

use super::{
    assert_answers, assert_refused, elsewhere, layer, load, model_at, model_with, policy_for,
    run_model, weights,
};

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
