//! Answers: printed as a table or as JSON, and written to files.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::failure::{Failure, shown};
use super::table::{Table, number, shape};
use crate::tensor::summary::Summary;
use crate::tensor::{Data, Tensor, TensorError, json as tensor_json, npy, npz};
use crate::text::Hostile;

/// Names of the classes along the last axis.
pub(super) struct Labels(Vec<String>);

impl Labels {
    pub(super) fn read(path: &Path) -> Result<Labels, Failure> {
        const LIMIT: u64 = 16 << 20;
        let failed = |err: &dyn std::fmt::Display| {
            Failure::usage(format!("--labels {}: {err}", shown(path)))
        };
        let mut text = String::new();
        let file = File::open(path).map_err(|err| failed(&err))?;
        io::Read::read_to_string(&mut io::Read::take(file, LIMIT), &mut text)
            .map_err(|err| failed(&err))?;
        Ok(Labels(text.lines().map(|line| line.trim_end().to_owned()).collect()))
    }

    /// Checks that there is a label for each class of every output.
    fn check(&self, outputs: &[(String, Tensor)]) -> Result<(), Failure> {
        for (name, tensor) in outputs {
            let classes = tensor.shape().last().copied().unwrap_or(1);
            if classes != self.0.len() {
                let name = Hostile::cut(name, 60);
                return Err(Failure::usage(format!(
                    "--labels has {} lines, but output {name} has {classes} along its last axis",
                    self.0.len()
                )));
            }
        }
        Ok(())
    }

    /// Whether there is a label for each class of an output.
    pub(super) fn fits(&self, tensor: &Tensor) -> bool {
        tensor.shape().last().copied().unwrap_or(1) == self.0.len()
    }

    fn of(&self, index: &[usize]) -> Option<&str> {
        self.0.get(index.last().copied().unwrap_or(0)).map(String::as_str)
    }
}

/// How outputs are printed.
pub(super) struct Printing<'a> {
    pub(super) labels: Option<&'a Labels>,
    pub(super) top: usize,
    pub(super) data: bool,
}

impl Printing<'_> {
    pub(super) fn check(&self, outputs: &[(String, Tensor)]) -> Result<(), Failure> {
        self.labels.map_or(Ok(()), |labels| labels.check(outputs))
    }

    pub(super) fn table(
        &self,
        outputs: &[(String, Tensor)],
        mut out: impl Write,
    ) -> io::Result<()> {
        let mut table = Table::new(&["output", "dtype", "shape", "min", "mean", "max", ""])
            .right(3)
            .right(4)
            .right(5);
        let summaries: Vec<Summary> =
            outputs.iter().map(|(_, tensor)| Summary::of(tensor, self.top)).collect();
        let cell = |value: Option<f64>| value.map_or_else(|| "-".into(), number);
        for ((name, tensor), summary) in outputs.iter().zip(&summaries) {
            let mut remarks = Vec::new();
            if summary.nan_count > 0 {
                remarks.push(format!("{} NaN", summary.nan_count));
            }
            if summary.infinite_count > 0 {
                remarks.push(format!("{} infinite", summary.infinite_count));
            }
            table.row([
                Hostile::cut(name, 40).to_string(),
                tensor.dtype().to_string(),
                shape(tensor.shape()),
                cell(summary.min),
                cell(summary.mean),
                cell(summary.max),
                remarks.join(", "),
            ]);
        }
        table.print(&mut out, 0)?;
        for ((name, tensor), summary) in outputs.iter().zip(&summaries) {
            if self.top == 0 || (summary.top.is_empty() && summary.strings.is_empty()) {
                continue;
            }
            writeln!(out, "\n{}: top {}", Hostile::cut(name, 40), self.top)?;
            let mut table = Table::default().right(1);
            for (index, value) in &summary.top {
                let label = self.label(tensor, index).unwrap_or_default();
                let label = Hostile::cut(label, 60).to_string();
                table.row([format!("{index:?}"), number(*value), label]);
            }
            for string in &summary.strings {
                table.row([Hostile::cut(string, 100).to_string()]);
            }
            table.print(&mut out, 2)?;
        }
        Ok(())
    }

    pub(super) fn json(&self, outputs: &[(String, Tensor)]) -> Value {
        outputs
            .iter()
            .map(|(name, tensor)| {
                let summary = Summary::of(tensor, self.top);
                let top: Vec<Value> =
                    summary.top.iter().map(|(index, _)| self.top_entry(tensor, index)).collect();
                let mut entry = Map::new();
                entry.insert("name".into(), json!(name));
                entry.insert("dtype".into(), json!(tensor.dtype().name()));
                entry.insert("shape".into(), json!(tensor.shape()));
                let summary_entry = json!({
                    "min": summary.min,
                    "mean": summary.mean,
                    "max": summary.max,
                    "nan": summary.nan_count,
                    "infinite": summary.infinite_count,
                });
                entry.insert("summary".into(), summary_entry);
                entry.insert("top".into(), json!(top));
                if !summary.strings.is_empty() {
                    entry.insert("strings".into(), json!(summary.strings));
                }
                if self.data {
                    let tensor = serde_json::to_value(tensor_json::Json(tensor));
                    let data = tensor.ok().and_then(|value| value.get("data").cloned());
                    entry.insert("data".into(), data.unwrap_or_default());
                }
                Value::Object(entry)
            })
            .collect()
    }

    /// Not every output of a guest program has classes.
    fn label(&self, tensor: &Tensor, index: &[usize]) -> Option<&str> {
        self.labels.filter(|labels| labels.fits(tensor)).and_then(|labels| labels.of(index))
    }

    fn top_entry(&self, tensor: &Tensor, index: &[usize]) -> Value {
        let value = element(tensor, index);
        match self.label(tensor, index) {
            Some(label) => json!({ "index": index, "value": value, "label": label }),
            None => json!({ "index": index, "value": value }),
        }
    }
}

