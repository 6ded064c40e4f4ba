//! The `belljar` command line. Flags become a plain struct first (`args`); each subcommand turns
//! its own into what it runs with. Nothing here prints text of a model except through
//! [`crate::text::Hostile`], and nothing here decides what a model may do.

mod args;
mod bench;
mod confine;
mod doctor;
mod failure;
mod host;
mod images;
mod inputs;
mod inspect;
mod json;
mod made_up;
mod new_policy;
mod ops;
mod outputs;
mod pages;
mod policy;
mod prepare;
#[cfg(feature = "programs")]
mod program;
mod quarantine;
mod run;
mod table;
mod terminal;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Arguments, Command};
use failure::Failure;
use terminal::Terminal;

/// Runs the program and gives its exit code.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(err) => {
            // Help and versions are answers; a reader that left early is none of our business.
            let answered = !err.use_stderr();
            let _ = err.print();
            return ExitCode::from(if answered { 0 } else { 2 });
        }
    };
    let terminal = Terminal::new(arguments.color, arguments.quiet, arguments.verbose);
    match dispatch(arguments, &terminal) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            terminal.error(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn dispatch(arguments: Arguments, terminal: &Terminal) -> Result<(), Failure> {
    let Some(command) = arguments.command else {
        if arguments.version {
            return pages::version(arguments.verbose);
        }
        let mut command = Arguments::command();
        command.print_help().map_err(Failure::output)?;
        return Ok(());
    };
    match command {
        Command::Run(run) => run::run(&run, terminal),
        Command::Prepare(prepare) => prepare::prepare(&prepare, terminal),
        Command::Images { command } => images::images(&command, terminal),
        Command::Quarantine { command } => quarantine::quarantine(&command, terminal),
        Command::Inspect(inspect) => inspect::inspect(&inspect, terminal),
        Command::NewPolicy(new_policy) => new_policy::new_policy(&new_policy, terminal),
        Command::Policy { command } => policy::policy(&command, terminal),
        Command::Bench(bench) => bench::bench(&bench, terminal),
        Command::Confine { command } => confine::confine(&command),
        Command::Ops(ops) => ops::ops(&ops),
        Command::Doctor(doctor) => doctor::doctor(&doctor),
        Command::Warm => pages::warm(terminal),
        Command::Completions { shell } => pages::completions(shell),
        Command::Man { output } => pages::man(output.as_deref()),
    }
}
