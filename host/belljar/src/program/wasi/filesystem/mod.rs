//! `wasi:filesystem` over descriptors of granted folders and files.
//!
//! This is not a wrapper around wasmtime-wasi, which runs calls on its own threads, and where
//! Belljar's checks would be separate from its opens: a path that is checked in one place and
//! opened in another is a common source of bugs. Here only `resolve` may open files, and all other
//! functions use its descriptors.

mod change;
mod decide;
mod host;
mod listing;
mod meta;
mod mount_check;
mod open;
mod path;
mod refusal;
mod resolve;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use cap_std::fs::Dir;

use super::budget::{Budget, Held};
use super::{Asked, OpenedGrant, Outside};
use belljar_policy::{Access, file_rule};
pub(super) use change::Position;
pub(crate) use mount_check::{AtName, Below, Views};
pub(crate) use open::open_grant;
pub(super) use refusal::{Code, code};
use refusal::{Fail, Why};

/// A `descriptor` of a program.
#[derive(Clone)]
pub(super) struct Node {
    kind: Kind,
    /// Its grant; for a gathered folder, the grant of its first file.
    grant: usize,
    /// Its path as the program sees it.
    place: String,
    /// The access it was opened with, within the grant.
    readable: bool,
    writable: bool,
}

#[derive(Clone)]
enum Kind {
    Folder(Arc<Open<Dir>>),
    File(Arc<Open>),
    /// A virtual folder with files that are granted individually.
    Gathered,
}

/// An open descriptor, which counts as one of the `open-handles` unless it was granted.
pub(super) struct Open<T = OwnedFd> {
    fd: T,
    _held: Option<Held>,
}

impl AsFd for Open {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A file or folder that the supervisor has opened.
enum Granted {
    Folder(Arc<Open<Dir>>),
    File(Arc<Open>),
}

struct Grant {
    open: Granted,
    guest: String,
    access: Access,
}

/// All grants of a run.
pub(super) struct Files {
    grants: Vec<Grant>,
    /// Numbers of files, in the order of their first use, instead of the host's inode numbers.
    numbers: BTreeMap<(u64, u64), u64>,
}

impl Files {
    /// Takes the grants that the supervisor opened. Anything except files and folders is omitted,
    /// and logged as refused.
    pub(super) fn new(opened: Vec<OpenedGrant>, outside: &mut dyn Outside) -> Files {
        let mut grants = Vec::new();
        for OpenedGrant { descriptor, guest, access } in opened {
            let type_of =
                |stat: rustix::fs::Stat| rustix::fs::FileType::from_raw_mode(stat.st_mode);
            let open = match rustix::fs::fstat(&descriptor).map(type_of) {
                Ok(rustix::fs::FileType::Directory) => {
                    let fd = Dir::from_std_file(descriptor.into());
                    Granted::Folder(Arc::new(Open { fd, _held: None }))
                }
                Ok(rustix::fs::FileType::RegularFile) => {
                    Granted::File(Arc::new(Open { fd: descriptor, _held: None }))
                }
                _ => {
                    let (rule, access) = (Why::Special.rule(&guest, &guest), access.name());
                    let asked = Asked { resource: &guest, access, allowed: false, rule: &rule };
                    // It is refused even if that cannot be logged.
                    let _ = outside.decided(&asked);
                    continue;
                }
            };
            grants.push(Grant { open, guest, access });
        }
        Files { grants, numbers: BTreeMap::new() }
    }

    /// The preopened folders: each granted folder, and the virtual folders of granted files.
    fn preopens(&self) -> Vec<Node> {
        let mut nodes = Vec::new();
        let mut gathered: Vec<&str> = Vec::new();
        for (at, grant) in self.grants.iter().enumerate() {
            let (kind, place) = match &grant.open {
                Granted::Folder(open) => (Kind::Folder(Arc::clone(open)), grant.guest.as_str()),
                Granted::File(_) => {
                    let folder = split_guest(&grant.guest).0;
                    if gathered.contains(&folder) {
                        continue;
                    }
                    gathered.push(folder);
                    (Kind::Gathered, folder)
                }
            };
            let writable =
                grant.access == Access::Write && matches!(grant.open, Granted::Folder(_));
            nodes.push(Node { kind, grant: at, place: place.to_owned(), readable: true, writable });
        }
        nodes
    }

    /// The granted files of a gathered folder, with their names in it.
    fn gathered<'a>(&'a self, place: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
        self.grants.iter().enumerate().filter_map(move |(at, grant)| {
            let (folder, name) = split_guest(&grant.guest);
            (matches!(grant.open, Granted::File(_)) && folder == place).then_some((at, name))
        })
    }

    /// Checks that the policy grants write access to this node.
    fn may_write(&self, node: &Node) -> Result<(), Fail> {
        match self.grants.get(node.grant) {
            Some(grant) if grant.access == Access::Write => match node.kind {
                Kind::Gathered => Err(Why::ReadOnly.into()),
                _ => Ok(()),
            },
            _ => Err(Why::ReadOnly.into()),
        }
    }

    /// The policy entry of this node, and the path that it grants.
    fn rule(&self, node: &Node) -> (String, &str) {
        match self.grants.get(node.grant) {
            Some(grant) => (file_rule(&grant.guest, grant.access), &grant.guest),
            None => (String::new(), "/"),
        }
    }
}

impl Node {
    /// The folder; an error for a virtual folder.
    fn folder(&self) -> Result<&Dir, Fail> {
        match &self.kind {
            Kind::Folder(open) => Ok(&open.fd),
            Kind::File(_) => Err(Fail::Failed(Code::NotDirectory)),
            Kind::Gathered => Err(Why::ReadOnly.into()),
        }
    }

    /// The file's descriptor.
    fn file(&self) -> Result<&Arc<Open>, Fail> {
        match &self.kind {
            Kind::File(open) => Ok(open),
            Kind::Folder(_) | Kind::Gathered => Err(Fail::Failed(Code::IsDirectory)),
        }
    }

    /// The full path, as the program sees it.
    fn place_of(&self, path: &str) -> String {
        match path {
            "" | "." => self.place.clone(),
            path if path.starts_with('/') => path.to_owned(),
            path => format!("{}/{path}", self.place.trim_end_matches('/')),
        }
    }
}

/// Writes some of these bytes to a file that was opened for writing.
pub(super) fn write_file(
    file: &Open,
    bytes: &[u8],
    position: Position,
    budget: &mut Budget,
) -> Result<usize, Code> {
    change::write(file, bytes, position, budget).map_err(Fail::code)
}

/// Splits a guest path into its folder and its last name.
fn split_guest(guest: &str) -> (&str, &str) {
    match guest.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some(both) => both,
        None => ("/", guest),
    }
}
