//! `belljar run` on a guest program: reads its inputs (`given`), runs it, prints and writes its
//! outputs.

mod given;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write, stdout};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::json;

use super::args::{Format, Run};
use super::failure::{Failure, NEEDS_PROGRAM, shown};
use super::host::{Store, host_for, note_too_large, read_model, rules};
use super::outputs::{Entry, Labels, Printing, Target};
use super::run::{Sequence, cuts_json, milliseconds, policy_json};
use super::table::Table;
use super::terminal::Terminal;
use super::{dims, inputs, json};
use belljar::internals::is_component;
use belljar::{Digest, Value};
use belljar_tensor::{Tensor, TensorError, npy};
use belljar_text::Escaped;

pub(super) use given::read_all;

/// How many lines of an output are printed, and how many characters of each.
const MAX_SHOWN: usize = 10_000;

/// Whether a file is a guest program. `false` for an unreadable file: the code that reads it next
/// reports the cause.
pub(super) fn is_program(path: &Path) -> bool {
    let mut start = [0; 8];
    // Opening a pipe or device could block forever, or consume data meant for another reader.
    let file = path.metadata().ok().filter(fs::Metadata::is_file).and_then(|_| {
        let mut file = File::open(path).ok()?;
        inputs::read_start(&mut file, &mut start).ok()
    });
    file.is_some() && is_component(&start)
}

pub(super) fn run(arguments: &Run, terminal: &Terminal) -> Result<(), Failure> {
    let terminal = match arguments.format {
        Format::Json => &terminal.with_json_stdout(),
        Format::Table => terminal,
    };
    let path = &arguments.model.model;
    if arguments.model.policy.is_none() {
        let text = format!(
            "{}: a guest program needs a policy with a [program] table, and no policy was given",
            shown(path)
        );
        return Err(Failure::refused(text).hint(NEEDS_PROGRAM));
    }
    arguments.pictures.refuse_for_program()?;
    dims::refuse_for_program(&arguments.model.dims)?;
    if arguments.seed.is_some() {
        return Err(Failure::usage("--seed applies only to models, but this is a guest program")
            .hint("remove --seed; set compute.seed in the policies of its models"));
    }
    let labels = arguments.labels.as_deref().map(Labels::read).transpose()?;
    let target = arguments.output.as_deref().map(|path| Target::new(path, arguments.force));
    let target = target.transpose()?;
    let store = if arguments.no_store { Store::Unused } else { Store::Used };
    let host = host_for(&arguments.model, store, 1, terminal)?;
    let (rules, policy) = rules(&host, &arguments.model, terminal)?;
    let start = Instant::now();
    let bytes = read_model(path, rules.limits.model_size)
        .inspect_err(|failure| note_too_large(&host, None, &rules, "limits.model-size", failure))?;
    let digest = bytes.digest();
    let program =
        terminal.progress("compiling the program", || host.load_program(bytes, &rules))?;
    let load = start.elapsed();
    let limit = program.policy().limits.input_size;
    let inputs = read_all(&arguments.inputs, limit).inspect_err(|failure| {
        let policy = program.policy();
        note_too_large(&host, Some(digest), policy, "limits.input-size", failure);
    })?;
    let start = Instant::now();
    let run = || program.run_with_arguments(&inputs, &arguments.arguments);
    let outputs = terminal.progress("running", run)?;
    let run = start.elapsed();
    let (tensors, others) = split(outputs);
    let unfit = |labels: &Labels| !tensors.iter().any(|(_, tensor)| labels.fits(tensor));
    if labels.as_ref().is_some_and(unfit) {
        return Err(Failure::usage(
            "--labels: no output has as many classes as the file has lines",
        ));
    }
    let printing =
        Printing { labels: labels.as_ref(), top: arguments.top.into(), data: arguments.data };
    let written = match (&target, &arguments.output) {
        (Some(target), Some(path)) => write_all(&tensors, &others, target, path, terminal)?,
        _ => Vec::new(),
    };
    let mut out = BufWriter::new(stdout().lock());
    match arguments.format {
        Format::Table => {
            table(&printing, &tensors, &others, &mut out).map_err(Failure::output)?;
            for path in &written {
                writeln!(out, "\nwrote {}", shown(path)).map_err(Failure::output)?;
            }
        }
        Format::Json => {
            let data = arguments.data;
            let outputs = Sequence(|| {
                let tensors = tensors.iter().map(|output| Output::Tensor(printing.entry(output)));
                tensors.chain(others.iter().map(|other| Output::Other(other, data)))
            });
            let answer = Answer {
                cuts: cuts_json(rules.cuts()),
                outputs,
                policy: policy_json(policy.as_ref()),
                program: json!({
                    "path": path.to_string_lossy(),
                    "sha256": digest.to_string(),
                    "bytes": program.size(),
                }),
                time: json!({ "load_ms": milliseconds(load), "run_ms": milliseconds(run) }),
            };
            json::print(&answer, &mut out).map_err(Failure::output)?;
        }
    }
    out.flush().map_err(Failure::output)?;
    if arguments.time && arguments.format == Format::Table {
        let mut times = Table::default().right(1);
        let cell = |time| format!("{:.2} ms", milliseconds(time));
        times.row(["load".into(), cell(load), "read, compiled and loaded".to_owned()]);
        times.row(["run".into(), cell(run), "including loading its models".to_owned()]);
        let _ = times.print(io::stderr().lock(), 0);
    }
    host.snapshot_store().finish();
    Ok(())
}

