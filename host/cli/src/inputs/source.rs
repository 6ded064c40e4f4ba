//! The source of an input: a file, or a stream that can be read only once.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

/// Number of bytes that are read to detect the format.
const START: usize = 64 << 10;

/// An open input and its first bytes.
pub(super) struct Source {
    start: Vec<u8>,
    rest: Rest,
}

enum Rest {
    /// The input after the start.
    File(File),
    Stream(Box<dyn Read>),
}

/// An input that can be read at any position.
pub(super) enum Seekable {
    File(File),
    Memory(Cursor<Vec<u8>>),
}

impl Source {
    /// Opens a file, or standard input for `-`.
    pub(super) fn open(path: &Path) -> io::Result<Source> {
        let mut rest = match path == Path::new("-") {
            true => Rest::Stream(Box::new(io::stdin().lock())),
            false => {
                let file = File::open(path)?;
                match file.metadata()?.is_file() {
                    true => Rest::File(file),
                    false => Rest::Stream(Box::new(file)),
                }
            }
        };
        let mut start = vec![0; START];
        let known = match &mut rest {
            Rest::File(file) => read_start(file, &mut start)?,
            Rest::Stream(stream) => read_start(stream, &mut start)?,
        };
        start.truncate(known);
        Ok(Source { start, rest })
    }

    /// The first bytes, or the whole input if it is short.
    pub(super) fn start(&self) -> &[u8] {
        &self.start
    }

    /// Whether `start` is the whole input.
    pub(super) fn is_whole(&self) -> bool {
        self.start.len() < START
    }

    /// The length in bytes, if it is known before reading.
    pub(super) fn len(&self) -> io::Result<Option<u64>> {
        match &self.rest {
            Rest::File(file) => file.metadata().map(|metadata| Some(metadata.len())),
            Rest::Stream(_) => Ok(None),
        }
    }

    /// A stream of the whole input.
    pub(super) fn stream(self) -> Box<dyn Read> {
        let start = Cursor::new(self.start);
        match self.rest {
            Rest::File(file) => Box::new(start.chain(file)),
            Rest::Stream(stream) => Box::new(start.chain(stream)),
        }
    }

    /// The input for a reader that seeks. A stream is read into memory for that; `None` if it has
    /// more than `max` bytes.
    pub(super) fn seekable(self, max: u64) -> io::Result<Option<Seekable>> {
        let rest = match self.rest {
            Rest::File(mut file) => {
                file.seek(SeekFrom::Start(0))?;
                return Ok(Some(Seekable::File(file)));
            }
            Rest::Stream(stream) => stream,
        };
        let mut bytes = self.start;
        let left = max.saturating_sub(bytes.len() as u64);
        rest.take(left.saturating_add(1)).read_to_end(&mut bytes)?;
        let fits = bytes.len() as u64 <= max;
        Ok(fits.then(|| Seekable::Memory(Cursor::new(bytes))))
    }
}

impl Read for Seekable {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Seekable::File(file) => file.read(buffer),
            Seekable::Memory(memory) => memory.read(buffer),
        }
    }
}

impl Seek for Seekable {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        match self {
            Seekable::File(file) => file.seek(position),
            Seekable::Memory(memory) => memory.seek(position),
        }
    }
}

/// Reads until the buffer is full or the input ends; returns the number of bytes read.
pub(crate) fn read_start(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
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
