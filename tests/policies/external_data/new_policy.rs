//! The grants of external data that `belljar new-policy` writes.

use crate::support;

use std::fs;
use std::os::unix::fs::symlink;

use belljar::{Digest, Policy};
use support::onnx::{FLOAT, Graph, fixed, node, value};
use support::scratch::Scratch;

use super::{elsewhere, layer, model_at, weights};

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