pub(super) type Named<T> = Vec<(String, T)>;

/// Separates tensors from other values.
fn split(outputs: Named<Value>) -> (Named<Tensor>, Named<Value>) {
    let (mut tensors, mut others) = (Vec::new(), Vec::new());
    for (name, value) in outputs {
        match value {
            Value::Tensor(tensor) => tensors.push((name, tensor)),
            other => others.push((name, other)),
        }
    }
    (tensors, others)
}

fn table(
    printing: &Printing<'_>,
    tensors: &[(String, Tensor)],
    others: &[(String, Value)],
    out: &mut impl Write,
) -> io::Result<()> {
    if !tensors.is_empty() {
        // One table for all tensors; only those with a matching number of classes get labels.
        printing.table(tensors, &mut *out)?;
    }
    for (at, (name, value)) in others.iter().enumerate() {
        if at > 0 || !tensors.is_empty() {
            writeln!(out)?;
        }
        let name = Escaped::cut(name, 40);
        match value {
            Value::Text(text) => {
                writeln!(out, "{name}:")?;
                for line in text.lines().take(MAX_SHOWN) {
                    writeln!(out, "  {}", Escaped::cut(line, MAX_SHOWN))?;
                }
            }
            other => writeln!(out, "{name}: {} bytes", other.byte_len())?,
        }
    }
    Ok(())
}

/// The whole result as JSON. It is serialised piece by piece, because outputs may be large.
#[derive(Serialize)]
struct Answer<O> {
    cuts: serde_json::Value,
    outputs: O,
    policy: serde_json::Value,
    program: serde_json::Value,
    time: serde_json::Value,
}

/// One output. `data` decides whether bytes are printed in full.
enum Output<'a> {
    Tensor(Entry<'a>),
    Other(&'a (String, Value), bool),
}

impl Serialize for Output<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ((name, value), data) = match self {
            Output::Tensor(entry) => return entry.serialize(serializer),
            Output::Other(output, data) => (output, *data),
        };
        let mut map = serializer.serialize_map(None)?;
        match value {
            Value::Text(text) => {
                map.serialize_entry("name", name)?;
                map.serialize_entry("text", text)?;
            }
            Value::Bytes(bytes) => {
                map.serialize_entry("bytes", &bytes.len())?;
                if data {
                    map.serialize_entry("hex", &Hex(bytes))?;
                }
                map.serialize_entry("name", name)?;
                map.serialize_entry("sha256", &Digest::of(bytes).to_string())?;
            }
            _ => {}
        }
        map.end()
    }
}

/// Bytes as a string of hexadecimal digits that is never in memory as a whole.
struct Hex<'a>(&'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Hex<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Writes the outputs: tensors like those of a model and, to a folder, also texts and bytes.
fn write_all(
    tensors: &[(String, Tensor)],
    others: &[(String, Value)],
    target: &Target<'_>,
    path: &Path,
    terminal: &Terminal,
) -> Result<Vec<PathBuf>, Failure> {
    if others.is_empty() {
        return target.write(tensors, terminal);
    }
    if !target.is_folder() {
        let text = format!("--output {}: a file cannot hold texts and bytes", shown(path));
        return Err(Failure::usage(text).hint("give a folder: a path that ends in /"));
    }
    let names = tensors.iter().map(|(name, _)| name.as_str());
    let names: Vec<&str> = names.chain(others.iter().map(|(name, _)| name.as_str())).collect();
    let kind = |at: usize| match at.checked_sub(tensors.len()).and_then(|at| others.get(at)) {
        None => "npy",
        Some((_, Value::Text(_))) => "txt",
        Some(_) => "bin",
    };
    let files = target.files(&names, kind)?;
    let (of_tensors, of_others) = files.split_at(tensors.len().min(files.len()));
    for (path, (_, tensor)) in of_tensors.iter().zip(tensors) {
        target.write_into(path, |file| npy::write(tensor, file))?;
    }
    for (path, (_, value)) in of_others.iter().zip(others) {
        let bytes = match value {
            Value::Text(text) => text.as_bytes(),
            Value::Bytes(bytes) => bytes,
            _ => continue,
        };
        target.write_into(path, |file| file.write_all(bytes).map_err(TensorError::Io))?;
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn only_component_files_are_programs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for (bytes, expected) in [
            (&b"\0asm\x0d\0\x01\0rest"[..], true),
            (b"\0asm\x01\0\0\0", false),
            (b"\0asm\x0d\0", false),
            (b"", false),
        ] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(is_program(&path), expected);
        }
        assert!(!is_program(folder.path()));
        assert!(!is_program(Path::new("/dev/zero")));
    }
}
