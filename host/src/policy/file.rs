//! TOML text to a checked [`Policy`].
//!
//! The document is walked by hand rather than deserialised, so that every error knows its line,
//! its column and the key that was probably meant. Every table ends in a refusal of the keys it
//! does not know; nothing here may skip one.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::limits::{Quantity, within};
use super::text::{line_and_column, list, nearest, quote, shown, snippet};
use super::units::{DURATION_HINT, SIZE_HINT, UnitError, parse_duration, parse_size};
use super::{
    Bounds, Compute, Confinement, FORMAT_VERSION, Kernels, Limits, ModelPin, Policy, PolicyError,
    bounds,
};

const TOP: &[&str] = &["version", "confinement", "model", "limits", "compute"];
const MODEL: &[&str] = &["sha256"];
const LIMITS: &[&str] = &[
    "memory",
    "run-time",
    "prepare-time",
    "model-size",
    "input-size",
    "output-size",
    "log-size",
    "stack",
    "images",
];
const COMPUTE: &[&str] = &["deterministic", "kernels", "threads"];

/// Most threads that a policy can allow one run.
const MAX_THREADS: u32 = 64;

/// Every table with the name it goes by in messages.
const TABLES: &[(&str, &[&str])] =
    &[("the top level", TOP), ("[model]", MODEL), ("[limits]", LIMITS), ("[compute]", COMPUTE)];

impl Policy {
    /// Reads a policy from text. `origin` is what errors call it, usually a path.
    ///
    /// The text may come from anywhere, but the *policy* must come from the operator: for a file,
    /// use [`Policy::load`], which checks whose it is.
    pub fn parse(text: &str, origin: &str) -> Result<Self, PolicyError> {
        let file = File { text, origin };
        let document = DeTable::parse(text).map_err(|error| file.syntax(&error))?;
        file.policy(document.get_ref())
    }
}

/// The text being read, for errors to point into.
struct File<'a> {
    text: &'a str,
    origin: &'a str,
}

type Value<'a> = Spanned<DeValue<'a>>;

