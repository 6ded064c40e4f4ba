//! The header of an npy file: a Python dict literal with three known keys, parsed by hand.
//!
//! numpy passes this text to Python's own parser, and a general parser can be made to recurse by
//! nested brackets. This parser accepts only the one form that a header has and reads each byte
//! once. It must never recurse, and never accept an unknown key, type or number.

use std::io::Read;

use belljar_abi::{DType, MAX_RANK};

use super::{TensorError, malformed};

/// First bytes of every npy file.
const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Longest header in bytes. Version 1.0 can hold at most 65535; numpy itself reads at most 10000
/// unless its caller trusts the file.
const MAX_HEADER: u32 = 64 * 1024;

/// Alignment of the data in the file, as numpy writes it.
const FILE_ALIGN: usize = 64;

/// Digits numpy leaves room for in the first dimension, so that a file can grow in place.
const GROWTH_DIGITS: usize = 21;

/// How one element is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// A number or a bool.
    Fixed(DType),
    /// This many bytes of text, padded with NULs (`|S5`).
    Bytes(u64),
    /// This many UTF-32 code units, padded with NULs (`<U5`).
    Utf32(u64),
}

/// The contents of the header.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) stored: Stored,
    pub(super) big_endian: bool,
    pub(super) fortran_order: bool,
    pub(super) shape: Vec<usize>,
}

impl Header {
    /// Reads magic, version and header, and leaves `reader` at the first byte of the data.
    /// Raw bytes have the requested type, if numpy has no name for it.
    pub(super) fn read(
        reader: &mut impl Read,
        asked: Option<DType>,
    ) -> Result<Header, TensorError> {
        let magic: [u8; 6] = array(reader)?;
        if magic != *MAGIC {
            return Err(malformed("it does not begin with the magic string of npy files"));
        }
        let [major, minor] = array(reader)?;
        let len = match (major, minor) {
            (1, 0) => u32::from(u16::from_le_bytes(array(reader)?)),
            (2 | 3, 0) => u32::from_le_bytes(array(reader)?),
            _ => {
                return Err(TensorError::Unsupported {
                    what: format!("npy version {major}.{minor}"),
                    hint: "save the array with `numpy.save`, which writes version 1.0",
                });
            }
        };
        if len > MAX_HEADER {
            return Err(malformed(format!(
                "its header claims {len} bytes, above the maximum of {MAX_HEADER}"
            )));
        }
        let mut text = Vec::new();
        reader.by_ref().take(len.into()).read_to_end(&mut text)?;
        if text.len() as u64 != u64::from(len) {
            return Err(malformed(format!("the header ends after {} of {len} bytes", text.len())));
        }
        Scanner { text: &text, at: 0, asked }.header()
    }
}

fn array<const N: usize>(reader: &mut impl Read) -> Result<[u8; N], TensorError> {
    let mut bytes = [0; N];
    match super::fill(reader, &mut bytes)? {
        read if read == N => Ok(bytes),
        _ => Err(malformed("it ends before its header")),
    }
}

/// The header that numpy writes for this type and shape, including magic and padding.
pub(super) fn encode(descr: &str, shape: &[usize]) -> Vec<u8> {
    use std::fmt::Write as _;
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (");
    for (axis, dim) in shape.iter().enumerate() {
        let _ = write!(text, "{}{dim}", if axis == 0 { "" } else { ", " });
    }
    text.push_str(if shape.len() == 1 { ",), }" } else { "), }" });
    if let Some(first) = shape.first() {
        let room = GROWTH_DIGITS.saturating_sub(first.to_string().len());
        text.extend(std::iter::repeat_n(' ', room));
    }
    let padding = FILE_ALIGN - (MAGIC.len() + 4 + text.len() + 1) % FILE_ALIGN;
    text.extend(std::iter::repeat_n(' ', padding));
    text.push('\n');
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&[1, 0]);
    // 32 dimensions of at most 20 digits are far shorter than 65535.
    bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    asked: Option<DType>,
}

impl<'a> Scanner<'a> {
    fn error(&self, what: impl std::fmt::Display) -> TensorError {
        malformed(format!("{what} at byte {} of the header", self.at))
    }

