//! Reads checked values from TOML, for policies and ceilings.
//!
//! The document is walked by hand rather than deserialised, so that every error has its line, its
//! column and the key that was probably meant. [`Reader::entries`] refuses keys that the format
//! does not list; nothing here may skip a key.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::Table;
use super::limits::{Quantity, within};
use super::mistakes::kind;
use super::text::{line_and_column, quote};
use super::units::{DURATION_HINT, SIZE_HINT, UnitError, parse_duration, parse_size};
use super::{Bounds, FORMAT_VERSION, PolicyError};

pub(super) type Value<'a> = Spanned<DeValue<'a>>;

/// A key, its span, and its value.
pub(super) type Entry<'t, 'i> = (&'t str, Range<usize>, &'t Value<'i>);

/// The text being read, to which errors refer.
pub(super) struct Reader<'a> {
    pub(super) text: &'a str,
    pub(super) origin: &'a str,
    /// All tables of the format.
    pub(super) format: &'static [&'static Table],
    /// The value of an absent limit: the default, or in a ceiling the maximum.
    pub(super) absent: Absent,
}

/// The value of an absent limit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    Default,
    Max,
}

impl Absent {
    fn of<T: Copy>(self, bounds: Bounds<T>) -> T {
        match self {
            Absent::Default => bounds.default,
            Absent::Max => bounds.max,
        }
    }
}

