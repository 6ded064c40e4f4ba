//! The `belljar` program. Flags are first parsed into a plain struct (`args`); each subcommand
//! then resolves its own. This module must never print text from a model except through
//! [`belljar_text::Escaped`], and must never decide what a model may do.
#![forbid(unsafe_code)]

mod args;
mod bench;
mod confine;
mod dims;
mod doctor;
mod failure;
mod host;
mod inputs;
mod inspect;
mod json;
mod limit;
mod new_policy;
mod ops;
mod outputs;
mod pages;
mod policy;
mod preparation;
mod prepare;
#[cfg(feature = "programs")]
mod program;
mod quarantine;
mod random_inputs;
mod run;
mod snapshots;
mod table;
mod terminal;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Arguments, Command};
use failure::Failure;
use terminal::Terminal;

fn main() -> ExitCode {
    belljar::become_worker_if_asked();
    belljar_confine::file_size::ignore_signal();
    // Without a standard output nobody would get the answer.
    let closed = || match belljar_confine::stdout::was_closed() {
        true => Err(Failure::output(rustix::io::Errno::BADF.into())),
        false => Ok(()),
    };
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(err) if err.use_stderr() => {
            // If standard error is closed, the error cannot be reported.
            let _ = err.print();
            return ExitCode::from(2);
        }
        // Help is a result: it must be printed in full for exit code 0.
        Err(err) => {
            let printed = closed().and_then(|()| err.print().map_err(Failure::output));
            return end(printed, &Terminal::new(args::When::Auto, false, false));
        }
    };
    let terminal = Terminal::new(arguments.color, arguments.quiet, arguments.verbose);
    end(closed().and_then(|()| dispatch(arguments, &terminal)), &terminal)
}

/// The exit code for the result of a command.
fn end(result: Result<(), Failure>, terminal: &Terminal) -> ExitCode {
    let all_printed = || match terminal.lost() {
        Some(err) => Err(err),
        None => std::io::stdout().flush(),
    };
    match result.and_then(|()| all_printed().map_err(Failure::output)) {
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
        Command::Prepare(prepare) => prepare::prepare(&prepare, terminal)
            .map_err(|failure| failure.under(prepare.model.policy.as_deref())),
        Command::Snapshots { command } => snapshots::snapshots(&command, terminal),
        Command::Quarantine { command } => quarantine::quarantine(&command, terminal),
        Command::Inspect(inspect) => inspect::inspect(&inspect, terminal),
        Command::NewPolicy(new_policy) => new_policy::new_policy(&new_policy, terminal),
        Command::Policy { command } => policy::policy(&command, terminal),
        Command::Bench(bench) => bench::bench(&bench, terminal)
            .map_err(|failure| failure.under(bench.model.policy.as_deref())),
        Command::Confine { command } => confine::confine(&command),
        Command::Ops(ops) => ops::ops(&ops),
        Command::Doctor(doctor) => doctor::doctor(&doctor),
        Command::Warm => pages::warm(terminal),
        Command::Completions { shell } => pages::completions(shell),
        Command::Man { output } => pages::man(output.as_deref()),
    }
}