/// One element, exactly. JSON has no infinities; a string says it as the tensor files do.
fn element(tensor: &Tensor, index: &[usize]) -> Value {
    let flat = index.iter().zip(tensor.shape()).fold(0, |flat, (at, size)| flat * size + at);
    let float = |value: f64, exact: Value| match value {
        f64::INFINITY => json!("Infinity"),
        f64::NEG_INFINITY => json!("-Infinity"),
        _ => exact,
    };
    fn at<T: Serialize>(values: &[T], flat: usize) -> Value {
        json!(values.get(flat))
    }
    match tensor.data() {
        Data::F16(values) => {
            values.get(flat).map_or(Value::Null, |v| float(v.to_f64(), json!(v.to_f32())))
        }
        Data::F32(values) => values.get(flat).map_or(Value::Null, |v| float((*v).into(), json!(v))),
        Data::F64(values) => values.get(flat).map_or(Value::Null, |v| float(*v, json!(v))),
        Data::BF16(values) => {
            values.get(flat).map_or(Value::Null, |v| float(v.to_f64(), json!(v.to_f32())))
        }
        Data::Coded(coded) => coded.value(flat).map_or(Value::Null, |value| {
            float(value, if coded.are_integers() { json!(value as i64) } else { json!(value) })
        }),
        Data::I8(values) => at(values, flat),
        Data::I16(values) => at(values, flat),
        Data::I32(values) => at(values, flat),
        Data::I64(values) => at(values, flat),
        Data::U8(values) => at(values, flat),
        Data::U16(values) => at(values, flat),
        Data::U32(values) => at(values, flat),
        Data::U64(values) => at(values, flat),
        Data::Bool(values) => at(values, flat),
        Data::String(values) => at(values, flat),
    }
}

/// Writes the outputs where the person said; says which files were written.
pub(super) fn write(
    outputs: &[(String, Tensor)],
    path: &Path,
    force: bool,
) -> Result<Vec<PathBuf>, Failure> {
    let ends_in_slash = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let extension = path.extension().and_then(|extension| extension.to_str());
    match extension {
        _ if ends_in_slash || path.is_dir() => return write_folder(outputs, path, force),
        Some("npz") => {
            let outputs: Vec<(String, Tensor)> =
                outputs.iter().map(|(name, tensor)| (archive_name(name), tensor.clone())).collect();
            write_file(path, force, |file| npz::write(&outputs, file))?;
        }
        Some("json") => write_file(path, force, |file| tensor_json::write_named(outputs, file))?,
        _ => {
            return Err(Failure::usage(format!("--output {}: of what kind?", shown(path)))
                .hint("name a .npz or .json file, or a folder, ending in /"));
        }
    }
    Ok(vec![path.to_owned()])
}

fn write_folder(
    outputs: &[(String, Tensor)],
    folder: &Path,
    force: bool,
) -> Result<Vec<PathBuf>, Failure> {
    fs::create_dir_all(folder).map_err(|err| Failure::write(folder, &err))?;
    let names: Vec<&str> = outputs.iter().map(|(name, _)| name.as_str()).collect();
    let mut written = Vec::new();
    for ((_, tensor), name) in outputs.iter().zip(file_names(&names, |_| "npy")) {
        let path = folder.join(name);
        write_file(&path, force, |file| npy::write(tensor, file))?;
        written.push(path);
    }
    Ok(written)
}

/// A file name for each output: what a model calls an output must not decide where a file lies.
pub(super) fn file_names(names: &[&str], kind: impl Fn(usize) -> &'static str) -> Vec<String> {
    const LONGEST: usize = 80;
    let mut taken: Vec<String> = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let kind = kind(at);
        let keep = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let clean: String = name.chars().take(LONGEST).map(keep).collect();
        let clean = clean.trim_start_matches(['.', '-']);
        let clean = if clean.is_empty() { "output" } else { clean };
        let mut candidate = format!("{clean}.{kind}");
        let mut number = 2;
        // Some file systems do not tell capital letters from small ones.
        while taken.iter().any(|other| other.eq_ignore_ascii_case(&candidate)) {
            candidate = format!("{clean}-{number}.{kind}");
            number += 1;
        }
        taken.push(candidate);
    }
    taken
}

