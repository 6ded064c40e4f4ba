//! Reads the fields of CSV (RFC 4180) one at a time, without holding the whole text in memory.

use std::io::{BufRead, BufReader, ErrorKind, Read, Take};

use super::malformed;
use crate::{BYTE_ORDER_MARK, TensorError};

/// What follows a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Field,
    Record,
}

pub(super) struct Records<R> {
    source: BufReader<Take<R>>,
    separator: u8,
    /// Whether lines that begin with `#` are data.
    texts: bool,
    max_text: u64,
    read: u64,
    /// The current field.
    field: Vec<u8>,
    /// Line of the current field, from 1, and the number of fields before it in its record.
    line: u64,
    column: usize,
    /// Whether the current field ends its record, so that the next one starts another.
    ended: bool,
    rows: usize,
    /// Number of fields in a record, known after the first.
    columns: Option<usize>,
}

impl<R: Read> Records<R> {
    /// Reads at most `max_text` bytes. With `texts`, a field may be any text.
    pub(super) fn new(reader: R, max_text: u64, texts: bool) -> Result<Records<R>, TensorError> {
        let source = BufReader::with_capacity(64 << 10, reader.take(max_text));
        let mut records = Records {
            source,
            separator: b',',
            texts,
            max_text,
            read: 0,
            field: Vec::new(),
            line: 1,
            column: 0,
            ended: true,
            rows: 0,
            columns: None,
        };
        if records.buffer()?.starts_with(BYTE_ORDER_MARK) {
            records.skip(BYTE_ORDER_MARK.len());
        }
        records.separator = separator(records.buffer()?, texts);
        Ok(records)
    }

