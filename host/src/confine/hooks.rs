//! Ways to spoil a worker, so that tests see what its confinement is worth. They exist only in
//! builds with the feature `test-hooks`, which no release has; a test looks.
//!
//! `unsafe` is here for a crash.

use std::io;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::role::Role;
use super::seccomp;

/// The environment variable of a supervisor that holds [`Hooks`] for its workers, as JSON.
const VARIABLE: &str = "BELLJAR_TEST_HOOKS";

/// What is different about a worker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Hooks {
    /// It is confined to this role.
    role: Option<Role>,
    /// Its filter lacks this rule of its role.
    without_rule: Option<usize>,
    /// How it fails when it gets its first order.
    fault: Option<Fault>,
}

/// A fault of the worker's own code.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Fault {
    Panic,
    Abort,
    Crash,
}

/// Those of this worker.
static HERE: OnceLock<Hooks> = OnceLock::new();

impl Hooks {
    /// Those that this process's environment asks for. What it says must make sense, or a test
    /// would test nothing.
    pub(crate) fn from_environment() -> io::Result<Hooks> {
        match std::env::var(VARIABLE) {
            Ok(text) => Ok(serde_json::from_str(&text)?),
            Err(_) => Ok(Hooks::default()),
        }
    }

    /// Makes them those of this worker.
    pub(crate) fn arm(&self) {
        // A worker is set up once.
        let _ = HERE.set(self.clone());
    }
}

/// Confines this worker as its hooks say.
pub(crate) fn install(role: Role) -> io::Result<()> {
    let hooks = HERE.get().cloned().unwrap_or_default();
    let role = hooks.role.unwrap_or(role);
    match hooks.without_rule {
        None => seccomp::install(role),
        Some(rule) => seccomp::install_without(role, rule),
    }
}

/// Fails, if this worker is to.
pub(crate) fn fail() {
    match HERE.get().and_then(|hooks| hooks.fault) {
        None => {}
        Some(Fault::Panic) => panic!("a test asked for it"),
        Some(Fault::Abort) => std::process::abort(),
        // SAFETY: nothing can rely on what comes after it: nothing is ever mapped at this address,
        // so the process ends here.
        Some(Fault::Crash) => unsafe {
            std::ptr::without_provenance_mut::<u64>(64).write_volatile(0);
        },
    }
}
