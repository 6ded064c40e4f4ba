//! Landlock: a worker opens no file, uses no TCP port, and reaches no process and no abstract
//! socket beyond itself. What it works with it was handed as descriptors, which Landlock leaves
//! alone. A guest program's process may open what lies below the descriptors of its grants.

use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::fs::FileType;

use super::setup::Granted;

/// The newest version whose rights are asked for. An older kernel knows fewer of them, which is
/// enough as long as it knows files.
const NEWEST: ABI = ABI::V7;

/// Refuses everything that this kernel's Landlock can refuse, but what lies below the files and
/// folders that are granted.
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
            Err(io::Error::other("this kernel has no Landlock, or it is not switched on"))
        }
    }
}

/// What a grant stands for in the terms of Landlock: never links, devices, sockets, or programs.
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
