//! The `belljar` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    belljar::become_worker_if_asked();
    belljar::cli::main()
}
