//! `belljar policy record`: writes the tightest policy that a run needs.
//!
//! The recorded policy must never grant more than the run had: its grants are copied from the
//! policy of --within, or narrowed to a file below one of its grants. Anything else that a program
//! requests is refused and becomes a comment.

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
use super::super::outputs::check_free;
use super::super::terminal::Terminal;
use crate::args::Record;
use belljar::Error;
use belljar_policy::{Policy, canonical};

pub(super) fn record(arguments: &Record, terminal: &Terminal) -> Result<(), Failure> {
    #[cfg(feature = "programs")]
    if super::super::program::is_program(&arguments.model) {
        return program::record(arguments, terminal);
    }
    if !arguments.arguments.is_empty() {
        return Err(Failure::usage("arguments after -- are for guest programs; this is a model"));
    }
    model::record(arguments, terminal)
}

/// The policy of --within, which bounds the recorded run.
fn within(arguments: &Record) -> Result<Policy, Failure> {
    let Some(path) = &arguments.within else { return Ok(Policy::default()) };
    Ok(Policy::load(path).map_err(Error::from)?.policy)
}

/// Parses the recorded policy. Paths are relative to the folder that it will be in, and its models
/// keep the policies they have in `base`.
fn parsed(text: &str, folder: &Path, base: &Policy) -> Result<Policy, Failure> {
    let mut policy = Policy::parse(text, "the recorded policy").map_err(Error::from)?;
    policy.resolve_in(folder);
    for grant in &mut policy.models {
        let same = base.models.iter().find(|same| same.name == grant.name);
        grant.rules = same.and_then(|same| same.rules.clone());
    }
    Ok(policy)
}

/// The text in canonical order.
fn ordered(text: &str) -> Result<String, Failure> {
    Ok(canonical(text, "the recorded policy").map_err(Error::from)?)
}

/// The folder of a policy that is written to `output`, which must not exist yet unless it may be
/// replaced: nothing is measured in vain.
pub(crate) fn folder(output: Option<&Path>, force: bool) -> Result<PathBuf, Failure> {
    let unknown = |err: std::io::Error| Failure::failed(format!("the current folder: {err}"));
    let here = std::env::current_dir().map_err(unknown)?;
    let Some(output) = output else { return Ok(here) };
    check_free(output, force)?;
    let folder = here.join(output.parent().unwrap_or(Path::new("")));
    folder.canonicalize().map_err(|err| Failure::write(output, &err))
}