impl File<'_> {
    fn policy(&self, document: &DeTable<'_>) -> Result<Policy, PolicyError> {
        // Before everything else: in a later version other keys may be right.
        self.version(document)?;
        let mut policy = Policy::default();
        for (key, span, value) in in_order(document) {
            match key {
                "version" => {}
                "confinement" => policy.confinement = self.confinement(value)?,
                "model" => self.model(self.table("model", &span, value)?, &mut policy.model)?,
                "limits" => self.limits(self.table("limits", &span, value)?, &mut policy.limits)?,
                "compute" => {
                    self.compute(self.table("compute", &span, value)?, &mut policy.compute)?;
                }
                _ => return Err(self.unknown(key, &span, "the top level", TOP)),
            }
        }
        Ok(policy)
    }

    fn version(&self, document: &DeTable<'_>) -> Result<(), PolicyError> {
        let error = |at, message: String| {
            let (line, column) = line_and_column(self.text, at);
            Err(PolicyError::Version {
                path: self.origin.into(),
                line,
                column,
                message: message.into(),
                hint: format!(
                    "this build understands `version = {FORMAT_VERSION}`, an integer at the top of \
                     the file"
                )
                .into(),
            })
        };
        let Some((_, _, value)) = in_order(document).into_iter().find(|(k, ..)| *k == "version")
        else {
            return error(0, "`version` is missing".to_owned());
        };
        let found = value.get_ref().as_integer();
        if found.and_then(|i| u32::from_str_radix(i.as_str(), i.radix()).ok())
            == Some(FORMAT_VERSION)
        {
            return Ok(());
        }
        let shown = self.source_of(value);
        error(value.span().start, format!("policy version {shown} is not understood"))
    }

    fn confinement(&self, value: &Value<'_>) -> Result<Confinement, PolicyError> {
        match value.get_ref().as_str() {
            Some("strict") => Ok(Confinement::Strict),
            Some("best-effort") => Ok(Confinement::BestEffort),
            found => {
                let why = match found {
                    Some(_) => "not one of the two there are".to_owned(),
                    None => format!("{}, not a text", kind(value)),
                };
                let hint = "write \"strict\" or \"best-effort\"".to_owned();
                Err(self.value("confinement", value, why, hint))
            }
        }
    }

    fn model(&self, table: &DeTable<'_>, model: &mut ModelPin) -> Result<(), PolicyError> {
        for (key, span, value) in in_order(table) {
            match key {
                "sha256" => model.sha256 = Some(self.digest("model.sha256", value)?),
                _ => return Err(self.unknown(key, &span, "[model]", MODEL)),
            }
        }
        Ok(())
    }

    fn limits(&self, table: &DeTable<'_>, to: &mut Limits) -> Result<(), PolicyError> {
        for (key, span, v) in in_order(table) {
            match key {
                "memory" => to.memory = self.size("limits.memory", v, bounds::MEMORY)?,
                "run-time" => to.run_time = self.time("limits.run-time", v, bounds::RUN_TIME)?,
                "prepare-time" => {
                    to.prepare_time = self.time("limits.prepare-time", v, bounds::PREPARE_TIME)?;
                }
                "model-size" => {
                    to.model_size = self.size("limits.model-size", v, bounds::MODEL_SIZE)?;
                }
                "input-size" => {
                    to.input_size = self.size("limits.input-size", v, bounds::INPUT_SIZE)?;
                }
                "output-size" => {
                    to.output_size = self.size("limits.output-size", v, bounds::OUTPUT_SIZE)?;
                }
                "log-size" => to.log_size = self.size("limits.log-size", v, bounds::LOG_SIZE)?,
                "stack" => to.stack = self.size("limits.stack", v, bounds::STACK)?,
                "images" => to.images = self.count("limits.images", v, bounds::IMAGES)?,
                _ => return Err(self.unknown(key, &span, "[limits]", LIMITS)),
            }
        }
        Ok(())
    }

    fn compute(&self, table: &DeTable<'_>, compute: &mut Compute) -> Result<(), PolicyError> {
        for (key, span, value) in in_order(table) {
            match key {
                "deterministic" => {
                    compute.deterministic = value.get_ref().as_bool().ok_or_else(|| {
                        let why = format!("{}, not a boolean", kind(value));
                        let hint = "write true or false, without quotes".to_owned();
                        self.value("compute.deterministic", value, why, hint)
                    })?;
                }
                "kernels" => {
                    compute.kernels = match value.get_ref().as_str() {
                        Some("native") => Kernels::Native,
                        Some("sandbox") => Kernels::Sandbox,
                        found => {
                            let why = match found {
                                Some(_) => "not one of the two there are".to_owned(),
                                None => format!("{}, not a text", kind(value)),
                            };
                            let hint = "write \"native\" or \"sandbox\"".to_owned();
                            return Err(self.value("compute.kernels", value, why, hint));
                        }
                    };
                }
                "threads" => {
                    let found = value.get_ref().as_integer();
                    let found = found.and_then(|i| u32::from_str_radix(i.as_str(), i.radix()).ok());
                    compute.threads = match found {
                        Some(threads) if (1..=MAX_THREADS).contains(&threads) => threads,
                        _ => {
                            let why = match value.get_ref().as_integer() {
                                Some(_) => "not a number of threads".to_owned(),
                                None => format!("{}, not a number", kind(value)),
                            };
                            let hint = format!("write a number from 1 to {MAX_THREADS}");
                            return Err(self.value("compute.threads", value, why, hint));
                        }
                    };
                }
                _ => return Err(self.unknown(key, &span, "[compute]", COMPUTE)),
            }
        }
        Ok(())
    }

    fn size(
        &self,
        key: &'static str,
        value: &Value<'_>,
        bounds: Bounds<u64>,
    ) -> Result<u64, PolicyError> {
        self.quantity(key, value, bounds, SIZE_HINT, parse_size)
    }

    fn time(
        &self,
        key: &'static str,
        value: &Value<'_>,
        bounds: Bounds<Duration>,
    ) -> Result<Duration, PolicyError> {
        self.quantity(key, value, bounds, DURATION_HINT, parse_duration)
    }

    fn count(
        &self,
        key: &'static str,
        value: &Value<'_>,
        bounds: Bounds<u32>,
    ) -> Result<u32, PolicyError> {
        let result = match value.get_ref().as_integer() {
            Some(number) => u32::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| "not a count".to_owned())
                .and_then(|parsed| within(parsed, bounds).map(|()| parsed)),
            None => Err(format!("{}, not an integer", kind(value))),
        };
        result.map_err(|why| {
            let Bounds { min, default, max } = bounds;
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
            None => Err(format!("{}, not a text with a unit", kind(value))),
        };
        result.map_err(|why| {
            let hint = format!(
                "write {hint}; from {} to {}, or leave the key out for {}",
                bounds.min.shown(),
                bounds.max.shown(),
                bounds.default.shown()
            );
            self.value(key, value, why, hint)
        })
    }

    fn digest(&self, key: &'static str, value: &Value<'_>) -> Result<[u8; 32], PolicyError> {
        let error = |why| {
            let hint = "write the 64 hexadecimal digits that `sha256sum` prints for the model file";
            Err(self.value(key, value, why, hint.to_owned()))
        };
        let Some(text) = value.get_ref().as_str() else {
            return error(format!("{}, not a text", kind(value)));
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

    fn table<'t, 'i>(
        &self,
        name: &'static str,
        key: &Range<usize>,
        value: &'t Value<'i>,
    ) -> Result<&'t DeTable<'i>, PolicyError> {
        value.get_ref().as_table().ok_or_else(|| {
            let (line, column) = line_and_column(self.text, key.start);
            PolicyError::Value {
                path: self.origin.into(),
                line,
                column,
                key: name,
                value: self.source_of(value).into(),
                why: format!("{}, not a table", kind(value)).into(),
                hint: format!("write [{name}] on a line of its own, once, and its keys below")
                    .into(),
            }
        })
    }

    fn unknown(
        &self,
        key: &str,
        span: &Range<usize>,
        table: &'static str,
        valid: &[&str],
    ) -> PolicyError {
        let (line, column) = line_and_column(self.text, span.start);
        let elsewhere = TABLES.iter().find(|(_, keys)| keys.contains(&key));
        let guess = match (nearest(key, valid), elsewhere) {
            (Some(near), _) => format!("did you mean `{near}`? "),
            (None, Some((home, _))) => format!("`{key}` belongs to {home}. "),
            (None, None) => String::new(),
        };
        PolicyError::UnknownKey {
            path: self.origin.into(),
            line,
            column,
            key: quote(key).into(),
            table,
            hint: format!(
                "{guess}valid there in version {FORMAT_VERSION} of the format: {}",
                list(valid)
            )
            .into(),
        }
    }

    fn value(
        &self,
        key: &'static str,
        value: &Value<'_>,
        why: String,
        hint: String,
    ) -> PolicyError {
        let (line, column) = line_and_column(self.text, value.span().start);
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

    fn syntax(&self, error: &toml::de::Error) -> PolicyError {
        let (line, column) = line_and_column(self.text, error.span().map_or(0, |s| s.start));
        let words: Vec<&str> = error.message().split_whitespace().collect();
        PolicyError::Syntax {
            path: self.origin.into(),
            line,
            column,
            message: format!("not well-formed TOML: {}", shown(&words.join(" "))).into(),
            hint: "each key stands once, and sizes and durations are in quotes, for example \
                   memory = \"512 MiB\""
                .into(),
        }
    }

    /// The value as it is written in the file.
    fn source_of(&self, value: &Value<'_>) -> String {
        match value.get_ref() {
            DeValue::Table(_) => "{…}".to_owned(),
            DeValue::Array(_) => "[…]".to_owned(),
            _ => snippet(self.text.get(value.span()).unwrap_or_default()),
        }
    }
}

/// A table's entries in the order of the file, so that the first mistake is the one reported.
fn in_order<'t, 'i>(table: &'t DeTable<'i>) -> Vec<(&'t str, Range<usize>, &'t Value<'i>)> {
    let mut entries: Vec<_> =
        table.iter().map(|(key, value)| (key.get_ref().as_ref(), key.span(), value)).collect();
    entries.sort_by_key(|(_, span, _)| span.start);
    entries
}

/// What a value is, with its article.
fn kind(value: &Value<'_>) -> &'static str {
    match value.get_ref() {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
