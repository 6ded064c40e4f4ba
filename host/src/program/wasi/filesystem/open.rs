//! Opening: what a policy grants (in the supervisor), and what a program asks for below it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, ftruncate, openat2};
use wasmtime_wasi::p2::bindings::sync::filesystem::types::{DescriptorFlags, OpenFlags};

use super::super::budget::Budget;
use super::path::GuestPath;
use super::refusal::{Code, Fail, Why};
use super::resolve::{self, Found};
use super::{Files, Kind, Node, Open, OpenedGrant};
use crate::policy::{Access, FileGrant};

/// Why something granted could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {why}; the policy grants it in [[filesystem]]")]
pub(crate) struct OpenError {
    pub(crate) path: String,
    pub(crate) why: String,
}

/// Opens what a policy grants, once, for handing it to the program's process. Links are not followed,
/// and nothing but a file or folder is opened; a file with several names is, as it was named itself.
pub(crate) fn open_grant(grant: &FileGrant) -> Result<OpenedGrant, OpenError> {
    let path = crate::text::Hostile::new(&grant.host.to_string_lossy()).to_string();
    let failed = |why: String| OpenError { path: path.clone(), why };
    let open = |flags: OFlags| {
        let way = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(rustix::fs::CWD, &grant.host, flags | OFlags::CLOEXEC, Mode::empty(), way)
            .map_err(|errno| failed(errno.to_string()))
    };
    let looked = open(OFlags::PATH)?;
    let stat = fstat(&looked).map_err(|errno| failed(errno.to_string()))?;
    let descriptor = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => looked,
        FileType::RegularFile => {
            let mode = match grant.access {
                Access::Read => OFlags::RDONLY,
                Access::Write => OFlags::RDWR,
            };
            let opened = open(mode | OFlags::NONBLOCK | OFlags::NOCTTY)?;
            let again = fstat(&opened).map_err(|errno| failed(errno.to_string()))?;
            if (stat.st_dev, stat.st_ino) != (again.st_dev, again.st_ino) {
                return Err(failed("changed while it was opened".to_owned()));
            }
            opened
        }
        _ => return Err(failed("neither a file nor a folder".to_owned())),
    };
    Ok(OpenedGrant { descriptor, guest: grant.guest.clone(), access: grant.access })
}

/// What a program wants of something it opens.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) create: bool,
    pub(super) folder: bool,
    pub(super) exclusive: bool,
    pub(super) truncate: bool,
    pub(super) read: bool,
    pub(super) write: bool,
    sync: bool,
}

impl Wanted {
    pub(super) fn new(open: OpenFlags, flags: DescriptorFlags) -> Wanted {
        let synced = DescriptorFlags::FILE_INTEGRITY_SYNC
            | DescriptorFlags::DATA_INTEGRITY_SYNC
            | DescriptorFlags::REQUESTED_WRITE_SYNC;
        let writes = DescriptorFlags::WRITE | DescriptorFlags::MUTATE_DIRECTORY;
        Wanted {
            create: open.contains(OpenFlags::CREATE),
            folder: open.contains(OpenFlags::DIRECTORY),
            exclusive: open.contains(OpenFlags::EXCLUSIVE),
            truncate: open.contains(OpenFlags::TRUNCATE),
            read: flags.contains(DescriptorFlags::READ),
            write: flags.intersects(writes),
            sync: flags.intersects(synced),
        }
    }

    /// Whether only a grant to write allows it.
    pub(super) fn changes(self) -> bool {
        self.create || self.truncate || self.write
    }

    /// How the kernel opens a file for it.
    fn mode(self) -> OFlags {
        match (self.read, self.write || self.truncate) {
            (_, false) => OFlags::RDONLY,
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
        }
    }
}

