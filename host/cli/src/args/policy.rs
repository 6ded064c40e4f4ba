//! The flags of `belljar policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{InputArgs, TextFormat};

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Check whether policies are valid, and whether the operator's ceiling allows them
    #[command(after_help = "\
Errors show the line, the column and, for an unknown key, the most similar key. Warnings are about
valid policies that allow more than most models need. Exit code 0 if all policies can be used, 3 if
one cannot.

With --unused there is also a warning for each grant that no run in a log of decisions has used
(`belljar run --decisions LOG` writes such a log).

Examples:
  belljar policy check model.policy.toml
  belljar policy check program.policy.toml --unused decisions.jsonl
  belljar policy check --strict policies/*.toml
  belljar policy check model.policy.toml --format json | jq '.files[].findings[].message'")]
    Check {
        /// The policy files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,

        /// Treat warnings, and reductions by a ceiling, as errors
        #[arg(long)]
        strict: bool,

        /// Also warn about grants that no run in this log of decisions has used
        #[arg(long, value_name = "LOG")]
        unused: Option<PathBuf>,

        /// How to print the findings
        #[arg(short, long, default_value = "text")]
        format: TextFormat,
    },
    /// Explain in plain sentences what a policy allows, and what enforces it
    #[command(after_help = "\
The policy may be untrusted: nothing runs under it.

Examples:
  belljar policy explain model.policy.toml
  belljar policy explain model.policy.toml --format json | jq -r '.sentences[].text'")]
    Explain {
        /// The policy file
        #[arg(value_name = "FILE")]
        file: PathBuf,

        /// How to print the sentences
        #[arg(short, long, default_value = "text")]
        format: TextFormat,
    },
    /// Compare two policies; exit code 3 if the second one allows more
    #[command(after_help = "\
A gain is anything that the second policy allows and the first does not: a higher limit, a new
grant, a pin that is removed or changed. A loss is the opposite. Both policies may be untrusted:
nothing runs under them.

Examples:
  belljar policy diff approved.toml proposed.toml
  belljar policy diff approved.toml proposed.toml --format json | jq '.changes[] | select(.kind == \"gain\")'")]
    Diff {
        /// The old policy
        #[arg(value_name = "A")]
        old: PathBuf,

        /// The new policy
        #[arg(value_name = "B")]
        new: PathBuf,

        /// How to print the changes
        #[arg(short, long, default_value = "text")]
        format: TextFormat,
    },
    /// Compute a score for how much a policy exposes
    #[command(after_help = "\
Each thing that a policy allows has a weight; policies/README.md lists them. The score is their sum.
Use it only to compare policies, and to notice when one allows more. The policy may be untrusted.

Examples:
  belljar policy score model.policy.toml
  belljar policy score model.policy.toml --max 20
  belljar policy score model.policy.toml --format json | jq .score")]
    Score {
        /// The policy file
        #[arg(value_name = "FILE")]
        file: PathBuf,

        /// Fail with exit code 3 if the score is greater
        #[arg(long, value_name = "N")]
        max: Option<u32>,

        /// How to print the score
        #[arg(short, long, default_value = "text")]
        format: TextFormat,
    },
    /// Format policies: put tables and keys in canonical order, together with the comments above
    /// them
    #[command(after_help = "\
Examples:
  belljar policy fmt model.policy.toml
  belljar policy fmt --check policies/*.toml")]
    Fmt {
        /// The policy files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,

        /// Change no file; exit code 1 if a file is not in canonical order
        #[arg(long)]
        check: bool,
    },
    Record(Record),
    /// Print the JSON Schema of the policy format, for editors
    #[command(after_help = "\
Examples:
  belljar policy schema > policy.schema.json
  belljar policy schema --ceiling > ceiling.schema.json")]
    Schema {
        /// Print the schema of the operator's ceiling instead
        #[arg(long)]
        ceiling: bool,
    },
}

/// Run a model or a guest program, and write the tightest policy that the run needs
#[derive(Debug, Args)]
#[command(after_help = "\
For a model, the policy records its shapes and element types, and measured limits with a margin.
Repeat an input to record several runs: sizes that differ between them become a range.

A guest program runs with only the grants of --within, or with none. It sees an empty folder at /,
and copies of the folders that it may write to, so that no files on this machine change. It runs up
to eight times, and each run uses what the previous one revealed. The policy grants, file by file,
what the program used of --within. Other requests and risky grants are written as comments, each
with an explanation: write access, whole folders, system files, peers beyond this machine, and
environments. Uncomment those that you accept, and record again with --within that policy.

Exit code 0 if the program succeeds; otherwise that of its failure. The policy is written in both
cases.

Examples:
  belljar policy record model.onnx --input image=photo.npy --output model.policy.toml
  belljar policy record text.onnx --input tokens=short.npy --input tokens=long.npy
  belljar policy record model.onnx --random
  belljar policy record program.wasm --input file=photo.png --output program.policy.toml
  belljar policy record program.wasm --within wide.toml --input file=photo.png -- --verbose")]
pub(crate) struct Record {
    /// The ONNX file, or a guest program
    pub(crate) model: PathBuf,

    #[command(flatten)]
    pub(crate) inputs: InputArgs,

    /// The most that the recorded run may use; the new policy omits what the run does not need
    #[arg(long, value_name = "POLICY")]
    pub(crate) within: Option<PathBuf>,

    /// Write the policy to this file instead of printing it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Allow --output to replace a file
    #[arg(long, requires = "output")]
    pub(crate) force: bool,

    /// Arguments for a guest program
    #[arg(last = true, value_name = "ARGUMENT")]
    pub(crate) arguments: Vec<String>,
}
