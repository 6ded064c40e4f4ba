//! For tests of the confinement: escape attempts from within a worker, with some or all layers.
//! Only in builds with the feature `test-hooks`, which releases do not have.

use belljar_confine::layers::Layer;
use belljar_confine::process::WorkerProgram;
use belljar_confine::role::Role;

pub use crate::sandbox::foreign_guest::ForeignGuest;
pub use belljar_confine::breach::{Attempt, FORMS, World, attempts, unmounts};

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Ended {
    /// It succeeded.
    Allowed,
    /// The kernel refused it with this error number.
    Refused(i32),
    /// seccomp ended the worker.
    Killed,
}

/// The names of all roles.
pub fn roles() -> Vec<&'static str> {
    Role::ALL.iter().map(|role| role.name()).collect()
}

/// Makes an escape attempt in a worker of a role with these layers.
///
/// # Errors
/// When the role does not exist, or the worker cannot be started or confined in this way.
pub fn attack(
    program: &WorkerProgram,
    role: &str,
    layers: &[Layer],
    attempt: Attempt,
) -> Result<Ended, String> {
    let role = Role::ALL.into_iter().find(|one| one.name() == role);
    let role = role.ok_or_else(|| "unknown role".to_owned())?;
    crate::sandbox::attack::attack(program, role, layers, attempt)
}
