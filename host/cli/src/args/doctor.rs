//! The flags of `belljar doctor`.

use clap::Args;

use super::{EXIT_CODES, Format};

/// Report which protection layers work on this machine, and what is lost without the others
#[derive(Debug, Args)]
#[command(after_help = format!("\
Starts a worker of each role, confines it as for a strict policy, and reports which layers are
missing and how long it took. Exit code 0 if strict policies work on this machine, 7 if models under
them are refused. Changes no files and compiles no code.

Keys of the JSON:
  strict            whether strict policies work on this machine
  workers           for each role: strict (as above), ready_ms, namespaces (without-user, with-user,
                    none), missing (layer, why, needed and remedy of each), error
  machine           what, present, found, without (what is lost), needed (by strict policies)

Examples:
  belljar doctor
  belljar doctor --quiet && belljar run model.onnx --input image=photo.npy
  belljar doctor --format json | jq '.workers[].missing[].layer'
  belljar doctor --format json | jq -r '.machine[] | select(.present | not) | .without'

{EXIT_CODES}"))]
pub(crate) struct Doctor {
    /// How to print the findings
    #[arg(short, long, default_value = "table")]
    pub(crate) format: Format,
}
