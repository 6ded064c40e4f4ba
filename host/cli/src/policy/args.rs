//! The flags of `belljar policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::args::{InputArgs, TextFormat};

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Say whether policies are good: as `belljar run` reads them, and against the operator's ceiling
    #[command(after_help = "\
Errors have the line, the column, and the key that was probably meant. Warnings are about policies
that hold, and allow more than most need. Exit code 0 if every policy can be used, 3 if one cannot.

With --unused there is also a warning for each grant that no run in a log of decisions has used
(`belljar run --decisions LOG` makes one).

Examples:
  belljar policy check model.policy.toml
  belljar policy check program.policy.toml --unused decisions.jsonl
  belljar policy check --strict policies/*.toml
  belljar policy check model.policy.toml --format json | jq '.files[].findings[].message'")]
    Check {
        /// The policy files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,

        /// Warnings, and what a ceiling would cut, count as errors
        #[arg(long)]
        strict: bool,

        /// Warn of grants, too, that no run in this log of decisions has used
        #[arg(long, value_name = "LOG")]
        unused: Option<PathBuf>,

        /// How to print the findings
        #[arg(short, long, default_value = "text")]
        format: TextFormat,
    },
    /// Say in plain sentences what a policy allows, and what enforces each
    #[command(after_help = "\
The file may be anybody's: nothing is run under it.

Examples:
  belljar policy explain model.policy.toml
  belljar policy explain model.policy.toml --format json | jq -r '.sentences[].text'")]
    Explain {
        /// The policy file
        #[arg(value_name = "FILE")]
        file: PathBuf,

        /// How to print it
        #[arg(short, long, default_value = "text")]
        format: TextFormat,
    },
    /// Say what the second of two policies allows more, and what less; exit code 3 if it allows more
    #[command(after_help = "\
A gain is whatever the second policy allows and the first does not: a greater limit, a grant, a pin
that is dropped or names another file. The files may be anybody's.

Examples:
  belljar policy diff approved.toml proposed.toml
  belljar policy diff approved.toml proposed.toml --format json | jq '.changes[] | select(.kind == \"gain\")'")]
    Diff {
        /// The policy that there was
        #[arg(value_name = "A")]
        old: PathBuf,

        /// The policy that there is to be
        #[arg(value_name = "B")]
        new: PathBuf,

        /// How to print the changes
        #[arg(short, long, default_value = "text")]
        format: TextFormat,
    },
    /// Add up how much a policy exposes
    #[command(after_help = "\
Each thing that a policy allows has a weight; policies/README.md lists them. The sum has no meaning
but to compare policies, and to notice when one grows. The file may be anybody's.

Examples:
  belljar policy score model.policy.toml
  belljar policy score model.policy.toml --max 20
  belljar policy score model.policy.toml --format json | jq .score")]
    Score {
        /// The policy file
        #[arg(value_name = "FILE")]
        file: PathBuf,

        /// Exit code 3 if the sum is greater
        #[arg(long, value_name = "N")]
        max: Option<u32>,

        /// How to print it
        #[arg(short, long, default_value = "text")]
        format: TextFormat,
    },
    /// Put tables and keys in the order of the format; comments stay with what they stand above
    #[command(after_help = "\
Examples:
  belljar policy fmt model.policy.toml
  belljar policy fmt --check policies/*.toml")]
    Fmt {
        /// The policy files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,

        /// Change nothing; exit code 1 if a file is in another order
        #[arg(long)]
        check: bool,
    },
    Record(Record),
    /// Print the JSON Schema of the format, for editors
    #[command(after_help = "\
Examples:
  belljar policy schema > policy.schema.json
  belljar policy schema --ceiling > ceiling.schema.json")]
    Schema {
        /// That of the operator's ceiling instead
        #[arg(long)]
        ceiling: bool,
    },
}

/// Run a model or a guest program, and write the tightest policy that the run needs
#[derive(Debug, Args)]
#[command(after_help = "\
A model: its shapes, element types and sizes are written down, and limits measured with room to spare.

A guest program runs with what --within grants and nothing else; without it, with nothing. It sees an
empty folder of its own at /, and copies of the folders that it may write to, so that nothing on this
machine is changed. It is run again with what was learnt from the run before, a few times at most. What
it has used of --within is granted in the answer, file by file. What it has asked for beyond that, and
grants that are risky, stand there as comments, each with a sentence: write access, whole folders, files
of the system, peers beyond this machine, and environments. Take the # away from those that you accept,
and record again within that policy.

Exit code 0 if it has answered; else what it failed of, and the policy is written all the same.

Examples:
  belljar policy record model.onnx --input image=photo.npy --output model.policy.toml
  belljar policy record model.onnx --random
  belljar policy record program.wasm --input file=photo.png --output program.policy.toml
  belljar policy record program.wasm --within wide.toml --input file=photo.png -- --verbose")]
pub(crate) struct Record {
    /// The ONNX file, or a guest program
    pub(crate) model: PathBuf,

    #[command(flatten)]
    pub(crate) inputs: InputArgs,

    /// A policy that bounds what is granted while it is recorded; what it grants and the run does not
    /// need is left out
    #[arg(long, value_name = "POLICY")]
    pub(crate) within: Option<PathBuf>,

    /// Where to write the policy, instead of printing it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Let --output replace a file
    #[arg(long, requires = "output")]
    pub(crate) force: bool,

    /// Arguments for a guest program
    #[arg(last = true, value_name = "ARGUMENT")]
    pub(crate) arguments: Vec<String>,
}
