//! numpy's file of several arrays: `.npz`, a zip archive of `.npy` entries.
//!
//! Entries are read into memory under one common limit; their names become tensor names and must
//! never be used as paths.

use std::cell::Cell;
use std::collections::HashSet;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::rc::Rc;

use belljar_abi::{DType, MAX_NAME, MAX_TENSORS};
use zip::read::{ArchiveOffset, Config};
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

use super::{Tensor, TensorError, npy};

/// What numpy appends to the name of each array.
const SUFFIX: &str = ".npy";

/// Data of this size or more needs zip's 64-bit fields; the margin is for the npy header.
const LARGE: u64 = u32::MAX as u64 - (1 << 16);

/// Maximum bytes of an archive's directory: enough for [`MAX_TENSORS`] entries with the longest
/// names.
const MAX_DIRECTORY: u64 = 8 << 20;

fn malformed(why: impl Into<String>) -> TensorError {
    TensorError::Malformed { format: "npz", why: why.into() }
}

/// Reads all arrays, named as in the archive without `.npy`, in the archive's order.
///
/// `limit` bounds the data of all arrays together, in bytes, while they are inflated. Names are not
/// changed, and may contain slashes and dots: many models have such input names.
///
/// # Errors
/// Those of [`npy::read`]; [`TensorError::Malformed`] also for a broken archive, more than
/// [`MAX_TENSORS`] entries, an entry that is not `.npy`, or a duplicate name;
/// [`TensorError::Unsupported`] for encryption and compression other than deflate.
pub fn read(reader: impl Read + Seek, limit: u64) -> Result<Vec<(String, Tensor)>, TensorError> {
    read_as(reader, |_| None, limit)
}

/// Like [`read`]; `dtype_of` returns the requested element type of each name, which determines the
/// type of raw bytes (see [`npy::read_as`]).
///
/// # Errors
/// As [`read`].
pub fn read_as(
    reader: impl Read + Seek,
    dtype_of: impl Fn(&str) -> Option<DType>,
    limit: u64,
) -> Result<Vec<(String, Tensor)>, TensorError> {
    let mut archive = open(reader, limit)?;
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    let mut left = limit;
    for at in 0..archive.len() {
        let entry = archive.by_index_data(at).map_err(zip_error)?;
        let name = tensor_name(entry.name_raw())?;
        if !names.insert(name.clone()) {
            return Err(malformed(format!("two entries are named {name:?}")));
        }
        let unsupported = |what: &str| {
            Err(TensorError::Unsupported {
                what: format!("entry {name:?} ({what})"),
                hint: "save the arrays with `numpy.savez` or `numpy.savez_compressed`",
            })
        };
        if entry.encrypted() {
            return unsupported("encrypted");
        }
        match entry.compression() {
            CompressionMethod::Stored | CompressionMethod::Deflated => {}
            other => return unsupported(&format!("compression {other}")),
        }
        let body = archive.by_index(at).map_err(zip_error)?;
        let (tensor, used) = npy::read_counted(body, dtype_of(&name), left)
            .map_err(|error| in_entry(&name, limit, error))?;
        left -= used;
        tensors.push((name, tensor));
    }
    Ok(tensors)
}

/// The maximum length of an archive with this much data. Neither storing nor deflating makes data
/// much longer.
pub fn longest_file(limit: u64) -> u64 {
    limit.saturating_add(limit / 64).saturating_add(2 * MAX_DIRECTORY)
}

