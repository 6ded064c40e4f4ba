//! The flags: help, completions and manual pages are all made from these definitions.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use super::policy::args::PolicyCommand;

/// What every exit code means; part of the help and of the manual.
const EXIT_CODES: &str = "\
Exit codes:
  0  answered
  1  anything else
  2  usage: flags, unreadable or malformed files
  3  refused by policy
  4  the model or an input is not acceptable
  5  a limit was hit: time, memory, stack, sizes
  6  the sandbox trapped or panicked while running, or its process died
  7  a protection could not be installed";

const EXAMPLES: &str = "\
Examples:
  belljar run model.onnx --input image=photo.npy
  belljar inspect model.onnx
  belljar new-policy model.onnx --random --output model.policy.toml
  belljar prepare model.onnx --policy model.policy.toml
  belljar run model.onnx --policy model.policy.toml --input image=photo.npy --format json";

/// Runs ONNX models nobody has to trust: each inside its own WebAssembly sandbox.
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

    /// Print the version; with --verbose also that of the embedded guest, its digest and compiler
    #[arg(short = 'V', long)]
    pub(super) version: bool,

    /// Say more: what the sandboxed runner logs, and what else is otherwise left out
    #[arg(short, long, global = true)]
    pub(super) verbose: bool,

    /// Print nothing but the answer and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,

    /// When to colour messages; NO_COLOR is honoured
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(super) color: When,
}

/// When to colour.
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
    /// Look after the store of prepared models
    #[command(
        after_help = "Examples:\n  belljar images list\n  belljar images prune --older-than \"720 h\"\n  belljar images verify --remove"
    )]
    Images {
        #[command(subcommand)]
        command: Images,
    },
    /// Look after models that are refused because their worker processes kept dying
    #[command(
        after_help = "Examples:\n  belljar quarantine list\n  belljar quarantine list --format json | jq '.[].sha256'\n  belljar quarantine release model.onnx\n  belljar quarantine release fe2d2eb4"
    )]
    Quarantine {
        #[command(subcommand)]
        command: Quarantine,
    },
    Inspect(Inspect),
    NewPolicy(NewPolicy),
    /// Check, explain, compare, weigh and order policies
    #[command(
        after_help = "Examples:\n  belljar policy check model.policy.toml\n  belljar policy explain model.policy.toml\n  belljar policy diff approved.toml proposed.toml\n  belljar policy score model.policy.toml --max 20\n  belljar policy fmt --check policies/*.toml\n  belljar policy schema > policy.schema.json"
    )]
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    Bench(Bench),
    /// Show what the kernel lets the processes around models do
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
    /// Print a script that completes this command line
    #[command(
        after_help = "Examples:\n  belljar completions bash > ~/.local/share/bash-completion/completions/belljar\n  belljar completions fish > ~/.config/fish/completions/belljar.fish"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write all of them into a folder
    #[command(
        after_help = "Examples:\n  belljar man | man -l -\n  belljar man --output ~/.local/share/man/man1"
    )]
    Man {
        /// Folder to write one page for each command to
        #[arg(short, long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// What stands around the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum IsolationArg {
    /// A worker process of its own
    Process,
    /// A thread of this process: whoever escapes from WebAssembly is in it
    Thread,
}

/// The model and what it may do.
#[derive(Debug, Args)]
pub(super) struct ModelArgs {
    /// The ONNX file; for `belljar run` also a guest program
    pub(super) model: PathBuf,

    /// The policy to run it under; without one it gets no rights and the default limits. A policy
    /// is never looked for beside the model
    #[arg(short, long, value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,

    /// Refuse a policy that asks for more than the operator's ceiling allows, instead of cutting it
    #[arg(long)]
    pub(super) strict_policy: bool,

    /// Append every decision to this file, a line of JSON each: what was allowed or refused, and why
    #[arg(long, value_name = "FILE")]
    pub(super) decisions: Option<PathBuf>,

    /// What stands around the sandbox
    #[arg(long, value_name = "KIND", default_value = "process")]
    pub(super) isolation: IsolationArg,
}

