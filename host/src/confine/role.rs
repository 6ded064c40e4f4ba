//! The roles of worker processes. What a role has to do decides what its process may do.

use serde::{Deserialize, Serialize};

/// What a worker process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Compiles our own guest to native code. It never sees a model.
    Compile,
    /// Reads a model, describes it, prepares it for some input shapes, and hands over the memory
    /// that runs start from.
    Prepare,
    /// Runs what others have prepared. It never sees a model file.
    Run,
}

#[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "for people who ask"))]
impl Role {
    #[cfg(any(test, feature = "cli", feature = "test-hooks"))]
    pub(crate) const ALL: [Role; 3] = [Role::Compile, Role::Prepare, Role::Run];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Compile => "compile",
            Role::Prepare => "prepare",
            Role::Run => "run",
        }
    }

    /// What it is for, for people.
    pub(crate) fn purpose(self) -> &'static str {
        match self {
            Role::Compile => {
                "Compiles our own sandboxed runner to native code. It never sees a model."
            }
            Role::Prepare => {
                "Reads a model, describes it, and prepares it for some input shapes, inside the \
                 sandbox."
            }
            Role::Run => "Runs what was prepared, inside the sandbox. It never sees a model file.",
        }
    }
}
