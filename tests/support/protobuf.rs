//! An ONNX file as a tree of fields that can be changed and written again. It knows only which
//! fields are messages (onnx.proto of ONNX 1.23).

/// The messages of ONNX that are parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Model,
    OperatorSet,
    Graph,
    Node,
    Attribute,
    Tensor,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    Dim,
    Function,
}

impl Kind {
    /// The kind of the field with this number, if it is a message.
    fn child(self, number: u64) -> Option<Kind> {
        Some(match (self, number) {
            (Kind::Model, 7) => Kind::Graph,
            (Kind::Model, 8) | (Kind::Function, 9) => Kind::OperatorSet,
            (Kind::Model, 25) => Kind::Function,
            (Kind::Graph, 1) | (Kind::Function, 7) => Kind::Node,
            (Kind::Graph, 5) | (Kind::Attribute, 5) => Kind::Tensor,
            (Kind::Graph, 11..=13) => Kind::ValueInfo,
            (Kind::Node, 5) => Kind::Attribute,
            (Kind::Attribute, 6) => Kind::Graph,
            (Kind::ValueInfo, 2) => Kind::Type,
            (Kind::Type, 1) => Kind::TensorType,
            (Kind::TensorType, 2) => Kind::Shape,
            (Kind::Shape, 1) => Kind::Dim,
            _ => return None,
        })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub number: u64,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Int(u64),
    Fixed32([u8; 4]),
    Fixed64([u8; 8]),
    Bytes(Vec<u8>),
    Message(Message),
}

#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub kind: Kind,
    pub fields: Vec<Field>,
}

impl Message {
    /// `None` if the message is not well-formed.
    pub(crate) fn parse(kind: Kind, mut bytes: &[u8]) -> Option<Message> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = int(&mut bytes)?;
            let number = key >> 3;
            let value = match key & 7 {
                0 => Value::Int(int(&mut bytes)?),
                1 => Value::Fixed64(take(&mut bytes, 8)?.try_into().ok()?),
                5 => Value::Fixed32(take(&mut bytes, 4)?.try_into().ok()?),
                2 => {
                    let length = usize::try_from(int(&mut bytes)?).ok()?;
                    let content = take(&mut bytes, length)?;
                    match kind.child(number) {
                        Some(child) => Value::Message(Message::parse(child, content)?),
                        None => Value::Bytes(content.to_vec()),
                    }
                }
                _ => return None,
            };
            fields.push(Field { number, value });
        }
        Some(Message { kind, fields })
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for Field { number, value } in &self.fields {
            let content;
            let (wire, bytes) = match value {
                Value::Int(value) => {
                    put(&mut out, number << 3);
                    put(&mut out, *value);
                    continue;
                }
                Value::Fixed64(bytes) => (1, &bytes[..]),
                Value::Fixed32(bytes) => (5, &bytes[..]),
                Value::Bytes(bytes) => (2, &bytes[..]),
                Value::Message(message) => {
                    content = message.bytes();
                    (2, &content[..])
                }
            };
            put(&mut out, number << 3 | wire);
            if wire == 2 {
                put(&mut out, bytes.len() as u64);
            }
            out.extend_from_slice(bytes);
        }
        out
    }

    /// The strings of a field.
    pub(crate) fn texts(&self, number: u64) -> impl Iterator<Item = String> {
        self.fields.iter().filter(move |field| field.number == number).filter_map(|field| {
            match &field.value {
                Value::Bytes(bytes) => String::from_utf8(bytes.clone()).ok(),
                _ => None,
            }
        })
    }

    pub(crate) fn children(&self, kind: Kind) -> impl Iterator<Item = &Message> {
        self.fields.iter().filter_map(move |field| match &field.value {
            Value::Message(message) if message.kind == kind => Some(message),
            _ => None,
        })
    }

    /// Calls `look` with this message and every nested one, outer messages first.
    pub(crate) fn visit(&mut self, look: &mut impl FnMut(&mut Message)) {
        look(self);
        for field in &mut self.fields {
            if let Value::Message(message) = &mut field.value {
                message.visit(look);
            }
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

pub(crate) fn int(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