impl Files {
    /// Opens what lies at a path below something the program holds.
    pub(super) fn open(
        &self,
        base: &Node,
        path: &str,
        mut wanted: Wanted,
        budget: &mut Budget,
    ) -> Result<Node, Fail> {
        let path = GuestPath::parse(path)?;
        wanted.folder |= path.is_folder();
        if wanted.sync {
            return Err(Fail::Failed(Code::Unsupported));
        }
        if wanted.folder && (wanted.create || wanted.truncate) {
            return Err(Fail::Failed(Code::Invalid));
        }
        if matches!(base.kind, Kind::Gathered) {
            return self.open_gathered(base, &path, wanted);
        }
        if wanted.changes() {
            self.may_write(base)?;
            if !base.writable {
                return Err(Fail::Failed(Code::NotPermitted));
            }
        }
        let folder = base.folder()?;
        let held = budget.hold()?;
        let (found, fd) = find(folder, &path, wanted, budget)?;
        let open = Arc::new(Open { fd, _held: Some(held) });
        let kind = match found {
            Found::Folder => Kind::Folder(open),
            Found::File => Kind::File(open),
        };
        let place = base.place_of(path.plain());
        let (readable, writable) = (wanted.read || found == Found::Folder, wanted.write);
        Ok(Node { kind, grant: base.grant, place, readable, writable })
    }

    /// The same among files that are granted one by one: nothing else is there, and nothing is made.
    fn open_gathered(&self, base: &Node, path: &GuestPath, wanted: Wanted) -> Result<Node, Fail> {
        let Some((".", name)) = path.split() else {
            return match path.split() {
                None if wanted.changes() => Err(Why::ReadOnly.into()),
                None => Ok(base.clone()),
                Some(_) => Err(Fail::Failed(Code::NoEntry)),
            };
        };
        let found = self.gathered(&base.place).find(|(_, found)| *found == name);
        let Some((at, grant)) = found.and_then(|(at, _)| Some((at, self.grants.get(at)?))) else {
            return match wanted.create {
                true => Err(Why::ReadOnly.into()),
                false => Err(Fail::Failed(Code::NoEntry)),
            };
        };
        if wanted.folder {
            return Err(Fail::Failed(Code::NotDirectory));
        }
        if (wanted.write || wanted.truncate) && grant.access != Access::Write {
            return Err(Why::ReadOnly.into());
        }
        if wanted.create && wanted.exclusive {
            return Err(Fail::Failed(Code::Exist));
        }
        if wanted.truncate {
            ftruncate(&grant.open.fd, 0)?;
        }
        let kind = Kind::File(Arc::clone(&grant.open));
        let (readable, writable) = (wanted.read, wanted.write);
        Ok(Node { kind, grant: at, place: grant.guest.clone(), readable, writable })
    }
}

/// Opens what is there, or makes it if that is wanted.
fn find(
    folder: &Open,
    path: &GuestPath,
    wanted: Wanted,
    budget: &mut Budget,
) -> Result<(Found, OwnedFd), Fail> {
    // Twice: a file may come or go between the look and the act.
    for _ in 0..2 {
        match resolve::look(folder.as_fd(), path.plain()) {
            Ok(_) if wanted.create && wanted.exclusive => return Err(Fail::Failed(Code::Exist)),
            Ok((_, _, Found::Folder)) if wanted.create || wanted.truncate => {
                return Err(Fail::Failed(Code::IsDirectory));
            }
            Ok((fd, _, Found::Folder)) => return Ok((Found::Folder, fd)),
            Ok((_, _, Found::File)) if wanted.folder => {
                return Err(Fail::Failed(Code::NotDirectory));
            }
            Ok((_, _, Found::File)) => {
                let fd = resolve::existing(folder.as_fd(), path.plain(), wanted.mode())?;
                if wanted.truncate {
                    ftruncate(&fd, 0)?;
                }
                return Ok((Found::File, fd));
            }
            Err(Fail::Failed(Code::NoEntry)) if wanted.create => {}
            Err(fail) => return Err(fail),
        }
        budget.may_create()?;
        match resolve::new_file(folder.as_fd(), path.plain(), wanted.mode()) {
            Ok(fd) => {
                budget.created();
                return Ok((Found::File, fd));
            }
            Err(Fail::Failed(Code::Exist)) => {}
            Err(fail) => return Err(fail),
        }
    }
    Err(Fail::Failed(Code::Busy))
}
