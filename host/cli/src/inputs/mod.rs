//! Inputs from the command line: files with tensors, with or without names.

mod picture;
mod source;
mod wanted;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::failure::{Failure, shown};
use belljar::Description;
use belljar::internals::signature;
use belljar_tensor::{BYTE_ORDER_MARK, Tensor, TensorError, Value, csv, json, npy, npz, pb};
use belljar_text::Escaped;

pub(super) use picture::Pictures;
use source::Source;
#[cfg(feature = "programs")]
pub(super) use source::read_start;
use wanted::{Wanted, position};

/// A parsed `[NAME=]FILE`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) name: Option<String>,
    pub(super) path: PathBuf,
}

/// Splits `NAME=FILE` at the first `=`. If the whole argument is the path of an existing file, it
/// is a file without a name, even if its path contains `=`.
pub(super) fn parse(argument: &OsStr) -> Result<Given, Failure> {
    let bytes = argument.as_bytes();
    let split = bytes.iter().position(|byte| *byte == b'=');
    let (Some(at), false) = (split, Path::new(argument).exists()) else {
        return Ok(Given { name: None, path: argument.into() });
    };
    let (name, path) = (&bytes[..at], &bytes[at + 1..]);
    let name = std::str::from_utf8(name)
        .map_err(|_| Failure::usage("--input: the name of an input is not valid UTF-8"))?;
    if name.is_empty() || path.is_empty() {
        let text = format!("--input {}: expected NAME=FILE", shown(Path::new(argument)));
        return Err(Failure::usage(text));
    }
    Ok(Given { name: Some(name.to_owned()), path: OsStr::from_bytes(path).into() })
}

/// The memory that all inputs may use together, in bytes, and how much of it is left.
#[derive(Clone, Copy)]
pub(super) struct Budget {
    limit: u64,
    left: u64,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Budget {
        Budget { limit, left: limit }
    }

    /// The remaining budget, in bytes.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Subtracts the memory of an input.
    pub(super) fn take(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// Subtracts the memory of values.
    pub(super) fn take_values(&mut self, values: &[(String, Value)]) {
        values.iter().for_each(|(_, value)| self.take(value.memory_len()));
    }

    /// The failure of an input that was read with the remaining budget as its limit.
    pub(super) fn failure(&self, source: &str, err: TensorError) -> Failure {
        let err = match err {
            TensorError::TooLarge { what, .. } if self.left < self.limit => {
                let what = format!("{what}, together with the inputs before it,");
                TensorError::TooLarge { what, limit: self.limit }
            }
            other => other,
        };
        Failure::tensor(source, &err)
    }
}

/// What reading images needed: they are decoded in a sandbox, under the limits of the model's
/// policy.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Needed {
    /// Size of the largest image, as a file or as a tensor.
    pub(super) bytes: u64,
    /// Largest memory of a sandbox.
    pub(super) memory: u64,
    /// Longest decoding time.
    pub(super) time: Duration,
    /// Number of images.
    pub(super) pictures: usize,
}

impl Needed {
    fn and(self, other: Needed) -> Needed {
        Needed {
            bytes: self.bytes.max(other.bytes),
            memory: self.memory.max(other.memory),
            time: self.time.max(other.time),
            pictures: self.pictures + other.pictures,
        }
    }
}

/// Inputs with their names, and what reading their images needed.
pub(super) type Inputs<T> = (Vec<(String, T)>, Needed);

/// Reads every given input of a model. `limits.input-size` limits the total size of their tensors.
pub(super) fn read_values(
    arguments: &[OsString],
    pictures: Pictures<'_>,
) -> Result<Inputs<Value>, Failure> {
    read_files(arguments, pictures, true)
}

/// As [`read_values`], for a command that only takes tensors.
pub(super) fn read_all(
    arguments: &[OsString],
    pictures: Pictures<'_>,
) -> Result<Inputs<Tensor>, Failure> {
    let (values, needed) = read_files(arguments, pictures, true)?;
    Ok((tensors_only(values)?, needed))
}

/// Reads the inputs of several runs, in which one input may occur more than once. `limits.input-size`
/// limits each file here; the model checks all inputs of a run together.
pub(super) fn read_for_runs(
    arguments: &[OsString],
    pictures: Pictures<'_>,
) -> Result<Inputs<Tensor>, Failure> {
    let (values, needed) = read_files(arguments, pictures, false)?;
    Ok((tensors_only(values)?, needed))
}

fn tensors_only(values: Vec<(String, Value)>) -> Result<Vec<(String, Tensor)>, Failure> {
    let tensor = |(name, value): (String, Value)| match value {
        Value::Tensor(tensor) => Ok((name, tensor)),
        other => {
            let (name, what) = (Escaped::cut(&name, 60), other.what());
            let text = format!("--input {name}: it is {what}, and this command takes tensors only");
            Err(Failure::usage(text).hint("`belljar run` takes sequences, maps and optionals"))
        }
    };
    values.into_iter().map(tensor).collect()
}

