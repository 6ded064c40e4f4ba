//! Which files beside a model are read: those that the model names, which is hostile text until the
//! policy is found to grant each.

use belljar_abi::{Description, ExternalData};

use crate::audit::{Decision, Subject, Verdict};
use crate::error::ErrorKind;
use crate::host::Inner;
use crate::sandbox::Limit;
use crate::trust::{Digest, SideFile, SideFileError};
use belljar_policy::{FileGrant, Policy, file_rule};
use belljar_text::Escaped;

/// A file that was read, and the least grant that would have been enough for it.
pub(super) struct Granted {
    pub(super) file: SideFile,
    pub(super) least: FileGrant,
}

/// Most files beside one model.
const MOST_FILES: usize = 256;

/// Longest location, in bytes: the kernel's own bound of a path.
const MAX_LOCATION: usize = 4095;

/// Where a model keeps data outside of its own file: for each file the place at which the model finds
/// it, absolute below its own folder.
///
/// # Errors
/// When a location is no plain path below that folder, or there are too many files.
pub fn places(description: &Description) -> Result<Vec<String>, ErrorKind> {
    let mut places: Vec<String> = Vec::new();
    for external in &description.external_data {
        let place = located(&external.location)?;
        if !places.contains(&place) {
            if places.len() >= MOST_FILES {
                return Err(too_many_files());
            }
            places.push(place);
        }
    }
    Ok(places)
}

fn too_many_files() -> ErrorKind {
    ErrorKind::Model(format!("it keeps its data in more than {MOST_FILES} files"))
}

fn located(location: &str) -> Result<String, ErrorKind> {
    place_of(location).map_err(|why| {
        let location = Escaped::cut(location, 100);
        ErrorKind::Model(format!("it keeps data in the file \"{location}\", {why}"))
    })
}

