//! Faults that tests inject into workers: a filter without one of its rules, a panic, a crash. They
//! show what each rule is needed for. Only in builds with the feature `test-hooks`, which releases
//! must not have; a test checks that.
//!
//! `unsafe` is needed for the crash.

use std::io;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::role::Role;
use super::seccomp;

/// The environment variable of a supervisor with the faults of its workers, as JSON.
const VARIABLE: &str = "BELLJAR_TEST_FAULTS";

/// The faults of the workers of a role.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Injection {
    role: Role,
    /// The rule that their filter lacks.
    without_rule: Option<usize>,
    /// How they fail when they start their work.
    fault: Option<Fault>,
    /// Whether they compile an empty module instead of the guest.
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
    /// Reads the faults from this process's environment. An invalid value panics, because the test
    /// would otherwise test nothing.
    pub fn from_environment(role: Role) -> Option<Injection> {
        let text = std::env::var(VARIABLE).ok()?;
        let injection: Injection = serde_json::from_str(&text).expect(VARIABLE);
        (injection.role == role).then_some(injection)
    }

    /// Installs this worker's filter, without the rule that it lacks.
    pub fn install(&self) -> io::Result<()> {
        // A worker is confined once.
        let _ = HERE.set(self.clone());
        match self.without_rule {
            None => seccomp::install(self.role),
            Some(rule) => seccomp::install_without(self.role, rule),
        }
    }
}

/// Whether this worker compiles an empty module.
pub fn is_quick() -> bool {
    HERE.get().is_some_and(|injection| injection.quick)
}

/// Fails with the injected fault, if there is one.
pub fn fail() {
    match HERE.get().and_then(|injection| injection.fault) {
        None => {}
        Some(Fault::Panic) => panic!("a test injected this fault"),
        Some(Fault::Abort) => std::process::abort(),
        // SAFETY: nothing is ever mapped at this address, so the process ends here and no code runs
        // afterwards.
        Some(Fault::Crash) => unsafe {
            std::ptr::without_provenance_mut::<u64>(64).write_volatile(0);
        },
    }
}
