//! Numbers, bools and strings as CSV, as spreadsheets, pandas and `numpy.savetxt` write it.
//!
//! Fields are separated by commas, or by semicolons, tabs or spaces if the first line has no comma.
//! A field may be in double quotes. A first line without numbers is a header, unless strings are
//! requested. Empty lines are skipped, and so are lines that begin with `#`, unless strings are
//! requested. As for JSON, a value must never be changed to fit its type, and memory grows only
//! with what was read.

mod records;

use std::collections::HashSet;
use std::io::Read;

use belljar_abi::{DType, MAX_NAME, MAX_TENSORS};

use self::records::{End, Records};
use super::json::{Elements, Scalar, max_text};
use super::{Tensor, TensorError};

/// Longest number in bytes, as for JSON.
const MAX_NUMBER: u64 = 2048;

fn malformed(why: impl Into<String>) -> TensorError {
    TensorError::Malformed { format: "csv", why: why.into() }
}

/// Reads one tensor with a row for each line, of type `dtype` if given. If one dimension is
/// required (`rank`), the file must have one line or one column. `limit` bounds its data as in
/// [`super::json::read_one`].
///
/// # Errors
/// [`TensorError::Malformed`] with the line and column of the invalid field;
/// [`TensorError::TooLarge`].
pub fn read_one(
    reader: impl Read,
    dtype: Option<DType>,
    rank: Option<usize>,
    limit: u64,
) -> Result<Tensor, TensorError> {
    let texts = dtype == Some(DType::String);
    let mut records = Records::new(reader, max_text(limit), texts)?;
    let mut budget = Budget { left: limit, limit };
    let mut elements = Elements::new(dtype);
    let mut header = false;
    while let Some(end) = records.field(budget.longest(texts))? {
        let scalar = match (records.text()?, texts) {
            (text, true) => Some(Scalar::Text(text.to_owned())),
            (text, false) => value(text),
        };
        match scalar {
            Some(scalar) => {
                budget.charge(elements.cost(&scalar))?;
                elements.push(scalar).map_err(|why| records.error(why))?;
                records.count(end)?;
            }
            None if !header && records.is_first() => {
                header = true;
                records.pass_header(end, |text| value(text).is_some())?;
            }
            None => return Err(records.error(no_value(records.text()?))),
        }
    }
    let (rows, columns) = records.size();
    if rows == 0 {
        return Err(malformed("it has no rows"));
    }
    let shape = match (rank, rows, columns) {
        (Some(0), 1, 1) => vec![],
        (Some(1), rows, 1) => vec![rows],
        (Some(1), 1, columns) => vec![columns],
        _ => vec![rows, columns],
    };
    let data = elements.finish(dtype).map_err(|(at, why)| {
        let row_and_column = |at: usize| (at / columns.max(1) + 1, at % columns.max(1) + 1);
        let (row, column) = row_and_column(at);
        malformed(format!("row {row}, column {column}: {why}"))
    })?;
    Tensor::new(data, &shape)
}

