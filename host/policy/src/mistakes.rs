//! The reader's error messages: position, key, cause, and what to write instead. Everything that
//! comes from the file is escaped and cut.

use std::ops::Range;

use toml::de::DeValue;

use super::keys::Table;
use super::reader::{Reader, Value};
use super::text::{line_and_column, list, nearest, quote, shown, snippet};
use super::{FORMAT_VERSION, PolicyError};

impl Reader<'_> {
    /// A required key is missing.
    pub(super) fn missing(
        &self,
        key: &'static str,
        home: &'static Table,
        at: usize,
    ) -> PolicyError {
        let (line, column) = line_and_column(self.text, at);
        let about = home.keys.iter().find(|known| known.name == key).map_or("", |key| key.about);
        PolicyError::Missing {
            path: self.origin.into(),
            line,
            column,
            key,
            table: home.shown,
            hint: format!("`{key}` in {}: {}", home.shown, lower(about)).into(),
        }
    }

    pub(super) fn unknown(
        &self,
        key: &str,
        span: &Range<usize>,
        home: &'static Table,
    ) -> PolicyError {
        let (line, column) = line_and_column(self.text, span.start);
        let valid: Vec<&str> = self.names(home).collect();
        let elsewhere = self.format.iter().find(|table| self.names(table).any(|name| name == key));
        let guess = match (nearest(key, &valid), elsewhere) {
            (Some(near), _) => format!("did you mean `{near}`? "),
            (None, Some(home)) => format!("`{key}` belongs to {}. ", home.shown),
            (None, None) => String::new(),
        };
        PolicyError::UnknownKey {
            path: self.origin.into(),
            line,
            column,
            key: quote(key).into(),
            table: home.shown,
            hint: format!(
                "{guess}valid keys there in version {FORMAT_VERSION} of the format: {}",
                list(&valid)
            )
            .into(),
        }
    }

    pub(super) fn value(
        &self,
        key: &'static str,
        value: &Value<'_>,
        why: String,
        hint: String,
    ) -> PolicyError {
        self.value_at(value.span().start, key, value, why, hint)
    }

    pub(super) fn value_at(
        &self,
        at: usize,
        key: &'static str,
        value: &Value<'_>,
        why: String,
        hint: String,
    ) -> PolicyError {
        let (line, column) = line_and_column(self.text, at);
        PolicyError::Value {
            path: self.origin.into(),
            line,
            column,
            key,
            value: self.source_of(value).into(),
            why: why.into(),
            hint: hint.into(),
        }
    }

    pub(super) fn syntax(&self, error: &toml::de::Error) -> PolicyError {
        let (line, column) = line_and_column(self.text, error.span().map_or(0, |s| s.start));
        let words: Vec<&str> = error.message().split_whitespace().collect();
        PolicyError::Syntax {
            path: self.origin.into(),
            line,
            column,
            message: format!("not well-formed TOML: {}", shown(&words.join(" "))).into(),
            hint: "write each key once, and sizes and durations in quotes, for example memory = \
                   \"512 MiB\""
                .into(),
        }
    }

    /// The value as it is written in the file.
    pub(super) fn source_of(&self, value: &Value<'_>) -> String {
        match value.get_ref() {
            DeValue::Table(_) => "{…}".to_owned(),
            DeValue::Array(_) => "[…]".to_owned(),
            _ => snippet(self.text.get(value.span()).unwrap_or_default()),
        }
    }
}

/// The sentence as a continuation after a colon: lower case, without its full stop.
fn lower(sentence: &str) -> String {
    let mut chars = sentence.trim_end_matches('.').chars();
    chars.next().map_or_else(String::new, |c| c.to_lowercase().chain(chars).collect())
}

/// The type of a value, with an article.
pub(super) fn kind(value: &Value<'_>) -> &'static str {
    match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
