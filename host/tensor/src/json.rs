//! Tensors as JSON: nested arrays, or an object with dtype and shape.
//!
//! A tensor is written in one of two forms:
//!
//! 1. nested arrays of numbers, of bools or of strings, or one bare scalar;
//! 2. `{"dtype": "f32", "shape": [2, 3], "data": [0, 1, 2, 3, 4, 5]}`, its data flat or nested,
//!    `dtype` and `shape` optional.
//!
//! Several tensors are one object of names and tensors. Floats that JSON numbers cannot represent
//! are the strings `"NaN"`, `"Infinity"` and `"-Infinity"`. The element type is the one the caller
//! requests; else the one in the file; else `f32` if any number has a fraction or an exponent, and
//! `i64` otherwise. A value must never be changed to fit its type. `values.rs` has the forms of
//! sequences, maps and optionals.

mod collect;
mod lexer;
mod open;
mod values;
mod write;

pub use self::values::{
    Declared, JsonValue, read_named_values, read_one_value, write_named_values,
};
pub use self::write::Values;
pub use self::write::{Json, write_named, write_one};

use std::collections::HashSet;
use std::io::Read;

use belljar_abi::{DType, MAX_NAME, MAX_RANK, MAX_TENSORS};

pub(super) use self::collect::Elements;
pub(super) use self::lexer::Scalar;
use self::lexer::{Lexer, Token};
use super::{Tensor, TensorError, unravel};

/// Bytes of text allowed for each byte of data: numbers have up to 25 characters for four bytes,
/// bools five for one, and text may be indented.
const TEXT_PER_BYTE: u64 = 64;

/// Bytes of text allowed in addition, for names, brackets and white space.
const MIN_TEXT: u64 = 1 << 20;

/// The maximum length of the text for this limit of data bytes.
pub(super) fn max_text(limit: u64) -> u64 {
    limit.saturating_mul(TEXT_PER_BYTE).saturating_add(MIN_TEXT)
}

fn malformed(why: impl Into<String>) -> TensorError {
    TensorError::Malformed { format: "json", why: why.into() }
}

/// The error for the tensor called `context`, or for its element at `index`.
fn wrong_at(context: &str, index: &[usize], why: &str) -> TensorError {
    if context.is_empty() && index.is_empty() {
        return malformed(why);
    }
    malformed(format!("{context}{}: {why}", Index(index)))
}

/// Reads one tensor, of type `dtype` if given. `limit` bounds its bytes of data.
///
/// A string counts its length plus the 24 bytes it takes in memory. While the type is not known
/// from the caller or the file, every element counts 8 bytes.
///
/// # Errors
/// [`TensorError::Malformed`] with the position of the invalid element, such as `[0][3]`;
/// [`TensorError::Count`], [`TensorError::Shape`] and [`TensorError::TooLarge`].
pub fn read_one(
    reader: impl Read,
    dtype: Option<DType>,
    limit: u64,
) -> Result<Tensor, TensorError> {
    let mut parser = Parser::new(reader, limit);
    let first = parser.token()?;
    let tensor = parser.tensor(first, dtype, "")?;
    parser.end()?;
    Ok(tensor)
}

/// Reads an object of names and tensors, in the file's order; `dtype_of` returns the type of each
/// name if it is known. `limit` bounds the data of all tensors together, in bytes.
///
/// # Errors
/// Those of [`read_one`]; also more than [`MAX_TENSORS`] tensors, or a duplicate name.
pub fn read_named(
    reader: impl Read,
    dtype_of: impl Fn(&str) -> Option<DType>,
    limit: u64,
) -> Result<Vec<(String, Tensor)>, TensorError> {
    let mut parser = Parser::new(reader, limit);
    if parser.token()? != Token::ObjectOpen {
        return Err(malformed("it is not an object of names and tensors"));
    }
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    while let Some(name) = parser.key(tensors.is_empty())? {
        if tensors.len() == MAX_TENSORS {
            return Err(malformed(format!("it has more than {MAX_TENSORS} tensors")));
        }
        if !names.insert(name.clone()) {
            return Err(malformed(format!("two tensors are named {name:?}")));
        }
        let first = parser.token()?;
        let tensor = parser.tensor(first, dtype_of(&name), &format!("{name:?}"))?;
        tensors.push((name, tensor));
    }
    parser.end()?;
    Ok(tensors)
}

struct Parser<R> {
    lexer: Lexer<R>,
    limit: u64,
    /// The rest of the limit.
    left: u64,
}

/// Nested data: its elements, and the shape of its brackets.
struct Nested {
    elements: Elements,
    shape: Vec<usize>,
    cost: u64,
}

