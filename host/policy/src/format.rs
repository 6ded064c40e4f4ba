//! Formats a policy file in canonical order: tables and keys in the order of the format.
//!
//! Lines are moved but never rewritten, which keeps comments, spelling of values and alignment. A
//! comment belongs to the line below it; a comment that an empty line separates from the table
//! below it belongs to the table above.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, Table};
use super::{Policy, PolicyError};

/// The file in canonical order, with the same meaning.
///
/// # Errors
/// When the text is not a valid policy.
pub fn canonical(text: &str, origin: &str) -> Result<String, PolicyError> {
    let before = Policy::parse(text, origin)?;
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    // Normalising line ends may not invalidate the policy.
    let again = Policy::parse(&text, origin)?;
    let Ok(document) = DeTable::parse(&text) else { return Ok(text) };
    let mut ends = Vec::new();
    values(document.get_ref(), &text, &mut ends);
    ends.sort_unstable();
    let ordered = write(split(&text, &ends));
    match Policy::parse(&ordered, origin) {
        Ok(after) if after == before && again == before => Ok(ordered),
        // An unordered file is better than one with a changed meaning.
        _ => Ok(text),
    }
}

/// The span of each value.
fn values(table: &DeTable<'_>, text: &str, to: &mut Vec<(usize, usize)>) {
    for value in table.values() {
        one_value(value, text, to);
    }
}

fn one_value(value: &Spanned<DeValue<'_>>, text: &str, to: &mut Vec<(usize, usize)>) {
    let span = value.span();
    let first = text.as_bytes().get(span.start);
    match value.get_ref() {
        // A table without a brace is written with headers or dotted keys.
        DeValue::Table(table) if first != Some(&b'{') => values(table, text, to),
        DeValue::Array(items) if items.iter().any(|item| is_block(item, text)) => {
            items.iter().for_each(|item| one_value(item, text, to));
        }
        _ => to.push((span.start, span.end)),
    }
}

/// Whether an item of a list is a table with its own header.
fn is_block(item: &Spanned<DeValue<'_>>, text: &str) -> bool {
    item.get_ref().as_table().is_some() && text.as_bytes().get(item.span().start) != Some(&b'{')
}

/// A key with its value, and the comments above it.
struct Statement {
    above: Vec<String>,
    key: String,
    lines: Vec<String>,
}

/// A header with the statements below it.
struct Section {
    above: Vec<String>,
    /// The header's line; empty for the statements before all headers.
    header: String,
    statements: Vec<Statement>,
    /// Comments after the last statement.
    below: Vec<String>,
}

fn split(text: &str, ends: &[(usize, usize)]) -> Vec<Section> {
    let mut sections =
        vec![Section { above: vec![], header: String::new(), statements: vec![], below: vec![] }];
    let mut above: Vec<String> = Vec::new();
    let (mut at, mut until) = (0, 0);
    for line in text.split_inclusive('\n') {
        let (start, end) = (at, at + line.len());
        at = end;
        let (raw, line, trimmed) = (line.trim_end_matches('\n'), line.trim_end(), line.trim());
        let Some(section) = sections.last_mut() else { continue };
        if start < until {
            // The continuation of a value: its white space must not change.
            if let Some(statement) = section.statements.last_mut() {
                statement.lines.push(raw.to_owned());
            }
        } else if trimmed.is_empty() || trimmed.starts_with('#') {
            above.push(trimmed.to_owned());
        } else if trimmed.starts_with('[') {
            let own = above.iter().rposition(String::is_empty).map_or(0, |at| at + 1);
            let own = above.split_off(own);
            section.below = std::mem::take(&mut above);
            sections.push(Section {
                above: own,
                header: trimmed.to_owned(),
                statements: vec![],
                below: vec![],
            });
        } else {
            let value = ends.iter().find(|(first, _)| *first >= start);
            until = value.map_or(end, |(_, last)| *last).max(start);
            let key = key_of(trimmed);
            let spaced = spaced(text, start, value.map(|(first, _)| *first), line);
            let above = std::mem::take(&mut above);
            section.statements.push(Statement { above, key, lines: vec![spaced] });
        }
    }
    if let Some(section) = sections.last_mut() {
        section.below = above;
    }
    sections
}