fn read_files(
    arguments: &[OsString],
    pictures: Pictures<'_>,
    of_one_run: bool,
) -> Result<Inputs<Value>, Failure> {
    let Pictures { model, arguments: flags } = pictures;
    let given = arguments.iter().map(|each| parse(each)).collect::<Result<Vec<_>, _>>()?;
    if given.iter().filter(|each| each.path == Path::new("-")).count() > 1 {
        return Err(Failure::usage("only one input can come from standard input"));
    }
    let mut budget = Budget::new(model.policy().limits.input_size);
    let (mut inputs, mut needed) = (Vec::new(), Needed::default());
    for each in given {
        let (read, took) = read_one(&each, model.description(), budget, Some(pictures))?;
        if of_one_run {
            budget.take_values(&read);
        }
        inputs.extend(read);
        needed = needed.and(took);
    }
    match flags.first_given() {
        Some(flag) if needed.pictures == 0 => {
            let text = format!("{flag} applies only to images, but no input is a PNG or JPEG file");
            Err(Failure::usage(text).hint("remove the flag"))
        }
        _ => Ok((inputs, needed)),
    }
}

/// Reads one file of tensors, whose format is detected from its content.
pub(super) fn read(
    given: &Given,
    description: &Description,
    budget: Budget,
) -> Result<Vec<(String, Value)>, Failure> {
    read_one(given, description, budget, None).map(|(read, _)| read)
}

/// Reads one file. Images are read only for models, which is when `pictures` is given.
fn read_one(
    given: &Given,
    description: &Description,
    budget: Budget,
    pictures: Option<Pictures<'_>>,
) -> Result<Inputs<Value>, Failure> {
    let shown_source =
        if given.path == Path::new("-") { "standard input".to_owned() } else { shown(&given.path) };
    let unreadable = |err: io::Error| Failure::usage(format!("{shown_source}: {err}"));
    let malformed = |err: TensorError| budget.failure(&shown_source, err);
    let wanted = Wanted { description, source: &shown_source };
    let limit = budget.left;
    let input = Source::open(&given.path).map_err(unreadable)?;
    let named = || given.name.clone().map_or_else(|| wanted.single(), Ok);

    let tensors = match kind(&input, given, &wanted)? {
        Kind::Picture => {
            let pictures = pictures.ok_or_else(|| {
                let text = format!("{shown_source}: expected a file of tensors, found an image");
                Failure::usage(text).hint("pass it to a guest program as NAME=bytes:FILE")
            })?;
            let name = named()?;
            let declared = wanted.input(&name).ok_or_else(|| {
                let name = Escaped::cut(&name, 60);
                Failure::usage(format!("{shown_source}: the model has no input {name}"))
                    .hint("`belljar inspect` shows what the model declares")
            })?;
            let (tensor, needed) = pictures.read(input, declared, &shown_source, budget)?;
            return Ok((vec![(name, tensor.into())], needed));
        }
        Kind::Npy => {
            let name = named()?;
            let tensor = npy::read_as(input.stream(), wanted.dtype(&name), limit);
            Ok(vec![(name, tensor.map_err(malformed)?)])
        }
        Kind::Npz => {
            let most = npz::longest_file(limit);
            let file = input.seekable(most).map_err(unreadable)?.ok_or_else(|| {
                let what = "the archive".to_owned();
                malformed(TensorError::TooLarge { what, limit: most })
            })?;
            // With a name on the command line, the array's own name does not matter.
            let asked = |name: &str| match &given.name {
                Some(given) => wanted.dtype(given),
                None => wanted
                    .dtype(name)
                    .or_else(|| wanted.dtype_of_part(name))
                    .or_else(|| wanted.at(position(name)?)?.dtype()),
            };
            let mut arrays = npz::read_as(file, asked, limit).map_err(malformed)?;
            let mut values =
                wanted.values(given.name.as_deref(), &mut arrays).map_err(malformed)?;
            if !values.is_empty() && (arrays.is_empty() || given.name.is_some()) {
                return Ok((values, Needed::default()));
            }
            let arrays = match &given.name {
                None => wanted.by_position(arrays),
                Some(name) => wanted.one_of(arrays, name),
            };
            values.extend(as_values(arrays?));
            return Ok((values, Needed::default()));
        }
        Kind::Pb => {
            let (own, tensor) = pb::read(input.stream(), limit).map_err(malformed)?;
            let name = match &given.name {
                Some(name) => name.clone(),
                None if wanted.has(&own) => own,
                None => wanted.single()?,
            };
            Ok(vec![(name, tensor)])
        }
        Kind::Columns => {
            let kind_of = |name: &str| (wanted.dtype(name), wanted.rank(name));
            csv::read_columns(input.stream(), kind_of, limit).map_err(malformed)
        }
        Kind::Csv => {
            let name = named()?;
            let (dtype, rank) = (wanted.dtype(&name), wanted.rank(&name));
            let tensor = csv::read_one(input.stream(), dtype, rank, limit).map_err(malformed)?;
            Ok(vec![(name, tensor)])
        }
        Kind::NamedJson => {
            let declared = |name: &str| wanted.declared(name);
            let values = json::read_named_values(input.stream(), declared, limit);
            return Ok((values.map_err(malformed)?, Needed::default()));
        }
        Kind::Json => {
            let name = named()?;
            let value = json::read_one_value(input.stream(), wanted.declared(&name), limit);
            return Ok((vec![(name, value.map_err(malformed)?)], Needed::default()));
        }
    };
    tensors.map(|tensors| (as_values(tensors), Needed::default()))
}

