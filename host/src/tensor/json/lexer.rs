//! JSON text as a stream of tokens, read from bytes that are never all in memory.
//!
//! A general JSON library would build a tree many times the size of the tensor, and round numbers
//! on the way to it: integers above 2^53, and floats twice. Here a number stays exact until the
//! element type is known. Only the text of the current token is kept; nothing here recurses.

use std::io::{BufRead, BufReader, ErrorKind, Read, Take};

use super::{TensorError, malformed};

/// Longest number in bytes. The longest exact decimal of an `f64` has fewer than 1100.
const MAX_NUMBER: usize = 2048;

/// A number or another scalar, before its element type is known.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Int(i64),
    Uint(u64),
    /// A number with a fraction or exponent, or (`integral`) an integer that only a float can
    /// hold: `-0`, or one beyond 64 bits. Both nearest values, as rounding twice would be off.
    Float {
        wide: f64,
        narrow: f32,
        integral: bool,
    },
    Bool(bool),
    Text(String),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    ArrayOpen,
    ArrayClose,
    ObjectOpen,
    ObjectClose,
    Comma,
    Colon,
    Null,
    Scalar(Scalar),
    End,
}

pub(super) struct Lexer<R> {
    source: BufReader<Take<R>>,
    /// Offset of the next byte.
    at: u64,
    max_text: u64,
    /// Text of the current token.
    token: Vec<u8>,
}

impl<R: Read> Lexer<R> {
    /// Reads at most `max_text` bytes of text, white space included.
    pub(super) fn new(reader: R, max_text: u64) -> Lexer<R> {
        Lexer { source: BufReader::new(reader.take(max_text)), at: 0, max_text, token: Vec::new() }
    }

    pub(super) fn error(&self, what: impl std::fmt::Display) -> TensorError {
        malformed(format!("{what} before byte {}", self.at))
    }

    fn peek(&mut self) -> Result<Option<u8>, TensorError> {
        let next = loop {
            match self.source.fill_buf() {
                Ok(buffer) => break buffer.first().copied(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        };
        if next.is_none() && self.at >= self.max_text {
            let what = "the text of the file".into();
            return Err(TensorError::TooLarge { what, limit: self.max_text });
        }
        Ok(next)
    }

    fn skip(&mut self) {
        self.source.consume(1);
        self.at += 1;
    }

    /// The next token; a string in it may be `max_string` bytes long.
    pub(super) fn token(&mut self, max_string: u64) -> Result<Token, TensorError> {
        let first = loop {
            match self.peek()? {
                None => return Ok(Token::End),
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.skip(),
                Some(first) => break first,
            }
        };
        match first {
            b'"' => self.string(max_string).map(|text| Token::Scalar(Scalar::Text(text))),
            b'-' | b'0'..=b'9' => self.number().map(Token::Scalar),
            b'a'..=b'z' | b'A'..=b'Z' => self.word(),
            _ => {
                self.skip();
                match first {
                    b'[' => Ok(Token::ArrayOpen),
                    b']' => Ok(Token::ArrayClose),
                    b'{' => Ok(Token::ObjectOpen),
                    b'}' => Ok(Token::ObjectClose),
                    b',' => Ok(Token::Comma),
                    b':' => Ok(Token::Colon),
                    _ => Err(self.error("something that is not JSON")),
                }
            }
        }
    }

    /// Collects the bytes for which `belongs` holds.
    fn collect(&mut self, belongs: fn(u8) -> bool) -> Result<(), TensorError> {
        self.token.clear();
        while let Some(byte) = self.peek()?.filter(|byte| belongs(*byte)) {
            if self.token.len() == MAX_NUMBER {
                return Err(self.error(format_args!("a value of more than {MAX_NUMBER} bytes")));
            }
            self.token.push(byte);
            self.skip();
        }
        Ok(())
    }

    fn word(&mut self) -> Result<Token, TensorError> {
        self.collect(|byte| byte.is_ascii_alphanumeric())?;
        match self.token.as_slice() {
            b"true" => Ok(Token::Scalar(Scalar::Bool(true))),
            b"false" => Ok(Token::Scalar(Scalar::Bool(false))),
            b"null" => Ok(Token::Null),
            b"NaN" | b"Infinity" | b"nan" | b"inf" => {
                Err(self.error("a bare NaN or Infinity (write it as a string, \"NaN\",)"))
            }
            _ => Err(self.error("a word that is not JSON")),
        }
    }

    fn number(&mut self) -> Result<Scalar, TensorError> {
        self.collect(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'))?;
        let bad = || self.error("a number that JSON does not have");
        let integral = integral(&self.token).ok_or_else(bad)?;
        let text = std::str::from_utf8(&self.token).map_err(|_| bad())?;
        if integral && text != "-0" {
            if let Ok(value) = text.parse() {
                return Ok(Scalar::Int(value));
            }
            if let Ok(value) = text.parse() {
                return Ok(Scalar::Uint(value));
            }
        }
        let wide = text.parse().map_err(|_| bad())?;
        let narrow = text.parse().map_err(|_| bad())?;
        Ok(Scalar::Float { wide, narrow, integral })
    }

    fn string(&mut self, max_string: u64) -> Result<String, TensorError> {
        // One character can be spelled with six bytes (`\u0041`).
        let max_raw = max_string.saturating_mul(6).saturating_add(2);
        let too_long = || TensorError::TooLarge { what: "a string".into(), limit: max_string };
        self.token.clear();
        let mut escaped = false;
        loop {
            let Some(byte) = self.peek()? else {
                return Err(self.error("an unclosed string"));
            };
            if self.token.len() as u64 >= max_raw {
                return Err(too_long());
            }
            self.skip();
            self.token.push(byte);
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' if self.token.len() > 1 => break,
                _ => {}
            }
        }
        let text: String = serde_json::from_slice(&self.token)
            .map_err(|_| self.error("a string with an escape or byte that JSON does not have"))?;
        if text.len() as u64 > max_string { Err(too_long()) } else { Ok(text) }
    }
}

/// Whether a number in JSON's grammar is without fraction and exponent; `None` if it is not one.
fn integral(text: &[u8]) -> Option<bool> {
    fn digits(text: &[u8]) -> Option<&[u8]> {
        let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        text.get(count..).filter(|_| count > 0)
    }
    let whole = text.strip_prefix(b"-").unwrap_or(text);
    let mut rest = match whole {
        [b'0', rest @ ..] => rest,
        _ => digits(whole)?,
    };
    let integral = rest.is_empty();
    if let Some(fraction) = rest.strip_prefix(b".") {
        rest = digits(fraction)?;
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let signed = matches!(exponent.first(), Some(b'+' | b'-'));
        rest = digits(exponent.get(usize::from(signed)..)?)?;
    }
    rest.is_empty().then_some(integral)
}