impl<R: Read> Parser<R> {
    fn new(reader: R, limit: u64) -> Parser<R> {
        Parser { lexer: Lexer::new(reader, max_text(limit)), limit, left: limit }
    }

    fn token(&mut self) -> Result<Token, TensorError> {
        self.lexer.token(self.left)
    }

    fn end(&mut self) -> Result<(), TensorError> {
        match self.token()? {
            Token::End => Ok(()),
            _ => Err(self.lexer.error("extra data after the end of the value")),
        }
    }

    /// Reads the next key of an object and its colon; `None` at the object's end.
    fn key(&mut self, first: bool) -> Result<Option<String>, TensorError> {
        self.key_within(first, MAX_NAME as u64)
    }

    /// As `key`, for a key of a map, which is data: only the limit bounds its length.
    fn map_key(&mut self, first: bool) -> Result<Option<String>, TensorError> {
        self.key_within(first, self.left)
    }

    fn key_within(&mut self, first: bool, max: u64) -> Result<Option<String>, TensorError> {
        let mut token = self.lexer.token(max)?;
        if token == Token::ObjectClose {
            return Ok(None);
        }
        if !first {
            if token != Token::Comma {
                return Err(self.lexer.error("missing comma or closing brace"));
            }
            token = self.lexer.token(max)?;
        }
        match token {
            Token::Scalar(Scalar::Text(key)) => {
                self.expect(Token::Colon, "missing colon after a key")?;
                Ok(Some(key))
            }
            _ => Err(self.lexer.error("missing key")),
        }
    }

    fn expect(&mut self, token: Token, what: &str) -> Result<(), TensorError> {
        if self.token()? == token { Ok(()) } else { Err(self.lexer.error(what)) }
    }

    /// Reads a tensor in either form, which starts with the token `first`; `context` names it in
    /// errors.
    fn tensor(
        &mut self,
        first: Token,
        wanted: Option<DType>,
        context: &str,
    ) -> Result<Tensor, TensorError> {
        if first != Token::ObjectOpen {
            let nested = self.nested(first, wanted, context)?;
            return self.finish(nested, wanted, None, context);
        }
        let (mut dtype, mut shape, mut data) = (None, None, None);
        let invalid = |why: &str| wrong_at(context, &[], why);
        let mut is_first = true;
        while let Some(key) = self.key(is_first)? {
            is_first = false;
            let token = self.token()?;
            let again = match key.as_str() {
                "dtype" => dtype.replace(self.dtype(token, wanted, context)?).is_some(),
                "shape" => shape.replace(self.shape(token, context)?).is_some(),
                "data" if data.is_none() => {
                    let nested =
                        self.nested(token, wanted.or(dtype), &format!("{context}.data"))?;
                    data = Some(nested);
                    false
                }
                "data" => true,
                _ => {
                    return Err(invalid(
                        "unknown key; a tensor has the keys dtype, shape and data",
                    ));
                }
            };
            if again {
                return Err(invalid(&format!("duplicate key {key:?}")));
            }
        }
        let nested = data.ok_or_else(|| invalid("the key data is missing"))?;
        self.finish(nested, wanted.or(dtype), shape, &format!("{context}.data"))
    }

    fn dtype(
        &self,
        token: Token,
        wanted: Option<DType>,
        context: &str,
    ) -> Result<DType, TensorError> {
        let Token::Scalar(Scalar::Text(name)) = token else {
            return Err(malformed(format!("{context}.dtype: it is not a string")));
        };
        let Some(dtype) = DType::ALL.iter().find(|dtype| dtype.name() == name) else {
            let known: Vec<&str> = DType::ALL.iter().map(|dtype| dtype.name()).collect();
            let name: String = name.chars().take(40).collect();
            let known = known.join(", ");
            return Err(malformed(format!("{context}.dtype: {name:?} is not one of {known}")));
        };
        match wanted {
            Some(wanted) if wanted != *dtype => Err(malformed(format!(
                "{context}.dtype: it is {dtype}, but {wanted} is required; leave dtype out to \
                 convert the values"
            ))),
            _ => Ok(*dtype),
        }
    }

    fn shape(&mut self, token: Token, context: &str) -> Result<Vec<usize>, TensorError> {
        let bad = || malformed(format!("{context}.shape: it is not a list of dimensions"));
        if token != Token::ArrayOpen {
            return Err(bad());
        }
        let mut shape = Vec::new();
        let mut token = self.token()?;
        while token != Token::ArrayClose {
            if !shape.is_empty() {
                if token != Token::Comma {
                    return Err(bad());
                }
                token = self.token()?;
            }
            let dim = match token {
                Token::Scalar(Scalar::Int(dim)) => usize::try_from(dim).map_err(|_| bad())?,
                Token::Scalar(Scalar::Uint(dim)) => usize::try_from(dim).map_err(|_| bad())?,
                _ => return Err(bad()),
            };
            if shape.len() == MAX_RANK {
                return Err(TensorError::Shape { shape, why: "it has more than 32 dimensions" });
            }
            shape.push(dim);
            token = self.token()?;
        }
        Ok(shape)
    }

