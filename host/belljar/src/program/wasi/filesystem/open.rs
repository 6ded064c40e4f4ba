//! Opening: what a policy grants (in the supervisor), and what a program asks for below it.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, ftruncate, openat2};
use wasmtime_wasi::p2::bindings::sync::filesystem::types::{DescriptorFlags, OpenFlags};

use super::super::budget::{Budget, Held};
use super::change::Place;
use super::path::GuestPath;
use super::refusal::{Code, Fail, Why};
use super::resolve::{self, Found};
use super::{Files, Kind, Node, Open, OpenedGrant};
use belljar_policy::{Access, FileGrant};

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

/// Something that may be opened. What is there is open; nothing is made or changed yet.
pub(super) struct Opening {
    target: Target,
    wanted: Wanted,
    grant: usize,
    place: String,
}

enum Target {
    There(Kind),
    /// A file that is to be made, with the place that it will take among `open-handles`.
    New(Place, Held),
}

impl Opening {
    /// Makes the file or cuts it, if that was wanted.
    pub(super) fn finish(self, budget: &mut Budget) -> Result<Node, Fail> {
        let Opening { target, wanted, grant, place } = self;
        let kind = match target {
            Target::There(kind) => {
                if let (Kind::File(open), true) = (&kind, wanted.truncate) {
                    ftruncate(&open.fd, 0)?;
                }
                kind
            }
            Target::New(Place { folder, name }, held) => {
                let fd = match resolve::new_file(folder.as_fd(), &name, wanted.mode()) {
                    Ok(fd) => {
                        budget.created();
                        fd
                    }
                    // Somebody else has made it meanwhile.
                    Err(Fail::Failed(Code::Exist)) if !wanted.exclusive => {
                        let fd = resolve::existing(folder.as_fd(), &name, wanted.mode())?;
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
    /// What lies at a path below something the program holds, to be opened.
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

    /// The same among files that are granted one by one: nothing else is there, and nothing is made.
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
        let target = Target::There(Kind::File(Arc::clone(&grant.open)));
        Ok(Opening { target, wanted, grant: at, place: grant.guest.clone() })
    }
}

/// Opens what is there, or finds where it is to be made if that is wanted.
fn find(
    folder: &Open,
    path: &GuestPath,
    wanted: Wanted,
    held: Held,
    budget: &Budget,
) -> Result<Target, Fail> {
    match resolve::look(folder.as_fd(), path.plain()) {
        Ok(_) if wanted.create && wanted.exclusive => return Err(Fail::Failed(Code::Exist)),
        Ok((_, _, Found::Folder)) if wanted.create || wanted.truncate => {
            return Err(Fail::Failed(Code::IsDirectory));
        }
        Ok((fd, _, Found::Folder)) => {
            return Ok(Target::There(Kind::Folder(Arc::new(Open { fd, _held: Some(held) }))));
        }
        Ok((_, _, Found::File)) if wanted.folder => return Err(Fail::Failed(Code::NotDirectory)),
        Ok((_, _, Found::File)) => {
            match resolve::existing(folder.as_fd(), path.plain(), wanted.mode()) {
                Ok(fd) => {
                    let open = Open { fd, _held: Some(held) };
                    return Ok(Target::There(Kind::File(Arc::new(open))));
                }
                // It has gone between the look and the act.
                Err(Fail::Failed(Code::NoEntry)) if wanted.create => {}
                Err(fail) => return Err(fail),
            }
        }
        Err(Fail::Failed(Code::NoEntry)) if wanted.create => {}
        Err(fail) => return Err(fail),
    }
    budget.may_create()?;
    let (within, name) = path.split().ok_or(Fail::Failed(Code::IsDirectory))?;
    let within = resolve::folder(folder.as_fd(), within)?;
    Ok(Target::New(Place { folder: within, name: name.to_owned() }, held))
}
