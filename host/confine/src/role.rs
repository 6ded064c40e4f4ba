//! The roles of worker processes. What a role has to do decides what its process may do.

use serde::{Deserialize, Serialize};

/// What a worker process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Compiles our own guest to native code. It never sees a model.
    Compile,
    /// Reads a model, describes it, prepares it for some input shapes, and hands over the memory
    /// that runs start from.
    Prepare,
    /// Runs what others have prepared. It never sees a model file.
    Run,
    /// Compiles one guest program to native code, and ends. What it hands over is the code of who
    /// wrote that program: nobody else ever runs it.
    #[cfg_attr(not(feature = "programs"), allow(dead_code, reason = "without guest programs"))]
    CompileProgram,
    /// Runs one guest program for one request, and ends.
    #[cfg_attr(not(feature = "programs"), allow(dead_code, reason = "without guest programs"))]
    Program,
    /// As `Program`, with files or connections that its policy grants.
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

    /// What it is for, for people.
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
                 policy grants. Landlock knows which files, and connections come ready made."
            }
        }
    }
}
