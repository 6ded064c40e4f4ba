//! Escapes untrusted text: names, documentation, error messages of the guest. All text shown to a
//! person must pass through here.
#![forbid(unsafe_code)]

use std::fmt;

/// Untrusted text, for example from a model. Its `Display` contains no control characters and no
/// bidirectional marks, and is cut to a maximum length.
#[derive(Clone, Copy)]
pub struct Escaped<'a> {
    text: &'a str,
    limit: usize,
}

/// Longest text shown by default, in characters.
const MAX_SHOWN: usize = 400;

impl<'a> Escaped<'a> {
    /// Shows at most the first 400 characters.
    pub fn new(text: &'a str) -> Escaped<'a> {
        Escaped { text, limit: MAX_SHOWN }
    }

    /// Shows at most the first `limit` characters.
    pub fn cut(text: &'a str, limit: usize) -> Escaped<'a> {
        Escaped { text, limit }
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        let mut chars = self.text.chars();
        for c in chars.by_ref().take(self.limit) {
            match c {
                // Harmless, and escaping them would distort ordinary messages.
                '\'' | '"' => f.write_char(c)?,
                // Debug escapes all other unprintable characters.
                _ => c.escape_debug().try_for_each(|c| f.write_char(c))?,
            }
        }
        if chars.next().is_some() {
            f.write_char('…')?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        let text = "a\x1b[31m\r\n\u{202e}\u{2066}\u{200b}\u{7}\0\u{85}\u{feff}z";
        let shown = Escaped::new(text).to_string();
        assert!(shown.chars().all(|c| c.is_ascii_graphic()), "{shown}");
        assert!(shown.starts_with("a\\u{1b}[31m\\r\\n") && shown.ends_with('z'), "{shown}");
    }

    #[test]
    fn long_text_is_cut_with_an_ellipsis() {
        assert_eq!(Escaped::cut("ééé", 2).to_string(), "éé…");
        assert_eq!(Escaped::cut("éé", 2).to_string(), "éé");
    }

    #[test]
    fn ordinary_text_is_unchanged() {
        let text = "it's \"Grüße\" 世界";
        assert_eq!(Escaped::new(text).to_string(), text);
    }
}