/// The name of an output in an archive: itself, unless a program that unpacks archives into files
/// could be led elsewhere by it.
fn archive_name(name: &str) -> String {
    let leads_elsewhere = name.starts_with('/')
        || name.split('/').any(|part| part == "..")
        || name.chars().any(|c| matches!(c, '\\' | ':') || c.is_control());
    if !leads_elsewhere {
        return name.to_owned();
    }
    let keep = |c: char| if matches!(c, '/' | '\\' | ':') || c.is_control() { '_' } else { c };
    name.chars().map(keep).collect::<String>().replace("..", "__")
}

/// Writes a file whole or not at all: under another name first, which is then given up for the
/// right one. Never through a symlink, and over another file only when asked to.
pub(super) fn write_file(
    path: &Path,
    force: bool,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), TensorError>,
) -> Result<(), Failure> {
    let failed = |err: &dyn std::fmt::Display| Failure::write(path, err);
    if let Ok(there) = path.symlink_metadata() {
        if !force {
            return Err(failed(&"there is something already"));
        }
        // A rename would put a file in place of a device, too.
        if !there.is_file() && !there.is_symlink() {
            return Err(failed(&"not a file, and not replaced"));
        }
    }
    let name = path.file_name().ok_or_else(|| failed(&"not the name of a file"))?;
    let mut aside = std::ffi::OsString::from(format!(".belljar-{}-", std::process::id()));
    aside.push(name);
    let aside = path.with_file_name(aside);
    let written = (|| {
        let file = File::options().write(true).create_new(true).open(&aside)?;
        let mut file = BufWriter::new(file);
        write(&mut file)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        if force {
            fs::rename(&aside, path)?;
        } else {
            // A link is refused where a rename would replace what has appeared meanwhile.
            fs::hard_link(&aside, path)?;
            fs::remove_file(&aside)?;
        }
        Ok::<(), TensorError>(())
    })();
    if written.is_err() {
        // Best effort: the error that matters is the first one.
        let _ = fs::remove_file(&aside);
    }
    written.map_err(|err| failed(&err))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_outputs_never_lead_elsewhere() {
        let names =
            ["../../etc/passwd", "/abs", "", "..", ".hidden", "a b", "A_b", "-rf", "x\0y\n"];
        let files = file_names(&names, |_| "npy");
        let expected = [
            "_.._etc_passwd.npy",
            "_abs.npy",
            "output.npy",
            "output-2.npy",
            "hidden.npy",
            "a_b.npy",
            "A_b-2.npy",
            "rf.npy",
            "x_y_.npy",
        ];
        assert_eq!(files, expected);
        assert_eq!(file_names(&[&"n".repeat(5000)], |_| "npy")[0].len(), 84);
    }

    #[test]
    fn names_in_archives_lead_nowhere_when_unpacked() {
        for (name, expected) in [
            ("gpu_0/softmax_1", "gpu_0/softmax_1"),
            ("a..b", "a..b"),
            ("../../etc/passwd", "______etc_passwd"),
            ("/etc/passwd", "_etc_passwd"),
            ("c:\\windows", "c__windows"),
        ] {
            assert_eq!(archive_name(name), expected);
        }
    }

    #[test]
    fn elements_are_exact() {
        let big = Tensor::new(vec![0i64, (1 << 53) + 1], &[1, 2]).unwrap();
        assert_eq!(element(&big, &[0, 1]).to_string(), "9007199254740993");
        let small = Tensor::new(vec![0.1f32, f32::NEG_INFINITY], &[2]).unwrap();
        assert_eq!(element(&small, &[0]), json!(0.1f32));
        assert_eq!(element(&small, &[1]).to_string(), "\"-Infinity\"");
        assert_eq!(element(&Tensor::scalar(true), &[]).to_string(), "true");
    }

    #[test]
    fn devices_are_not_replaced() {
        let write = |file: &mut BufWriter<File>| Ok(file.write_all(b"x")?);
        let err = write_file(Path::new("/dev/null"), true, write).unwrap_err();
        assert!(err.to_string().contains("not a file"), "{err}");
    }

    #[test]
    fn files_are_not_replaced_unasked_and_symlinks_never_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, victim) = (folder.path().join("out.npy"), folder.path().join("victim"));
        let tensor = Tensor::scalar(1.0f32);
        let write = |force| write_file(&path, force, |file| npy::write(&tensor, file));
        write(false).unwrap();
        assert!(write(false).is_err());
        write(true).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&victim, "mine").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert!(write(false).is_err());
        write(true).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left over");
    }
}
