//! `belljar policy fmt`: rewrites policy files in canonical order.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::super::failure::{Failure, shown};
use belljar::Error;
use belljar_policy::{Policy, canonical};

pub(super) fn fmt(files: &[PathBuf], check: bool) -> Result<(), Failure> {
    let mut changed = Vec::new();
    for file in files {
        let (text, source) = Policy::text_for_review(file).map_err(Error::from)?;
        let ordered = canonical(&text, &file.to_string_lossy()).map_err(Error::from)?;
        if ordered == text {
            continue;
        }
        if !check {
            replace(&source.path, &ordered).map_err(|err| Failure::write(file, &err))?;
        }
        let what = if check { "not in canonical order" } else { "formatted" };
        changed.push(format!("{}: {what}\n", shown(file)));
    }
    super::print(&changed.concat())?;
    match (check, changed.len()) {
        (true, 1) => Err(Failure::failed("a file is not in canonical order").hint(FIX)),
        (true, count @ 2..) => {
            Err(Failure::failed(format!("{count} files are not in canonical order")).hint(FIX))
        }
        _ => Ok(()),
    }
}

const FIX: &str = "`belljar policy fmt` without --check formats it";

/// Replaces a file atomically, and keeps its mode and owner.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let old = path.metadata()?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).open(&temporary)?;
    let written = file
        .set_permissions(std::fs::Permissions::from_mode(old.mode() & 0o7777))
        .and_then(|()| match file.metadata()?.uid() == old.uid() {
            true => Ok(()),
            false => std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid())),
        })
        .and_then(|()| file.write_all(text.as_bytes()))
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}
