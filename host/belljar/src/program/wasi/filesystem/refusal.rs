//! Why an operation on files does not happen: refused, with the line of policy that would have
//! allowed it, or merely failed.

use rustix::io::Errno;
pub(in super::super) use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode as Code;

use super::super::budget::Exhausted;
use belljar_policy::{Access, file_rule, key_rule};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fail {
    /// A rule says no.
    Refused(Why),
    /// It is allowed, but the file system has no such thing, or no room.
    Failed(Code),
}

/// The rule that says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// An absolute path, or one with `..`.
    Outside,
    /// The grant is for reading.
    ReadOnly,
    /// A symbolic link on the way.
    Symlink,
    /// A file with several names, of which others may lie outside.
    HardLink,
    /// Neither a file nor a folder.
    Special,
    /// Another file system is mounted there.
    Mount,
    /// The same, where a name was to be removed, moved or replaced.
    MountPoint,
    /// From one grant into another.
    OtherGrant,
    /// Making links of either kind.
    MakeLink,
    /// The kernel has no `openat2`, or something in between does not let it through.
    NoOpenat2,
    /// A quota is used up.
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

    /// The line of policy that would have allowed it, if any would. `asked` is the path as the
    /// program sees it, `granted` the place of the grant it lies in.
    pub(super) fn rule(self, asked: &str, granted: &str) -> String {
        match self {
            Why::Outside => file_rule(asked, Access::Read),
            Why::ReadOnly => file_rule(granted, Access::Write),
            Why::Symlink => "symbolic links are never followed".to_owned(),
            Why::HardLink => "a file with several names (hard links) is never opened".to_owned(),
            Why::Special => "only files and folders are opened".to_owned(),
            Why::Mount => "another file system below a grant needs a grant of its own".to_owned(),
            Why::MountPoint => "what is mounted below a grant stays where it is".to_owned(),
            Why::OtherGrant => "nothing moves from one grant to another".to_owned(),
            Why::MakeLink => "links are never made".to_owned(),
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
