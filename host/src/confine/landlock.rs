//! Landlock: a worker opens no file, uses no TCP port, and reaches no process and no abstract
//! socket beyond itself. What it works with it was handed as descriptors, which Landlock leaves
//! alone.

use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus,
    Scope,
};

/// The newest version whose rights are asked for. An older kernel knows fewer of them, which is
/// enough as long as it knows files.
const NEWEST: ABI = ABI::V7;

/// Refuses everything that this kernel's Landlock can refuse.
pub(super) fn grant_nothing() -> io::Result<()> {
    let restricted = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|rules| rules.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.restrict_self())
        .map_err(io::Error::other)?;
    match restricted.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        RulesetStatus::NotEnforced => {
            Err(io::Error::other("this kernel has no Landlock, or it is not switched on"))
        }
    }
}
