//! The files of a recorded policy: the files that the program read, and comments about what it
//! listed, wrote, or was refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::super::program::below;
use super::super::scratch::is_file;
use super::{MAX_COMMENTS, Recorded, Writer};
use belljar_policy::write::{host, quoted};
use belljar_policy::{Access, FileGrant};

/// Maximum number of files of one grant that are granted individually.
const MAX_FILES: usize = 64;

/// Folders of system files, which are risky to read even if they were granted.
const SYSTEM_FOLDERS: [&str; 8] =
    ["/boot", "/dev", "/etc", "/proc", "/root", "/run", "/sys", "/var/run"];

impl Writer<'_> {
    fn file(&self, host: &str, guest: &str, access: Access, did: &str) -> String {
        format!(
            "[[filesystem]]\nhost = {host}\nguest = {}\naccess = \"{}\"\nreason = {}\n",
            quoted(guest),
            access.name(),
            self.reason(did)
        )
    }

    /// Writes the used parts of each file grant of the base.
    pub(super) fn files(&mut self) {
        let Recorded { base, used, asked, folder, .. } = self.recorded;
        for grant in &base.filesystem {
            let place = host(&grant.host, folder);
            let inside = |path: &&String| below(&grant.guest, path).is_some();
            if let Some(allowed) =
                asked.written.iter().filter(|(path, _)| inside(path)).map(|(_, a)| *a).max()
            {
                let entry = self.file(&place, &grant.guest, Access::Write, "written to");
                let sentence = match allowed {
                    true => "The program wrote here, to a temporary copy.",
                    false => "The program tried to write here, and was refused.",
                };
                self.aside(sentence, &entry, allowed || !self.answered());
                if allowed {
                    continue;
                }
            }
            self.read(grant, &place, &used.read);
        }
    }

    fn read(&mut self, grant: &FileGrant, place: &str, read: &BTreeMap<String, bool>) {
        let folder = self.recorded.folder;
        let (mut files, mut whole) = (Vec::new(), false);
        for path in read.iter().filter(|(_, allowed)| **allowed).map(|(path, _)| path) {
            let Some(rest) = below(&grant.guest, path) else { continue };
            // An escaped or shortened path is not the file's path.
            match is_file(&grant.host, rest).filter(|_| is_plain(path)) {
                Some(true) => files.push((grant.host.join(rest), path)),
                Some(false) => whole = true,
                None => {}
            }
        }
        if files.len() > MAX_FILES {
            (files, whole) = (Vec::new(), true);
        }
        for (path, guest) in &files {
            // If the grant is the file itself, use its path.
            let path = if below(&grant.guest, guest) == Some("") { &grant.host } else { path };
            let entry = self.file(&host(path, folder), guest, Access::Read, "read");
            match SYSTEM_FOLDERS.iter().any(|of| path.starts_with(of)) {
                true => self.aside("The program read this system file.", &entry, true),
                false => {
                    let _ = write!(self.out, "\n{entry}");
                }
            }
        }
        if whole {
            let sentence = match files.is_empty() {
                true => "The program listed this folder.",
                false => {
                    "The program listed this folder. To allow that, grant it instead of the files \
                     in it."
                }
            };
            let entry = self.file(place, &grant.guest, Access::Read, "listed");
            self.aside(sentence, &entry, true);
        }
    }

    /// Writes requests for paths that are not granted.
    pub(super) fn other_files(&mut self) {
        let Recorded { base, asked, .. } = self.recorded;
        let other = |path: &&String| {
            *path != "/" && base.filesystem.iter().all(|grant| below(&grant.guest, path).is_none())
        };
        let (mut written, mut read) = (BTreeSet::new(), BTreeSet::new());
        for path in asked.written.keys().filter(other) {
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            written.insert(if parent.is_empty() { path.clone() } else { parent.to_owned() });
        }
        // A grant of a folder includes the folders in it.
        let outer = |path: &str, all: &BTreeSet<String>| {
            all.iter().any(|other| other != path && below(other, path).is_some())
        };
        let most: BTreeSet<String> =
            written.iter().filter(|path| !outer(path, &written)).cloned().collect();
        for path in asked.read.keys().filter(other) {
            let made = most.contains(path) || outer(path, &most);
            let on_the_way = most.iter().any(|folder| below(path, folder).is_some());
            if !made && !on_the_way {
                read.insert(path.clone());
            }
        }
        let counts = !self.answered();
        for path in most.iter().take(MAX_COMMENTS) {
            let sentence = "The program tried to write to this path, which is not granted: set \
                            `host`.";
            let entry = self.file("\"…\"", path, Access::Write, "written to");
            self.aside(sentence, &entry, true);
        }
        for path in read.iter().take(MAX_COMMENTS) {
            let sentence = "The program tried to read this path, which is not granted: set `host`.";
            let entry = self.file("\"…\"", path, Access::Read, "read");
            self.aside(sentence, &entry, counts);
        }
        for more in [most.len(), read.len()] {
            if more > MAX_COMMENTS {
                let _ = writeln!(self.out, "\n# And {} more paths.", more - MAX_COMMENTS);
            }
        }
    }
}

/// Whether a path was reported unchanged: neither escaped nor shortened.
fn is_plain(path: &str) -> bool {
    !path.contains(['\\', '…'])
}
