//! `belljar policy record`: the tightest policy that a run needs.
//!
//! What is written down can only be less than what the run had: grants are taken from the policy it
//! ran within, or narrowed to a file below one of them. What a program says it wants beyond that
//! becomes a comment, and nothing is opened for it.

mod model;
#[cfg(feature = "programs")]
mod observed;
#[cfg(feature = "programs")]
mod program;
#[cfg(feature = "programs")]
mod scratch;
#[cfg(feature = "programs")]
mod write;

use std::path::{Path, PathBuf};

use super::super::failure::Failure;
use super::super::terminal::Terminal;
use super::args::Record;
use belljar::Error;
use belljar_policy::{Policy, canonical};

pub(super) fn record(arguments: &Record, terminal: &Terminal) -> Result<(), Failure> {
    #[cfg(feature = "programs")]
    if super::super::program::is_program(&arguments.model) {
        return program::record(arguments, terminal);
    }
    if !arguments.arguments.is_empty() {
        return Err(Failure::usage("a model takes no arguments: they are for guest programs"));
    }
    model::record(arguments, terminal)
}

/// What may be granted while it is recorded.
fn within(arguments: &Record) -> Result<Policy, Failure> {
    let Some(path) = &arguments.within else { return Ok(Policy::default()) };
    Ok(Policy::load(path).map_err(Error::from)?.policy)
}

/// The policy that a text is, with paths as they are meant where it will lie. Policies of its models
/// are those of the policy that it came from.
fn parsed(text: &str, folder: &Path, base: &Policy) -> Result<Policy, Failure> {
    let mut policy = Policy::parse(text, "what was recorded").map_err(Error::from)?;
    policy.resolve_in(folder);
    for grant in &mut policy.models {
        let same = base.models.iter().find(|same| same.name == grant.name);
        grant.rules = same.and_then(|same| same.rules.clone());
    }
    Ok(policy)
}

/// The text in the order of the format.
fn ordered(text: &str) -> Result<String, Failure> {
    Ok(canonical(text, "what was recorded").map_err(Error::from)?)
}

/// The folder in which a policy that is written to `output` will lie.
pub(crate) fn folder(output: Option<&Path>) -> Result<PathBuf, Failure> {
    let unknown = |err: std::io::Error| Failure::failed(format!("this folder: {err}"));
    let here = std::env::current_dir().map_err(unknown)?;
    let Some(output) = output else { return Ok(here) };
    let folder = here.join(output.parent().unwrap_or(Path::new("")));
    folder.canonicalize().map_err(|err| Failure::write(output, &err))
}
