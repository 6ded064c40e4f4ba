//! Shows untrusted text, and suggests which key was meant.
//!
//! Nothing here may return a control character, a bidirectional mark or a line break that came
//! from its input.

use std::fmt::Write as _;

/// Longest quoted value in a message, in characters.
const MAX_QUOTED: usize = 60;

/// Longest path or name in a message, in characters. Longer ones keep their end, where a path
/// differs from its neighbours.
const MAX_SHOWN: usize = 200;

/// Longest key that is compared with the valid ones; all valid keys are shorter.
const MAX_COMPARED: usize = 32;

/// `text` in double quotes, escaped, and cut when long.
pub(super) fn quote(text: &str) -> String {
    let mut chars = text.chars();
    let head: String = chars.by_ref().take(MAX_QUOTED).collect();
    let more = if chars.next().is_some() { "…" } else { "" };
    // Debug escapes everything that is not printable, bidirectional marks included.
    format!("{head:?}{more}")
}

/// A piece of the file's own source, escaped and cut, without added quotes.
pub(super) fn snippet(source: &str) -> String {
    let mut chars = source.chars();
    let mut out = String::new();
    for c in chars.by_ref().take(MAX_QUOTED) {
        push_escaped(&mut out, c);
    }
    if chars.next().is_some() {
        out.push('…');
    }
    out
}

/// A path, origin or name without quotes, escaped, and cut at the front when long.
pub(super) fn shown(text: &str) -> String {
    let count = text.chars().count();
    let mut out = String::new();
    if count > MAX_SHOWN {
        out.push('…');
    }
    for c in text.chars().skip(count.saturating_sub(MAX_SHOWN)) {
        push_escaped(&mut out, c);
    }
    if out.is_empty() { "(empty)".to_owned() } else { out }
}

fn push_escaped(out: &mut String, c: char) {
    // `escape_debug` would put a backslash before quotes, which need none here.
    if matches!(c, '\'' | '"') {
        out.push(c);
    } else {
        out.extend(c.escape_debug());
    }
}

/// Whether a character is invisible or changes how others look: control characters, line
/// separators, bidirectional and zero-width marks, tags. They would deceive a reviewer.
pub(super) fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
}

/// `origin:line:column`.
pub(super) fn location(origin: &str, line: usize, column: usize) -> String {
    format!("{}:{line}:{column}", shown(origin))
}

/// Line and column, both from 1, of a byte offset. Columns count characters.
pub(super) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = text.get(..end).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    (line, before.get(start..).unwrap_or_default().chars().count() + 1)
}

/// The valid key nearest to `key`, if it is near enough to suggest.
pub(super) fn nearest<'a>(key: &str, valid: &[&'a str]) -> Option<&'a str> {
    if key.chars().count() > MAX_COMPARED {
        return None;
    }
    let folded = key.to_lowercase().replace('_', "-");
    let (distance, best) = valid.iter().map(|v| (distance(&folded, v), *v)).min()?;
    // Up to a third of the key may differ; more distant suggestions are not useful.
    (distance <= (best.len() / 3).max(1)).then_some(best)
}

/// `valid` as "`a`, `b` and `c`".
pub(super) fn list(valid: &[&str]) -> String {
    let mut out = String::new();
    for (i, name) in valid.iter().enumerate() {
        let joint = match i {
            0 => "",
            _ if i + 1 == valid.len() => " and ",
            _ => ", ",
        };
        let _ = write!(out, "{joint}`{name}`");
    }
    out
}

/// Levenshtein's distance between two short strings: insertions, deletions and substitutions,
/// one row at a time (Wagner and Fischer, 1974).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut next = vec![left];
        for (cb, pair) in b.iter().zip(row.windows(2)) {
            let [diagonal, above] = pair else { continue };
            left = (left + 1).min(above + 1).min(diagonal + usize::from(ca != *cb));
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("memory", "memory"), 0);
        assert_eq!(distance("memroy", "memory"), 2);
    }

    #[test]
    fn nearest_key() {
        let valid = ["memory", "run-time", "stack"];
        assert_eq!(nearest("run_time", &valid), Some("run-time"));
        assert_eq!(nearest("Memory", &valid), Some("memory"));
        assert_eq!(nearest("memroy", &valid), Some("memory"));
        assert_eq!(nearest("network", &valid), None);
        assert_eq!(nearest(&"m".repeat(100_000), &valid), None);
        assert_eq!(nearest("x", &[]), None);
    }

    #[test]
    fn hostile_text_is_escaped_and_cut() {
        let ugly = "a\u{1b}[31m\r\n\u{202e}\u{0}\u{7f}\u{9b}";
        for out in [quote(ugly), snippet(ugly), shown(ugly)] {
            assert!(!out.chars().any(|c| c.is_control() || c == '\u{202e}'), "{out:?}");
        }
        assert!(quote(&"x".repeat(1000)).chars().count() < 70);
        assert!(snippet(&"\u{0}".repeat(1000)).chars().count() < 400);
        assert!(shown(&"x".repeat(10_000)).chars().count() < 210);
        assert_eq!(shown(""), "(empty)");
    }

    #[test]
    fn positions() {
        assert_eq!(line_and_column("", 0), (1, 1));
        assert_eq!(line_and_column("ab\ncd", 4), (2, 2));
        assert_eq!(line_and_column("é=1", 2), (1, 2));
        assert_eq!(line_and_column("é=1", 1), (1, 1));
        assert_eq!(line_and_column("ab", 99), (1, 3));
    }
}
