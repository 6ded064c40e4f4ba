//! The flags of `belljar quarantine`.

use clap::Subcommand;

use super::Format;

#[derive(Debug, Subcommand)]
pub(crate) enum Quarantine {
    /// List the models that are refused, and how their last worker died
    #[command(
        after_help = "Examples:\n  belljar quarantine list\n  belljar quarantine list --format json | jq '.[].why'"
    )]
    List {
        /// How to print the list
        #[arg(short, long, default_value = "table")]
        format: Format,
    },
    /// Allow models to run again, and reset the death counts of their workers
    #[command(
        after_help = "A model whose workers die may have broken out of its sandbox: investigate before you release it.\n\nExamples:\n  belljar quarantine release model.onnx\n  belljar quarantine release fe2d2eb49c5f"
    )]
    Release {
        /// The model's file, its name as `list` shows it, or its SHA-256 (at least 8 digits)
        #[arg(required = true, value_name = "DIGEST|MODEL")]
        models: Vec<String>,
    },
}
