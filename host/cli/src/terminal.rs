//! Messages on standard error: errors, warnings, notes and, on a terminal, a progress line for work
//! that takes longer than a second.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};

use super::args::When;
use super::failure::Failure;

/// How messages are printed.
#[derive(Clone)]
pub(super) struct Terminal {
    color: bool,
    quiet: bool,
    verbose: bool,
    watched: bool,
    /// Whether standard output must hold only one JSON text.
    json: bool,
    /// The first error of printing a guest program's output.
    lost: Arc<Mutex<Option<io::Error>>>,
}

impl Terminal {
    pub(super) fn new(when: When, quiet: bool, verbose: bool) -> Terminal {
        let watched = io::stderr().is_terminal();
        // https://no-color.org: set and not empty disables colour.
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = match when {
            When::Always => true,
            When::Never => false,
            When::Auto => watched && !unwanted,
        };
        Terminal { color, quiet, verbose, watched, json: false, lost: Arc::default() }
    }

    /// The same terminal, with standard output reserved for one JSON text.
    #[cfg(feature = "programs")]
    pub(super) fn with_json_stdout(&self) -> Terminal {
        Terminal { json: true, ..self.clone() }
    }

    /// Whether standard error is a terminal.
    pub(super) fn is_watched(&self) -> bool {
        self.watched
    }

    /// Whether --quiet was given.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Prints a line of a guest program's output, already escaped.
    pub(super) fn printed(&self, error: bool, line: &str) {
        if error || self.json {
            // If standard error is closed, the error cannot be reported.
            let _ = writeln!(io::stderr(), "{line}");
        } else if let Err(err) = writeln!(io::stdout(), "{line}") {
            self.lost.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(err);
        }
    }

    /// The first error of printing a guest program's output, if there was one.
    pub(super) fn lost(&self) -> Option<io::Error> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn error(&self, failure: &Failure) {
        self.line(AnsiColor::Red, "error", &failure.to_string());
        if let Some(hint) = failure.hint_text() {
            self.line(AnsiColor::Cyan, "hint", hint);
        }
    }

    pub(super) fn warn(&self, text: &str) {
        self.line(AnsiColor::Yellow, "warning", text);
    }

    /// A warning about the model, not about its sandbox: omitted with --quiet.
    pub(super) fn remark(&self, text: &str) {
        if !self.quiet {
            self.warn(text);
        }
    }

    /// Printed only with --verbose.
    pub(super) fn note(&self, text: &str) {
        if self.verbose {
            self.line(AnsiColor::Blue, "note", text);
        }
    }

    /// Explains a long wait, so it is printed without --verbose too.
    pub(super) fn compiling(&self, variant: &str) {
        if !self.quiet {
            let text = format!(
                "compiling the sandboxed runner for this machine ({variant}; once, about 15 s)"
            );
            self.line(AnsiColor::Blue, "note", &text);
        }
    }

    /// Explains a long wait, so it is printed without --verbose too.
    pub(super) fn waiting_for_compiler(&self) {
        if !self.quiet {
            let text = "waiting for another process to compile the sandboxed runner";
            self.line(AnsiColor::Blue, "note", text);
        }
    }

    fn line(&self, color: AnsiColor, kind: &str, text: &str) {
        let style = if self.color {
            Style::new().bold().fg_color(Some(color.into()))
        } else {
            Style::new()
        };
        // If standard error is closed, the error cannot be reported.
        let _ = writeln!(io::stderr(), "belljar: {style}{kind}{style:#}: {text}");
    }

    /// Does some work, and shows the elapsed time once it takes longer than a second.
    pub(super) fn progress<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        if !self.watched || self.quiet {
            return work();
        }
        let (done, ended) = channel::<()>();
        std::thread::scope(|scope| {
            // If no thread can be started, the work runs without a progress line.
            let _ = std::thread::Builder::new().spawn_scoped(scope, move || {
                let start = Instant::now();
                let mut shown = false;
                let mut wait = Duration::from_secs(1);
                while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                    let seconds = start.elapsed().as_secs();
                    let _ = write!(io::stderr(), "\r{what} … {seconds} s\x1b[K");
                    (shown, wait) = (true, Duration::from_millis(500));
                }
                if shown {
                    let _ = write!(io::stderr(), "\r\x1b[K");
                }
            });
            let result = work();
            drop(done);
            result
        })
    }
}
