//! The flags of `belljar prepare`.

use clap::{ArgAction, Args};

use super::{EXIT_CODES, Format, ModelArgs};

/// Prepare a model and store snapshots, so that later runs start faster
#[derive(Debug, Args)]
#[command(after_help = format!("\
A snapshot is the memory of a sandbox that has prepared the model for one shape of each input. An
input whose dimensions are all fixed, by the model or by --dim, needs no --input-shape. Repeat --input-shape for several
snapshots: the first shapes of all inputs make the first snapshot, the second shapes the second.

Snapshots are stored in $BELLJAR_CACHE_DIR/snapshots. The least recently used ones are removed when
a model has more than its policy allows (limits.snapshots), or when all of them together exceed
$BELLJAR_STORE_SIZE (2 GiB).

Examples:
  belljar prepare model.onnx
  belljar prepare model.onnx --input-shape image=1,3,640,480
  belljar prepare text.onnx --dim batch=1 --dim sequence=128
  belljar prepare model.onnx --input-shape image=1,3,224,224 --input-shape image=8,3,224,224
  belljar prepare model.onnx --policy model.policy.toml --format json

{EXIT_CODES}"))]
pub(crate) struct Prepare {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// The shape to prepare an input for
    #[arg(short, long = "input-shape", visible_alias = "shape", value_name = "NAME=N,N,…", action = ArgAction::Append)]
    pub(crate) input_shapes: Vec<String>,

    /// How to print the result
    #[arg(short, long, default_value = "table")]
    pub(crate) format: Format,
}
