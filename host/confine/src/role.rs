//! The roles of worker processes. The role decides which system calls and files a worker may use.

use serde::{Deserialize, Serialize};

/// What a worker process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Compiles our own guest to native code. It never sees a model.
    Compile,
    /// Reads a model, describes it, prepares it for given input shapes, and returns the snapshot
    /// that runs start from.
    Prepare,
    /// Runs models from snapshots. It never sees a model file.
    Run,
    /// Compiles one guest program to native code, and ends. The compiled code is as untrusted as
    /// the program, and is only ever run for that program.
    #[cfg_attr(not(feature = "programs"), allow(dead_code, reason = "without guest programs"))]
    CompileProgram,
    /// Runs one guest program for one request, and ends.
    #[cfg_attr(not(feature = "programs"), allow(dead_code, reason = "without guest programs"))]
    Program,
    /// Like `Program`, with files or connections that its policy grants.
    #[cfg_attr(not(feature = "programs"), allow(dead_code, reason = "without guest programs"))]
    GrantedProgram,
}

impl Role {
    #[cfg(feature = "programs")]
    pub const ALL: [Role; 6] = [
        Role::Compile,
        Role::Prepare,
        Role::Run,
        Role::CompileProgram,
        Role::Program,
        Role::GrantedProgram,
    ];

    #[cfg(not(feature = "programs"))]
    pub const ALL: [Role; 3] = [Role::Compile, Role::Prepare, Role::Run];

    pub fn name(self) -> &'static str {
        match self {
            Role::Compile => "compile",
            Role::Prepare => "prepare",
            Role::Run => "run",
            Role::CompileProgram => "compile-program",
            Role::Program => "program",
            Role::GrantedProgram => "granted-program",
        }
    }

    /// A description for users.
    pub fn purpose(self) -> &'static str {
        match self {
            Role::Compile => {
                "Compiles our own sandboxed runner to native code. It never sees a model."
            }
            Role::Prepare => {
                "Reads a model, describes it, and prepares it for some input shapes, inside the \
                 sandbox."
            }
            Role::Run => "Runs what was prepared, inside the sandbox. It never sees a model file.",
            Role::CompileProgram => {
                "Compiles one guest program to native code. It runs nothing of it."
            }
            Role::Program => {
                "Runs one guest program for one request, without any grant. Its models run \
                 elsewhere."
            }
            Role::GrantedProgram => {
                "Runs one guest program for one request, with files or connections that its \
                 policy grants. Landlock restricts it to these files; it receives connections open."
            }
        }
    }
}
