//! The printed output of a program: split into lines, bounded, escaped, and dropped without a
//! grant.

use super::budget::Budget;
use super::{Outside, Stream};
use belljar_policy::Program;
use belljar_text::Escaped;

/// Maximum length of a line in bytes; longer lines are split.
const MAX_LINE: usize = 1024;

pub(super) struct Printer {
    out: Lines,
    err: Lines,
}

struct Lines {
    granted: bool,
    /// Bytes after the last end of a line.
    line: Vec<u8>,
    /// Whether the notice about dropped output was printed.
    full: bool,
}

impl Printer {
    pub(super) fn new(program: &Program) -> Printer {
        let lines = |granted| Lines { granted, line: Vec::new(), full: false };
        Printer { out: lines(program.stdout), err: lines(program.stderr) }
    }

    pub(super) fn print(
        &mut self,
        stream: Stream,
        bytes: &[u8],
        budget: &mut Budget,
        outside: &mut dyn Outside,
    ) {
        let lines = match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        };
        if !lines.granted || lines.full {
            return;
        }
        // An error would end most programs, although the output is not essential.
        if budget.write(bytes.len() as u64).is_err() {
            lines.flush(stream, outside);
            lines.full = true;
            outside
                .print(stream, "(further output is dropped: [quotas] bytes-written is exhausted)");
            return;
        }
        for byte in bytes {
            match byte {
                b'\n' => lines.end(stream, outside),
                byte => {
                    if lines.line.len() >= MAX_LINE {
                        lines.end(stream, outside);
                    }
                    lines.line.push(*byte);
                }
            }
        }
    }

    /// Prints an unfinished last line.
    pub(super) fn flush(&mut self, outside: &mut dyn Outside) {
        for (stream, lines) in [(Stream::Out, &mut self.out), (Stream::Err, &mut self.err)] {
            lines.flush(stream, outside);
        }
    }
}

impl Lines {
    fn flush(&mut self, stream: Stream, outside: &mut dyn Outside) {
        if !self.line.is_empty() {
            self.end(stream, outside);
        }
    }

    fn end(&mut self, stream: Stream, outside: &mut dyn Outside) {
        let text = String::from_utf8_lossy(&self.line);
        let text = text.strip_suffix('\r').unwrap_or(&text);
        outside.print(stream, &Escaped::cut(text, MAX_LINE).to_string());
        self.line.clear();
    }
}
