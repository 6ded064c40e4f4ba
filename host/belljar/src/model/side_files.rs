//! Reads external data files: their locations come from the model and are untrusted until the
//! policy grants them.

use belljar_abi::{Description, ExternalData};

use crate::audit::{Decision, Subject, Verdict};
use crate::error::ErrorKind;
use crate::host::Inner;
use crate::sandbox::Limit;
use crate::trust::{Digest, SideFile, SideFileError};
use belljar_policy::{FileGrant, Policy, file_rule};
use belljar_text::Escaped;

/// A file that was read, and the smallest grant that would have been enough for it.
pub(super) struct Granted {
    pub(super) file: SideFile,
    pub(super) least: FileGrant,
}

/// Maximum number of external data files of a model.
const MAX_FILES: usize = 256;

/// Longest location in bytes: the kernel's maximum length of a path.
const MAX_LOCATION: usize = 4095;

/// The external data files of a model: for each file the guest path at which the model finds it,
/// absolute below its own folder.
///
/// # Errors
/// When a location is not a plain path below that folder, or there are too many files.
pub fn external_data_paths(description: &Description) -> Result<Vec<String>, ErrorKind> {
    let mut paths: Vec<String> = Vec::new();
    for external in &description.external_data {
        let guest_path = located(&external.location)?;
        if !paths.contains(&guest_path) {
            if paths.len() >= MAX_FILES {
                return Err(too_many_files());
            }
            paths.push(guest_path);
        }
    }
    Ok(paths)
}

fn too_many_files() -> ErrorKind {
    ErrorKind::Model(format!(
        "it keeps its data in more than {MAX_FILES} files, which is not supported"
    ))
}

fn located(location: &str) -> Result<String, ErrorKind> {
    guest_path_of(location).map_err(|why| {
        let location = Escaped::cut(location, 100);
        ErrorKind::Model(format!("it keeps data in the file \"{location}\", {why}"))
    })
}

/// Reads every external data file, if the policy grants any file. Otherwise the model is described,
/// and refused when it is prepared.
pub(super) fn read(
    host: &Inner,
    subject: Subject,
    policy: &Policy,
    description: &Description,
    model_size: u64,
) -> Result<Vec<Granted>, ErrorKind> {
    let mut files: Vec<(&str, Granted)> = Vec::new();
    if policy.filesystem.is_empty() {
        return Ok(Vec::new());
    }
    // All files of the model count against the limit of its size.
    let limit = policy.limits.model_size;
    let mut left = limit.saturating_sub(model_size);
    for external in &description.external_data {
        let location = external.location.as_str();
        let known =
            files.iter().find(|(known, _)| *known == location).map(|(_, found)| found.file.len());
        let len = match known {
            Some(len) => len,
            None if files.len() >= MAX_FILES => return Err(too_many_files()),
            None => {
                let found = granted(host, subject, policy, external, left)?;
                let len = found.file.len();
                left = left.saturating_sub(len);
                files.push((location, found));
                len
            }
        };
        within(external, len)?;
    }
    Ok(files.into_iter().map(|(_, found)| found).collect())
}

/// Reads one file if it is granted, and logs the decision.
fn granted(
    host: &Inner,
    subject: Subject,
    policy: &Policy,
    external: &ExternalData,
    limit: u64,
) -> Result<Granted, ErrorKind> {
    let location = external.location.as_str();
    let guest_path = located(location)?;
    let shown = Escaped::cut(&guest_path, 200).to_string();
    let decide = |verdict, rule: &str| {
        let (resource, access) = (shown.as_str(), "read");
        host.decide(&Decision { subject, resource, access, verdict, rule })
    };
    let found =
        policy.filesystem.iter().find_map(|grant| Some((grant, below(grant, &guest_path)?)));
    let Some((grant, below)) = found else {
        // A refusal stands whether or not it can be logged.
        let _ = decide(Verdict::Refused, "[[filesystem]]");
        return Err(ErrorKind::NotGranted(format!(
            "the file \"{}\", in which the model keeps data: add [[filesystem]] with its path on \
             this machine as host, and guest = \"{shown}\" (`belljar new-policy` writes the entry)",
            Escaped::cut(location, 200)
        )));
    };
    let pinned = grant.sha256.map(Digest::from);
    if pinned.is_some() && !below.is_empty() {
        let _ = decide(Verdict::Refused, "filesystem.sha256");
        return Err(ErrorKind::NotGranted(format!(
            "the file {shown}: it is in a granted folder, but `filesystem.sha256` pins a single \
             file; grant the file itself"
        )));
    }
    match SideFile::read(&grant.host, below, location, limit) {
        Ok(file) => {
            if let Some(pinned) = pinned
                && pinned != file.content()
            {
                let _ = decide(Verdict::Refused, "filesystem.sha256");
                return Err(ErrorKind::FilePin { file: guest_path, found: file.content(), pinned });
            }
            decide(Verdict::Allowed, &file_rule(&grant.guest, grant.access))?;
            let host = match below {
                "" => grant.host.clone(),
                below => grant.host.join(below),
            };
            let sha256 = Some(*file.content().as_bytes());
            let mut least = grant.clone();
            (least.host, least.guest, least.sha256) = (host, guest_path.clone(), sha256);
            Ok(Granted { file, least })
        }
        Err(SideFileError::Refused(why)) => {
            let _ = decide(Verdict::Refused, why);
            Err(ErrorKind::NotGranted(format!("the file {shown}: {why}")))
        }
        Err(SideFileError::TooLarge) => {
            Err(Limit::ModelSize { limit: policy.limits.model_size }.into())
        }
        Err(SideFileError::Failed(why)) => {
            Err(ErrorKind::Host(format!("cannot read the model's file {shown}: {why}")))
        }
    }
}