    /// Returns the next byte that is not white space, without consuming it.
    fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.text.get(self.at) {
            if !byte.is_ascii_whitespace() {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    /// Consumes `byte` if it is next.
    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), TensorError> {
        if self.eat(byte) {
            Ok(())
        } else {
            Err(self.error(format_args!("missing {:?}", char::from(byte))))
        }
    }

    fn header(mut self) -> Result<Header, TensorError> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        self.expect(b'{')?;
        while !self.eat(b'}') {
            let at = self.at;
            let key = self.string()?;
            self.expect(b':')?;
            let again = match key {
                "descr" => descr.replace(self.descr()?).is_some(),
                "fortran_order" => fortran_order.replace(self.bool()?).is_some(),
                "shape" => shape.replace(self.shape()?).is_some(),
                _ => {
                    return Err(malformed(format!(
                        "its header has an unknown key {}",
                        quoted(key)
                    )));
                }
            };
            if again {
                self.at = at;
                return Err(self.error(format_args!("duplicate key {key:?}")));
            }
            if !self.eat(b',') {
                self.expect(b'}')?;
                break;
            }
        }
        if self.peek().is_some() {
            return Err(self.error("extra data after the closing brace"));
        }
        let missing = |key| malformed(format!("its header has no {key:?}"));
        let (stored, big_endian) = descr.ok_or_else(|| missing("descr"))?;
        let fortran_order = fortran_order.ok_or_else(|| missing("fortran_order"))?;
        let shape = shape.ok_or_else(|| missing("shape"))?;
        Ok(Header { stored, big_endian, fortran_order, shape })
    }

    /// Parses a string literal. numpy writes no escapes, so none are accepted.
    fn string(&mut self) -> Result<&'a str, TensorError> {
        let quote = match self.peek() {
            Some(quote @ (b'\'' | b'"')) => quote,
            _ => return Err(self.error("missing string")),
        };
        let rest = self.text.get(self.at + 1..).unwrap_or(&[]);
        let len = rest
            .iter()
            .position(|byte| *byte == quote)
            .ok_or_else(|| self.error("an unclosed string"))?;
        let plain = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'\\';
        let text = rest
            .get(..len)
            .filter(|text| text.iter().all(plain))
            .and_then(|text| std::str::from_utf8(text).ok())
            .ok_or_else(|| self.error("a non-ASCII string"))?;
        self.at += len + 2;
        Ok(text)
    }

    fn bool(&mut self) -> Result<bool, TensorError> {
        self.peek();
        let rest = self.text.get(self.at..).unwrap_or(&[]);
        for (word, value) in [("True", true), ("False", false)] {
            if rest.starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.error("expected True or False"))
    }

    fn shape(&mut self) -> Result<Vec<usize>, TensorError> {
        let mut shape = Vec::new();
        self.expect(b'(')?;
        while !self.eat(b')') {
            let dim = self.dimension()?;
            if shape.len() == MAX_RANK {
                let why = "it has more than 32 dimensions";
                return Err(TensorError::Shape { shape, why });
            }
            shape.push(dim);
            if !self.eat(b',') {
                // In Python, `(3)` is a number, not a tuple.
                if shape.len() == 1 {
                    return Err(self.error("a one-dimensional shape without a comma"));
                }
                self.expect(b')')?;
                break;
            }
        }
        Ok(shape)
    }

    fn dimension(&mut self) -> Result<usize, TensorError> {
        if self.peek() == Some(b'-') {
            return Err(self.error("a negative dimension"));
        }
        let rest = self.text.get(self.at..).unwrap_or(&[]);
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let text = std::str::from_utf8(rest.get(..digits).unwrap_or(&[])).unwrap_or("");
        if text.is_empty() {
            return Err(self.error("missing dimension"));
        }
        if text.len() > 1 && text.starts_with('0') {
            return Err(self.error("a dimension with a leading zero"));
        }
        let dim = text.parse().map_err(|_| self.error("a dimension that does not fit 64 bits"))?;
        self.at += digits;
        // The suffix of long integers in Python 2.
        if self.text.get(self.at) == Some(&b'L') {
            self.at += 1;
        }
        Ok(dim)
    }

    fn descr(&mut self) -> Result<(Stored, bool), TensorError> {
        if self.peek() == Some(b'[') {
            return Err(TensorError::Unsupported {
                what: "an array of records (a structured dtype)".into(),
                hint: "save each field as a separate array",
            });
        }
        let descr = self.string()?;
        // How numpy writes types it has no name for, and one for which it writes a wrong name.
        let size = match descr {
            "<V2" | "|V2" => Some(2),
            "<V1" | "|V1" | "<f1" => Some(1),
            _ => None,
        };
        let asked = self.asked.filter(|dtype| belljar_abi::codes::bits(*dtype).is_some());
        match (size, asked) {
            (Some(size), Some(dtype)) if dtype.size() == Some(size) => {
                Ok((Stored::Fixed(dtype), false))
            }
            _ => element(descr),
        }
    }
}

