//! What changes a granted folder or a file in it. Every function asks the grant first.

use std::io::IoSlice;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::ReadWriteFlags;
use wasmtime_wasi::p2::bindings::sync::filesystem::types::NewTimestamp;

use super::super::budget::Budget;
use super::path::GuestPath;
use super::refusal::{Code, Fail, Why};
use super::resolve::{self, Found};
use super::{Files, Kind, Node, Open};

/// Where bytes go.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Position {
    At(u64),
    End,
}

/// Writes once, as much as the file takes. What lies between the file's end and the position counts
/// against the quota as if it had been written.
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
    pub(super) fn writable<'a>(&self, node: &'a Node) -> Result<&'a std::sync::Arc<Open>, Fail> {
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
        budget: &mut Budget,
    ) -> Result<(), Fail> {
        let path = GuestPath::parse(path)?;
        let (folder, name) = self.changed(base, &path, Code::Exist)?;
        budget.may_create()?;
        rustix::fs::mkdirat(&folder, name, resolve::FOLDER_MODE)?;
        budget.created();
        Ok(())
    }

    pub(super) fn remove_folder(&self, base: &Node, path: &str) -> Result<(), Fail> {
        let path = GuestPath::parse(path)?;
        let (folder, name) = self.changed(base, &path, Code::Invalid)?;
        Ok(rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR)?)
    }

    pub(super) fn remove_file(&self, base: &Node, path: &str) -> Result<(), Fail> {
        let path = GuestPath::parse(path)?;
        let (folder, name) = self.changed(base, &path, Code::IsDirectory)?;
        if path.is_folder() {
            return Err(Fail::Failed(Code::NotDirectory));
        }
        Ok(rustix::fs::unlinkat(&folder, name, AtFlags::empty())?)
    }

    /// Moves within one grant.
    pub(super) fn rename(
        &self,
        base: &Node,
        path: &str,
        new_base: &Node,
        new_path: &str,
    ) -> Result<(), Fail> {
        let (path, new_path) = (GuestPath::parse(path)?, GuestPath::parse(new_path)?);
        if base.grant != new_base.grant {
            return Err(Why::OtherGrant.into());
        }
        let (folder, name) = self.changed(base, &path, Code::Busy)?;
        let (new_folder, new_name) = self.changed(new_base, &new_path, Code::Busy)?;
        if path.is_folder() || new_path.is_folder() {
            let (_, _, found) = resolve::look(folder.as_fd(), name)?;
            if found != Found::Folder {
                return Err(Fail::Failed(Code::NotDirectory));
            }
        }
        let flags = rustix::fs::RenameFlags::empty();
        Ok(rustix::fs::renameat_with(&folder, name, &new_folder, new_name, flags)?)
    }

    pub(super) fn set_times(
        &self,
        node: &Node,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> Result<(), Fail> {
        self.may_write(node)?;
        let times = timestamps(accessed, modified)?;
        match &node.kind {
            Kind::File(_) if !node.writable => Err(Fail::Failed(Code::BadDescriptor)),
            Kind::File(open) => Ok(rustix::fs::futimens(&open.fd, &times)?),
            Kind::Folder(open) => {
                let folder = resolve::readable_folder(open.as_fd())?;
                Ok(rustix::fs::futimens(&folder, &times)?)
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
    ) -> Result<(), Fail> {
        let path = GuestPath::parse(path)?;
        self.may_write(base)?;
        let times = timestamps(accessed, modified)?;
        let _held = budget.hold()?;
        let folder = base.folder()?;
        let (found_at, _, found) = resolve::look(folder.as_fd(), path.plain())?;
        let fd = match found {
            Found::Folder => resolve::readable_folder(found_at.as_fd())?,
            Found::File if path.is_folder() => return Err(Fail::Failed(Code::NotDirectory)),
            Found::File => {
                resolve::existing(folder.as_fd(), path.plain(), rustix::fs::OFlags::RDONLY)?
            }
        };
        Ok(rustix::fs::futimens(&fd, &times)?)
    }

    /// The folder and the name in it that an operation on names is about. The name is a single one,
    /// so that the kernel has nothing to walk; `itself` is the answer when the folder itself is meant.
    fn changed<'a>(
        &self,
        base: &Node,
        path: &'a GuestPath,
        itself: Code,
    ) -> Result<(std::os::fd::OwnedFd, &'a str), Fail> {
        self.may_write(base)?;
        let open = base.folder()?;
        if !base.writable {
            return Err(Fail::Failed(Code::NotPermitted));
        }
        let (folder, name) = path.split().ok_or(Fail::Failed(itself))?;
        Ok((resolve::folder(open.as_fd(), folder)?, name))
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
