//! The flags: this file has the commands and what several of them share, and each command that has
//! flags of its own is a file here. Help, completions and manual pages are generated from these
//! definitions. Nothing here has side effects.

mod bench;
mod confine;
mod doctor;
mod inspect;
mod model;
mod new_policy;
mod ops;
mod pictures;
mod policy;
mod prepare;
mod quarantine;
mod run;
mod snapshots;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

pub(super) use bench::Bench;
pub(super) use confine::{Confine, RoleArg};
pub(super) use doctor::Doctor;
pub(super) use inspect::Inspect;
pub(super) use model::{InputArgs, IsolationArg, ModelArgs};
pub(super) use new_policy::NewPolicy;
pub(super) use ops::Ops;
pub(super) use pictures::{ChannelsArg, FitArg, LayoutArg, PictureArgs, Size};
pub(super) use policy::{PolicyCommand, Record};
pub(super) use prepare::Prepare;
pub(super) use quarantine::Quarantine;
pub(super) use run::Run;
pub(super) use snapshots::Snapshots;

/// The exit codes, for the help and the manual pages.
const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  any other error
  2  usage error: invalid flags, unreadable or malformed files
  3  refused by policy
  4  the model or an input is invalid or unsupported
  5  a limit was exceeded: time, memory, stack or size
  6  the sandbox trapped or panicked, or its process died
  7  a protection could not be installed";

const EXAMPLES: &str = "\
Examples:
  belljar run model.onnx --input image=photo.npy
  belljar inspect model.onnx
  belljar new-policy model.onnx --random --output model.policy.toml
  belljar prepare model.onnx --policy model.policy.toml
  belljar run model.onnx --policy model.policy.toml --input image=photo.npy --format json";

/// Runs untrusted ONNX models, each inside its own WebAssembly sandbox.
#[derive(Debug, Parser)]
#[command(
    name = "belljar",
    disable_version_flag = true,
    disable_help_subcommand = true,
    after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"),
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Option<Command>,

    /// Print the version; with --verbose, also the embedded guest's digest, compiler and interface
    #[arg(short = 'V', long)]
    pub(super) version: bool,

    /// Print more: log messages of the sandboxed runner, and other details
    #[arg(short, long, global = true)]
    pub(super) verbose: bool,

    /// Print only the result, security warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,

    /// When to colour messages; `auto` respects NO_COLOR
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(super) color: When,
}

/// When to colour messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum When {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Run(Run),
    Prepare(Prepare),
    /// List, remove and verify stored snapshots of prepared models
    #[command(
        after_help = "Examples:\n  belljar snapshots list\n  belljar snapshots prune --older-than \"720 h\"\n  belljar snapshots verify --remove"
    )]
    Snapshots {
        #[command(subcommand)]
        command: Snapshots,
    },
    /// List and release models that are refused because their worker processes kept dying
    #[command(
        after_help = "Examples:\n  belljar quarantine list\n  belljar quarantine list --format json | jq '.[].sha256'\n  belljar quarantine release model.onnx\n  belljar quarantine release fe2d2eb4"
    )]
    Quarantine {
        #[command(subcommand)]
        command: Quarantine,
    },
    Inspect(Inspect),
    NewPolicy(NewPolicy),
    /// Check, explain, compare, score and format policies
    #[command(
        after_help = "Examples:\n  belljar policy check model.policy.toml\n  belljar policy explain model.policy.toml\n  belljar policy diff approved.toml proposed.toml\n  belljar policy score model.policy.toml --max 20\n  belljar policy fmt --check policies/*.toml\n  belljar policy schema > policy.schema.json"
    )]
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    Bench(Bench),
    /// Show which system calls the kernel allows Belljar's processes
    #[command(
        after_help = "Examples:\n  belljar confine show\n  belljar confine show run\n  belljar confine show run --format json | jq -r '.rules[].call'"
    )]
    Confine {
        #[command(subcommand)]
        command: Confine,
    },
    Ops(Ops),
    Doctor(Doctor),
    /// Compile the sandboxed runner for this machine ahead of time
    #[command(
        after_help = "Examples:\n  belljar warm\n  BELLJAR_CACHE_DIR=/var/cache/belljar belljar warm"
    )]
    Warm,
    /// Print a shell completion script
    #[command(
        after_help = "Examples:\n  belljar completions bash > ~/.local/share/bash-completion/completions/belljar\n  belljar completions fish > ~/.config/fish/completions/belljar.fish"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write the manual pages of all commands to a folder
    #[command(
        after_help = "Examples:\n  belljar man | man -l -\n  belljar man --output ~/.local/share/man/man1"
    )]
    Man {
        /// Write one page for each command to this folder
        #[arg(short, long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// How text is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum TextFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn version_and_verbose_are_accepted_in_either_order() {
        for line in [["belljar", "--version", "--verbose"], ["belljar", "--verbose", "--version"]] {
            let arguments = Arguments::try_parse_from(line).unwrap();
            assert!(arguments.version && arguments.verbose);
        }
    }

    #[test]
    fn help_of_every_command_has_examples() {
        for command in Arguments::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "{}", command.get_name());
        }
    }
}
