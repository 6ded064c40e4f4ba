//! The flags of `belljar confine`.

use clap::{Subcommand, ValueEnum};

use super::TextFormat;

#[derive(Debug, Subcommand)]
pub(crate) enum Confine {
    /// Print the system call filter of a role; without a role, list the roles
    #[command(
        after_help = "Examples:\n  belljar confine show\n  belljar confine show prepare\n  belljar confine show run --format json | jq -r '.rules[].call'"
    )]
    Show {
        /// The role of the process
        role: Option<RoleArg>,

        /// How to print the filter
        #[arg(short, long, default_value = "text")]
        format: TextFormat,
    },
}

/// The roles that have a system call filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArg {
    /// The process that compiles the sandboxed runner
    Compile,
    /// The process that reads and prepares a model
    Prepare,
    /// The process that runs a prepared model
    Run,
    /// The process that compiles a guest program
    #[cfg(feature = "programs")]
    CompileProgram,
    /// The process that runs a guest program
    #[cfg(feature = "programs")]
    Program,
    /// The process that runs a guest program with files or connections
    #[cfg(feature = "programs")]
    GrantedProgram,
    /// A sandbox on a thread of this process (--isolation thread)
    Thread,
}