/// Reads a tensor from each column, named by the header: of shape `[rows, 1]`, or `[rows]` if
/// `kind_of` returns one dimension; `kind_of` also returns the type if it is known. `limit` bounds
/// the data of all columns together, in bytes.
///
/// # Errors
/// Those of [`read_one`]; also for a duplicate column name.
pub fn read_columns(
    reader: impl Read,
    kind_of: impl Fn(&str) -> (Option<DType>, Option<usize>),
    limit: u64,
) -> Result<Vec<(String, Tensor)>, TensorError> {
    let mut records = Records::new(reader, max_text(limit), true)?;
    let mut budget = Budget { left: limit, limit };
    let mut columns: Vec<(String, Elements)> = Vec::new();
    let mut names = HashSet::new();
    while let Some(end) = records.field(MAX_NAME as u64)? {
        let name = records.text()?.trim().to_owned();
        if columns.len() == MAX_TENSORS {
            return Err(malformed(format!("it has more than {MAX_TENSORS} columns")));
        }
        if !names.insert(name.clone()) {
            return Err(malformed(format!("two columns are named {name:?}")));
        }
        columns.push((name.clone(), Elements::new(kind_of(&name).0)));
        if end != End::Field {
            records.pass_header(end, |_| false)?;
            break;
        }
    }
    let mut column = 0;
    while let Some(end) = records.field(budget.left.max(MAX_NUMBER))? {
        if let Some((name, elements)) = columns.get_mut(column) {
            let text = records.text()?;
            let scalar = match kind_of(name.as_str()).0 {
                Some(DType::String) => Scalar::Text(text.to_owned()),
                _ => value(text).ok_or_else(|| records.error(no_value(text)))?,
            };
            budget.charge(elements.cost(&scalar))?;
            elements.push(scalar).map_err(|why| records.error(why))?;
        }
        records.count(end)?;
        column = if end == End::Field { column + 1 } else { 0 };
    }
    let (rows, _) = records.size();
    if rows == 0 {
        return Err(malformed("it has no rows"));
    }
    let tensor = |(name, elements): (String, Elements)| {
        let (dtype, rank) = kind_of(&name);
        let data = elements
            .finish(dtype)
            .map_err(|(at, why)| malformed(format!("row {}, column {name:?}: {why}", at + 1)))?;
        let shape = if rank == Some(1) { vec![rows] } else { vec![rows, 1] };
        Ok((name, Tensor::new(data, &shape)?))
    };
    columns.into_iter().map(tensor).collect()
}

/// The names in the first line of a text that begins with `start`; empty if the line is longer than
/// `start`.
pub fn header(start: &[u8]) -> Vec<String> {
    let whole = start.contains(&b'\n');
    let Ok(mut records) = Records::new(start, start.len() as u64 + 1, true) else {
        return Vec::new();
    };
    let mut names = Vec::new();
    while let Ok(Some(end)) = records.field(MAX_NAME as u64) {
        names.extend(records.text().ok().map(|name| name.trim().to_owned()));
        if end != End::Field {
            return if whole { names } else { Vec::new() };
        }
    }
    Vec::new()
}

struct Budget {
    left: u64,
    limit: u64,
}

impl Budget {
    fn charge(&mut self, cost: u64) -> Result<(), TensorError> {
        let too_large = || TensorError::TooLarge { what: "the data".into(), limit: self.limit };
        self.left = self.left.checked_sub(cost).ok_or_else(too_large)?;
        Ok(())
    }

    /// The maximum length of a field.
    fn longest(&self, texts: bool) -> u64 {
        if texts { self.left } else { MAX_NUMBER }
    }
}

fn no_value(text: &str) -> String {
    match text.trim() {
        "" => "the field is empty; write nan for a missing number".into(),
        text => {
            let short: String = text.chars().take(40).collect();
            format!("{short:?} is not a number, true or false")
        }
    }
}

/// Parses a field; `None` if it is neither a number nor a bool.
fn value(text: &str) -> Option<Scalar> {
    let text = text.trim();
    for (word, value) in [("true", true), ("false", false)] {
        if text.eq_ignore_ascii_case(word) {
            return Some(Scalar::Bool(value));
        }
    }
    let sign = text.starts_with(['+', '-']);
    let digits = text.get(usize::from(sign)..)?;
    if let "inf" | "infinity" = digits.to_ascii_lowercase().as_str() {
        let text = if text.starts_with('-') { "-Infinity" } else { "Infinity" };
        return Some(Scalar::Text(text.into()));
    }
    let integral = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let minus_zero = text.starts_with('-') && digits.bytes().all(|byte| byte == b'0');
    if integral && !minus_zero {
        if let Ok(value) = text.parse() {
            return Some(Scalar::Int(value));
        }
        if let Ok(value) = text.parse() {
            return Some(Scalar::Uint(value));
        }
    }
    Some(Scalar::Float { wide: text.parse().ok()?, narrow: text.parse().ok()?, integral })
}
