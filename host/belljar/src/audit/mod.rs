//! The decision log: one line of JSON for each thing that was allowed, cut or refused, with the
//! rule that decided. SPECIFICATION.md documents its keys.
//!
//! If a log is requested, nothing is allowed that is not in it: what cannot be logged is not done.
//! A refusal stands whether or not it can be logged. Nothing here makes decisions, and no content
//! of models or inputs is logged, only the host's own names and digests.
//!
//! [`tally`] bounds how much one run of a guest program may log.

#[cfg(feature = "programs")]
pub(crate) mod tally;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::trust::Digest;

/// Longest text in a line, in characters.
const MAX_TEXT: usize = 1000;

/// The result of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is allowed.
    Allowed,
    /// Less than requested is allowed.
    Cut,
    /// It is not allowed.
    Refused,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Verdict::Allowed => "allowed",
            Verdict::Cut => "cut",
            Verdict::Refused => "refused",
        }
    }
}

/// What a decision is about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject {
    /// The model or program.
    pub model: Option<Digest>,
    /// The policy file, if the policy came from one.
    pub policy: Option<Digest>,
}

/// One decision. Every component that grants something makes one for each request.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'a> {
    /// Whom it is about.
    pub subject: Subject,
    /// The requested resource: a policy key, `model`, a path, a peer.
    pub resource: &'a str,
    /// The requested access: `load`, `run`, `read`, `connect`, or the requested value.
    pub access: &'a str,
    /// What was decided.
    pub verdict: Verdict,
    /// The key of the policy, the ceiling, or the layer that decided.
    pub rule: &'a str,
}

/// The file to which decisions are written.
#[derive(Debug)]
pub(crate) struct DecisionLog {
    path: PathBuf,
    file: Mutex<File>,
}

impl DecisionLog {
    /// Opens a file for appending; a new file is private to its owner.
    ///
    /// # Errors
    /// When it cannot be opened, or is a symbolic link.
    pub(crate) fn open(path: &Path) -> io::Result<DecisionLog> {
        let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = File::options();
        let file = options.append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
        end_last_line(&file, path)?;
        Ok(DecisionLog { path: path.to_path_buf(), file: Mutex::new(file) })
    }

    /// The file's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes one decision as a whole line.
    ///
    /// # Errors
    /// When it cannot be written; then what it allows must not happen.
    pub(crate) fn record(&self, decision: &Decision<'_>) -> io::Result<()> {
        let line = line(decision, SystemTime::now());
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // In one write, so that lines of several processes do not mix.
        file.write_all(line.as_bytes())
    }
}

/// Completes the last line of a log that an earlier run may have left unfinished on a full disk, so
/// that the next decision does not become part of it. A log that cannot be read is left unchanged.
fn end_last_line(mut log: &File, path: &Path) -> io::Result<()> {
    let status = log.metadata()?;
    if !status.is_file() || status.len() == 0 {
        return Ok(());
    }
    let mut last = [b'\n'];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut last, status.len() - 1));
    if read.is_ok() && last != [b'\n'] {
        log.write_all(b"\n")?;
    }
    Ok(())
}

/// The number of bytes of a text in a log line.
#[cfg(feature = "programs")]
fn written_len(text: &str) -> u64 {
    let len = |c: char| match c {
        '"' | '\\' => 2,
        c if c.is_ascii() && !c.is_ascii_control() => 1,
        // `\u` and four digits for each UTF-16 code unit.
        c => 6 * c.len_utf16() as u64,
    };
    text.chars().take(MAX_TEXT).map(len).sum()
}

fn line(decision: &Decision<'_>, now: SystemTime) -> String {
    let Decision { subject, resource, access, verdict, rule } = decision;
    let digest = |digest: Option<Digest>| digest.map(|digest| digest.to_string());
    let cut = |text: &str| text.chars().take(MAX_TEXT).collect::<String>();
    let value = json!({
        "time": timestamp(now),
        "model": digest(subject.model),
        "policy": digest(subject.policy),
        "resource": cut(resource),
        "access": cut(access),
        "verdict": verdict.name(),
        "rule": cut(rule),
    });
    let mut out = String::new();
    // ASCII only, because logs are read on terminals.
    for c in value.to_string().chars() {
        if c.is_ascii() && !c.is_ascii_control() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out.push('\n');
    out
}

/// RFC 3339, in UTC, to the millisecond. The date is computed with Howard Hinnant's
/// `civil_from_days`.
fn timestamp(time: SystemTime) -> String {
    const DAY: u64 = 24 * 60 * 60;
    // The clock is never set before 1970.
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second) = (since.as_secs() / DAY, since.as_secs() % DAY);
    // Days since 1 March of year 0, in eras of 400 years, which all have the same number of days.
    let days = days.saturating_add(719_468);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let of_400 = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * of_400 + of_400 / 4 - of_400 / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = of_400.saturating_add(era.saturating_mul(400)) + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let milliseconds = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 7)
    }

    #[test]
    fn timestamps_match_the_calendar() {
        // The output of `date -u -d @SECONDS +%FT%TZ`.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_782_399, "2000-02-28T23:59:59.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (951_868_800, "2000-03-01T00:00:00.007Z"),
            (1_709_164_800, "2024-02-29T00:00:00.007Z"),
            (1_767_225_599, "2025-12-31T23:59:59.007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z"),
        ] {
            assert_eq!(timestamp(at(seconds)), text);
        }
    }

    #[test]
    fn log_line_is_one_line_of_ascii() {
        let decision = Decision {
            subject: Subject { model: Some(Digest::of(b"")), policy: None },
            resource: "a\n\u{202e}\u{1b}\"\\\u{1f600}\u{7f}",
            access: &"x".repeat(5000),
            verdict: Verdict::Refused,
            rule: "",
        };
        let line = line(&decision, at(0));
        assert!(line.ends_with("}\n") && line.matches('\n').count() == 1);
        assert!(line.trim_end().chars().all(|c| c.is_ascii() && !c.is_ascii_control()), "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["resource"], decision.resource);
        assert_eq!(value["access"].as_str().unwrap().len(), MAX_TEXT);
        assert_eq!(value["verdict"], "refused");
        assert!(value["policy"].is_null());
    }

    #[test]
    fn unfinished_line_does_not_corrupt_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for (before, after) in [("{\"cut", "{\"cut\n"), ("whole\n", "whole\n"), ("", "")] {
            std::fs::write(&path, before).unwrap();
            drop(DecisionLog::open(&path).unwrap());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
        }
    }

    #[test]
    fn log_is_appended_to_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions.jsonl");
        let decision = Decision {
            subject: Subject::default(),
            resource: "model",
            access: "load",
            verdict: Verdict::Allowed,
            rule: "model.sha256",
        };
        for _ in 0..2 {
            DecisionLog::open(&path).unwrap().record(&decision).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(DecisionLog::open(&link).is_err());
        let full = DecisionLog::open(Path::new("/dev/full")).unwrap();
        assert!(full.record(&decision).is_err());
    }
}