impl Reader<'_> {
    /// A table's entries in the order of the file, so that the first mistake is the one reported.
    pub(super) fn entries<'t, 'i>(
        &self,
        table: &'t DeTable<'i>,
        home: &'static Table,
    ) -> impl Iterator<Item = Result<Entry<'t, 'i>, PolicyError>> {
        in_order(table).into_iter().map(move |(key, span, value)| {
            match self.names(home).any(|name| name == key) {
                true => Ok((key, span, value)),
                false => Err(self.unknown(key, &span, home)),
            }
        })
    }

    /// The keys that are valid in a table; at the top level, the tables too.
    pub(super) fn names(&self, home: &'static Table) -> impl Iterator<Item = &'static str> {
        let tables: &[&Table] = if home.key.is_empty() { self.format } else { &[] };
        let tables = tables.iter().map(|table| table.key).filter(|key| !key.is_empty());
        home.keys.iter().map(|key| key.name).chain(tables)
    }

    /// Refuses other versions, in which keys may have other meanings.
    pub(super) fn version(&self, document: &DeTable<'_>) -> Result<(), PolicyError> {
        let error = |at, message: String| {
            let (line, column) = line_and_column(self.text, at);
            Err(PolicyError::Version {
                path: self.origin.into(),
                line,
                column,
                message: message.into(),
                hint: format!(
                    "this build supports `version = {FORMAT_VERSION}`, an integer at the top of \
                     the file"
                )
                .into(),
            })
        };
        let Some((_, _, value)) = in_order(document).into_iter().find(|(k, ..)| *k == "version")
        else {
            return error(0, "`version` is missing".to_owned());
        };
        if unsigned(value) == Some(FORMAT_VERSION) {
            return Ok(());
        }
        let shown = self.source_of(value);
        error(value.span().start, format!("policy version {shown} is not supported"))
    }

    /// The table of `[home]`.
    pub(super) fn table<'t, 'i>(
        &self,
        home: &'static Table,
        key: &Range<usize>,
        value: &'t Value<'i>,
    ) -> Result<&'t DeTable<'i>, PolicyError> {
        value.get_ref().as_table().ok_or_else(|| {
            let why = format!("{}, not a table", kind(value));
            let hint = format!("write {} on a separate line, once, and its keys below", home.shown);
            self.value_at(key.start, home.key, value, why, hint)
        })
    }

    /// The tables of `[[home]]`, each with its position.
    pub(super) fn tables<'t, 'i>(
        &self,
        home: &'static Table,
        key: &Range<usize>,
        value: &'t Value<'i>,
    ) -> Result<Vec<(&'t DeTable<'i>, usize)>, PolicyError> {
        let wrong = |value: &Value<'_>, at| {
            let why = format!("{}, not a list of tables", kind(value));
            let hint = format!("write {} on a separate line for each entry", home.shown);
            self.value_at(at, home.key, value, why, hint)
        };
        let items = value.get_ref().as_array().ok_or_else(|| wrong(value, key.start))?;
        let most = super::MAX_GRANTS;
        if items.len() > most {
            let why = format!("{} entries; the maximum is {most}", items.len());
            let hint = "grant a folder rather than many files".to_owned();
            return Err(self.value_at(key.start, home.key, value, why, hint));
        }
        let table = |item: &'t Value<'i>| {
            let at = item.span().start;
            item.get_ref().as_table().map(|table| (table, at)).ok_or_else(|| wrong(item, at))
        };
        items.iter().map(table).collect()
    }

    pub(super) fn size(
        &self,
        key: &'static str,
        value: &Value<'_>,
        bounds: Bounds<u64>,
    ) -> Result<u64, PolicyError> {
        self.quantity(key, value, bounds, SIZE_HINT, parse_size)
    }

    pub(super) fn time(
        &self,
        key: &'static str,
        value: &Value<'_>,
        bounds: Bounds<Duration>,
    ) -> Result<Duration, PolicyError> {
        self.quantity(key, value, bounds, DURATION_HINT, parse_duration)
    }

    pub(super) fn count(
        &self,
        key: &'static str,
        value: &Value<'_>,
        bounds: Bounds<u32>,
    ) -> Result<u32, PolicyError> {
        let result = match value.get_ref().as_integer() {
            Some(_) => unsigned(value)
                .ok_or_else(|| "not a valid count".to_owned())
                .and_then(|parsed| within(parsed, bounds).map(|()| parsed)),
            None => Err(format!("{}, not an integer", kind(value))),
        };
        result.map_err(|why| {
            let (Bounds { min, max, .. }, default) = (bounds, self.absent.of(bounds));
            let hint = format!(
                "write a number without quotes; from {min} to {max}, or leave the key out for \
                 {default}"
            );
            self.value(key, value, why, hint)
        })
    }

    fn quantity<T: Quantity>(
        &self,
        key: &'static str,
        value: &Value<'_>,
        bounds: Bounds<T>,
        hint: &str,
        parse: impl Fn(&str) -> Result<T, UnitError>,
    ) -> Result<T, PolicyError> {
        let result = match value.get_ref().as_str() {
            Some(text) => parse(text)
                .map_err(|error| error.to_string())
                .and_then(|parsed| within(parsed, bounds).map(|()| parsed)),
            None => Err(format!("{}, not a string with a unit", kind(value))),
        };
        result.map_err(|why| {
            let hint = format!(
                "write {hint}; from {} to {}, or leave the key out for {}",
                bounds.min.shown(),
                bounds.max.shown(),
                self.absent.of(bounds).shown()
            );
            self.value(key, value, why, hint)
        })
    }

    pub(super) fn digest(
        &self,
        key: &'static str,
        value: &Value<'_>,
    ) -> Result<[u8; 32], PolicyError> {
        let error = |why| {
            let hint = "write the 64 hexadecimal digits that `sha256sum` prints for the file";
            Err(self.value(key, value, why, hint.to_owned()))
        };
        let Some(text) = value.get_ref().as_str() else {
            return error(format!("{}, not a string", kind(value)));
        };
        if let Some(c) = text.chars().find(|c| !c.is_ascii_hexdigit()) {
            return error(format!(
                "{} is not a hexadecimal digit",
                quote(c.encode_utf8(&mut [0; 4]))
            ));
        }
        let mut digest = [0_u8; 32];
        if text.len() != 2 * digest.len() {
            return error(format!("{} digits, not 64", text.len()));
        }
        for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).unwrap_or_default();
            match u8::from_str_radix(pair, 16) {
                Ok(value) => *byte = value,
                Err(_) => return error("not hexadecimal".to_owned()),
            }
        }
        Ok(digest)
    }

    /// `true` or `false`.
    pub(super) fn switch(&self, key: &'static str, value: &Value<'_>) -> Result<bool, PolicyError> {
        value.get_ref().as_bool().ok_or_else(|| {
            let why = format!("{}, not a boolean", kind(value));
            self.value(key, value, why, "write true or false, without quotes".to_owned())
        })
    }

    /// Parses one of several words and returns its index.
    pub(super) fn choice(
        &self,
        key: &'static str,
        value: &Value<'_>,
        words: &[&str],
    ) -> Result<usize, PolicyError> {
        let text = value.get_ref().as_str();
        text.and_then(|text| words.iter().position(|word| *word == text)).ok_or_else(|| {
            let why = match text {
                Some(_) => "not a valid value".to_owned(),
                None => format!("{}, not a string", kind(value)),
            };
            let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
            let hint = match words.split_last() {
                Some((last, rest)) if !rest.is_empty() => {
                    format!("write {} or {last}", rest.join(", "))
                }
                _ => format!("write {}", words.join("")),
            };
            self.value(key, value, why, hint)
        })
    }

    pub(super) fn text<'t>(
        &self,
        key: &'static str,
        value: &'t Value<'_>,
        hint: &str,
    ) -> Result<&'t str, PolicyError> {
        value.get_ref().as_str().ok_or_else(|| {
            self.value(key, value, format!("{}, not a string", kind(value)), hint.to_owned())
        })
    }

    /// A string that `check` parses.
    pub(super) fn checked<T>(
        &self,
        key: &'static str,
        value: &Value<'_>,
        hint: &str,
        check: impl FnOnce(&str) -> Result<T, &'static str>,
    ) -> Result<T, PolicyError> {
        let text = self.text(key, value, hint)?;
        check(text).map_err(|why| self.value(key, value, why.to_owned(), hint.to_owned()))
    }
}

pub(super) fn unsigned(value: &Value<'_>) -> Option<u32> {
    let found = value.get_ref().as_integer()?;
    u32::from_str_radix(found.as_str(), found.radix()).ok()
}

/// A table's entries in the order of the file.
pub(super) fn in_order<'t, 'i>(table: &'t DeTable<'i>) -> Vec<Entry<'t, 'i>> {
    let mut entries: Vec<_> =
        table.iter().map(|(key, value)| (key.get_ref().as_ref(), key.span(), value)).collect();
    entries.sort_by_key(|(_, span, _)| span.start);
    entries
}
