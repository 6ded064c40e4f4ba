//! The input and output streams of a program.

use std::os::fd::AsFd;
use std::sync::Arc;

use wasmtime_wasi::p2::StreamError;

use super::budget::Budget;
use super::filesystem::{Open, Position, write_file};
use super::print::Printer;
use super::sockets::Connection;
use super::{Outside, Stream, filesystem};

/// Maximum number of bytes that one call moves.
pub(super) const MAX_PIECE: usize = 64 << 10;

pub(super) enum Input {
    /// Standard input, which is always closed.
    Empty,
    File {
        file: Arc<Open>,
        offset: u64,
    },
    Socket(Arc<Connection>),
}

pub(super) enum Output {
    /// Standard output or error.
    Lines(Stream),
    File {
        file: Arc<Open>,
        position: Position,
    },
    Socket(Arc<Connection>),
}

/// The parts of the state that output streams use.
pub(super) struct Sinks<'a> {
    pub(super) budget: &'a mut Budget,
    pub(super) printer: &'a mut Printer,
    pub(super) outside: &'a mut dyn Outside,
}

impl Input {
    /// Reads at most `len` bytes; an empty result means that no bytes are available yet.
    pub(super) fn read(&mut self, len: u64, budget: &mut Budget) -> Result<Vec<u8>, StreamError> {
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(MAX_PIECE);
        match self {
            Input::Empty => Err(StreamError::Closed),
            _ if len == 0 => Ok(Vec::new()),
            Input::File { file, offset } => {
                let mut bytes = vec![0; len];
                let read = rustix::io::pread(file.as_fd(), &mut bytes[..], *offset)
                    .map_err(|errno| failed(filesystem::code(errno)))?;
                bytes.truncate(read);
                *offset = offset.saturating_add(read as u64);
                match read {
                    0 => Err(StreamError::Closed),
                    _ => Ok(bytes),
                }
            }
            Input::Socket(connection) => connection.receive(len, budget),
        }
    }

    /// The connection to wait for before reading.
    pub(super) fn waits_for(&self) -> Option<Arc<Connection>> {
        match self {
            Input::Socket(connection) => Some(Arc::clone(connection)),
            Input::Empty | Input::File { .. } => None,
        }
    }
}

impl Output {
    /// How many bytes the next write may have.
    pub(super) fn permitted(&self, budget: &Budget) -> Result<usize, StreamError> {
        match self {
            Output::Lines(_) | Output::File { .. } => Ok(MAX_PIECE),
            Output::Socket(connection) => connection.sendable(budget),
        }
    }

    /// Writes everything.
    pub(super) fn write(&mut self, bytes: &[u8], sinks: Sinks<'_>) -> Result<(), StreamError> {
        match self {
            Output::Lines(stream) => {
                sinks.printer.print(*stream, bytes, sinks.budget, sinks.outside);
                Ok(())
            }
            Output::File { file, position } => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let written =
                        write_file(file, rest, *position, sinks.budget).map_err(failed)?;
                    if let Position::At(offset) = position {
                        *offset = offset.saturating_add(written as u64);
                    }
                    match rest.get(written..) {
                        Some(left) if written > 0 => rest = left,
                        _ => return Err(failed(filesystem::Code::Io)),
                    }
                }
                Ok(())
            }
            Output::Socket(connection) => connection.send_all(bytes, sinks.budget),
        }
    }

    /// The connection to wait for before writing.
    pub(super) fn waits_for(&self) -> Option<Arc<Connection>> {
        match self {
            Output::Socket(connection) => Some(Arc::clone(connection)),
            Output::Lines(_) | Output::File { .. } => None,
        }
    }
}

/// An error of a stream, with a code that the program can read.
pub(super) fn failed<E>(code: E) -> StreamError
where
    E: std::error::Error + Send + Sync + 'static,
{
    StreamError::LastOperationFailed(wasmtime::Error::new(code))
}
