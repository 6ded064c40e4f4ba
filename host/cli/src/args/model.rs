//! Which model is used, under which policy, and with which inputs: flags that several commands
//! share.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

use super::pictures::PictureArgs;

/// What isolates the sandbox from the rest of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IsolationArg {
    /// A separate, confined worker process
    Process,
    /// A thread of this process: an escape from WebAssembly reaches this process
    Thread,
}

/// The model and what it may do.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// The ONNX file; `belljar run` also accepts a guest program
    pub(crate) model: PathBuf,

    /// The policy file; without one, the model gets no grants and the default limits. Belljar never
    /// searches for a policy next to the model
    #[arg(short, long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,

    /// Refuse a policy that exceeds the operator's ceiling, instead of reducing it to the ceiling
    #[arg(long)]
    pub(crate) strict_policy: bool,

    /// Append each decision (what was allowed or refused, and why) to this file as a line of JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) decisions: Option<PathBuf>,

    /// Fix the named dimension of the model's inputs to the size N: inputs must have this size, and
    /// the model is prepared for it alone. Repeat it for other dimensions; `belljar inspect` shows
    /// the names
    #[arg(long = "dim", value_name = "NAME=N", action = ArgAction::Append)]
    pub(crate) dims: Vec<String>,

    /// What isolates the sandbox
    #[arg(long, value_name = "KIND", default_value = "process")]
    pub(crate) isolation: IsolationArg,
}

/// The inputs of a measured run.
#[derive(Debug, Args)]
pub(crate) struct InputArgs {
    /// An input of the measured run, as in `belljar run`. `new-policy` and `policy record` measure
    /// several runs if inputs are repeated: the first file of each input makes the first run, the
    /// second file the second. An input that is given once has it in all runs
    #[arg(short, long = "input", value_name = "[NAME=]FILE", action = ArgAction::Append)]
    pub(crate) inputs: Vec<OsString>,

    /// Generate the inputs that are not given: random numbers and empty strings. Dimensions that
    /// the model does not fix are 1 unless --shape or --dim sets them
    #[arg(long)]
    pub(crate) random: bool,

    /// The shape of a generated input; repeated like --input
    #[arg(
        long = "shape",
        visible_alias = "input-shape",
        value_name = "NAME=N,N,…",
        requires = "random"
    )]
    pub(crate) shapes: Vec<String>,

    #[command(flatten)]
    pub(crate) pictures: Box<PictureArgs>,
}
