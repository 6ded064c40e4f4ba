//! The flags of `belljar inspect`.

use clap::{ArgAction, Args};

use super::{EXIT_CODES, Format, ModelArgs};

/// Describe a model, and check in the sandbox whether it can be prepared
#[derive(Debug, Args)]
#[command(after_help = format!("\
The model is prepared as for a run, but not run. If an input's shape is neither declared nor given,
Belljar assumes sizes, and the verdict is open: it depends on the shapes. The report lists nodes
that can still fail during a run, depending on values: indices, divisors, and sizes computed from
values. If the model is described but its preparation is refused, the exit code is 0. If it cannot
be described, the error and exit code are those of `belljar run`.

Keys of \"preparation\" in the JSON:
  verdict           prepared, refused, or open (depends on the shapes of the inputs)
  shapes, assumed   the shapes it was prepared for, and whether sizes in them were assumed
  prepared          whether it was prepared for these shapes
  error, exit_code  how a run on inputs of these shapes fails, if it was not prepared
  undecided, more   nodes that depend on values: node, operator, missing (values, sizes); whether
                    there are more of them

The key \"dims\" has the name and size of each dimension that --dim fixes; the shapes of inputs and
outputs then have these sizes in place of the names.

If the model cannot be described, the JSON has the keys model (path), preparation (null if the model
is not the cause) and error (text, hint, exit_code). Otherwise error is null.

Examples:
  belljar inspect model.onnx
  belljar inspect model.onnx --input-shape image=1,3,640,480
  belljar inspect text.onnx --dim batch=1 --dim sequence=128
  belljar inspect model.onnx --format json | jq .inputs
  belljar inspect model.onnx --format json | jq -r .preparation.verdict

{EXIT_CODES}"))]
pub(crate) struct Inspect {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// The shape to prepare an input for
    #[arg(short, long = "input-shape", visible_alias = "shape", value_name = "NAME=N,N,…", action = ArgAction::Append)]
    pub(crate) input_shapes: Vec<String>,

    /// Only describe the model, without preparing it
    #[arg(long, conflicts_with = "input_shapes")]
    pub(crate) no_prepare: bool,

    /// How to print the description
    #[arg(short, long, default_value = "table")]
    pub(crate) format: Format,
}
