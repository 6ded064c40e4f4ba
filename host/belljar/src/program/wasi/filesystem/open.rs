//! Opens the grants of a policy (in the supervisor), and files below them that a program requests.

use std::sync::Arc;

use cap_std::fs::Dir;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, ftruncate, openat2};
use wasmtime_wasi::p2::bindings::sync::filesystem::types::{DescriptorFlags, OpenFlags};

use super::super::budget::{Budget, Held};
use super::change::FolderEntry;
use super::path::GuestPath;
use super::refusal::{Code, Fail, Why};
use super::resolve::{Found, StrictDir as _};
use super::{Files, Granted, Kind, Node, Open, OpenedGrant};
use belljar_policy::{Access, FileGrant};

/// Why a grant could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {why}; the policy grants it in [[filesystem]]")]
pub(crate) struct OpenError {
    pub(crate) path: String,
    pub(crate) why: String,
}

/// Opens a grant of a policy once, to pass it to the program's process. Does not follow links, and
/// opens only files and folders. A file with several hard links is allowed, because the policy
/// names it.
pub(crate) fn open_grant(grant: &FileGrant) -> Result<OpenedGrant, OpenError> {
    let path = belljar_text::Escaped::new(&grant.host.to_string_lossy()).to_string();
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
                return Err(failed("changed while it was being opened".to_owned()));
            }
            opened
        }
        _ => return Err(failed("neither a file nor a folder".to_owned())),
    };
    Ok(OpenedGrant { descriptor, guest: grant.guest.clone(), access: grant.access })
}

/// The access that a program requests when it opens a file.
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

    /// Whether it needs a grant with write access.
    pub(super) fn changes(self) -> bool {
        self.create || self.truncate || self.write
    }

    /// The kernel's flags for it.
    fn mode(self) -> OFlags {
        match (self.read, self.write || self.truncate) {
            (_, false) => OFlags::RDONLY,
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
        }
    }
}

/// An allowed open. An existing file is open already; nothing is created or changed yet.
pub(super) struct Opening {
    target: Target,
    wanted: Wanted,
    grant: usize,
    place: String,
}

enum Target {
    There(Kind),
    /// A file to create, with its place among the `open-handles`.
    New(FolderEntry, Held),
}

impl Opening {
    /// Creates or truncates the file, if requested.
    pub(super) fn finish(self, budget: &mut Budget) -> Result<Node, Fail> {
        let Opening { target, wanted, grant, place } = self;
        let kind = match target {
            Target::There(kind) => {
                if let (Kind::File(open), true) = (&kind, wanted.truncate) {
                    ftruncate(&open.fd, 0)?;
                }
                kind
            }
            Target::New(FolderEntry { folder, name }, held) => {
                let fd = match folder.new_file(&name, wanted.mode()) {
                    Ok(fd) => {
                        budget.created();
                        fd
                    }
                    // Another process has created it in the meantime.
                    Err(Fail::Failed(Code::Exist)) if !wanted.exclusive => {
                        let fd = folder.existing(&name, wanted.mode())?;
                        if wanted.truncate {
                            ftruncate(&fd, 0)?;
                        }
                        fd
                    }
                    Err(fail) => return Err(fail),
                };
                Kind::File(Arc::new(Open { fd, _held: Some(held) }))
            }
        };
        let readable = wanted.read || matches!(kind, Kind::Folder(_) | Kind::Gathered);
        Ok(Node { kind, grant, place, readable, writable: wanted.write })
    }
}

impl Files {
    /// Opens a path below a node that the program holds.
    pub(super) fn open(
        &self,
        base: &Node,
        path: &str,
        mut wanted: Wanted,
        budget: &Budget,
    ) -> Result<Opening, Fail> {
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
        let target = find(folder, &path, wanted, held, budget)?;
        let place = base.place_of(path.plain());
        Ok(Opening { target, wanted, grant: base.grant, place })
    }

    /// The same in a virtual folder, which has only the granted files: nothing can be created in
    /// it.
    fn open_gathered(
        &self,
        base: &Node,
        path: &GuestPath,
        wanted: Wanted,
    ) -> Result<Opening, Fail> {
        let Some((".", name)) = path.split() else {
            return match path.split() {
                None if wanted.changes() => Err(Why::ReadOnly.into()),
                None => {
                    let (target, place) = (Target::There(Kind::Gathered), base.place.clone());
                    Ok(Opening { target, wanted, grant: base.grant, place })
                }
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
        let Granted::File(open) = &grant.open else {
            return Err(Fail::Failed(Code::NoEntry));
        };
        let target = Target::There(Kind::File(Arc::clone(open)));
        Ok(Opening { target, wanted, grant: at, place: grant.guest.clone() })
    }
}

/// Opens an existing file, or finds the folder to create it in, if requested.
fn find(
    folder: &Dir,
    path: &GuestPath,
    wanted: Wanted,
    held: Held,
    budget: &Budget,
) -> Result<Target, Fail> {
    match folder.look(path.plain()) {
        Ok(_) if wanted.create && wanted.exclusive => return Err(Fail::Failed(Code::Exist)),
        Ok((_, _, Found::Folder)) if wanted.create || wanted.truncate => {
            return Err(Fail::Failed(Code::IsDirectory));
        }
        Ok((fd, _, Found::Folder)) => {
            let fd = Dir::from_std_file(fd.into());
            return Ok(Target::There(Kind::Folder(Arc::new(Open { fd, _held: Some(held) }))));
        }
        Ok((_, _, Found::File)) if wanted.folder => return Err(Fail::Failed(Code::NotDirectory)),
        Ok((_, _, Found::File)) => {
            match folder.existing(path.plain(), wanted.mode()) {
                Ok(fd) => {
                    let open = Open { fd, _held: Some(held) };
                    return Ok(Target::There(Kind::File(Arc::new(open))));
                }
                // It was removed between the check and the open.
                Err(Fail::Failed(Code::NoEntry)) if wanted.create => {}
                Err(fail) => return Err(fail),
            }
        }
        Err(Fail::Failed(Code::NoEntry)) if wanted.create => {}
        Err(fail) => return Err(fail),
    }
    budget.may_create()?;
    let (within, name) = path.split().ok_or(Fail::Failed(Code::IsDirectory))?;
    let within = folder.folder(within)?;
    Ok(Target::New(FolderEntry { folder: within, name: name.to_owned() }, held))
}
