//! The flags of `belljar snapshots`.

use clap::Subcommand;

use super::Format;

#[derive(Debug, Subcommand)]
pub(crate) enum Snapshots {
    /// List the stored snapshots
    #[command(
        after_help = "Examples:\n  belljar snapshots list\n  belljar snapshots list --format json | jq '.[].path'"
    )]
    List {
        /// How to print the list
        #[arg(short, long, default_value = "table")]
        format: Format,
    },
    /// Remove stored snapshots: all, or those that the flags select
    #[command(
        after_help = "Examples:\n  belljar snapshots prune\n  belljar snapshots prune --model model.onnx\n  belljar snapshots prune --older-than \"720 h\"\n  belljar snapshots prune --max-size \"500 MiB\""
    )]
    Prune {
        /// Only snapshots of this model: its file name, or the start of its SHA-256
        #[arg(short, long, value_name = "MODEL")]
        model: Option<String>,

        /// Only snapshots that were not used for this long
        #[arg(long, value_name = "DURATION")]
        older_than: Option<String>,

        /// Remove the least recently used snapshots until the rest is no larger than this
        #[arg(long, value_name = "SIZE")]
        max_size: Option<String>,

        /// How to print the list of removed snapshots
        #[arg(short, long, default_value = "table")]
        format: Format,
    },
    /// Check the seal of every stored file; exit code 1 if a file was changed
    #[command(
        after_help = "Examples:\n  belljar snapshots verify\n  belljar snapshots verify --remove --format json"
    )]
    Verify {
        /// Remove changed files; the exit code is still 1 if there was one
        #[arg(long)]
        remove: bool,

        /// How to print the findings
        #[arg(short, long, default_value = "table")]
        format: Format,
    },
}
