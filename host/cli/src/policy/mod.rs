//! `belljar policy`: checks, explains, compares, scores, formats and records policies. Only
//! `record` runs a model, and only `check` decides whether a policy can be used: the other commands
//! also accept untrusted files.

mod check;
mod diff;
mod explain;
mod fmt;
pub(super) mod record;
mod score;
mod unused;
mod warnings;

use std::io::{BufWriter, Write, stdout};
use std::path::Path;

use super::args::PolicyCommand;
use super::failure::Failure;
use super::json;
use super::terminal::Terminal;
use belljar::Error;
use belljar_policy::{LoadedPolicy, Policy, ceiling_schema, policy_schema};

pub(super) fn policy(command: &PolicyCommand, terminal: &Terminal) -> Result<(), Failure> {
    match command {
        PolicyCommand::Check { files, strict, unused, format } => {
            check::check(files, *strict, unused.as_deref(), *format)
        }
        PolicyCommand::Explain { file, format } => explain::explain(file, *format),
        PolicyCommand::Diff { old, new, format } => diff::diff(old, new, *format),
        PolicyCommand::Score { file, max, format } => score::score(file, *max, *format),
        PolicyCommand::Fmt { files, check } => fmt::fmt(files, *check),
        PolicyCommand::Record(arguments) => record::record(arguments, terminal),
        PolicyCommand::Schema { ceiling } => {
            let schema = if *ceiling { ceiling_schema() } else { policy_schema() };
            json::print(&schema, stdout().lock()).map_err(Failure::output)
        }
    }
}

/// Reads a policy that may be untrusted, for display only.
fn review(path: &Path) -> Result<LoadedPolicy, Failure> {
    Ok(Policy::read_for_review(path).map_err(Error::from)?)
}

/// Prints the result.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = BufWriter::new(stdout().lock());
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::output)
}
