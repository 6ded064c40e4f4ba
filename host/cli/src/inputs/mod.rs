//! Inputs as people give them: files of tensors, by name or not.

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
use belljar_tensor::{BYTE_ORDER_MARK, Tensor, TensorError, csv, json, npy, npz, pb};
use belljar_text::Escaped;

pub(super) use picture::Pictures;
use source::Source;
#[cfg(feature = "programs")]
pub(super) use source::read_start;
use wanted::{Wanted, place};

/// `[NAME=]FILE`, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) name: Option<String>,
    pub(super) path: PathBuf,
}

/// Takes `NAME=FILE` apart at the first `=`. What is an existing file as a whole is a file: one
/// whose path has a `=` in it can be given without a name.
pub(super) fn parse(argument: &OsStr) -> Result<Given, Failure> {
    let bytes = argument.as_bytes();
    let split = bytes.iter().position(|byte| *byte == b'=');
    let (Some(at), false) = (split, Path::new(argument).exists()) else {
        return Ok(Given { name: None, path: argument.into() });
    };
    let (name, path) = (&bytes[..at], &bytes[at + 1..]);
    let name = std::str::from_utf8(name)
        .map_err(|_| Failure::usage("--input: the name of an input is not UTF-8"))?;
    if name.is_empty() || path.is_empty() {
        let text = format!("--input {}: write NAME=FILE", shown(Path::new(argument)));
        return Err(Failure::usage(text));
    }
    Ok(Given { name: Some(name.to_owned()), path: OsStr::from_bytes(path).into() })
}

/// What inputs may take together, in bytes, and what those before have left of it.
#[derive(Clone, Copy)]
pub(super) struct Budget {
    limit: u64,
    left: u64,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Budget {
        Budget { limit, left: limit }
    }

    /// What is left, in bytes.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Takes what an input takes in memory.
    pub(super) fn take(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// Takes what tensors take in memory.
    pub(super) fn take_tensors(&mut self, tensors: &[(String, Tensor)]) {
        tensors.iter().for_each(|(_, tensor)| self.take(tensor.memory_len()));
    }

    /// Why an input could not be read, where it was given what is left.
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

/// What reading inputs took beside the bytes of their tensors: images are decoded in a sandbox, under
/// the limits of the model's policy.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Needed {
    /// The largest image, as a file or as a tensor.
    pub(super) bytes: u64,
    /// The most memory that a sandbox had.
    pub(super) memory: u64,
    /// The longest time.
    pub(super) time: Duration,
    /// How many images there were.
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

/// Reads every input that was given for a model. `limits.input-size` bounds the bytes of their tensors
/// together.
pub(super) fn read_all(
    arguments: &[OsString],
    pictures: Pictures<'_>,
) -> Result<(Vec<(String, Tensor)>, Needed), Failure> {
    let Pictures { model, arguments: flags } = pictures;
    let given = arguments.iter().map(|each| parse(each)).collect::<Result<Vec<_>, _>>()?;
    if given.iter().filter(|each| each.path == Path::new("-")).count() > 1 {
        return Err(Failure::usage("only one input can come from standard input"));
    }
    let mut budget = Budget::new(model.policy().limits.input_size);
    let (mut inputs, mut needed) = (Vec::new(), Needed::default());
    for each in given {
        let (read, took) = read_one(&each, model.description(), budget, Some(pictures))?;
        budget.take_tensors(&read);
        inputs.extend(read);
        needed = needed.and(took);
    }
    match flags.first_given() {
        Some(flag) if needed.pictures == 0 => {
            let text = format!("{flag} is for images, and no input is a PNG or JPEG file");
            Err(Failure::usage(text).hint("leave the flag out"))
        }
        _ => Ok((inputs, needed)),
    }
}

/// Reads one file of tensors, of which what is in it decides what it is.
pub(super) fn read(
    given: &Given,
    description: &Description,
    budget: Budget,
) -> Result<Vec<(String, Tensor)>, Failure> {
    read_one(given, description, budget, None).map(|(read, _)| read)
}

/// Reads one file. Images are read for a model.
fn read_one(
    given: &Given,
    description: &Description,
    budget: Budget,
    pictures: Option<Pictures<'_>>,
) -> Result<(Vec<(String, Tensor)>, Needed), Failure> {
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
                let text = format!("{shown_source}: an image is no file of tensors");
                Failure::usage(text).hint("a guest program takes it as NAME=bytes:FILE")
            })?;
            let name = named()?;
            let declared = wanted.input(&name).ok_or_else(|| {
                let name = Escaped::cut(&name, 60);
                Failure::usage(format!("{shown_source}: the model has no input {name}"))
                    .hint("`belljar inspect` shows what the model declares")
            })?;
            let (tensor, needed) = pictures.read(input, declared, &shown_source, budget)?;
            return Ok((vec![(name, tensor)], needed));
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
            // What is taken out for one input may have any name.
            let asked = |name: &str| match &given.name {
                Some(given) => wanted.dtype(given),
                None => wanted.dtype(name).or_else(|| wanted.at(place(name)?)?.dtype()),
            };
            let arrays = npz::read_as(file, asked, limit).map_err(malformed)?;
            match &given.name {
                None => wanted.by_position(arrays),
                Some(name) => wanted.one_of(arrays, name),
            }
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
            let dtype_of = |name: &str| wanted.dtype(name);
            json::read_named(input.stream(), dtype_of, limit).map_err(malformed)
        }
        Kind::Json => {
            let name = named()?;
            let tensor = json::read_one(input.stream(), wanted.dtype(&name), limit);
            Ok(vec![(name, tensor.map_err(malformed)?)])
        }
    };
    tensors.map(|tensors| (tensors, Needed::default()))
}

/// What a file is.
enum Kind {
    /// PNG or JPEG.
    Picture,
    Npy,
    Npz,
    /// ONNX's own file of one tensor.
    Pb,
    /// CSV whose columns are inputs.
    Columns,
    Csv,
    /// JSON that is an object of tensors by name.
    NamedJson,
    Json,
}

/// By its first bytes; of what could be both CSV and JSON, by its name.
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
        let text = format!("{}: the text is UTF-16, which is not read", wanted.source);
        return Err(Failure::usage(text).hint("save it as UTF-8"));
    }
    let text = start.strip_prefix(BYTE_ORDER_MARK).unwrap_or(start).trim_ascii_start();
    let object = text.starts_with(b"{");
    if !object && let Some(found) = signature::look(start, 1 << 40) {
        let text = format!("{}: not a file of tensors: it is {}", wanted.source, found.what);
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
    "inputs are .npy, .npz, .json, .csv, .pb, .png or .jpg files; `np.save` writes .npy";

/// Whether text that is no object is JSON, and not lines of fields.
fn is_json(text: &[u8], whole: bool) -> bool {
    if text.is_empty() || text.starts_with(b"[") {
        return true;
    }
    match whole {
        true => serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok(),
        // One long string, in which there are no line breaks.
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
    fn a_file_with_an_equals_sign_in_its_path_is_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a=b.npy");
        std::fs::write(&path, b"").unwrap();
        let text = path.to_string_lossy().into_owned();
        assert_eq!(parsed(&text), Some((None, text.clone())));
    }
}
