//! Separates a model file, which arrives in parts, into the elements of large initializers and the
//! rest of the file, which is decoded as a whole. The elements go directly to their place, so that
//! the file is never in memory as a whole.
//!
//! The rest is a model file again: initializers without elements, in messages with adapted lengths.
//! The scanner itself refuses nothing. From the first field that it does not understand on, it
//! leaves everything in the rest, so that the decoder finds the same mistakes as in the file. Lengths
//! in the file are compared with the bytes that remain before any memory is allocated for them.

/// The elements of one initializer.
pub(crate) trait Elements: Sized {
    /// Memory for so many bytes of elements of this ONNX element type; `None` to leave them in the
    /// rest of the file.
    fn new(data_type: u64, len: usize) -> Option<Self>;

    fn bytes_mut(&mut self) -> &mut [u8];
}

// Field numbers of ONNX.
const GRAPH_OF_MODEL: u64 = 7;
const INITIALIZER_OF_GRAPH: u64 = 5;
const DATA_TYPE_OF_TENSOR: u64 = 2;
const RAW_DATA_OF_TENSOR: u64 = 9;

// Wire types of protobuf.
const VARINT: u64 = 0;
const EIGHT_BYTES: u64 = 1;
const DELIMITED: u64 = 2;
const FOUR_BYTES: u64 = 5;

/// Maximum length of a varint.
const VARINT_BYTES: usize = 10;

/// Length of a message's length in the rest: a varint of five bytes holds every length of 32 bits.
const LENGTH_BYTES: usize = 5;

pub(crate) struct Scanner<E> {
    rest: Rest,
    /// The messages around the current position; the first one is the file.
    levels: Vec<Level>,
    step: Step<E>,
    /// How many initializers have begun.
    initializers: usize,
    /// The elements, with the indices of their initializers.
    found: Vec<(usize, E)>,
}

/// A message that is being read.
struct Level {
    kind: Kind,
    /// Bytes of the message that were not read yet.
    left: usize,
    /// The start of its content in the rest, after its length.
    start: usize,
}

#[derive(Clone, Copy)]
enum Kind {
    File,
    Graph,
    /// An initializer: its index, and its element type if that is known.
    Tensor(usize, Option<u64>),
}

enum Step<E> {
    /// The start of a field, up to its content.
    Header([u8; 2 * VARINT_BYTES], usize),
    /// The content of a field that belongs to the rest.
    Copy(usize),
    /// The elements of an initializer: its index, and how many bytes were read.
    Fill(usize, E, usize),
    /// Everything belongs to the rest.
    CopyAll,
}

/// The start of a field.
struct Header {
    field: u64,
    wire: u64,
    /// The value of a varint, or the length of the content.
    value: u64,
    /// Length of the content after the header.
    content: u64,
    /// Length of the key, with which the header begins.
    key: usize,
}

impl<E: Elements> Scanner<E> {
    /// For a file of this length.
    pub(crate) fn new(len: usize) -> Scanner<E> {
        let rest = Rest { parts: Vec::new(), len: 0, expected: len };
        let file = Level { kind: Kind::File, left: len, start: 0 };
        let step = Step::Header([0; 2 * VARINT_BYTES], 0);
        Scanner { rest, levels: vec![file], step, initializers: 0, found: Vec::new() }
    }

