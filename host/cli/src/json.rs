//! JSON that is safe to print on a terminal: characters that are not printable, including
//! bidirectional marks, are escaped.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use belljar::Dim;

/// Prints a value as JSON and a line break.
pub(super) fn print(value: &impl Serialize, mut out: impl Write) -> io::Result<()> {
    let formatter = Escaping(PrettyFormatter::new());
    value.serialize(&mut Serializer::with_formatter(&mut out, formatter))?;
    writeln!(out)
}

/// A declared shape: fixed sizes are numbers, symbols strings, and unknown dimensions `null`.
pub(super) fn dims(dims: &[Dim]) -> Value {
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(size) => Value::from(*size),
        Dim::Symbol(name) => Value::from(name.as_str()),
        Dim::Unknown => Value::Null,
    };
    dims.iter().map(dim).collect()
}

struct Escaping<'a>(PrettyFormatter<'a>);

impl Formatter for Escaping<'_> {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for c in fragment.chars() {
            let printable = matches!(c, '\'' | '"' | '\\') || c.escape_debug().len() == 1;
            if printable {
                write!(writer, "{c}")?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(w, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(w, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unprintable_characters_are_escaped_and_parse_back_to_the_same_text() {
        let text = "a\u{202e}b\u{1b}[31m\u{85}\u{e0001}\"\\é\n";
        let mut out = Vec::new();
        print(&[text], &mut out).unwrap();
        let printed = String::from_utf8(out).unwrap();
        assert!(printed.chars().all(|c| c == '\n' || c == 'é' || c.is_ascii_graphic() || c == ' '));
        assert_eq!(serde_json::from_str::<Vec<String>>(&printed).unwrap(), [text]);
    }
}
