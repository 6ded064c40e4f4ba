//! Value rules of inputs and outputs: `[inputs.NAME]` and `[outputs.NAME]`. An input that violates
//! its rule does not reach the sandbox; an output that violates its rule is withheld.

use std::fmt;

use toml::de::{DeTable, DeValue};

use super::PolicyError;
use super::keys::Table;
use super::mistakes::kind;
use super::reader::{Reader, Value};
use belljar_tensor::DType;

/// Maximum numbers of dimensions and of allowed values in a rule.
pub(super) const MAX_DIMS: usize = 32;
pub(super) const MAX_ALLOWED: usize = 1024;
/// Maximum number of decimals: about the decimal precision of a 64-bit float.
pub(super) const MAX_DECIMALS: u32 = 15;

/// A number or a boolean.
#[derive(Clone, Copy, Debug)]
pub enum Scalar {
    /// An integer.
    Int(i64),
    /// A finite number.
    Float(f64),
    /// A boolean.
    Bool(bool),
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Scalar) -> bool {
        match (self, other) {
            (Scalar::Int(a), Scalar::Int(b)) => a == b,
            (Scalar::Float(a), Scalar::Float(b)) => a.to_bits() == b.to_bits(),
            (Scalar::Bool(a), Scalar::Bool(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Scalar {}

impl std::fmt::Display for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Scalar::Int(value) => value.fmt(f),
            Scalar::Float(value) => write!(f, "{value:?}"),
            Scalar::Bool(value) => value.fmt(f),
        }
    }
}

/// The sizes that a rule allows for one dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// Any size: `"?"`.
    Any,
    /// From the first to the second, both included: `3`, or `"1..512"`.
    Range(u64, u64),
}

impl Sizes {
    /// Exactly this size.
    #[must_use]
    pub fn exactly(size: u64) -> Sizes {
        Sizes::Range(size, size)
    }

    /// Whether a dimension may have this size.
    #[must_use]
    pub fn allows(self, size: u64) -> bool {
        match self {
            Sizes::Any => true,
            Sizes::Range(least, most) => (least..=most).contains(&size),
        }
    }

    /// The sizes that a text of a policy names, if it is one.
    pub(crate) fn parse(text: &str) -> Option<Sizes> {
        if text == "?" {
            return Some(Sizes::Any);
        }
        let (least, most) = text.split_once("..")?;
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<u64>().ok(),
            false => None,
        };
        let (least, most) = (number(least)?, number(most)?);
        (least <= most).then_some(Sizes::Range(least, most))
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sizes::Any => f.write_str("?"),
            Sizes::Range(least, most) if least == most => write!(f, "{least}"),
            Sizes::Range(least, most) => write!(f, "{least}..{most}"),
        }
    }
}

/// The rule for the values of one input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ValueRule {
    /// The name of the input or output in the model.
    pub name: String,
    /// For inputs: the only allowed value, with which the model is prepared. Callers may omit the
    /// input.
    pub value: Option<Scalar>,
    /// The element type.
    pub dtype: Option<DType>,
    /// The sizes of each dimension.
    pub shape: Option<Vec<Sizes>>,
    /// The minimum of every element.
    pub min: Option<Scalar>,
    /// The maximum of every element.
    pub max: Option<Scalar>,
    /// Whether NaN and infinities violate the rule. Default: `true`.
    pub finite: bool,
    /// The maximum of the Euclidean norm of all elements.
    pub max_norm: Option<Scalar>,
    /// The allowed values of elements; empty for any.
    pub allowed: Vec<Scalar>,
    /// For outputs: the number of decimals that elements are rounded to.
    pub decimals: Option<u32>,
    /// For outputs: only this many of the largest elements of each row along the last axis are
    /// returned; the others become the minimum of their type.
    pub top_k: Option<u32>,
}

impl ValueRule {
    /// A rule that only requires finite numbers.
    #[must_use]
    pub fn new(name: impl Into<String>) -> ValueRule {
        ValueRule {
            name: name.into(),
            value: None,
            dtype: None,
            shape: None,
            min: None,
            max: None,
            finite: true,
            max_norm: None,
            allowed: Vec::new(),
            decimals: None,
            top_k: None,
        }
    }
}

