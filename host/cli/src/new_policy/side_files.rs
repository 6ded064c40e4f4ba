//! The policy for a model that keeps data in files that are not granted yet: the grants are written
//! as comments, each with the file's SHA-256, and limits are not measured.
//!
//! The files are read in this process, only to compute their digests. They must never be passed to
//! a sandbox before a person uncomments the grant, because the model chooses their names.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::super::failure::{Failure, shown};
use super::{Loaded, compute};
use belljar::Digest;
use belljar::Error;
use belljar::internals::{SideFile, SideFileError, external_data_paths};
use belljar_policy::units::format_size;
use belljar_policy::write as text;
use belljar_policy::{FORMAT_VERSION, Policy, bounds, starting_head, unmeasured_limits};
use belljar_text::Escaped;

/// Why a file is granted.
const REASON: &str = "the model's weights";

/// A file that the model keeps data in.
pub(super) struct File {
    /// Its path in the model, relative to the model's folder. Untrusted text.
    guest_path: String,
    /// Its path on this machine, with links resolved.
    path: PathBuf,
    /// The path with symbolic links, if that differs.
    link: Option<PathBuf>,
    found: Result<(Digest, u64), String>,
}

impl File {
    fn look(guest_path: &str, folder: &Path) -> File {
        let named = folder.join(guest_path.trim_start_matches('/'));
        let (path, link) = match named.canonicalize() {
            // A grant must name the file itself: paths with symbolic links are refused.
            Ok(path) if path != named => (path, Some(named)),
            Ok(path) => (path, None),
            Err(_) => (named, None),
        };
        let good_name = path.to_str().is_some_and(|host| {
            let entry = text::side_file(&text::quoted(host), guest_path, None, REASON);
            Policy::parse(&format!("version = {FORMAT_VERSION}\n{entry}"), "a grant").is_ok()
        });
        let found = SideFile::digest_of(&path, bounds::MODEL_SIZE.max).map_err(|err| match err {
            SideFileError::Refused(why) => format!("it cannot be granted: {why}"),
            SideFileError::TooLarge => {
                format!(
                    "it is larger than any policy allows ({})",
                    format_size(bounds::MODEL_SIZE.max)
                )
            }
            SideFileError::Failed(why) => format!("it cannot be read: {why}"),
        });
        let found = match good_name {
            true => found,
            false => {
                Err("its path cannot be written in a policy; rename the file or its folders".into())
            }
        };
        File { guest_path: guest_path.to_owned(), path, link, found }
    }

    /// Why the file cannot be granted, if it cannot.
    pub(super) fn problem(&self) -> Option<String> {
        let why = self.found.as_ref().err()?;
        Some(format!("{}, in which the model keeps data: {why}", shown(&self.path)))
    }

    fn size(&self) -> u64 {
        self.found.as_ref().map_or(0, |(_, size)| *size)
    }

    /// The grant as a comment, with an explanation.
    fn entry(&self, folder: &Path) -> String {
        let mut out = String::from("\n# The model keeps data in this file");
        let sha256 = match &self.found {
            Ok((digest, size)) => {
                let _ = writeln!(
                    out,
                    " ({}). Uncomment the lines below to grant it.",
                    format_size(*size)
                );
                text::quoted(&digest.to_string())
            }
            Err(why) => {
                let _ = writeln!(out, "; {why}.", why = Escaped::new(why));
                "\"…\"   # the output of sha256sum".to_owned()
            }
        };
        if let Some(link) = &self.link {
            let _ = writeln!(out, "# {} is a symbolic link to it.", shown(link));
        }
        let host = text::host(&self.path, folder);
        let entry = text::side_file(&host, &self.guest_path, Some(&sha256), REASON);
        out.push_str(&text::commented(&entry));
        out
    }
}

/// The data files of a model under a policy that grants no files.
pub(super) fn ungranted(loaded: &Loaded, path: &Path) -> Result<Vec<File>, Failure> {
    let Loaded { model, name, .. } = loaded;
    // Under a policy with grants, loading has already checked that all files are granted.
    if !model.policy().filesystem.is_empty() {
        return Ok(Vec::new());
    }
    let paths =
        external_data_paths(model.description()).map_err(|kind| Error::for_model(name, kind))?;
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let unknown = |err: std::io::Error| Failure::failed(format!("the model's folder: {err}"));
    let here = std::env::current_dir().map_err(unknown)?;
    let folder = here.join(path.parent().unwrap_or(Path::new("")));
    let folder = folder.canonicalize().map_err(unknown)?;
    Ok(paths.iter().map(|guest_path| File::look(guest_path, &folder)).collect())
}

/// The policy for a model that was not measured.
pub(super) fn unmeasured(loaded: &Loaded, files: &[File], base: &Policy, folder: &Path) -> String {
    let comments = "# A starting point. Limits were not measured: the model keeps data in files \
                    that are not granted yet.\n# Uncomment the grants that you accept; then \
                    `belljar new-policy` with this file as\n# --policy measures the limits.\n";
    let mut out = starting_head(&loaded.name, &loaded.sha256, comments, &text::settings(base));
    files.iter().for_each(|file| out.push_str(&file.entry(folder)));
    for (table, rules) in [("inputs", &base.inputs), ("outputs", &base.outputs)] {
        rules.iter().for_each(|rule| out.push_str(&text::rule(table, rule)));
    }
    let size = files.iter().map(File::size).fold(loaded.size, u64::saturating_add);
    out.push_str(&unmeasured_limits(size, &base.limits));
    out.push_str(&compute(&base.compute, loaded.model.description()));
    out
}
