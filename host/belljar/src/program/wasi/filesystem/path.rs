//! Parses the paths that guest programs pass, before any of them reaches the kernel.
//!
//! The kernel must only get plain paths: relative, with names separated by single slashes, without
//! `.`, `..`, empty names or a trailing slash. The meaning of a trailing slash is handled here.

use super::refusal::{Code, Fail, Why};

/// Maximum length of a path in bytes, which is the kernel's limit.
const MAX_PATH: usize = 4096;

/// A path below a folder that the program holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GuestPath {
    /// Empty for the folder itself.
    plain: String,
    /// Whether the written path can only be a folder.
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
                // `..` could lead out of the folder, programs do not need it, and resolvers often
                // get it
                // wrong.
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

    /// Whether the path can only be a folder.
    pub(super) fn is_folder(&self) -> bool {
        self.folder
    }

    /// The containing folder, for the kernel, and the name in it; `None` for the folder itself.
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
    fn only_plain_paths_are_accepted() {
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
