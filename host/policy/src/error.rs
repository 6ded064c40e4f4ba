//! Why a policy is refused: the position, the cause, and a hint.
//!
//! Each message is one to three lines. Everything in it that came from a file or a path is
//! escaped and cut first: a refused policy must not be able to write control characters to the
//! terminal or forge a line in a log.

use super::text::{location, shown};

/// Why a policy cannot be used.
///
/// Paths and origins are stored as they were given and escaped when shown; `message`, `why` and
/// `hint` are ready to be shown. Texts are boxed to keep the type small.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The path cannot name a policy file.
    #[error("policy path {}: {why}", shown(path))]
    Path {
        /// The path.
        path: Box<str>,
        /// Why not, and what to give instead.
        why: &'static str,
    },
    /// The system refused to open or read something on the way to the file.
    #[error("policy {}: {what} cannot be read: {source}", shown(path))]
    Read {
        /// The policy's path.
        path: Box<str>,
        /// The file or folder that cannot be read.
        what: Box<str>,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The path leads to something other than a regular file.
    #[error("policy {}: it is {what}; a policy must be a regular file", shown(path))]
    NotAFile {
        /// The policy's path.
        path: Box<str>,
        /// What is there instead.
        what: &'static str,
    },
    /// Users other than root and the caller could change or replace the file.
    #[error("policy {} is not trusted: {why}\n  hint: {hint}", shown(path))]
    Untrusted {
        /// The policy's path.
        path: Box<str>,
        /// Which file or folder, and what is wrong with it.
        why: Box<str>,
        /// What to do.
        hint: Box<str>,
    },
    /// The file is larger than any policy needs to be.
    #[error("policy {}: larger than {limit} bytes, the maximum for a policy", shown(path))]
    TooLarge {
        /// The policy's path.
        path: Box<str>,
        /// The bound in bytes.
        limit: u64,
    },
    /// The text is not UTF-8, or not TOML.
    #[error("{}: {message}\n  hint: {hint}", location(path, *line, *column))]
    Syntax {
        /// The policy's path or origin.
        path: Box<str>,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong.
        message: Box<str>,
        /// What to do.
        hint: Box<str>,
    },
    /// The version is missing, or not one this build understands.
    #[error("{}: {message}\n  hint: {hint}", location(path, *line, *column))]
    Version {
        /// The policy's path or origin.
        path: Box<str>,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong.
        message: Box<str>,
        /// What to do.
        hint: Box<str>,
    },
    /// A key this version of the format does not have.
    #[error("{}: unknown key {key} in {table}\n  hint: {hint}", location(path, *line, *column))]
    UnknownKey {
        /// The policy's path or origin.
        path: Box<str>,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// The key, quoted and escaped.
        key: Box<str>,
        /// The table it stands in.
        table: &'static str,
        /// The key that was probably meant, and the valid keys.
        hint: Box<str>,
    },
    /// A required key is missing.
    #[error("{}: `{key}` is missing in {table}\n  hint: {hint}", location(path, *line, *column))]
    Missing {
        /// The policy's path or origin.
        path: Box<str>,
        /// Line, from 1, of the table.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// The key.
        key: &'static str,
        /// The table it should stand in.
        table: &'static str,
        /// What the key means.
        hint: Box<str>,
    },
    /// The path of a grant contains a symbolic link.
    #[error("policy {}: {key} = {value}: {why}\n  hint: {hint}", shown(path))]
    Grant {
        /// The policy's path.
        path: Box<str>,
        /// The key with its table, such as `filesystem.host`.
        key: &'static str,
        /// The value, escaped and cut.
        value: Box<str>,
        /// What is wrong.
        why: Box<str>,
        /// What to do.
        hint: Box<str>,
    },
    /// A value that is not acceptable for its key.
    #[error("{}: {key} = {value}: {why}\n  hint: {hint}", location(path, *line, *column))]
    Value {
        /// The policy's path or origin.
        path: Box<str>,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// The key with its table, such as `limits.memory`.
        key: &'static str,
        /// The value as written, escaped and cut.
        value: Box<str>,
        /// What is wrong, with the bound where there is one.
        why: Box<str>,
        /// What to write instead.
        hint: Box<str>,
    },
    /// A limit that was set by a program, not by a file, is out of bounds.
    #[error("limit {key} = {value}: {why}")]
    Limit {
        /// The limit.
        key: &'static str,
        /// Its value.
        value: Box<str>,
        /// What is wrong, with the bound.
        why: Box<str>,
    },
}

impl PolicyError {
    /// Line and column of the error, both from 1, if it is in the text.
    #[must_use]
    pub fn position(&self) -> Option<(usize, usize)> {
        match self {
            PolicyError::Syntax { line, column, .. }
            | PolicyError::Version { line, column, .. }
            | PolicyError::UnknownKey { line, column, .. }
            | PolicyError::Missing { line, column, .. }
            | PolicyError::Value { line, column, .. } => Some((*line, *column)),
            _ => None,
        }
    }

    /// What to do, if there is a hint.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            PolicyError::Untrusted { hint, .. }
            | PolicyError::Syntax { hint, .. }
            | PolicyError::Version { hint, .. }
            | PolicyError::UnknownKey { hint, .. }
            | PolicyError::Missing { hint, .. }
            | PolicyError::Grant { hint, .. }
            | PolicyError::Value { hint, .. } => Some(hint),
            _ => None,
        }
    }

    /// The message without its position and its hint.
    #[must_use]
    pub fn message(&self) -> String {
        let text = self.to_string();
        let text = text.split("\n  hint: ").next().unwrap_or_default();
        let location = match self {
            PolicyError::Syntax { path, line, column, .. }
            | PolicyError::Version { path, line, column, .. }
            | PolicyError::UnknownKey { path, line, column, .. }
            | PolicyError::Missing { path, line, column, .. }
            | PolicyError::Value { path, line, column, .. } => {
                format!("{}: ", location(path, *line, *column))
            }
            _ => String::new(),
        };
        text.strip_prefix(&location).unwrap_or(text).to_owned()
    }
}