    fn buffer(&mut self) -> Result<&[u8], TensorError> {
        loop {
            match self.source.fill_buf() {
                Ok(_) => return Ok(self.source.buffer()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.source.consume(bytes);
        self.read += bytes as u64;
    }

    fn peek(&mut self) -> Result<Option<u8>, TensorError> {
        let next = self.buffer()?.first().copied();
        if next.is_none() && self.read >= self.max_text {
            let what = "the text of the file".into();
            return Err(TensorError::TooLarge { what, limit: self.max_text });
        }
        Ok(next)
    }

    /// The field's text.
    pub(super) fn text(&self) -> Result<&str, TensorError> {
        std::str::from_utf8(&self.field).map_err(|_| self.error("the field is not UTF-8"))
    }

    /// An error at the current field.
    pub(super) fn error(&self, why: impl std::fmt::Display) -> TensorError {
        malformed(format!("line {}, column {}: {why}", self.line, self.column + 1))
    }

    /// Whether the current field is the first of the first record.
    pub(super) fn is_first(&self) -> bool {
        self.rows == 0 && self.column == 0
    }

    /// The number of counted records, and of the fields in each.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.rows, self.columns.unwrap_or(0))
    }

    /// Counts the current field as an element.
    pub(super) fn count(&mut self, end: End) -> Result<(), TensorError> {
        if end == End::Record {
            let found = self.column + 1;
            let columns = *self.columns.get_or_insert(found);
            if found != columns {
                return Err(malformed(format!(
                    "line {} has {found} fields, but earlier lines have {columns}",
                    self.line
                )));
            }
            self.rows += 1;
        }
        Ok(())
    }

    /// Skips the rest of the header, which must not contain values.
    pub(super) fn pass_header(
        &mut self,
        mut end: End,
        is_value: impl Fn(&str) -> bool,
    ) -> Result<(), TensorError> {
        while end == End::Field {
            end = self.field(belljar_abi::MAX_NAME as u64)?.unwrap_or(End::Record);
            if is_value(self.text()?) {
                return Err(self.error("a value in the header line"));
            }
        }
        self.columns = Some(self.column + 1);
        Ok(())
    }

    /// Reads the next field; `None` at the end of the text. A field has at most `longest` bytes.
    pub(super) fn field(&mut self, longest: u64) -> Result<Option<End>, TensorError> {
        self.field.clear();
        if !self.ended {
            self.column += 1;
        } else {
            if self.rows > 0 || self.columns.is_some() || self.column > 0 {
                self.line += 1;
            }
            self.column = 0;
            if !self.advance_to_record()? {
                return Ok(None);
            }
        }
        if self.separator == b' ' {
            self.spaces()?;
        }
        let mut quoted = false;
        if self.peek()? == Some(b'"') {
            quoted = true;
            self.skip(1);
            self.quoted(longest)?;
        }
        loop {
            match self.peek()? {
                None => return Ok(Some(self.end(End::Record))),
                Some(b'\n') => {
                    self.skip(1);
                    return Ok(Some(self.end(End::Record)));
                }
                Some(b'\r') => {
                    self.skip(1);
                    // A part of a line end or, in old files, a whole one.
                    if self.peek()? == Some(b'\n') {
                        self.skip(1);
                    }
                    return Ok(Some(self.end(End::Record)));
                }
                Some(b' ') if self.separator == b' ' => {
                    self.spaces()?;
                    // Spaces at the end of a line do not separate fields.
                    if !matches!(self.peek()?, None | Some(b'\n' | b'\r')) {
                        return Ok(Some(self.end(End::Field)));
                    }
                }
                Some(byte) if byte == self.separator => {
                    self.skip(1);
                    return Ok(Some(self.end(End::Field)));
                }
                Some(b' ') if quoted => self.skip(1),
                Some(_) if quoted => return Err(self.error("extra data after the closing quote")),
                Some(byte) => {
                    self.push(byte, longest)?;
                    self.skip(1);
                }
            }
        }
    }

    fn end(&mut self, end: End) -> End {
        self.ended = end == End::Record;
        end
    }

    /// Skips to the first byte of the next record; false if there is none.
    fn advance_to_record(&mut self) -> Result<bool, TensorError> {
        loop {
            match self.peek()? {
                None => return Ok(false),
                Some(b'\n') => {
                    self.line += 1;
                    self.skip(1);
                }
                Some(b'\r') => self.skip(1),
                Some(b'#') if !self.texts => {
                    while !matches!(self.peek()?, None | Some(b'\n')) {
                        self.skip(1);
                    }
                }
                Some(_) => return Ok(true),
            }
        }
    }

    fn spaces(&mut self) -> Result<(), TensorError> {
        while self.peek()? == Some(b' ') {
            self.skip(1);
        }
        Ok(())
    }

    /// Reads quoted text, in which two quotes mean one.
    fn quoted(&mut self, longest: u64) -> Result<(), TensorError> {
        loop {
            match self.peek()? {
                None => return Err(self.error("an unclosed quote")),
                Some(b'"') => {
                    self.skip(1);
                    if self.peek()? != Some(b'"') {
                        return Ok(());
                    }
                    self.push(b'"', longest)?;
                }
                Some(byte) => {
                    self.line += u64::from(byte == b'\n');
                    self.push(byte, longest)?;
                }
            }
            self.skip(1);
        }
    }

    fn push(&mut self, byte: u8, longest: u64) -> Result<(), TensorError> {
        if self.field.len() as u64 >= longest {
            let what = format!("a field in line {}", self.line);
            return Err(TensorError::TooLarge { what, limit: longest });
        }
        self.field.push(byte);
        Ok(())
    }
}

/// The field separator of a text, from its first line.
fn separator(text: &[u8], texts: bool) -> u8 {
    let mut quoted = false;
    let mut seen = [false; 256];
    let lines = text.split(|byte| *byte == b'\n');
    let mut lines = lines.filter(|line| !line.trim_ascii().is_empty());
    let comment = |line: &&[u8]| !texts && line.starts_with(b"#");
    let line = lines.find(|line| !comment(line)).unwrap_or_default();
    for byte in line.trim_ascii() {
        match byte {
            b'"' => quoted = !quoted,
            byte if !quoted => {
                if let Some(seen) = seen.get_mut(usize::from(*byte)) {
                    *seen = true;
                }
            }
            _ => {}
        }
    }
    let found = |byte: &&u8| seen.get(usize::from(**byte)) == Some(&true);
    let known: &[u8] = if texts { b",;\t" } else { b",;\t " };
    known.iter().find(found).copied().unwrap_or(b',')
}