impl Reader<'_> {
    /// Parses the rules below `[inputs]` or `[outputs]`.
    pub(super) fn rules(
        &self,
        table: &DeTable<'_>,
        home: &'static Table,
    ) -> Result<Vec<ValueRule>, PolicyError> {
        let mut rules = Vec::new();
        for (name, span, value) in super::reader::in_order(table) {
            if name.is_empty() || name.len() > belljar_abi::MAX_NAME {
                let why = "not the name of an input or output".to_owned();
                let hint = "write the name that `belljar inspect` shows".to_owned();
                return Err(self.value_at(span.start, home.key, value, why, hint));
            }
            if rules.len() >= super::MAX_GRANTS {
                let why = format!("more than {} entries", super::MAX_GRANTS);
                let hint = "remove entries that need no rule".to_owned();
                return Err(self.value_at(span.start, home.key, value, why, hint));
            }
            rules.push(self.rule(name, self.table(home, &span, value)?, home)?);
        }
        Ok(rules)
    }

    fn rule(
        &self,
        name: &str,
        table: &DeTable<'_>,
        home: &'static Table,
    ) -> Result<ValueRule, PolicyError> {
        let mut rule = ValueRule::new(name);
        for entry in self.entries(table, home) {
            let (key, span, value) = entry?;
            match key {
                "value" => rule.value = Some(self.scalar("value", value)?),
                "dtype" => rule.dtype = Some(self.dtype(value)?),
                "shape" => rule.shape = Some(self.dims(value)?),
                "min" => rule.min = Some(self.number("min", value)?),
                "max" => rule.max = Some(self.number("max", value)?),
                "finite" => rule.finite = self.switch("finite", value)?,
                "max-norm" => rule.max_norm = Some(self.number("max-norm", value)?),
                "allowed" => rule.allowed = self.allowed(value)?,
                "decimals" => {
                    rule.decimals = Some(self.whole("decimals", value, 0, MAX_DECIMALS)?);
                }
                "top-k" => rule.top_k = Some(self.whole("top-k", value, 1, u32::MAX)?),
                _ => return Err(self.unknown(key, &span, home)),
            }
        }
        if let (Some(min), Some(max)) = (rule.min, rule.max)
            && number(min) > number(max)
            && let Some(value) = table.get("min")
        {
            let why = format!("above `max`, which is {max}, so no value would pass");
            return Err(self.value(
                "min",
                value,
                why,
                "write a number that is not above `max`".to_owned(),
            ));
        }
        Ok(rule)
    }

    fn scalar(&self, key: &'static str, value: &Value<'_>) -> Result<Scalar, PolicyError> {
        let scalar = match value.get_ref() {
            DeValue::Boolean(truth) => Some(Scalar::Bool(*truth)),
            DeValue::Integer(text) => {
                i64::from_str_radix(text.as_str(), text.radix()).ok().map(Scalar::Int)
            }
            DeValue::Float(text) => {
                let number = text.as_str().parse::<f64>().ok();
                number.filter(|number| number.is_finite()).map(Scalar::Float)
            }
            _ => None,
        };
        scalar.ok_or_else(|| {
            let why = match value.get_ref() {
                DeValue::Integer(_) | DeValue::Float(_) => "not a finite number".to_owned(),
                _ => format!("{}, not a number", kind(value)),
            };
            self.value(key, value, why, "write a number without quotes".to_owned())
        })
    }

    fn number(&self, key: &'static str, value: &Value<'_>) -> Result<Scalar, PolicyError> {
        match self.scalar(key, value)? {
            Scalar::Bool(_) => {
                let why = format!("{}, not a number", kind(value));
                Err(self.value(key, value, why, "write a number without quotes".to_owned()))
            }
            Scalar::Int(number) if key == "max-norm" && number < 0 => self.negative(key, value),
            Scalar::Float(number) if key == "max-norm" && number < 0.0 => self.negative(key, value),
            number => Ok(number),
        }
    }

    fn negative<T>(&self, key: &'static str, value: &Value<'_>) -> Result<T, PolicyError> {
        let hint = "write a number that is not negative".to_owned();
        Err(self.value(key, value, "negative; a norm cannot be negative".to_owned(), hint))
    }

    pub(super) fn whole(
        &self,
        key: &'static str,
        value: &Value<'_>,
        least: u32,
        most: u32,
    ) -> Result<u32, PolicyError> {
        super::reader::unsigned(value).filter(|n| (least..=most).contains(n)).ok_or_else(|| {
            let why = match value.get_ref() {
                DeValue::Integer(_) => format!("not in the range from {least} to {most}"),
                _ => format!("{}, not an integer", kind(value)),
            };
            let hint = format!("write a number from {least} to {most}, without quotes");
            self.value(key, value, why, hint)
        })
    }

    fn dtype(&self, value: &Value<'_>) -> Result<DType, PolicyError> {
        let names: Vec<&str> = DType::ALL.iter().map(|dtype| dtype.name()).collect();
        let at = self.choice("dtype", value, &names)?;
        Ok(DType::ALL[at])
    }

    fn dims(&self, value: &Value<'_>) -> Result<Vec<Sizes>, PolicyError> {
        let wrong = |value: &Value<'_>, why: String| {
            let hint = format!(
                "write a list of up to {MAX_DIMS} sizes; \"1..512\" means from 1 to 512, and \"?\" any"
            );
            self.value("shape", value, why, hint)
        };
        let items = value.get_ref().as_array();
        let items = items.ok_or_else(|| wrong(value, format!("{}, not a list", kind(value))))?;
        if items.len() > MAX_DIMS {
            return Err(wrong(value, format!("{} dimensions", items.len())));
        }
        let dim = |item: &Value<'_>| match item.get_ref() {
            DeValue::String(text) => {
                Sizes::parse(text).ok_or_else(|| wrong(item, "not a range of sizes".to_owned()))
            }
            DeValue::Integer(text) => u64::from_str_radix(text.as_str(), text.radix())
                .map(Sizes::exactly)
                .map_err(|_| wrong(item, "not a size".to_owned())),
            _ => Err(wrong(item, format!("{}, not a size", kind(item)))),
        };
        items.iter().map(dim).collect()
    }

    fn allowed(&self, value: &Value<'_>) -> Result<Vec<Scalar>, PolicyError> {
        let wrong = |why: String| {
            let hint = format!("write a list of 1 to {MAX_ALLOWED} numbers");
            self.value("allowed", value, why, hint)
        };
        let items = value.get_ref().as_array();
        let items = items.ok_or_else(|| wrong(format!("{}, not a list", kind(value))))?;
        if items.is_empty() || items.len() > MAX_ALLOWED {
            return Err(wrong(format!("{} values", items.len())));
        }
        items.iter().map(|item| self.scalar("allowed", item)).collect()
    }
}

fn number(scalar: Scalar) -> f64 {
    match scalar {
        Scalar::Int(value) => value as f64,
        Scalar::Float(value) => value,
        Scalar::Bool(value) => f64::from(u8::from(value)),
    }
}