/// `key = value`, with one space on each side.
fn spaced(text: &str, start: usize, value: Option<usize>, line: &str) -> String {
    let split = value.and_then(|value| Some((text.get(start..value)?, value - start)));
    match split
        .and_then(|(before, at)| Some((before.trim_end().strip_suffix('=')?, line.get(at..)?)))
    {
        Some((key, rest)) => format!("{} = {rest}", key.trim()),
        None => line.trim().to_owned(),
    }
}

/// The first part of a key, without quotes.
fn key_of(statement: &str) -> String {
    let key = statement.split(['=', '.']).next().unwrap_or_default();
    key.trim().trim_matches(['"', '\'']).to_owned()
}

/// The key of the table that a header announces, and whether the header is for a table inside it.
fn table_of(header: &str) -> (String, bool) {
    let path = header.split(']').next().unwrap_or_default().trim_start_matches('[').trim();
    (key_of(path), path.contains('.'))
}

fn table_index(key: &str, format: &[&Table]) -> usize {
    format.iter().position(|table| table.key == key).unwrap_or(usize::MAX)
}

fn write(mut sections: Vec<Section>) -> String {
    for section in &mut sections {
        let (table, inner) = table_of(&section.header);
        let known = keys::POLICY.iter().find(|known| known.key == table && inner == known.named);
        // At the top, tables may be written as dotted keys or inline.
        let order = |key: &str| {
            let keys = known.map_or(&[][..], |known| known.keys);
            let own = keys.iter().position(|own| own.name == key);
            own.unwrap_or_else(|| keys.len().saturating_add(table_index(key, keys::POLICY)))
        };
        // The comment at the top of the file stays there.
        let head = match section.header.is_empty() {
            true => section.statements.first_mut().map(take_head).unwrap_or_default(),
            false => vec![],
        };
        if known.is_some() {
            section.statements.sort_by_key(|statement| order(&statement.key));
        }
        if let Some(first) = section.statements.first_mut() {
            first.above.splice(..0, head);
        } else {
            section.below.splice(..0, head);
        }
    }
    sections.sort_by_key(|section| {
        let (table, inner) = table_of(&section.header);
        (table_index(&table, keys::POLICY), inner)
    });
    let mut out = Lines::default();
    for section in &sections {
        if !section.header.is_empty() {
            out.push("");
            section.above.iter().for_each(|line| out.push(line));
            out.push(&section.header);
            // No empty line between a header and its keys.
            out.after_header = !section.statements.is_empty();
        }
        for statement in &section.statements {
            statement.above.iter().for_each(|line| out.push(line));
            statement.lines.iter().for_each(|line| out.verbatim(line));
        }
        section.below.iter().for_each(|line| out.push(line));
    }
    out.finish()
}

/// The comment that an empty line separates from the first statement of the file.
fn take_head(first: &mut Statement) -> Vec<String> {
    match first.above.iter().rposition(String::is_empty) {
        Some(at) => first.above.drain(..=at).collect(),
        None => vec![],
    }
}

/// Output lines, without two empty lines in a row.
#[derive(Default)]
struct Lines {
    text: String,
    empty: bool,
    after_header: bool,
}

impl Lines {
    fn push(&mut self, line: &str) {
        if line.is_empty() {
            self.empty = !self.after_header;
        } else {
            self.verbatim(line);
        }
    }

    fn verbatim(&mut self, line: &str) {
        if std::mem::take(&mut self.empty) && !self.text.is_empty() {
            self.text.push('\n');
        }
        self.after_header = false;
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn finish(self) -> String {
        self.text
    }
}
