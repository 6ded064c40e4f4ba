//! Why a file operation is not done: it was refused, with the policy rule that would allow it, or
//! it failed.

use rustix::io::Errno;
pub(in super::super) use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode as Code;

use super::super::budget::Exhausted;
use belljar_policy::{Access, file_rule, key_rule};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fail {
    /// A rule refuses it.
    Refused(Why),
    /// It is allowed, but the file system returned an error.
    Failed(Code),
}

/// The rule that refuses an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// An absolute path, or one with `..`.
    Outside,
    /// The grant has only read access.
    ReadOnly,
    /// The path contains a symbolic link.
    Symlink,
    /// A file with several hard links, of which others may be outside of the grant.
    HardLink,
    /// Neither a file nor a folder.
    Special,
    /// Another file system is mounted there.
    Mount,
    /// A name to be removed, moved or replaced is a mount point.
    MountPoint,
    /// A move from one grant to another.
    OtherGrant,
    /// Creating a hard or symbolic link.
    MakeLink,
    /// The kernel has no `openat2`, or a filter blocks it.
    NoOpenat2,
    /// A quota is exhausted.
    Quota(&'static str),
}

impl From<Why> for Fail {
    fn from(why: Why) -> Fail {
        Fail::Refused(why)
    }
}

impl From<Exhausted> for Fail {
    fn from(Exhausted(key): Exhausted) -> Fail {
        Fail::Refused(Why::Quota(key))
    }
}

impl From<Errno> for Fail {
    fn from(errno: Errno) -> Fail {
        Fail::Failed(code(errno))
    }
}

impl Fail {
    pub(super) fn code(self) -> Code {
        match self {
            Fail::Failed(code) => code,
            Fail::Refused(why) => why.code(),
        }
    }
}

impl Why {
    fn code(self) -> Code {
        match self {
            Why::Outside | Why::HardLink | Why::Special | Why::MakeLink | Why::NoOpenat2 => {
                Code::NotPermitted
            }
            Why::ReadOnly => Code::ReadOnly,
            Why::Symlink => Code::Loop,
            Why::Mount | Why::OtherGrant => Code::CrossDevice,
            Why::MountPoint => Code::Busy,
            Why::Quota(_) => Code::Quota,
        }
    }

    /// The policy entry that would allow it, or the rule if none can. `asked` is the path as the
    /// program sees it, and `granted` the path of its grant.
    pub(super) fn rule(self, asked: &str, granted: &str) -> String {
        match self {
            Why::Outside => file_rule(asked, Access::Read),
            Why::ReadOnly => file_rule(granted, Access::Write),
            Why::Symlink => "symbolic links are never followed".to_owned(),
            Why::HardLink => "files with several hard links are never opened".to_owned(),
            Why::Special => "only files and folders are opened".to_owned(),
            Why::Mount => "another file system below a grant needs a separate grant".to_owned(),
            Why::MountPoint => "mount points below a grant cannot be changed".to_owned(),
            Why::OtherGrant => "files cannot be moved from one grant to another".to_owned(),
            Why::MakeLink => "links are never created".to_owned(),
            Why::NoOpenat2 => "this needs openat2 of Linux 5.6 or later".to_owned(),
            Why::Quota(key) => key_rule("quotas", key),
        }
    }
}

pub(in super::super) fn code(errno: Errno) -> Code {
    match errno {
        Errno::ACCESS => Code::Access,
        Errno::AGAIN => Code::WouldBlock,
        Errno::BADF => Code::BadDescriptor,
        Errno::BUSY | Errno::TXTBSY => Code::Busy,
        Errno::DQUOT => Code::Quota,
        Errno::EXIST => Code::Exist,
        Errno::FBIG => Code::FileTooLarge,
        Errno::ILSEQ => Code::IllegalByteSequence,
        Errno::INVAL => Code::Invalid,
        Errno::ISDIR => Code::IsDirectory,
        Errno::LOOP => Code::Loop,
        Errno::MLINK => Code::TooManyLinks,
        Errno::NAMETOOLONG => Code::NameTooLong,
        Errno::NODEV => Code::NoDevice,
        Errno::NOENT => Code::NoEntry,
        Errno::NOMEM | Errno::MFILE | Errno::NFILE => Code::InsufficientMemory,
        Errno::NOSPC => Code::InsufficientSpace,
        Errno::NOTDIR => Code::NotDirectory,
        Errno::NOTEMPTY => Code::NotEmpty,
        Errno::OPNOTSUPP | Errno::NOSYS => Code::Unsupported,
        Errno::NXIO => Code::NoSuchDevice,
        Errno::OVERFLOW => Code::Overflow,
        Errno::PERM => Code::NotPermitted,
        Errno::ROFS => Code::ReadOnly,
        Errno::XDEV => Code::CrossDevice,
        _ => Code::Io,
    }
}