    /// Reads the next bytes of the file.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = match &mut self.step {
                Step::CopyAll => {
                    self.rest.push(bytes);
                    bytes.len()
                }
                Step::Copy(left) => {
                    let count = bytes.len().min(*left);
                    self.rest.push(&bytes[..count]);
                    *left -= count;
                    if *left == 0 {
                        self.next_field();
                    }
                    count
                }
                Step::Fill(_, elements, at) => {
                    let place = &mut elements.bytes_mut()[*at..];
                    let count = bytes.len().min(place.len());
                    place[..count].copy_from_slice(&bytes[..count]);
                    *at += count;
                    if count == place.len() {
                        self.next_field();
                    }
                    count
                }
                Step::Header(header, len) => {
                    header[*len] = bytes[0];
                    *len += 1;
                    self.header();
                    1
                }
            };
            bytes = &bytes[count..];
        }
    }

    /// The rest of the file, and the elements with the indices of their initializers.
    pub(crate) fn finish(self) -> (Rest, Vec<(usize, E)>) {
        (self.rest, self.found)
    }

    /// Continues after one more byte of a header.
    fn header(&mut self) {
        let Step::Header(bytes, len) = self.step else { return };
        let Some(level) = self.levels.last_mut() else { return };
        let bytes = &bytes[..len];
        let found = match parse(bytes) {
            Parsed::Field(found) if found.content <= (level.left.saturating_sub(len)) as u64 => {
                found
            }
            Parsed::Incomplete if len < level.left && len < 2 * VARINT_BYTES => return,
            _ => return self.copy_all(len),
        };
        let content = found.content as usize;
        level.left -= len + content;
        let delimited = found.wire == DELIMITED;
        match (level.kind, found.field) {
            (Kind::File, GRAPH_OF_MODEL) if delimited => {
                return self.enter(Kind::Graph, &bytes[..found.key], content);
            }
            (Kind::Graph, INITIALIZER_OF_GRAPH) if delimited => {
                let kind = Kind::Tensor(self.initializers, None);
                self.initializers += 1;
                return self.enter(kind, &bytes[..found.key], content);
            }
            (Kind::Tensor(index, _), DATA_TYPE_OF_TENSOR) if found.wire == VARINT => {
                level.kind = Kind::Tensor(index, Some(found.value));
            }
            (Kind::Tensor(index, data_type), RAW_DATA_OF_TENSOR) if delimited => {
                // Of a field that is there several times, the last one counts.
                self.found.retain(|(other, _)| *other != index);
                if let Some(elements) = data_type.and_then(|of| E::new(of, content))
                    && content > 0
                {
                    self.step = Step::Fill(index, elements, 0);
                    return;
                }
            }
            _ => {}
        }
        self.rest.push(bytes);
        self.step = Step::Copy(content);
        if content == 0 {
            self.next_field();
        }
    }

    /// Begins a message, with the key of its field and its length.
    fn enter(&mut self, kind: Kind, key: &[u8], left: usize) {
        self.rest.push(key);
        self.rest.push(&length(0));
        self.levels.push(Level { kind, left, start: self.rest.len });
        self.next_field();
    }

    /// Ends the current field, and the messages that end with it.
    fn next_field(&mut self) {
        let next = Step::Header([0; 2 * VARINT_BYTES], 0);
        if let Step::Fill(index, elements, _) = std::mem::replace(&mut self.step, next) {
            self.found.push((index, elements));
        }
        while let [_, .., level] = &*self.levels
            && level.left == 0
        {
            let (start, len) = (level.start, self.rest.len - level.start);
            self.rest.replace(start - LENGTH_BYTES, &length(len));
            self.levels.pop();
        }
    }

    /// Leaves everything from the current header of so many bytes on in the rest.
    fn copy_all(&mut self, header: usize) {
        let mut left = 0;
        for level in self.levels.iter().skip(1).rev() {
            left += level.left;
            let len = self.rest.len - level.start + left;
            self.rest.replace(level.start - LENGTH_BYTES, &length(len));
        }
        if let Step::Header(bytes, _) = std::mem::replace(&mut self.step, Step::CopyAll) {
            self.rest.push(&bytes[..header]);
        }
    }
}

enum Parsed {
    Field(Header),
    Incomplete,
    /// Malformed, or a group.
    Other,
}

fn parse(bytes: &[u8]) -> Parsed {
    let Some((key, len)) = varint(bytes) else { return Parsed::Incomplete };
    let (field, wire) = (key >> 3, key & 7);
    let known = [VARINT, EIGHT_BYTES, DELIMITED, FOUR_BYTES].contains(&wire);
    if !known || field == 0 || key > u32::MAX.into() {
        return Parsed::Other;
    }
    let header = Header { field, wire, value: 0, content: 0, key: len };
    match wire {
        EIGHT_BYTES => Parsed::Field(Header { content: 8, ..header }),
        FOUR_BYTES => Parsed::Field(Header { content: 4, ..header }),
        _ => match varint(&bytes[len..]) {
            Some((value, _)) if wire == VARINT => Parsed::Field(Header { value, ..header }),
            Some((value, _)) => Parsed::Field(Header { value, content: value, ..header }),
            None => Parsed::Incomplete,
        },
    }
}

/// A varint at the start of some bytes, and its length. One of more than 64 bits does not end.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let last = bytes.iter().take(VARINT_BYTES).position(|byte| byte & 0x80 == 0)?;
    if last == VARINT_BYTES - 1 && bytes[last] > 1 {
        return None;
    }
    let shifted = |value, byte: &u8| value << 7 | u64::from(byte & 0x7f);
    Some((bytes[..=last].iter().rev().fold(0, shifted), last + 1))
}

/// A length as a varint of fixed length.
fn length(len: usize) -> [u8; LENGTH_BYTES] {
    let byte = |at: usize| (len as u64 >> (7 * at)) as u8 & 0x7f;
    [byte(0) | 0x80, byte(1) | 0x80, byte(2) | 0x80, byte(3) | 0x80, byte(4)]
}

/// Bytes in parts of fixed length, so that adding to them neither copies nor doubles them.
pub(crate) struct Rest {
    /// All but the last have [`Rest::PART`] bytes.
    parts: Vec<Vec<u8>>,
    len: usize,
    /// How long it can become, for the length of the first part.
    expected: usize,
}

impl Rest {
    const PART: usize = 256 << 10;

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn into_parts(self) -> Vec<Vec<u8>> {
        self.parts
    }

    pub(crate) fn parts(&self) -> &[Vec<u8>] {
        &self.parts
    }

    fn push(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            if self.parts.last().is_none_or(|last| last.len() == Rest::PART) {
                // A file becomes longer by a few bytes for each message with another length.
                let expected = self.expected.saturating_add(1 << 10);
                self.parts.push(Vec::with_capacity(Rest::PART.min(expected)));
            }
            let Some(last) = self.parts.last_mut() else { return };
            let (now, later) = bytes.split_at(bytes.len().min(Rest::PART - last.len()));
            last.extend_from_slice(now);
            bytes = later;
        }
    }

    fn replace(&mut self, start: usize, bytes: &[u8]) {
        for (at, byte) in (start..).zip(bytes) {
            self.parts[at / Rest::PART][at % Rest::PART] = *byte;
        }
    }
}
