//! Operations that change a granted folder or a file in it. Every function must check the grant
//! first.
//!
//! Changes of names have two steps, so that the verdict can be logged between them: a function of
//! [`Files`] does all checks and returns a [`Change`], which is then made.

use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::ReadWriteFlags;
use wasmtime_wasi::p2::bindings::sync::filesystem::types::NewTimestamp;

use super::super::budget::{Budget, Held};
use super::mount_check::Below;
use super::path::GuestPath;
use super::refusal::{Code, Fail, Why};
use super::resolve::{self, Found, StrictDir as _};
use super::{Files, Kind, Node, Open};

/// The position of a write.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Position {
    At(u64),
    End,
}

/// Writes once, as many bytes as the file accepts. The gap between the file's end and the position
/// counts as written.
pub(in super::super) fn write(
    file: &Open,
    bytes: &[u8],
    position: Position,
    budget: &mut Budget,
) -> Result<usize, Fail> {
    let len = bytes.len() as u64;
    let gap = match position {
        Position::End => 0,
        Position::At(offset) => offset.saturating_sub(size(file)?),
    };
    let cost = len.checked_add(gap).ok_or(Fail::Failed(Code::FileTooLarge))?;
    budget.write(cost)?;
    let written = match position {
        Position::At(offset) => rustix::io::pwrite(&file.fd, bytes, offset),
        Position::End => {
            let parts = [IoSlice::new(bytes)];
            rustix::io::pwritev2(&file.fd, &parts, 0, ReadWriteFlags::APPEND)
        }
    };
    match written {
        Ok(written) => {
            budget.unwritten(len.saturating_sub(written as u64));
            Ok(written)
        }
        Err(errno) => {
            budget.unwritten(cost);
            Err(errno.into())
        }
    }
}

fn size(file: &Open) -> Result<u64, Fail> {
    let stat = rustix::fs::fstat(&file.fd)?;
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

impl Files {
    /// A file that was opened for writing, in a grant to write.
    pub(super) fn writable<'a>(&self, node: &'a Node) -> Result<&'a Arc<Open>, Fail> {
        self.may_write(node)?;
        match node.writable {
            true => node.file(),
            false => Err(Fail::Failed(Code::BadDescriptor)),
        }
    }

    pub(super) fn set_size(
        &self,
        node: &Node,
        wanted: u64,
        budget: &mut Budget,
    ) -> Result<(), Fail> {
        let file = self.writable(node)?;
        let cost = wanted.saturating_sub(size(file)?);
        budget.write(cost)?;
        rustix::fs::ftruncate(&file.fd, wanted).map_err(|errno| {
            budget.unwritten(cost);
            errno.into()
        })
    }

    pub(super) fn make_folder(
        &self,
        base: &Node,
        path: &str,
        budget: &Budget,
    ) -> Result<Change, Fail> {
        let path = GuestPath::parse(path)?;
        let entry = self.changed(base, &path, Code::Exist)?;
        budget.may_create()?;
        Ok(Change::MakeFolder(entry))
    }

    pub(super) fn remove_folder(&self, base: &Node, path: &str) -> Result<Change, Fail> {
        let path = GuestPath::parse(path)?;
        let entry = self.changed(base, &path, Code::Invalid)?;
        entry.folder.nothing_mounted(&entry.name)?;
        Ok(Change::Remove(entry, AtFlags::REMOVEDIR))
    }

    pub(super) fn remove_file(&self, base: &Node, path: &str) -> Result<Change, Fail> {
        let path = GuestPath::parse(path)?;
        let entry = self.changed(base, &path, Code::IsDirectory)?;
        if path.is_folder() {
            return Err(Fail::Failed(Code::NotDirectory));
        }
        entry.folder.nothing_mounted(&entry.name)?;
        Ok(Change::Remove(entry, AtFlags::empty()))
    }

    /// Moves within one grant.
    pub(super) fn rename(
        &self,
        base: &Node,
        path: &str,
        new_base: &Node,
        new_path: &str,
    ) -> Result<Change, Fail> {
        let (path, new_path) = (GuestPath::parse(path)?, GuestPath::parse(new_path)?);
        if base.grant != new_base.grant {
            return Err(Why::OtherGrant.into());
        }
        let from = self.changed(base, &path, Code::Busy)?;
        let to = self.changed(new_base, &new_path, Code::Busy)?;
        for entry in [&from, &to] {
            entry.folder.nothing_mounted(&entry.name)?;
        }
        if path.is_folder() || new_path.is_folder() {
            let (_, _, found) = from.folder.look(&from.name)?;
            if found != Found::Folder {
                return Err(Fail::Failed(Code::NotDirectory));
            }
        }
        Ok(Change::Rename(from, to))
    }

    pub(super) fn set_times(
        &self,
        node: &Node,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> Result<Change, Fail> {
        self.may_write(node)?;
        let times = timestamps(accessed, modified)?;
        match &node.kind {
            Kind::File(_) if !node.writable => Err(Fail::Failed(Code::BadDescriptor)),
            Kind::File(open) => Ok(Change::Times(Timed::Held(Arc::clone(open)), times)),
            Kind::Folder(open) => {
                let folder = open.fd.readable()?;
                Ok(Change::Times(Timed::Found(folder, None), times))
            }
            Kind::Gathered => Err(Why::ReadOnly.into()),
        }
    }

    pub(super) fn set_times_at(
        &self,
        base: &Node,
        path: &str,
        accessed: NewTimestamp,
        modified: NewTimestamp,
        budget: &Budget,
    ) -> Result<Change, Fail> {
        let path = GuestPath::parse(path)?;
        self.may_write(base)?;
        let times = timestamps(accessed, modified)?;
        let held = budget.hold()?;
        let folder = base.folder()?;
        let (found_at, _, found) = folder.look(path.plain())?;
        let fd = match found {
            Found::Folder => Dir::from_std_file(found_at.into()).readable()?,
            Found::File if path.is_folder() => return Err(Fail::Failed(Code::NotDirectory)),
            Found::File => folder.existing(path.plain(), rustix::fs::OFlags::RDONLY)?,
        };
        Ok(Change::Times(Timed::Found(fd, Some(held)), times))
    }

    /// The folder and the name in it that an operation changes; `itself` is the error if the path
    /// is the folder itself.
    fn changed(&self, base: &Node, path: &GuestPath, itself: Code) -> Result<FolderEntry, Fail> {
        self.may_write(base)?;
        let open = base.folder()?;
        if !base.writable {
            return Err(Fail::Failed(Code::NotPermitted));
        }
        let (folder, name) = path.split().ok_or(Fail::Failed(itself))?;
        Ok(FolderEntry { folder: open.folder(folder)?, name: name.to_owned() })
    }

    /// The same folder and name, for the supervisor's check.
    pub(super) fn below(&self, base: &Node, path: &str) -> Result<Below, Fail> {
        let path = GuestPath::parse(path)?;
        let (folder, name) = path.split().ok_or(Fail::Failed(Code::Busy))?;
        let guest = self.grants.get(base.grant).map_or("", |grant| &grant.guest);
        let held = base.place.strip_prefix(guest).ok_or(Fail::Failed(Code::Busy))?;
        let held = held.trim_matches('/');
        let within = match held {
            "" => folder.to_owned(),
            held => format!("{held}/{folder}"),
        };
        let stat = rustix::fs::fstat(base.folder()?.folder(folder)?)?;
        Ok(Below {
            grant: guest.to_owned(),
            folder: within,
            name: name.to_owned(),
            is: (stat.st_dev, stat.st_ino),
        })
    }
}

