//! Reads the inputs of a guest program: tensors, texts and bytes.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Named;
use crate::failure::{Failure, shown};
use crate::inputs::{self, Budget, Given};
use belljar::{Description, Value};
use belljar_tensor::TensorError;

/// Reads every given input. `limit` is the maximum total size in bytes.
pub(crate) fn read_all(arguments: &[OsString], limit: u64) -> Result<Named<Value>, Failure> {
    let mut budget = Budget::new(limit);
    let mut values = Vec::new();
    let mut stdin = 0;
    for argument in arguments {
        if let Some((name, text)) = text_of(argument)? {
            budget.take(text.len() as u64);
            values.push((name, Value::Text(text)));
            continue;
        }
        let mut given = inputs::parse(argument)?;
        let kind = Kind::of(&mut given);
        stdin += usize::from(given.path == Path::new("-"));
        if stdin > 1 {
            return Err(Failure::usage("only one input can come from standard input"));
        }
        match (kind, given.name.clone()) {
            (Kind::Tensors, _) => {
                // A program declares no inputs, so the file alone determines names and types.
                let read = inputs::read(&given, &Description::default(), budget)?;
                budget.take_values(&read);
                values.extend(read);
            }
            (Kind::Bytes, Some(name)) => {
                let bytes = read_bytes(&given.path, budget)?;
                budget.take(bytes.len() as u64);
                values.push((name, Value::Bytes(bytes)));
            }
            (Kind::Bytes, None) => {
                let text = format!("--input {}: the input has no name", shown(&given.path));
                return Err(Failure::usage(text).hint("write --input NAME=FILE"));
            }
        }
    }
    Ok(values)
}

enum Kind {
    Tensors,
    Bytes,
}

impl Kind {
    /// The kind of a file, by its extension or by a `bytes:` prefix, which is removed.
    fn of(given: &mut Given) -> Kind {
        let bytes = given.path.as_os_str().as_bytes().strip_prefix(b"bytes:");
        if let Some(path) = bytes.map(|path| PathBuf::from(OsStr::from_bytes(path))) {
            given.path = path;
            return Kind::Bytes;
        }
        let extension = given.path.extension().map(OsStr::to_ascii_lowercase);
        match extension.as_ref().and_then(|extension| extension.to_str()) {
            Some("npy" | "npz" | "json") => Kind::Tensors,
            _ => Kind::Bytes,
        }
    }
}

/// Splits `NAME=text:TEXT`.
fn text_of(argument: &OsStr) -> Result<Option<(String, String)>, Failure> {
    let split = argument.as_bytes().windows(6).position(|part| part == b"=text:");
    let Some(at) = split.filter(|at| !argument.as_bytes()[..*at].contains(&b'=')) else {
        return Ok(None);
    };
    let text = argument.to_str();
    let text = text.ok_or_else(|| Failure::usage("--input: the text is not valid UTF-8"))?;
    let (name, text) = (text.get(..at).unwrap_or_default(), text.get(at + 6..).unwrap_or_default());
    if name.is_empty() {
        return Err(Failure::usage("--input: expected NAME=text:TEXT, but the name is empty"));
    }
    Ok(Some((name.to_owned(), text.to_owned())))
}

fn read_bytes(path: &Path, budget: Budget) -> Result<Vec<u8>, Failure> {
    let limit = budget.left();
    let source = if path == Path::new("-") { "standard input".into() } else { shown(path) };
    let unreadable = |err: io::Error| Failure::usage(format!("{source}: {err}"));
    let mut bytes = Vec::new();
    let stream: Box<dyn Read> = match path == Path::new("-") {
        true => Box::new(io::stdin().lock()),
        false => Box::new(File::open(path).map_err(unreadable)?),
    };
    stream.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > limit {
        let what = "the file".to_owned();
        return Err(budget.failure(&source, TensorError::TooLarge { what, limit }));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_texts_tensors_or_bytes() {
        let text = |argument: &str| text_of(OsStr::new(argument)).unwrap();
        let some = |name: &str, text: &str| Some((name.to_owned(), text.to_owned()));
        assert_eq!(text("q=text:how = much?"), some("q", "how = much?"));
        assert_eq!(text("q=text:"), some("q", ""));
        assert_eq!(text("q=a=text:b"), None);
        assert_eq!(text("q=file.txt"), None);
        assert!(text_of(OsStr::new("=text:x")).is_err());
        let kind = |path: &str| {
            let mut given = Given { name: None, path: path.into() };
            let tensors = matches!(Kind::of(&mut given), Kind::Tensors);
            (tensors, given.path.to_string_lossy().into_owned())
        };
        assert_eq!(kind("a.NPY"), (true, "a.NPY".into()));
        assert_eq!(kind("a.json"), (true, "a.json".into()));
        assert_eq!(kind("bytes:a.json"), (false, "a.json".into()));
        assert_eq!(kind("a.png"), (false, "a.png".into()));
        assert_eq!(kind("-"), (false, "-".into()));
    }
}
