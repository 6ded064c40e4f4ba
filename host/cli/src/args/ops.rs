//! The flags of `belljar ops`.

use clap::Args;

use super::TextFormat;

/// List the supported operators, with versions, types and attributes
#[derive(Debug, Args)]
#[command(
    after_help = "A model with a node that uses any other operator, version, type, attribute or value is refused, and the error names the node: exit code 4.\n\nExamples:\n  belljar ops\n  belljar ops Resize\n  belljar ops --format json | jq -r '.operators[].name' | sort -u"
)]
pub(crate) struct Ops {
    /// Only this operator; all operators without it
    #[arg(value_name = "OPERATOR")]
    pub(crate) operator: Option<String>,

    /// How to print the table
    #[arg(short, long, default_value = "text")]
    pub(crate) format: TextFormat,
}
