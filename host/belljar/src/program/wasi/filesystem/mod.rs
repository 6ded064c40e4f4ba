//! `wasi:filesystem` over descriptors of granted folders and files.
//!
//! Written anew rather than wrapped around wasmtime-wasi's: there the checks of ours would stand
//! beside its opens, and a path checked in one place and opened in another is where such code breaks;
//! and it runs every call on threads of its own. Here one function opens (`resolve`), and every other
//! takes what it opened.

mod change;
mod host;
mod listing;
mod lookout;
mod meta;
mod open;
mod path;
mod refusal;
mod resolve;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::budget::{Budget, Held};
use super::{Asked, OpenedGrant, Outside};
use belljar_policy::{Access, file_rule};
pub(super) use change::Position;
pub(crate) use lookout::{AtName, Below, Views};
pub(crate) use open::open_grant;
pub(super) use refusal::{Code, code};
use refusal::{Fail, Why};
use resolve::Found;

/// What a program holds as a `descriptor`.
#[derive(Clone)]
pub(super) struct Node {
    kind: Kind,
    /// Which grant it belongs to; for a gathered folder, the first of its files.
    grant: usize,
    /// Where the program sees it.
    place: String,
    /// What it was opened for, within what is granted.
    readable: bool,
    writable: bool,
}

#[derive(Clone)]
enum Kind {
    Folder(Arc<Open>),
    File(Arc<Open>),
    /// A folder that is only here: it holds the files that are granted one by one.
    Gathered,
}

/// An open descriptor, and the place it takes among `open-handles`. Those that were granted take none.
pub(super) struct Open {
    fd: OwnedFd,
    _held: Option<Held>,
}

impl AsFd for Open {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

struct Grant {
    open: Arc<Open>,
    found: Found,
    guest: String,
    access: Access,
}

/// Every grant of a run.
pub(super) struct Files {
    grants: Vec<Grant>,
    /// Numbers given to files as they were first asked about, in the place of the host's own.
    numbers: BTreeMap<(u64, u64), u64>,
}

impl Files {
    /// Takes over what the supervisor opened. What is neither a file nor a folder is left out, and
    /// said to be refused.
    pub(super) fn new(opened: Vec<OpenedGrant>, outside: &mut dyn Outside) -> Files {
        let mut grants = Vec::new();
        for OpenedGrant { descriptor, guest, access } in opened {
            let type_of =
                |stat: rustix::fs::Stat| rustix::fs::FileType::from_raw_mode(stat.st_mode);
            let found = match rustix::fs::fstat(&descriptor).map(type_of) {
                Ok(rustix::fs::FileType::Directory) => Found::Folder,
                Ok(rustix::fs::FileType::RegularFile) => Found::File,
                _ => {
                    let (rule, access) = (Why::Special.rule(&guest, &guest), access.name());
                    let asked = Asked { resource: &guest, access, allowed: false, rule: &rule };
                    // It stays refused, whether or not that can be told.
                    let _ = outside.decided(&asked);
                    continue;
                }
            };
            let open = Arc::new(Open { fd: descriptor, _held: None });
            grants.push(Grant { open, found, guest, access });
        }
        Files { grants, numbers: BTreeMap::new() }
    }

    /// What a program finds at its start: each granted folder, and folders that hold granted files.
    fn preopens(&self) -> Vec<Node> {
        let mut nodes = Vec::new();
        let mut gathered: Vec<&str> = Vec::new();
        for (at, grant) in self.grants.iter().enumerate() {
            let (kind, place) = match grant.found {
                Found::Folder => (Kind::Folder(Arc::clone(&grant.open)), grant.guest.as_str()),
                Found::File => {
                    let folder = split_guest(&grant.guest).0;
                    if gathered.contains(&folder) {
                        continue;
                    }
                    gathered.push(folder);
                    (Kind::Gathered, folder)
                }
            };
            let writable = grant.access == Access::Write && grant.found == Found::Folder;
            nodes.push(Node { kind, grant: at, place: place.to_owned(), readable: true, writable });
        }
        nodes
    }

    /// The granted files of a gathered folder, and their names there.
    fn gathered<'a>(&'a self, place: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
        self.grants.iter().enumerate().filter_map(move |(at, grant)| {
            let (folder, name) = split_guest(&grant.guest);
            (grant.found == Found::File && folder == place).then_some((at, name))
        })
    }

    /// Whether the policy grants writing where this lies.
    fn may_write(&self, node: &Node) -> Result<(), Fail> {
        match self.grants.get(node.grant) {
            Some(grant) if grant.access == Access::Write => match node.kind {
                Kind::Gathered => Err(Why::ReadOnly.into()),
                _ => Ok(()),
            },
            _ => Err(Why::ReadOnly.into()),
        }
    }

    /// The entry of the policy under which this lies, and the place it grants.
    fn rule(&self, node: &Node) -> (String, &str) {
        match self.grants.get(node.grant) {
            Some(grant) => (file_rule(&grant.guest, grant.access), &grant.guest),
            None => (String::new(), "/"),
        }
    }
}

impl Node {
    /// The folder's descriptor. None has a folder that is only here.
    fn folder(&self) -> Result<&Open, Fail> {
        match &self.kind {
            Kind::Folder(open) => Ok(open),
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

    /// Where the program sees what it calls by this path.
    fn place_of(&self, path: &str) -> String {
        match path {
            "" | "." => self.place.clone(),
            path if path.starts_with('/') => path.to_owned(),
            path => format!("{}/{path}", self.place.trim_end_matches('/')),
        }
    }
}

/// Writes some of these bytes to a file that was opened for it.
pub(super) fn write_file(
    file: &Open,
    bytes: &[u8],
    position: Position,
    budget: &mut Budget,
) -> Result<usize, Code> {
    change::write(file, bytes, position, budget).map_err(Fail::code)
}

/// A guest path's folder and its last name.
fn split_guest(guest: &str) -> (&str, &str) {
    match guest.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some(both) => both,
        None => ("/", guest),
    }
}
