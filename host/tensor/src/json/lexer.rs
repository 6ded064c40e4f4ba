//! Splits JSON text into tokens, reading from a stream that is never held in memory as a whole.
//!
//! A general JSON library would build a tree many times the size of the tensor, and round numbers:
//! integers above 2^53, and floats twice. Here a number stays exact until the element type is
//! known. Only the text of the current token is kept; nothing here recurses.

use std::io::{BufRead, BufReader, ErrorKind, Read, Take};

use super::{TensorError, malformed};

/// Longest number in bytes. The longest exact decimal of an `f64` has fewer than 1100.
const MAX_NUMBER: usize = 2048;

/// A number or another scalar, before its element type is known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scalar {
    Int(i64),
    Uint(u64),
    /// A number with a fraction or exponent, or (`integral`) an integer that only a float can
    /// represent: `-0`, or one beyond 64 bits. Both nearest values, to avoid double rounding.
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
    /// Reads at most `max_text` bytes of text, including white space. A byte order mark before the
    /// text, which Windows editors and shells write, is skipped.
    pub(super) fn new(reader: R, max_text: u64) -> Lexer<R> {
        let source = BufReader::new(reader.take(max_text));
        Lexer { source, at: 0, max_text, token: Vec::new() }
    }

    /// Skips a byte order mark at the start of the text.
    fn skip_mark(&mut self) -> Result<(), TensorError> {
        for byte in crate::BYTE_ORDER_MARK {
            if self.peek()? != Some(*byte) {
                return match self.at {
                    0 => Ok(()),
                    _ => Err(self.error("invalid JSON")),
                };
            }
            self.skip();
        }
        Ok(())
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

    /// Returns the next token; a string may have at most `max_string` bytes.
    pub(super) fn token(&mut self, max_string: u64) -> Result<Token, TensorError> {
        if self.at == 0 {
            self.skip_mark()?;
        }
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
                    _ => Err(self.error("invalid JSON")),
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
                Err(self.error("a bare NaN or Infinity (write it as a string such as \"NaN\")"))
            }
            _ => Err(self.error("an invalid word")),
        }
    }

    fn number(&mut self) -> Result<Scalar, TensorError> {
        self.collect(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'))?;
        let bad = || self.error("an invalid number");
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

    /// Decodes while reading, so that a long string is held only once.
    fn string(&mut self, max_string: u64) -> Result<String, TensorError> {
        const BAD: &str = "a string with an invalid escape or byte";
        self.skip();
        self.token.clear();
        loop {
            let Some(byte) = self.peek()? else {
                return Err(self.error("an unclosed string"));
            };
            self.skip();
            match byte {
                b'"' => break,
                b'\\' => {
                    let Some(char) = self.escape()? else { return Err(self.error(BAD)) };
                    self.token.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                }
                0..0x20 => return Err(self.error(BAD)),
                byte => self.token.push(byte),
            }
            if self.token.len() as u64 > max_string {
                let what = "a string".into();
                return Err(TensorError::TooLarge { what, limit: max_string });
            }
        }
        let mut text =
            String::from_utf8(std::mem::take(&mut self.token)).map_err(|_| self.error(BAD))?;
        text.shrink_to_fit();
        Ok(text)
    }

    /// The character that an escape represents; `None` if the escape is invalid.
    fn escape(&mut self) -> Result<Option<char>, TensorError> {
        let Some(byte) = self.take()? else { return Ok(None) };
        Ok(match byte {
            b'"' | b'\\' | b'/' => Some(char::from(byte)),
            b'b' => Some('\u{8}'),
            b'f' => Some('\u{c}'),
            b'n' => Some('\n'),
            b'r' => Some('\r'),
            b't' => Some('\t'),
            b'u' => match self.hex()? {
                Some(high @ 0xd800..0xdc00) => {
                    // The second surrogate of a character beyond 16 bits must follow.
                    if self.take()? != Some(b'\\') || self.take()? != Some(b'u') {
                        return Ok(None);
                    }
                    let low = self.hex()?.filter(|low| (0xdc00..0xe000).contains(low));
                    low.and_then(|low| {
                        char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))
                    })
                }
                unit => unit.and_then(char::from_u32),
            },
            _ => None,
        })
    }

    fn hex(&mut self) -> Result<Option<u32>, TensorError> {
        let mut value = 0;
        for _ in 0..4 {
            let digit = self.take()?.and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else { return Ok(None) };
            value = value << 4 | digit;
        }
        Ok(Some(value))
    }

    fn take(&mut self) -> Result<Option<u8>, TensorError> {
        let byte = self.peek()?;
        if byte.is_some() {
            self.skip();
        }
        Ok(byte)
    }
}

/// Whether a number has neither fraction nor exponent; `None` if it is not a valid JSON number.
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