/// The element type of a descr such as `<f4`, and whether it is big-endian.
fn element(descr: &str) -> Result<(Stored, bool), TensorError> {
    let bad = |why| malformed(format!("dtype {} {why}", quoted(descr)));
    let mut rest = descr.chars();
    let order = match rest.next() {
        Some(order @ ('<' | '>' | '|')) => order,
        Some('=') => return Err(bad("has a machine-dependent byte order")),
        // Old writers omit the order here; the type matters more than its spelling.
        Some('O') => 'O',
        _ => return Err(bad("does not begin with its byte order")),
    };
    let kind = if order == 'O' { Some('O') } else { rest.next() };
    let unsupported = |what: &str, hint| {
        let what = format!("dtype {} ({what})", quoted(descr));
        Err(TensorError::Unsupported { what, hint })
    };
    match kind {
        Some('O') => {
            return unsupported(
                "Python objects, stored as a pickle, which runs code from the file when loaded",
                "such a file is dangerous to open anywhere; if it is your own, save plain numbers, \
                 `.astype(np.float32)`, or strings, `.astype(np.str_)`",
            );
        }
        Some('c') => {
            return unsupported(
                "complex numbers",
                "save the parts, such as `.real.astype(np.float32)` and `.imag.astype(np.float32)`",
            );
        }
        Some('M' | 'm') => {
            return unsupported("dates or durations", "save numbers: `.astype(np.int64)`");
        }
        Some('V') => {
            return unsupported(
                "raw bytes, or a type numpy has no name for, such as bfloat16",
                "save a type numpy knows: `.astype(np.float32)`; for a model input declared with \
                 such a type, raw bytes of its size are accepted",
            );
        }
        _ => {}
    }
    let digits = rest.as_str();
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let size: u64 = match digits.parse() {
        Ok(size) if plain && (digits == "0" || !digits.starts_with('0')) => size,
        _ => return Err(bad("does not end in its size")),
    };
    let stored = match (kind, size) {
        (Some('b'), 1) => Stored::Fixed(DType::Bool),
        (Some('i'), 1) => Stored::Fixed(DType::I8),
        (Some('i'), 2) => Stored::Fixed(DType::I16),
        (Some('i'), 4) => Stored::Fixed(DType::I32),
        (Some('i'), 8) => Stored::Fixed(DType::I64),
        (Some('u'), 1) => Stored::Fixed(DType::U8),
        (Some('u'), 2) => Stored::Fixed(DType::U16),
        (Some('u'), 4) => Stored::Fixed(DType::U32),
        (Some('u'), 8) => Stored::Fixed(DType::U64),
        (Some('f'), 2) => Stored::Fixed(DType::F16),
        (Some('f'), 4) => Stored::Fixed(DType::F32),
        (Some('f'), 8) => Stored::Fixed(DType::F64),
        (Some('f'), 12 | 16) => {
            return unsupported("long double", "save doubles: `.astype(np.float64)`");
        }
        (Some('S'), len) => Stored::Bytes(len),
        (Some('U'), len) => Stored::Utf32(len),
        _ => return Err(bad("is not a type that numpy writes")),
    };
    // Only single-byte types, and types counted in bytes, have no byte order.
    let orderless = matches!(stored, Stored::Bytes(_))
        || matches!(stored, Stored::Fixed(dtype) if dtype.size() == Some(1));
    if order == '|' && !orderless {
        return Err(bad("has no byte order"));
    }
    Ok((stored, order == '>'))
}

/// Text from the file, safe to print and cut to a readable length.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    format!("{short:?}")
}