/// A folder and a single name in it, so that the kernel does not resolve a path.
pub(super) struct FolderEntry {
    pub(super) folder: Dir,
    pub(super) name: String,
}

/// An allowed change that is not made yet.
pub(super) enum Change {
    MakeFolder(FolderEntry),
    Remove(FolderEntry, AtFlags),
    Rename(FolderEntry, FolderEntry),
    Times(Timed, Timestamps),
}

/// A file whose times are set: one that the program holds, or one that was found, which counts as
/// one of the `open-handles`.
pub(super) enum Timed {
    Held(Arc<Open>),
    Found(OwnedFd, Option<Held>),
}

impl Change {
    /// Makes the change.
    pub(super) fn make(self, budget: &mut Budget) -> Result<(), Fail> {
        match self {
            Change::MakeFolder(FolderEntry { folder, name }) => {
                rustix::fs::mkdirat(&folder, name, resolve::FOLDER_MODE)?;
                budget.created();
            }
            Change::Remove(FolderEntry { folder, name }, flags) => {
                rustix::fs::unlinkat(&folder, name, flags)?;
            }
            Change::Rename(from, to) => {
                let flags = rustix::fs::RenameFlags::empty();
                rustix::fs::renameat_with(&from.folder, from.name, &to.folder, to.name, flags)?;
            }
            Change::Times(Timed::Held(open), times) => rustix::fs::futimens(&open.fd, &times)?,
            Change::Times(Timed::Found(fd, _held), times) => rustix::fs::futimens(&fd, &times)?,
        }
        Ok(())
    }
}

fn timestamps(accessed: NewTimestamp, modified: NewTimestamp) -> Result<Timestamps, Fail> {
    let one = |wanted| match wanted {
        NewTimestamp::NoChange => Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }),
        NewTimestamp::Now => Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_NOW }),
        NewTimestamp::Timestamp(time) => match i64::try_from(time.seconds) {
            Ok(tv_sec) if time.nanoseconds < 1_000_000_000 => {
                Ok(Timespec { tv_sec, tv_nsec: time.nanoseconds.into() })
            }
            _ => Err(Fail::Failed(Code::Invalid)),
        },
    };
    Ok(Timestamps { last_access: one(accessed)?, last_modification: one(modified)? })
}
