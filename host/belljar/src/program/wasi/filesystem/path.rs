//! Paths as programs write them, before the kernel sees anything of them.
//!
//! What reaches the kernel is a plain one: names with a slash between them, no `.` and `..`, none
//! empty, not absolute. Whatever meaning a trailing slash has, it has here.

use super::refusal::{Code, Fail, Why};

/// Longest path in bytes: the kernel's own bound.
const MAX_PATH: usize = 4096;

/// A path below a folder that the program holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GuestPath {
    /// Empty for the folder itself.
    plain: String,
    /// Whether it was written so that only a folder can be meant.
    folder: bool,
}

impl GuestPath {
    pub(super) fn parse(text: &str) -> Result<GuestPath, Fail> {
        if text.is_empty() {
            return Err(Fail::Failed(Code::NoEntry));
        }
        if text.len() > MAX_PATH {
            return Err(Fail::Failed(Code::NameTooLong));
        }
        if text.contains('\0') {
            return Err(Fail::Failed(Code::IllegalByteSequence));
        }
        if text.starts_with('/') {
            return Err(Why::Outside.into());
        }
        let mut plain = String::with_capacity(text.len());
        for part in text.split('/') {
            match part {
                // A way up is a way out: nothing a program needs, and each resolver's hard case.
                ".." => return Err(Why::Outside.into()),
                "" | "." => {}
                name => {
                    if !plain.is_empty() {
                        plain.push('/');
                    }
                    plain.push_str(name);
                }
            }
        }
        let folder = matches!(text.rsplit('/').next(), Some("" | "."));
        Ok(GuestPath { plain, folder })
    }

    /// For the kernel.
    pub(super) fn plain(&self) -> &str {
        match self.plain.as_str() {
            "" => ".",
            plain => plain,
        }
    }

    /// Whether only a folder can be meant.
    pub(super) fn is_folder(&self) -> bool {
        self.folder
    }

    /// The folder that holds it, for the kernel, and its name there; none for the folder itself.
    pub(super) fn split(&self) -> Option<(&str, &str)> {
        match self.plain.rsplit_once('/') {
            _ if self.plain.is_empty() => None,
            Some(both) => Some(both),
            None => Some((".", &self.plain)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_come_through() {
        let plain = |text: &str| {
            GuestPath::parse(text).map(|path| (path.plain().to_owned(), path.is_folder()))
        };
        for (text, meant) in [
            ("a", ("a", false)),
            ("./a//b/./c", ("a/b/c", false)),
            ("a/", ("a", true)),
            ("a/.", ("a", true)),
            (".", (".", true)),
            ("./", (".", true)),
            ("...", ("...", false)),
            ("a\\..\\b", ("a\\..\\b", false)),
        ] {
            assert_eq!(plain(text).unwrap(), (meant.0.to_owned(), meant.1), "{text}");
        }
        for text in ["", "/", "/etc", "..", "a/..", "a/../b", "../", "./..", "a\0", "//a"] {
            assert!(plain(text).is_err(), "{text:?}");
        }
        assert!(plain(&"a/".repeat(3000)).is_err());
    }

    #[test]
    fn the_last_name_is_split_off() {
        let split = |text: &str| {
            let path = GuestPath::parse(text).unwrap();
            path.split().map(|(folder, name)| (folder.to_owned(), name.to_owned()))
        };
        assert_eq!(split("a/b//c/"), Some(("a/b".to_owned(), "c".to_owned())));
        assert_eq!(split("a"), Some((".".to_owned(), "a".to_owned())));
        assert_eq!(split("./"), None);
    }
}
