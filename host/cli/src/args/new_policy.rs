//! The flags of `belljar new-policy`.

use std::path::PathBuf;

use clap::Args;

use super::InputArgs;

/// Write a policy that pins a model, with limits fitted to one measured run, or pins a program
#[derive(Debug, Args)]
#[command(after_help = "\
For a model with weights in other files (model.onnx.data), the policy lists the grants that the
model needs as comments, each with the SHA-256 of the file. Limits are then not measured, because no
file is read into a sandbox before it is granted. Uncomment the grants that you accept, and measure
with --policy.

The sizes of inputs that are given as files or with --shape become bounds in the policy, where the
model leaves them open: larger inputs are refused. Repeat an input to measure several runs; sizes
that differ between them become a range, and a size that is the same in all may also be smaller.

Examples:
  belljar new-policy model.onnx --input image=photo.npy --output model.policy.toml
  belljar new-policy text.onnx --input tokens=short.npy --input tokens=long.npy
  belljar new-policy model.onnx --random
  belljar new-policy model.onnx --random --shape image=1,3,640,480
  belljar new-policy large.onnx --random --memory \"4 GiB\"
  belljar new-policy split.onnx --output split.policy.toml
  belljar new-policy split.onnx --policy split.policy.toml --random --output split.policy.toml --force")]
pub(crate) struct NewPolicy {
    /// The ONNX file, or a guest program (which is not run)
    pub(crate) model: PathBuf,

    /// Measure the model under this policy. The new policy keeps its value rules, its settings, and
    /// the file grants that the model needs; limits are measured again
    #[arg(short, long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,

    /// Memory limit of the sandbox during measurement, and the maximum size of the model file.
    /// Default: the limit in --policy, or 1 GiB
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,

    #[command(flatten)]
    pub(crate) inputs: InputArgs,

    /// Write the policy to this file instead of printing it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Allow --output to replace a file
    #[arg(long, requires = "output")]
    pub(crate) force: bool,
}