fn as_values(tensors: Vec<(String, Tensor)>) -> Vec<(String, Value)> {
    tensors.into_iter().map(|(name, tensor)| (name, tensor.into())).collect()
}

/// The format of a file.
enum Kind {
    /// PNG or JPEG.
    Picture,
    Npy,
    Npz,
    /// A serialised TensorProto.
    Pb,
    /// CSV with one column per input.
    Columns,
    Csv,
    /// A JSON object of tensors by name.
    NamedJson,
    Json,
}

/// Detects the format from the first bytes or, if both CSV and JSON are possible, from the
/// extension.
fn kind(input: &Source, given: &Given, wanted: &Wanted<'_>) -> Result<Kind, Failure> {
    let start = input.start();
    if start.starts_with(b"\x93NUMPY") {
        return Ok(Kind::Npy);
    }
    if picture::is_picture(start) {
        return Ok(Kind::Picture);
    }
    if start.starts_with(b"PK") {
        return Ok(Kind::Npz);
    }
    if start.starts_with(b"\xff\xfe") || start.starts_with(b"\xfe\xff") {
        let text = format!("{}: UTF-16 text is not supported", wanted.source);
        return Err(Failure::usage(text).hint("convert the file to UTF-8"));
    }
    let text = start.strip_prefix(BYTE_ORDER_MARK).unwrap_or(start).trim_ascii_start();
    let object = text.starts_with(b"{");
    if !object && let Some(found) = signature::look(start, 1 << 40) {
        let text = format!("{}: expected tensors, but the file is {}", wanted.source, found.what);
        return Err(Failure::usage(text).hint(TENSOR_FILES));
    }
    if pb::begins_as_tensor(start) {
        return Ok(Kind::Pb);
    }
    let by_name = given.name.is_none();
    if object {
        let named = by_name && wanted.starts_with_named_tensors(text);
        return Ok(if named { Kind::NamedJson } else { Kind::Json });
    }
    let extension = given.path.extension().map(OsStr::to_ascii_lowercase);
    let tables = extension.is_some_and(|extension| extension == "csv" || extension == "tsv");
    if !tables && is_json(text, input.is_whole()) {
        return Ok(Kind::Json);
    }
    let columns = by_name && wanted.are_columns(&csv::header(start))?;
    Ok(if columns { Kind::Columns } else { Kind::Csv })
}

const TENSOR_FILES: &str =
    "use a .npy, .npz, .json, .csv, .pb, .png or .jpg file; numpy.save writes .npy files";

/// Whether text that is not a JSON object is JSON, rather than CSV.
fn is_json(text: &[u8], whole: bool) -> bool {
    if text.is_empty() || text.starts_with(b"[") {
        return true;
    }
    match whole {
        true => serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok(),
        // A single long string, which contains no line breaks.
        false => text.starts_with(b"\"") && !text.contains(&b'\n'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(Option<String>, String)> {
        let given = parse(OsStr::new(text)).ok()?;
        Some((given.name, given.path.to_string_lossy().into_owned()))
    }

    #[test]
    fn names_end_at_the_first_equals_sign() {
        let some = |name: &str, path: &str| Some((Some(name.to_owned()), path.to_owned()));
        assert_eq!(parsed("x=a.npy"), some("x", "a.npy"));
        assert_eq!(parsed("x=a=b.npy"), some("x", "a=b.npy"));
        assert_eq!(parsed("x=-"), some("x", "-"));
        assert_eq!(parsed("-"), Some((None, "-".to_owned())));
        assert_eq!(parsed("a.npy"), Some((None, "a.npy".to_owned())));
        assert_eq!(parsed("=a.npy"), None);
        assert_eq!(parsed("x="), None);
    }

    #[test]
    fn existing_file_with_an_equals_sign_needs_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a=b.npy");
        std::fs::write(&path, b"").unwrap();
        let text = path.to_string_lossy().into_owned();
        assert_eq!(parsed(&text), Some((None, text.clone())));
    }
}