/// Run a model, or a guest program, on inputs and print its answer
#[derive(Debug, Args)]
#[command(after_help = format!("\
Inputs are .npy, .npz or .json files, or - for standard input; what is in them decides, not their
name. A .npz without NAME= holds several inputs by their names. JSON is [[1, 2], [3, 4]] or
{{\"dtype\": \"f32\", \"shape\": [2, 2], \"data\": [1, 2, 3, 4]}}, or an object of those by name.

A guest program (a WASI 0.2 component) runs under a policy with a [program] table, and takes inputs as
NAME=FILE: .npy, .npz and .json files are tensors, others the bytes that they are; NAME=text:TEXT is
a text, NAME=bytes:FILE the bytes of any file.

Examples:
  belljar run model.onnx --input photo.npy
  belljar run model.onnx --input image=photo.npy --labels classes.txt --top 3
  echo '[[1, 2, 3]]' | belljar run model.onnx --input x=- --format json
  belljar run model.onnx --input all.npz --output answer.npz --time
  belljar run program.wasm --policy program.policy.toml --input file=photo.png

{EXIT_CODES}"))]
pub(super) struct Run {
    #[command(flatten)]
    pub(super) model: ModelArgs,

    /// An input: NAME=FILE, or just FILE if the model has one input or the file has the names
    #[arg(short, long = "input", value_name = "[NAME=]FILE", action = ArgAction::Append)]
    pub(super) inputs: Vec<OsString>,

    /// Write the outputs: to a .npz or .json file, or as .npy files into a folder
    #[arg(short, long, value_name = "FILE|DIR")]
    pub(super) output: Option<PathBuf>,

    /// Let --output replace files
    #[arg(long, requires = "output")]
    pub(super) force: bool,

    /// How to print the answer
    #[arg(short, long, default_value = "table")]
    pub(super) format: Format,

    /// Put all elements of the outputs into the JSON, not only the summary
    #[arg(long)]
    pub(super) data: bool,

    /// Names of the classes, one a line, for indices along the last axis
    #[arg(short, long, value_name = "FILE")]
    pub(super) labels: Option<PathBuf>,

    /// How many of the largest values to print
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(super) top: usize,

    /// Print where the time went
    #[arg(short, long)]
    pub(super) time: bool,

    /// Prepare the model afresh, and do not keep it prepared for the next time
    #[arg(long)]
    pub(super) no_store: bool,

    /// Arguments for a guest program, which reach it if its policy says so
    #[arg(last = true, value_name = "ARGUMENT")]
    pub(super) arguments: Vec<String>,
}

/// Prepare a model ahead of its runs, which then start at once
#[derive(Debug, Args)]
#[command(after_help = format!("\
Each image is the memory of a sandbox that has prepared the model for one shape of each input. An
input whose dimensions are all fixed needs no --input-shape. Give the shape of an input several
times for several images; the first shapes of all inputs belong together, then the second ones.

Images are kept in $BELLJAR_CACHE_DIR/images, the lately used ones, as many of each model as its
policy says (limits.images) and in all no more than $BELLJAR_STORE_SIZE (2 GiB).

Examples:
  belljar prepare model.onnx
  belljar prepare model.onnx --input-shape image=1,3,640,480
  belljar prepare model.onnx --input-shape image=1,3,224,224 --input-shape image=8,3,224,224
  belljar prepare model.onnx --policy model.policy.toml --format json

{EXIT_CODES}"))]
pub(super) struct Prepare {
    #[command(flatten)]
    pub(super) model: ModelArgs,

    /// The shape of an input
    #[arg(short, long = "input-shape", value_name = "NAME=N,N,…", action = ArgAction::Append)]
    pub(super) input_shapes: Vec<String>,

    /// How to print what was done
    #[arg(short, long, default_value = "table")]
    pub(super) format: Format,
}

#[derive(Debug, Subcommand)]
pub(super) enum Images {
    /// List what is stored
    #[command(
        after_help = "Examples:\n  belljar images list\n  belljar images list --format json | jq '.[].path'"
    )]
    List {
        /// How to print the list
        #[arg(short, long, default_value = "table")]
        format: Format,
    },
    /// Remove what is stored: everything, or what the flags say
    #[command(
        after_help = "Examples:\n  belljar images prune\n  belljar images prune --model model.onnx\n  belljar images prune --older-than \"720 h\"\n  belljar images prune --max-size \"500 MiB\""
    )]
    Prune {
        /// Only of this model: the name of its file, or the start of its SHA-256
        #[arg(short, long, value_name = "MODEL")]
        model: Option<String>,

        /// Only what was not used for this long
        #[arg(long, value_name = "DURATION")]
        older_than: Option<String>,

        /// Only so much that no more than this is left, the longest unused first
        #[arg(long, value_name = "SIZE")]
        max_size: Option<String>,

        /// How to print what was removed
        #[arg(short, long, default_value = "table")]
        format: Format,
    },
    /// Hold everything that is stored against its seal; exit code 1 if something is not as it was
    #[command(
        after_help = "Examples:\n  belljar images verify\n  belljar images verify --remove --format json"
    )]
    Verify {
        /// Remove what is bad; the exit code still tells that there was something
        #[arg(long)]
        remove: bool,

        /// How to print the findings
        #[arg(short, long, default_value = "table")]
        format: Format,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Confine {
    /// Print in words the filter of system calls of a role; without one, the roles
    #[command(
        after_help = "Examples:\n  belljar confine show\n  belljar confine show prepare\n  belljar confine show run --format json | jq -r '.rules[].call'"
    )]
    Show {
        /// Whose filter
        role: Option<RoleArg>,

        /// How to print it
        #[arg(short, long, default_value = "text")]
        format: TextFormat,
    },
}