/// Reads the archive's directory, at most [`MAX_DIRECTORY`] bytes of it.
fn open<R: Read + Seek>(
    mut reader: R,
    limit: u64,
) -> Result<ZipArchive<BufReader<Metered<R>>>, TensorError> {
    // The directory's declared sizes are accepted up to the length of the file, so a file that is
    // longer than its data can be is refused here.
    let len = reader.seek(SeekFrom::End(0))?;
    let most = longest_file(limit);
    if len > most {
        let what = format!("the archive, for at most {limit} bytes of data,");
        return Err(TensorError::TooLarge { what, limit: most });
    }
    let left = Rc::new(Cell::new(MAX_DIRECTORY));
    let metered = BufReader::new(Metered { reader, left: Rc::clone(&left) });
    let config = Config { archive_offset: ArchiveOffset::Known(0) };
    let archive = ZipArchive::with_config(config, metered).map_err(zip_error)?;
    left.set(u64::MAX);
    if archive.len() > MAX_TENSORS {
        let found = archive.len();
        return Err(malformed(format!(
            "it has {found} entries, above the maximum of {MAX_TENSORS}"
        )));
    }
    if archive.has_duplicate_names() {
        return Err(malformed("two of its entries have the same name"));
    }
    Ok(archive)
}

/// A reader that fails after a number of bytes.
struct Metered<R> {
    reader: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        let left = self.left.get().checked_sub(read as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "its directory is too large")
        })?;
        self.left.set(left);
        Ok(read)
    }
}

impl<R: Seek> Seek for Metered<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.reader.seek(to)
    }
}

fn tensor_name(raw: &[u8]) -> Result<String, TensorError> {
    let name =
        std::str::from_utf8(raw).map_err(|_| malformed("the name of an entry is not UTF-8"))?;
    if name.len() > MAX_NAME + SUFFIX.len() {
        return Err(malformed(format!("an entry's name is longer than {MAX_NAME} bytes")));
    }
    match name.strip_suffix(SUFFIX) {
        Some("") | None => Err(malformed(format!(
            "entry {name:?} is not an array: its name is not of the form NAME{SUFFIX}"
        ))),
        Some(name) => Ok(name.to_owned()),
    }
}

/// Adds the entry to an error, and distinguishes invalid content from failed reads.
fn in_entry(name: &str, limit: u64, error: TensorError) -> TensorError {
    match error {
        TensorError::Malformed { why, .. } => malformed(format!("entry {name:?}: {why}")),
        TensorError::TooLarge { what, .. } => {
            let what = format!("the archive's data up to entry {name:?} ({what})");
            TensorError::TooLarge { what, limit }
        }
        TensorError::Unsupported { what, hint } => {
            TensorError::Unsupported { what: format!("entry {name:?}: {what}"), hint }
        }
        TensorError::Io(error) if is_content(&error) => {
            malformed(format!("entry {name:?}: {error}"))
        }
        other => other,
    }
}

/// Whether an error from `Read` is about the content rather than the device.
fn is_content(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof)
}

fn zip_error(error: ZipError) -> TensorError {
    match error {
        ZipError::Io(error) if !is_content(&error) => TensorError::Io(error),
        other => malformed(other.to_string()),
    }
}

/// Writes named arrays, deflated: each entry has the array's name and `.npy`, as numpy expects it.
/// Equal tensors give equal bytes: no time is recorded.
///
/// # Errors
/// Those of [`npy::write`] and of [`npy::check_strings`]; [`TensorError::Malformed`] for a name that
/// is empty, too long, or a duplicate.
pub fn write(tensors: &[(String, Tensor)], writer: impl Write + Seek) -> Result<(), TensorError> {
    write_arrays(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)), writer)
}

/// As [`write`], for separate names and tensors.
pub fn write_arrays<'a>(
    arrays: impl Iterator<Item = (&'a str, &'a Tensor)> + Clone,
    writer: impl Write + Seek,
) -> Result<(), TensorError> {
    npy::check_strings(arrays.clone().map(|(_, tensor)| tensor))?;
    let mut archive = ZipWriter::new(writer);
    let mut names = HashSet::new();
    for (name, tensor) in arrays {
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(malformed(format!("an array cannot be named {name:?}")));
        }
        if !names.insert(name) {
            return Err(malformed(format!("two arrays are named {name:?}")));
        }
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .last_modified_time(DateTime::default())
            .unix_permissions(0o644)
            .large_file(tensor.byte_len() >= LARGE);
        archive.start_file(format!("{name}{SUFFIX}"), options).map_err(zip_error)?;
        npy::write(tensor, &mut archive)?;
    }
    archive.finish().map_err(zip_error)?.flush()?;
    Ok(())
}