/// Reads every file that the model keeps data in, if the policy grants any file at all. Without one the
/// model is described, and refused when it is prepared.
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
    // All that a model consists of counts as the model.
    let limit = policy.limits.model_size;
    let mut left = limit.saturating_sub(model_size);
    for external in &description.external_data {
        let location = external.location.as_str();
        let known =
            files.iter().find(|(known, _)| *known == location).map(|(_, found)| found.file.len());
        let len = match known {
            Some(len) => len,
            None if files.len() >= MOST_FILES => return Err(too_many_files()),
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

/// Reads one file, if it is granted, and writes down what was decided.
fn granted(
    host: &Inner,
    subject: Subject,
    policy: &Policy,
    external: &ExternalData,
    limit: u64,
) -> Result<Granted, ErrorKind> {
    let location = external.location.as_str();
    let place = located(location)?;
    let shown = Escaped::cut(&place, 200).to_string();
    let decide = |verdict, rule: &str| {
        let (resource, access) = (shown.as_str(), "read");
        host.decide(&Decision { subject, resource, access, verdict, rule })
    };
    let found = policy.filesystem.iter().find_map(|grant| Some((grant, below(grant, &place)?)));
    let Some((grant, below)) = found else {
        // A refusal stays one, whether or not it can be written down.
        let _ = decide(Verdict::Refused, "[[filesystem]]");
        return Err(ErrorKind::NotGranted(format!(
            "the file \"{}\", in which the model keeps data: add [[filesystem]] with its place on this \
             machine as host, and guest = \"{shown}\" (`belljar new-policy` writes the entry)",
            Escaped::cut(location, 200)
        )));
    };
    let pinned = grant.sha256.map(Digest::from);
    if pinned.is_some() && !below.is_empty() {
        let _ = decide(Verdict::Refused, "filesystem.sha256");
        return Err(ErrorKind::NotGranted(format!(
            "the file {shown}: it lies in a granted folder, and `filesystem.sha256` is of one file; \
             grant the file itself"
        )));
    }
    match SideFile::read(&grant.host, below, location, limit) {
        Ok(file) => {
            if let Some(pinned) = pinned
                && pinned != file.content()
            {
                let _ = decide(Verdict::Refused, "filesystem.sha256");
                return Err(ErrorKind::FilePin { file: place, found: file.content(), pinned });
            }
            decide(Verdict::Allowed, &file_rule(&grant.guest, grant.access))?;
            let host = match below {
                "" => grant.host.clone(),
                below => grant.host.join(below),
            };
            let sha256 = Some(*file.content().as_bytes());
            let mut least = grant.clone();
            (least.host, least.guest, least.sha256) = (host, place.clone(), sha256);
            Ok(Granted { file, least })
        }
        Err(SideFileError::Refused(why)) => {
            let _ = decide(Verdict::Refused, why);
            Err(ErrorKind::NotGranted(format!("the file {shown} as it is: {why}")))
        }
        Err(SideFileError::TooLarge) => {
            Err(Limit::ModelSize { limit: policy.limits.model_size }.into())
        }
        Err(SideFileError::Failed(why)) => {
            Err(ErrorKind::Host(format!("the file {shown} beside the model: {why}")))
        }
    }
}

/// Where a model looks for a location: below its own folder, which it sees as `/`.
fn place_of(location: &str) -> Result<String, &'static str> {
    if location.is_empty() || location.len() > MAX_LOCATION {
        return Err("a name that no file has");
    }
    if location.contains('\0') {
        return Err("a name with a NUL, which no file has");
    }
    let mut place = String::new();
    for part in location.split('/') {
        match part {
            "" | ".." => return Err("which is not a plain path below the model's own folder"),
            "." => {}
            part => {
                place.push('/');
                place.push_str(part);
            }
        }
    }
    match place.is_empty() || location.ends_with("/.") {
        true => Err("which is a folder"),
        false => Ok(place),
    }
}

/// The rest of a place that a grant covers.
fn below<'a>(grant: &FileGrant, place: &'a str) -> Option<&'a str> {
    let rest = place.strip_prefix(grant.guest.trim_end_matches('/'))?;
    match rest.strip_prefix('/') {
        Some(rest) => Some(rest),
        None => rest.is_empty().then_some(rest),
    }
}

/// That a tensor's bytes lie in its file; the sandbox looks again.
fn within(external: &ExternalData, len: u64) -> Result<(), ErrorKind> {
    let name = Escaped::cut(&external.tensor, 100);
    let number = |what: &str, text: &str| match text.parse::<u64>() {
        Ok(number) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
        _ => {
            let text = Escaped::cut(text, 60);
            Err(ErrorKind::Model(format!("the tensor {name}: its {what} is {text}, no number")))
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
            "the tensor {name} ends behind the end of its file, which has {len} bytes"
        ))),
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use belljar_policy::Access;

    #[test]
    fn locations_are_plain_paths() {
        for (location, place) in [
            ("w.bin", "/w.bin"),
            ("a/b", "/a/b"),
            ("./w", "/w"),
            ("a/./b", "/a/b"),
            ("...", "/..."),
        ] {
            assert_eq!(place_of(location).as_deref(), Ok(place));
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
            assert!(place_of(location).is_err(), "{location:?}");
        }
        assert!(place_of(&"a".repeat(5000)).is_err());
    }

    #[test]
    fn grants_cover_themselves_and_what_is_below() {
        let grant = |guest: &str| FileGrant::new("", guest, Access::Read, "");
        assert_eq!(below(&grant("/w.bin"), "/w.bin"), Some(""));
        assert_eq!(below(&grant("/w"), "/w.bin"), None);
        assert_eq!(below(&grant("/w"), "/w/a/b"), Some("a/b"));
        assert_eq!(below(&grant("/"), "/a/b"), Some("a/b"));
        assert_eq!(below(&grant("/a/b"), "/a"), None);
    }

    #[test]
    fn a_tensor_lies_in_its_file() {
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