/// Who has a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum RoleArg {
    /// The process that compiles the sandboxed runner
    Compile,
    /// The process that reads and prepares a model
    Prepare,
    /// The process that runs what was prepared
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
    /// A sandbox on a thread, without a process of its own
    Thread,
}

/// How text is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum TextFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Quarantine {
    /// List the models that are refused, and how their last worker died
    #[command(
        after_help = "Examples:\n  belljar quarantine list\n  belljar quarantine list --format json | jq '.[].why'"
    )]
    List {
        /// How to print the list
        #[arg(short, long, default_value = "table")]
        format: Format,
    },
    /// Let models run again, and forget the deaths of their workers
    #[command(
        after_help = "A model whose workers die is a model that may have broken out of its sandbox: look into it first.\n\nExamples:\n  belljar quarantine release model.onnx\n  belljar quarantine release fe2d2eb49c5f"
    )]
    Release {
        /// The model's file, its name as `list` shows it, or its SHA-256 or the start of that
        #[arg(required = true, value_name = "DIGEST|MODEL")]
        models: Vec<String>,
    },
}

/// Say what this machine offers: which layers can stand around a model, and what is lost without
#[derive(Debug, Args)]
#[command(after_help = format!("\
Starts a worker of each role, has it confined as for a strict policy, and says what it lacks and how
long it took. Exit code 0 if a strict policy can be served here, 7 if a model under one would be
refused. Nothing is changed, and nothing compiled.

Keys of the JSON:
  strict            whether a strict policy can be served
  workers           for each role: strict (as above), ready_ms, namespaces (without-user, with-user,
                    none), missing (layer, why, needed and remedy of each), error
  machine           what, present, found, without (what is lost), needed (by strict policies)

Examples:
  belljar doctor
  belljar doctor --quiet && belljar run model.onnx --input image=photo.npy
  belljar doctor --format json | jq '.workers[].missing[].layer'
  belljar doctor --format json | jq -r '.machine[] | select(.present | not) | .without'

{EXIT_CODES}"))]
pub(super) struct Doctor {
    /// How to print the findings
    #[arg(short, long, default_value = "table")]
    pub(super) format: Format,
}

/// List the operators that are computed, with versions, types and attributes
#[derive(Debug, Args)]
#[command(
    after_help = "A node with another operator, version, type, attribute or value is refused, by name: exit code 4.\n\nExamples:\n  belljar ops\n  belljar ops Resize\n  belljar ops --format json | jq -r '.operators[].name' | sort -u"
)]
pub(super) struct Ops {
    /// One operator; all without it
    #[arg(value_name = "OPERATOR")]
    pub(super) operator: Option<String>,

    /// How to print the table
    #[arg(short, long, default_value = "text")]
    pub(super) format: TextFormat,
}

/// Say what a model is, as read inside the sandbox
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  belljar inspect model.onnx\n  belljar inspect model.onnx --format json | jq .inputs"
)]
pub(super) struct Inspect {
    #[command(flatten)]
    pub(super) model: ModelArgs,

