//! Checks a granted folder for file systems that were mounted below it after the program's process
//! was started, which that process does not see.
//!
//! The process has a separate mount of the folder, so that no path leads out of it. This mount has
//! the mounts that existed below it at that time, and later ones are not visible. The kernel
//! refuses to remove a name only if it is a mount point in the caller's own mount namespace; mounts
//! in other namespaces are removed together with the name. Therefore the supervisor, whose
//! namespace has the new mounts, checks every name before it is removed, moved or replaced.

use std::os::fd::OwnedFd;

use cap_std::fs::Dir;
use rustix::fs::fstat;
use serde::{Deserialize, Serialize};

use super::OpenedGrant;
use super::refusal::{Fail, Why};
use super::resolve::StrictDir as _;
use belljar_policy::Access;

/// A name below a granted folder, from an untrusted process: it must not lead out of that folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Below {
    /// The path of the granted folder, as the program sees it.
    pub(super) grant: String,
    /// The path from there to the folder of the name.
    pub(super) folder: String,
    pub(super) name: String,
    /// Device and inode number of that folder, which may have been renamed.
    pub(super) is: (u64, u64),
}

/// The result of checking a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AtName {
    /// Nothing is mounted there. The name may or may not exist.
    Free,
    /// Something is mounted there, or on the path to it.
    Mounted,
    /// It cannot be checked: the path leads to a different folder.
    Unseen,
}

/// The folders granted for writing, as the supervisor has opened them.
#[derive(Default)]
pub(crate) struct Views(Vec<(String, Dir)>);

impl Views {
    /// Keeps the writable folders of a policy.
    pub(crate) fn of(opened: Vec<OpenedGrant>) -> Views {
        let written = opened.into_iter().filter(|grant| grant.access == Access::Write);
        let dir = |descriptor: OwnedFd| Dir::from_std_file(descriptor.into());
        Views(written.map(|grant| (grant.guest, dir(grant.descriptor))).collect())
    }

    /// Checks a name.
    pub(crate) fn look(&self, at: &Below) -> AtName {
        let Some((_, granted)) = self.0.iter().find(|(guest, _)| *guest == at.grant) else {
            return AtName::Unseen;
        };
        let folder = match granted.folder(&at.folder) {
            Ok(folder) => folder,
            Err(Fail::Refused(Why::Mount)) => return AtName::Mounted,
            Err(_) => return AtName::Unseen,
        };
        match fstat(&folder) {
            Ok(stat) if (stat.st_dev, stat.st_ino) == at.is => {}
            _ => return AtName::Unseen,
        }
        // A path instead of a name could lead to other folders.
        match folder.nothing_mounted(&at.name) {
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
        // A different folder, a missing folder, or a folder that is not writable.
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
        // The parent folder and its content are not checked.
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
