//! Runs the models of these tests through the command line as well. If `BELLJAR_CORPUS` names a
//! folder, the models are stored there, for tests of other runtimes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use belljar::{Error, Tensor};
use serde_json::json;

use crate::support;

/// The policy for the command line, with the limits of `policy()`.
const POLICY: &str = "version = 1
[limits]
memory = \"256 MiB\"
prepare-time = \"10 s\"
run-time = \"5 s\"
";

/// The allowed exit codes: success, or an error of the model, of a limit or of the sandbox.
const ENDS: [i32; 4] = [0, 4, 5, 6];

std::thread_local! {
    /// The number of files of each test of this thread.
    static COUNTS: RefCell<BTreeMap<String, usize>> = const { RefCell::new(BTreeMap::new()) };
}

/// A file name for the running test: `bombs-huge_ranges_end_in_an_error-2`.
fn name() -> String {
    let test = std::thread::current().name().unwrap_or("model").replace("::", "-");
    let count = COUNTS.with_borrow_mut(|counts| {
        let count = counts.entry(test.clone()).or_default();
        *count += 1;
        *count
    });
    format!("{test}-{count}")
}

/// Runs the same model through the command line, and stores it.
#[track_caller]
pub(crate) fn again(bytes: &[u8], inputs: &[(&str, Tensor)], ended: Result<(), &Error>) {
    let folder = tempfile::tempdir().unwrap();
    let name = name();
    let model = folder.path().join(format!("{name}.onnx"));
    fs::write(&model, bytes).unwrap();
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, POLICY).unwrap();
    let mut files = BTreeMap::new();
    for (at, (input, tensor)) in inputs.iter().enumerate() {
        let file = format!("{name}.{at}.npy");
        belljar::tensor::npy::write(tensor, File::create(folder.path().join(&file)).unwrap())
            .unwrap();
        files.insert(*input, file);
    }

    let mut command = support::belljar(&["run", "--quiet", "--no-store"]);
    command.arg(&model).arg("--policy").arg(&policy);
    for (input, file) in &files {
        command.arg("--input").arg(format!("{input}={}", folder.path().join(file).display()));
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code().unwrap_or_else(|| panic!("{}: {said}", output.status));
    let in_library = ended.err().map_or(0, |err| i32::from(err.exit_code()));
    assert!(ENDS.contains(&code) && !said.contains("panicked"), "{name}: {code} {said}");
    assert_eq!(code, in_library, "{name}: the library says {ended:?}, the command line {said}");

    let Some(to) = std::env::var_os("BELLJAR_CORPUS").map(PathBuf::from) else { return };
    let entry = json!({
        "model": format!("{name}.onnx"),
        "kind": name.split('-').next(),
        "inputs": files,
        "expected": if code == 0 { "answer" } else { "error" },
        "belljar": { "exit_code": code, "error": ended.err().map(Error::to_string) },
    });
    keep(folder.path(), &to, files.values().map(String::as_str), &name, &entry);
}

fn keep<'a>(
    from: &Path,
    to: &Path,
    files: impl Iterator<Item = &'a str>,
    name: &str,
    entry: &serde_json::Value,
) {
    for file in files.map(str::to_owned).chain([format!("{name}.onnx")]) {
        fs::copy(from.join(&file), to.join(&file)).unwrap();
    }
    fs::write(to.join(format!("{name}.json")), serde_json::to_vec(entry).unwrap()).unwrap();
}