    /// How to print the description
    #[arg(short, long, default_value = "table")]
    pub(super) format: Format,
}

/// The inputs of a measured run.
#[derive(Debug, Args)]
pub(super) struct InputArgs {
    /// An input of the measured run, as in `belljar run`
    #[arg(short, long = "input", value_name = "[NAME=]FILE", action = ArgAction::Append)]
    pub(super) inputs: Vec<OsString>,

    /// Make up the inputs that are not given: random numbers, strings empty; dimensions that the
    /// model leaves open are 1 unless --shape gives them
    #[arg(long)]
    pub(super) random: bool,

    /// The shape of a made-up input
    #[arg(long = "shape", value_name = "NAME=N,N,…", requires = "random")]
    pub(super) shapes: Vec<String>,
}

/// Write a starting policy: the model pinned, limits fitted to one measured run; or a program pinned
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  belljar new-policy model.onnx --input image=photo.npy --output model.policy.toml\n  belljar new-policy model.onnx --random\n  belljar new-policy model.onnx --random --shape image=1,3,640,480"
)]
pub(super) struct NewPolicy {
    /// The ONNX file, or a guest program, which is not run
    pub(super) model: PathBuf,

    #[command(flatten)]
    pub(super) inputs: InputArgs,

    /// Where to write the policy, instead of printing it
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,

    /// Let --output replace a file
    #[arg(long, requires = "output")]
    pub(super) force: bool,
}

/// Measure a model: latency, start-up, memory, throughput
#[derive(Debug, Args)]
#[command(after_help = format!("\
First, requests one at a time, each sent once the memory of the one before is pristine again: a warm
run, as its client waits for it. Then as many requests as are measured in the first part, from
--concurrency clients that each send the next one as soon as they have an answer: the sustained rate,
which includes all resets. Runs that warm up are not counted. Percentiles are of nearest rank.

Keys of the JSON, of which p50, p90, p95, p99, min, max and mean are called percentiles:
  start_ms          from the model's file to its first answer, in ms; compiled code is in the cache
  start             its parts: code_ms, read_ms, load_ms, prepare_ms, first_run_ms
  warm_ms           a warm run from tensors to checked tensors, in ms: percentiles
  instantiate_us    to make the instance of a request after the one before, in µs, not in warm_ms:
                    percentiles
  reset_ms          to make memory pristine after a request, in ms, not in warm_ms: percentiles
  reset_method      written-pages or new-mapping
  share             parts of a warm run and its reset, together 1: kernels (native kernels), guest
                    (WebAssembly outside of them), crossing (everything else), reset
  sustained         per_second, requests answered in a second; latency_ms, percentiles in ms of
                    what a client waits for at this rate
  rss_bytes         resident memory (RSS) of this process and its workers after that, in bytes;
                    pages that processes share count in each of them; null if it cannot be read
  pss_bytes         the same as PSS: a shared page counts once; null where the kernel denies it
  workers           worker processes in these two
  linear_memory_bytes  the largest that a sandbox's own memory was
  model, policy, isolation, iterations, warm_up, concurrency, inputs: what was measured

Examples:
  belljar bench model.onnx --random
  belljar bench model.onnx --input image=photo.npy --policy model.policy.toml --iterations 1000
  belljar bench model.onnx --random --shape image=8,3,224,224 --concurrency 4
  belljar bench model.onnx --random --format json | jq .warm_ms.p95

{EXIT_CODES}"))]
pub(super) struct Bench {
    #[command(flatten)]
    pub(super) model: ModelArgs,

    #[command(flatten)]
    pub(super) inputs: InputArgs,

    /// Requests that are measured in each of the two parts
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) iterations: u32,

    /// Clients that send requests at the same time, each served by a sandbox of its own
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) concurrency: u16,

    /// How to print the figures
    #[arg(short, long, default_value = "table")]
    pub(super) format: Format,
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
    fn version_and_verbose_go_in_either_order() {
        for line in [["belljar", "--version", "--verbose"], ["belljar", "--verbose", "--version"]] {
            let arguments = Arguments::try_parse_from(line).unwrap();
            assert!(arguments.version && arguments.verbose);
        }
    }

    #[test]
    fn every_command_teaches_by_example() {
        for command in Arguments::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "{}", command.get_name());
        }
    }
}
