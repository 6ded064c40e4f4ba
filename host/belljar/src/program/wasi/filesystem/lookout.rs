//! What the supervisor sees of a granted folder and the program's process does not: file systems that
//! were mounted below it after that process was started.
//!
//! The process has the folder as a mount of its own, so that no path leads out of it, with what was
//! mounted below it then; what is mounted later is mounted elsewhere. The kernel keeps a name busy for
//! the mounts of the caller's own namespace alone, and takes all others away with the name. So the
//! supervisor, which lives where mounts are made, looks at every name before it is removed, moved or
//! replaced.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::fstat;
use serde::{Deserialize, Serialize};

use super::OpenedGrant;
use super::refusal::{Fail, Why};
use super::resolve;
use belljar_policy::Access;

/// A name below a granted folder. What a program's process says is hostile: it leads nowhere but below
/// that folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Below {
    /// Where the program sees the folder that is granted.
    pub(super) grant: String,
    /// From there to the folder that the name is in.
    pub(super) folder: String,
    pub(super) name: String,
    /// Which folder that is, whatever it is called by now: its device and number.
    pub(super) is: (u64, u64),
}

/// What is seen at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AtName {
    /// Nothing is mounted there. Whether there is something of that name is not said.
    Free,
    /// Something is mounted there, or on the way.
    Mounted,
    /// It cannot be seen: another folder is where this one was opened.
    Unseen,
}

/// The folders granted for writing, as the supervisor has opened them.
#[derive(Default)]
pub(crate) struct Views(Vec<(String, OwnedFd)>);

impl Views {
    /// Keeps those of a policy.
    pub(crate) fn of(opened: Vec<OpenedGrant>) -> Views {
        let written = opened.into_iter().filter(|grant| grant.access == Access::Write);
        Views(written.map(|grant| (grant.guest, grant.descriptor)).collect())
    }

    /// Looks at a name.
    pub(crate) fn look(&self, at: &Below) -> AtName {
        let Some((_, granted)) = self.0.iter().find(|(guest, _)| *guest == at.grant) else {
            return AtName::Unseen;
        };
        let folder = match resolve::folder(granted.as_fd(), &at.folder) {
            Ok(folder) => folder,
            Err(Fail::Refused(Why::Mount)) => return AtName::Mounted,
            Err(_) => return AtName::Unseen,
        };
        match fstat(&folder) {
            Ok(stat) if (stat.st_dev, stat.st_ino) == at.is => {}
            _ => return AtName::Unseen,
        }
        // More than a name would be a way to other folders.
        match resolve::nothing_mounted(folder.as_fd(), &at.name) {
            _ if at.name.contains('/') => AtName::Unseen,
            Ok(()) => AtName::Free,
            Err(Fail::Refused(Why::MountPoint)) => AtName::Mounted,
            Err(_) => AtName::Unseen,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_name_is_looked_at_only_below_the_granted_folder() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("granted/sub")).unwrap();
        fs::write(at("granted/sub/file"), "").unwrap();
        fs::write(at("outside"), "").unwrap();
        std::os::unix::fs::symlink("sub", at("granted/link")).unwrap();
        let opened = |name: &str, access| OpenedGrant {
            descriptor: fs::File::open(at(name)).unwrap().into(),
            guest: format!("/{name}"),
            access,
        };
        let views =
            Views::of(vec![opened("granted", Access::Write), opened("granted/sub", Access::Read)]);
        let number = |name: &str| {
            let stat = rustix::fs::stat(at(name)).unwrap();
            (stat.st_dev, stat.st_ino)
        };
        let look = |grant: &str, folder: &str, name: &str, is| {
            let [grant, folder, name] = [grant, folder, name].map(str::to_owned);
            views.look(&Below { grant, folder, name, is })
        };
        let sub = number("granted/sub");
        assert_eq!(look("/granted", "sub", "file", sub), AtName::Free);
        assert_eq!(look("/granted", "sub", "none", sub), AtName::Free);
        assert_eq!(look("/granted", ".", "link", number("granted")), AtName::Free);
        // Another folder than it was, or none, or one that is not granted for writing.
        for (grant, folder, name, is) in [
            ("/granted", "sub", "file", number("granted")),
            ("/granted", "none", "file", sub),
            ("/granted", "link", "file", sub),
            ("/granted/sub", ".", "file", sub),
            ("/", ".", "file", sub),
            ("/granted", "sub", "../sub/file", sub),
            ("/granted", "sub", "a\0", sub),
        ] {
            assert_eq!(look(grant, folder, name, is), AtName::Unseen, "{grant} {folder} {name}");
        }
        // The folder above is not looked at, and neither is what is in it.
        let above = (rustix::fs::stat(folder.path()).unwrap().st_dev, number(".").1);
        for way in ["..", "sub/../..", "/", folder.path().to_str().unwrap()] {
            for name in ["outside", "missing"] {
                assert_eq!(look("/granted", way, name, above), AtName::Mounted, "{way} {name}");
            }
        }
        for name in ["..", "../outside", "/etc"] {
            assert_ne!(look("/granted", ".", name, number("granted")), AtName::Free, "{name}");
        }
    }
}
