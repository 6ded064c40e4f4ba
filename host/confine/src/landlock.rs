//! Landlock: a worker must not open files, use TCP ports, or reach processes and abstract sockets
//! beyond itself. It works with descriptors that it received, which Landlock does not restrict. A
//! guest program's process may open what is below the descriptors of its grants.

use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::fs::FileType;

use super::setup::Granted;

/// The newest ABI version whose rights are used. An older kernel restricts fewer of them, which is
/// sufficient as long as it restricts files.
const NEWEST: ABI = ABI::V7;

/// Denies everything that this kernel's Landlock can deny, except for what is below the granted
/// files and folders.
pub(super) fn grant(granted: &[Granted<'_>]) -> io::Result<()> {
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|rules| rules.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .map_err(io::Error::other)?;
    let restricted = granted
        .iter()
        .try_fold(rules, |rules, one| {
            let access = access(*one)?;
            rules.add_rule(PathBeneath::new(one.descriptor, access)).map_err(io::Error::other)
        })?
        .restrict_self()
        .map_err(io::Error::other)?;
    match restricted.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        RulesetStatus::NotEnforced => {
            Err(io::Error::other("this kernel lacks Landlock, or it is not enabled"))
        }
    }
}

/// The Landlock rights of a grant. They never include links, devices, sockets, or execution.
fn access(granted: Granted<'_>) -> io::Result<BitFlags<AccessFs>> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(granted.descriptor)?.st_mode);
    let mut access = BitFlags::from(AccessFs::ReadFile);
    if granted.write {
        access |= AccessFs::WriteFile | AccessFs::Truncate;
    }
    if kind == FileType::Directory {
        access |= AccessFs::ReadDir;
        if granted.write {
            access |= AccessFs::MakeReg | AccessFs::MakeDir | AccessFs::Refer;
            access |= AccessFs::RemoveFile | AccessFs::RemoveDir;
        }
    }
    Ok(access)
}