    /// Reads nested arrays, which must be regular, or a scalar.
    fn nested(
        &mut self,
        first: Token,
        dtype: Option<DType>,
        context: &str,
    ) -> Result<Nested, TensorError> {
        let mut elements = Elements::new(dtype);
        let mut cost = 0;
        // The number of items so far in each open array; the length of arrays at each depth, known
        // once the first of them is closed; the depth of the scalars.
        let mut open: Vec<usize> = Vec::new();
        let mut lens: Vec<Option<usize>> = Vec::new();
        let mut leaves: Option<usize> = None;
        let mut token = first;
        loop {
            let at = |why: &str| wrong_at(context, &open, why);
            match token {
                Token::ArrayOpen if leaves == Some(open.len()) => {
                    return Err(at("an array where its neighbours are scalars"));
                }
                Token::ArrayOpen if open.len() == MAX_RANK => {
                    return Err(at("arrays are nested too deeply"));
                }
                Token::ArrayOpen => {
                    open.push(0);
                    if lens.len() < open.len() {
                        lens.push(None);
                    }
                    token = self.token()?;
                    if token != Token::ArrayClose {
                        continue;
                    }
                }
                Token::Scalar(scalar) => {
                    if *leaves.get_or_insert(lens.len()) != open.len() {
                        return Err(at("a scalar where its neighbours are arrays"));
                    }
                    let more = elements.cost(&scalar);
                    self.charge(more, context)?;
                    cost += more;
                    elements.push(scalar).map_err(|why| at(&why))?;
                    token = Token::Comma;
                }
                Token::Null => return Err(at("null is not a value of any dtype")),
                Token::ObjectOpen => return Err(at("an object where a value was expected")),
                Token::End => return Err(at("the file ends here")),
                _ => return Err(at("missing value")),
            }
            // A value is complete, or (`ArrayClose`) an array is empty: close all arrays that end
            // here.
            let mut closes = token == Token::ArrayClose;
            loop {
                let depth = open.len();
                if closes {
                    let count = open.pop().unwrap_or(0);
                    let at = |why: &str| wrong_at(context, &open, why);
                    match lens.get_mut(depth - 1) {
                        Some(Some(len)) if *len != count => {
                            return Err(at(&format!(
                                "an array of {count} items where its neighbours have {len}"
                            )));
                        }
                        Some(len) => *len = Some(count),
                        None => {}
                    }
                }
                let Some(count) = open.last_mut() else {
                    let shape = lens.into_iter().map(|len| len.unwrap_or(0)).collect();
                    return Ok(Nested { elements, shape, cost });
                };
                *count += 1;
                match self.token()? {
                    Token::Comma => break,
                    Token::ArrayClose => closes = true,
                    _ => return Err(self.lexer.error("missing comma or closing bracket")),
                }
            }
            token = self.token()?;
        }
    }

    fn charge(&mut self, cost: u64, context: &str) -> Result<(), TensorError> {
        let left = self.left.checked_sub(cost);
        self.left = left.ok_or_else(|| TensorError::TooLarge {
            what: format!(
                "the data up to {}",
                if context.is_empty() { "its end" } else { context }
            ),
            limit: self.limit,
        })?;
        Ok(())
    }

    fn finish(
        &mut self,
        nested: Nested,
        dtype: Option<DType>,
        declared: Option<Vec<usize>>,
        context: &str,
    ) -> Result<Tensor, TensorError> {
        let Nested { elements, shape, cost } = nested;
        let data = elements
            .finish(dtype)
            .map_err(|(at, why)| wrong_at(context, &unravel(at, &shape), &why))?;
        if let Some(size) = data.dtype().size() {
            // Elements of an unknown type were charged more than they take once it is known.
            let cost_now = size as u64 * data.len() as u64;
            self.left = self.left.saturating_add(cost.saturating_sub(cost_now));
        }
        match declared {
            Some(declared) if shape.len() > 1 && declared != shape => Err(malformed(format!(
                "{context}: its brackets form the shape {shape:?}, but the key shape is {declared:?}"
            ))),
            Some(declared) => Tensor::new(data, &declared),
            None => Tensor::new(data, &shape),
        }
    }
}

/// A position among nested arrays: `[0][3]`.
struct Index<'a>(&'a [usize]);

impl std::fmt::Display for Index<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|index| write!(f, "[{index}]"))
    }
}