/// The path of a location below the model's own folder, which it sees as `/`.
fn guest_path_of(location: &str) -> Result<String, &'static str> {
    if location.is_empty() || location.len() > MAX_LOCATION {
        return Err("which is not a valid file name");
    }
    if location.contains('\0') {
        return Err("whose name contains a NUL byte");
    }
    let mut guest_path = String::new();
    for part in location.split('/') {
        match part {
            "" | ".." => return Err("which is not a plain path below the model's own folder"),
            "." => {}
            part => {
                guest_path.push('/');
                guest_path.push_str(part);
            }
        }
    }
    match guest_path.is_empty() || location.ends_with("/.") {
        true => Err("which is a folder"),
        false => Ok(guest_path),
    }
}

/// The part of a path below the grant that covers it.
fn below<'a>(grant: &FileGrant, guest_path: &'a str) -> Option<&'a str> {
    let rest = guest_path.strip_prefix(grant.guest.trim_end_matches('/'))?;
    match rest.strip_prefix('/') {
        Some(rest) => Some(rest),
        None => rest.is_empty().then_some(rest),
    }
}

/// Checks that a tensor's bytes are within its file; the sandbox checks again.
fn within(external: &ExternalData, len: u64) -> Result<(), ErrorKind> {
    let name = Escaped::cut(&external.tensor, 100);
    let number = |what: &str, text: &str| match text.parse::<u64>() {
        Ok(number) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
        _ => {
            let text = Escaped::cut(text, 60);
            Err(ErrorKind::Model(format!(
                "the tensor {name}: its {what} is {text}, which is not a number"
            )))
        }
    };
    let offset = number("offset", &external.offset)?;
    let end = match external.length.as_str() {
        "" => Some(offset),
        length => offset.checked_add(number("length", length)?),
    };
    match end {
        Some(end) if end <= len => Ok(()),
        _ => Err(ErrorKind::Model(format!(
            "the tensor {name} ends after the end of its file, which has {len} bytes"
        ))),
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use belljar_policy::Access;

    #[test]
    fn locations_must_be_plain_paths() {
        for (location, guest_path) in [
            ("w.bin", "/w.bin"),
            ("a/b", "/a/b"),
            ("./w", "/w"),
            ("a/./b", "/a/b"),
            ("...", "/..."),
        ] {
            assert_eq!(guest_path_of(location).as_deref(), Ok(guest_path));
        }
        for location in [
            "",
            ".",
            "./",
            "..",
            "../w",
            "a/../b",
            "/w",
            "//w",
            "a//b",
            "a/",
            "a/.",
            "a\0",
            "/proc/self/root/x",
        ] {
            assert!(guest_path_of(location).is_err(), "{location:?}");
        }
        assert!(guest_path_of(&"a".repeat(5000)).is_err());
    }

    #[test]
    fn grants_cover_their_path_and_everything_below() {
        let grant = |guest: &str| FileGrant::new("", guest, Access::Read, "");
        assert_eq!(below(&grant("/w.bin"), "/w.bin"), Some(""));
        assert_eq!(below(&grant("/w"), "/w.bin"), None);
        assert_eq!(below(&grant("/w"), "/w/a/b"), Some("a/b"));
        assert_eq!(below(&grant("/"), "/a/b"), Some("a/b"));
        assert_eq!(below(&grant("/a/b"), "/a"), None);
    }

    #[test]
    fn tensor_must_be_within_its_file() {
        let external = |offset: &str, length: &str| ExternalData {
            tensor: "w\u{1b}".to_owned(),
            location: "w".to_owned(),
            offset: offset.to_owned(),
            length: length.to_owned(),
        };
        for (offset, length) in [("0", "10"), ("10", "0"), ("3", ""), ("010", "")] {
            within(&external(offset, length), 10).unwrap();
        }
        for (offset, length) in [
            ("0", "11"),
            ("11", ""),
            ("1", "10"),
            ("-1", "1"),
            ("", "1"),
            ("+1", "1"),
            ("0", "0x1"),
            ("18446744073709551615", "1"),
            ("18446744073709551616", "0"),
            ("1 ", "1"),
            ("٣", "1"),
        ] {
            let err = within(&external(offset, length), 10).unwrap_err();
            assert!(matches!(err, ErrorKind::Model(_)), "{err}");
            assert!(!err.to_string().contains('\u{1b}'));
        }
    }
}
