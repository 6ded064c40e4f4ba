//! For tests of the confinement: attacks from within a worker, with all layers or with some. Only in
//! builds with the feature `test-hooks`, which no release has.

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

/// Has a worker of a role, with these layers around it, make an attempt.
///
/// # Errors
/// When there is no such role, or the worker cannot be started or confined so.
pub fn attack(
    program: &WorkerProgram,
    role: &str,
    layers: &[Layer],
    attempt: Attempt,
) -> Result<Ended, String> {
    let role = Role::ALL.into_iter().find(|one| one.name() == role);
    let role = role.ok_or_else(|| "no such role".to_owned())?;
    crate::sandbox::attack::attack(program, role, layers, attempt)
}
