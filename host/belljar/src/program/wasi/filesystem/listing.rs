//! Lists of the names in a folder, read incrementally.

use rustix::fs::{Dir, FileType};
use wasmtime_wasi::p2::bindings::sync::filesystem::types::{DescriptorType, DirectoryEntry};

use super::super::budget::{Budget, Held};
use super::refusal::{Code, Fail};
use super::resolve::StrictDir as _;
use super::{Files, Kind, Node};

/// Maximum number of names in one list.
const MAX_NAMES: usize = 100_000;

/// The state of reading a list.
pub(in super::super) struct Listing {
    names: Names,
    given: usize,
}

enum Names {
    Folder { dir: Dir, _held: Held },
    Gathered(std::vec::IntoIter<String>),
}

impl Files {
    pub(super) fn list(&self, node: &Node, budget: &Budget) -> Result<Listing, Fail> {
        let names = match &node.kind {
            Kind::File(_) => return Err(Fail::Failed(Code::NotDirectory)),
            Kind::Folder(open) => {
                let held = budget.hold()?;
                let dir = Dir::new(open.fd.readable()?)?;
                Names::Folder { dir, _held: held }
            }
            Kind::Gathered => {
                let names = self.gathered(&node.place).map(|(_, name)| name.to_owned());
                Names::Gathered(names.collect::<Vec<_>>().into_iter())
            }
        };
        Ok(Listing { names, given: 0 })
    }
}

impl Listing {
    /// The next name. Names that are not UTF-8 are omitted, because the program could not use them.
    pub(super) fn next(&mut self) -> Result<Option<DirectoryEntry>, Fail> {
        self.given = self.given.saturating_add(1);
        if self.given > MAX_NAMES {
            return Err(Fail::Failed(Code::Overflow));
        }
        let dir = match &mut self.names {
            Names::Folder { dir, .. } => dir,
            Names::Gathered(names) => {
                let entry = |name| DirectoryEntry { type_: DescriptorType::RegularFile, name };
                return Ok(names.next().map(entry));
            }
        };
        loop {
            let Some(entry) = dir.read().transpose()? else { return Ok(None) };
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => {
                    let (type_, name) = (kind(entry.file_type()), name.to_owned());
                    return Ok(Some(DirectoryEntry { type_, name }));
                }
            }
        }
    }
}

fn kind(found: FileType) -> DescriptorType {
    match found {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::Fifo => DescriptorType::Fifo,
        FileType::Socket => DescriptorType::Socket,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::Unknown => DescriptorType::Unknown,
    }
}
