//! Faults that tests inject into workers: a filter without one of its rules, a panic, a crash. They show
//! what each rule is for. Only in builds with the feature `test-hooks`, which no release has; a test
//! checks that.
//!
//! `unsafe` is here for a crash.

use std::io;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::role::Role;
use super::seccomp;

/// The environment variable of a supervisor that says as JSON which faults its workers have.
const VARIABLE: &str = "BELLJAR_TEST_FAULTS";

/// What is different about the workers of a role.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Injection {
    role: Role,
    /// Their filter lacks this rule.
    without_rule: Option<usize>,
    /// How they fail when they begin to work.
    fault: Option<Fault>,
    /// They compile an empty module instead of the guest.
    #[serde(default)]
    quick: bool,
}

/// A fault of the worker's own code.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Fault {
    Panic,
    Abort,
    Crash,
}

/// The faults of this worker.
static HERE: OnceLock<Injection> = OnceLock::new();

impl Injection {
    /// As this process's environment asks for. What it says must make sense, or a test would test
    /// nothing.
    pub fn from_environment(role: Role) -> Option<Injection> {
        let text = std::env::var(VARIABLE).ok()?;
        let injection: Injection = serde_json::from_str(&text).expect(VARIABLE);
        (injection.role == role).then_some(injection)
    }

    /// Confines this worker, less what it lacks.
    pub fn install(&self) -> io::Result<()> {
        // A worker is confined once.
        let _ = HERE.set(self.clone());
        match self.without_rule {
            None => seccomp::install(self.role),
            Some(rule) => seccomp::install_without(self.role, rule),
        }
    }
}

/// Whether this worker is to compile an empty module.
pub fn is_quick() -> bool {
    HERE.get().is_some_and(|injection| injection.quick)
}

/// Fails, if this worker is to.
pub fn fail() {
    match HERE.get().and_then(|injection| injection.fault) {
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
