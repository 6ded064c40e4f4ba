//! What goes to standard error: errors, warnings, notes, and a progress line on anything that takes
//! longer than a second, if somebody is watching.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};

use super::args::When;
use super::failure::Failure;

/// How to talk to the person at the other end.
#[derive(Clone)]
pub(super) struct Terminal {
    color: bool,
    quiet: bool,
    verbose: bool,
    watched: bool,
    /// Whether standard output is for one JSON text.
    json: bool,
    /// Why something that a guest program printed got lost.
    lost: Arc<Mutex<Option<io::Error>>>,
}

impl Terminal {
    pub(super) fn new(when: When, quiet: bool, verbose: bool) -> Terminal {
        let watched = io::stderr().is_terminal();
        // https://no-color.org: set and not empty means no.
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = match when {
            When::Always => true,
            When::Never => false,
            When::Auto => watched && !unwanted,
        };
        Terminal { color, quiet, verbose, watched, json: false, lost: Arc::default() }
    }

    /// The same, where standard output is for one JSON text and nothing else.
    #[cfg(feature = "programs")]
    pub(super) fn beside_json(&self) -> Terminal {
        Terminal { json: true, ..self.clone() }
    }

    /// Whether somebody watches standard error.
    pub(super) fn is_watched(&self) -> bool {
        self.watched
    }

    /// Whether nothing is to be printed but the answer and errors.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// A line that a guest program has printed, ready to be shown.
    pub(super) fn printed(&self, error: bool, line: &str) {
        if error || self.json {
            // Nobody is left to be told that standard error is gone.
            let _ = writeln!(io::stderr(), "{line}");
        } else if let Err(err) = writeln!(io::stdout(), "{line}") {
            self.lost.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(err);
        }
    }

    /// Why something that was printed for others got lost, if it did.
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

    /// A warning about the model and not about its sandbox: not said with --quiet.
    pub(super) fn remark(&self, text: &str) {
        if !self.quiet {
            self.warn(text);
        }
    }

    /// Said only with --verbose.
    pub(super) fn note(&self, text: &str) {
        if self.verbose {
            self.line(AnsiColor::Blue, "note", text);
        }
    }

    /// Said always, as it explains a long wait.
    pub(super) fn compiling(&self, variant: &str) {
        if !self.quiet {
            let text = format!(
                "compiling the sandboxed runner for this machine ({variant}; once, some 15 s)"
            );
            self.line(AnsiColor::Blue, "note", &text);
        }
    }

    /// Said always, as it explains a long wait.
    pub(super) fn waiting_for_compiler(&self) {
        if !self.quiet {
            let text = "another process compiles the sandboxed runner; waiting for it";
            self.line(AnsiColor::Blue, "note", text);
        }
    }

    fn line(&self, color: AnsiColor, kind: &str, text: &str) {
        let style = if self.color {
            Style::new().bold().fg_color(Some(color.into()))
        } else {
            Style::new()
        };
        // Nobody is left to be told that standard error is gone.
        let _ = writeln!(io::stderr(), "belljar: {style}{kind}{style:#}: {text}");
    }

    /// Does some work, and shows that it goes on once it has taken a second.
    pub(super) fn progress<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        if !self.watched || self.quiet {
            return work();
        }
        let (done, ended) = channel::<()>();
        std::thread::scope(|scope| {
            // Without a thread the work goes on unseen.
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
