//! Inputs as people give them: files of tensors, by name or not.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::failure::{Failure, shown};
use crate::Description;
use crate::tensor::{DType, Tensor, TensorError, json, npy, npz};
use crate::text::Hostile;

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

/// Reads every input that was given. `limit` bounds the bytes of each file's tensors.
pub(super) fn read_all(
    arguments: &[OsString],
    description: &Description,
    limit: u64,
) -> Result<Vec<(String, Tensor)>, Failure> {
    let given = arguments.iter().map(|each| parse(each)).collect::<Result<Vec<_>, _>>()?;
    if given.iter().filter(|each| each.path == Path::new("-")).count() > 1 {
        return Err(Failure::usage("only one input can come from standard input"));
    }
    let mut inputs = Vec::new();
    for each in given {
        inputs.extend(read(&each, description, limit)?);
    }
    Ok(inputs)
}

pub(super) fn read(
    given: &Given,
    description: &Description,
    limit: u64,
) -> Result<Vec<(String, Tensor)>, Failure> {
    let source =
        if given.path == Path::new("-") { "standard input".to_owned() } else { shown(&given.path) };
    let unreadable = |err: io::Error| Failure::usage(format!("{source}: {err}"));
    let malformed = |err: TensorError| Failure::tensor(&source, &err);
    let dtype_of = |name: &str| -> Option<DType> {
        description.inputs.iter().find(|input| input.name == name)?.dtype()
    };
    let single = || single_input(description, &source);

    let mut file = open(&given.path, limit).map_err(unreadable)?;
    let mut magic = [0; 6];
    let known = read_start(&mut file, &mut magic).map_err(unreadable)?;
    let magic = magic.get(..known).unwrap_or_default();
    file.seek(SeekFrom::Start(0)).map_err(unreadable)?;

    if magic == b"\x93NUMPY" {
        let name = given.name.clone().map_or_else(single, Ok)?;
        let tensor = npy::read_as(file, dtype_of(&name), limit).map_err(malformed)?;
        return Ok(vec![(name, tensor)]);
    }
    if magic.starts_with(b"PK") {
        // What is taken out for one input may have any name.
        let named = given.name.as_deref();
        let asked = |name: &str| dtype_of(named.unwrap_or(name));
        let arrays = npz::read_as(file, asked, limit).map_err(malformed)?;
        return match &given.name {
            None => Ok(arrays),
            Some(name) => one_of(arrays, name, &source),
        };
    }
    let file = io::BufReader::new(file);
    match &given.name {
        Some(name) => {
            let tensor = json::read_one(file, dtype_of(name), limit).map_err(malformed)?;
            Ok(vec![(name.clone(), tensor)])
        }
        None => {
            let mut file = file;
            let named = starts_with_named_tensors(&mut file, description).map_err(unreadable)?;
            file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
            if named {
                return json::read_named(file, dtype_of, limit).map_err(malformed);
            }
            let name = single()?;
            let tensor = json::read_one(file, dtype_of(&name), limit).map_err(malformed)?;
            Ok(vec![(name, tensor)])
        }
    }
}

/// The array of this name, or the only one there is.
fn one_of(
    mut arrays: Vec<(String, Tensor)>,
    name: &str,
    source: &str,
) -> Result<Vec<(String, Tensor)>, Failure> {
    let at = match arrays.iter().position(|(array, _)| array == name) {
        Some(at) => at,
        None if arrays.len() == 1 => 0,
        None => {
            let names: Vec<_> =
                arrays.iter().map(|(n, _)| Hostile::cut(n, 60).to_string()).collect();
            let text = format!("{source}: it holds no {:?}, only {}", name, names.join(", "));
            return Err(Failure::usage(text));
        }
    };
    Ok(vec![(name.to_owned(), arrays.swap_remove(at).1)])
}

/// The name of the model's only input.
fn single_input(description: &Description, source: &str) -> Result<String, Failure> {
    let mut wanted = description.inputs.iter().filter(|input| !input.has_default);
    match (wanted.next(), wanted.next()) {
        (Some(only), None) => Ok(only.name.clone()),
        _ => {
            let names: Vec<String> =
                description.inputs.iter().map(|i| Hostile::cut(&i.name, 60).to_string()).collect();
            let text = format!("{source}: which input is this? The model has {}", names.join(", "));
            Err(Failure::usage(text).hint("write --input NAME=FILE"))
        }
    }
}

/// Whether JSON is an object of tensors by name: its first key is an input, and not one of the
/// keys with which a single tensor is written.
fn starts_with_named_tensors(file: &mut impl Read, description: &Description) -> io::Result<bool> {
    let mut start = vec![0; 64 << 10];
    let known = read_start(file, &mut start)?;
    let text = String::from_utf8_lossy(start.get(..known).unwrap_or_default()).into_owned();
    let Some(object) = text.trim_start().strip_prefix('{') else { return Ok(false) };
    let first = serde_json::Deserializer::from_str(object).into_iter::<String>().next();
    Ok(match first {
        Some(Ok(key)) => {
            description.inputs.iter().any(|input| input.name == key)
                || !["dtype", "shape", "data"].contains(&key.as_str())
        }
        _ => false,
    })
}

pub(super) fn read_start(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut known = 0;
    while let Some(rest) = buffer.get_mut(known..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(count) => known += count,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(known)
}

enum Source {
    File(File),
    Memory(Cursor<Vec<u8>>),
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::File(file) => file.read(buffer),
            Source::Memory(memory) => memory.read(buffer),
        }
    }
}

impl Seek for Source {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        match self {
            Source::File(file) => file.seek(position),
            Source::Memory(memory) => memory.seek(position),
        }
    }
}

/// Opens a file, or takes in standard input or anything else that cannot be read twice. Text takes
/// more bytes than the tensors in it: the bound here only keeps an endless stream out.
fn open(path: &Path, limit: u64) -> io::Result<Source> {
    let bound = limit.saturating_mul(32).saturating_add(1 << 20);
    let mut stream: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(path)?;
        if file.metadata()?.is_file() {
            return Ok(Source::File(file));
        }
        Box::new(file)
    };
    let mut bytes = Vec::new();
    stream.by_ref().take(bound + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bound {
        return Err(io::Error::other(format!("more than {bound} bytes (`limits.input-size`)")));
    }
    Ok(Source::Memory(Cursor::new(bytes)))
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
