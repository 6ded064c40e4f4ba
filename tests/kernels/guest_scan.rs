//! How the guest separates a model file that arrives in parts: what is left and the elements that
//! were taken out are the file again, wherever the parts begin, and a malformed file is left to the
//! decoder.

#[path = "../../guest-models/onnx-runner/src/load/scan.rs"]
mod scan;

use proptest::prelude::*;
use scan::{Elements, Scanner};

use crate::support::onnx::Message;

/// Elements of at least 8 bytes of type 1.
#[derive(Clone, Debug, PartialEq)]
struct Taken(Vec<u8>);

impl Elements for Taken {
    fn new(data_type: u64, len: usize) -> Option<Taken> {
        (data_type == 1 && len >= 8).then(|| Taken(vec![0; len]))
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// Passes a file in, in parts of these lengths.
fn scanned(file: &[u8], parts: &[usize]) -> (Vec<u8>, Vec<(usize, Taken)>) {
    let mut scanner = Scanner::<Taken>::new(file.len());
    let mut rest = file;
    for len in parts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at((*len).min(rest.len()));
        scanner.read(now);
        rest = later;
    }
    let (left, found) = scanner.finish();
    assert_eq!(left.len(), left.parts().iter().map(Vec::len).sum::<usize>());
    (left.into_parts().concat(), found)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f).checked_shl(shift).unwrap_or(0);
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A field of a message: its key, and the value of a varint or the content.
type Field<'a> = (u64, u64, &'a [u8]);

fn fields(mut bytes: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = if [0, 2].contains(&(key & 7)) { varint(&mut bytes)? } else { 0 };
        let len = match key & 7 {
            0 => 0,
            1 => 8,
            2 => usize::try_from(value).ok()?,
            5 => 4,
            _ => return None,
        };
        let (content, rest) = bytes.split_at_checked(len)?;
        bytes = rest;
        fields.push((key, if key & 7 == 2 { 0 } else { value }, content));
    }
    Some(fields)
}

/// What a decoder keeps of a file: all fields in order, with the last raw data of each initializer
/// apart. Elements that were taken out replace it.
type Decoded = (Vec<String>, Vec<Vec<u8>>);

fn decoded(file: &[u8], found: &[(usize, Taken)]) -> Option<Decoded> {
    let (mut kept, mut raw) = (Vec::new(), Vec::new());
    for (key, value, content) in fields(file)? {
        if key != 7 << 3 | 2 {
            kept.push(format!("{key} {value} {content:?}"));
            continue;
        }
        for (key, value, content) in fields(content)? {
            if key != 5 << 3 | 2 {
                kept.push(format!("graph {key} {value} {content:?}"));
                continue;
            }
            let mut last = Vec::new();
            for (key, value, content) in fields(content)? {
                match key == 9 << 3 | 2 {
                    true => last = content.to_vec(),
                    false => kept.push(format!("tensor {key} {value} {content:?}")),
                }
            }
            raw.push(last);
        }
    }
    for (index, Taken(bytes)) in found {
        raw[*index].clone_from(bytes);
    }
    Some((kept, raw))
}

/// A field of a message: usual ones, unknown ones, and nested messages that are none.
fn field() -> impl Strategy<Value = (u64, u8, Vec<u8>)> {
    let content = prop::collection::vec(any::<u8>(), 0..40);
    (prop_oneof![1u64..12, 1u64..40], 0u8..3, content)
}

fn with_fields(message: Message, fields: &[(u64, u8, Vec<u8>)]) -> Message {
    fields.iter().fold(message, |message, (number, how, content)| match how {
        0 => message.int(*number, content.len() as i64),
        1 => message.float(*number, 1.5),
        _ => message.bytes(*number, content),
    })
}

fn tensor() -> impl Strategy<Value = Message> {
    let raw = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..3);
    let others = prop::collection::vec(field(), 0..3);
    (prop::collection::vec(0i64..3, 0..3), raw, others).prop_map(|(types, raw, others)| {
        let message = types.iter().fold(Message::new(), |message, of| message.int(2, *of));
        let message = with_fields(message, &others);
        raw.iter().fold(message, |message, raw| message.bytes(9, raw))
    })
}

fn file() -> impl Strategy<Value = Vec<u8>> {
    let graph = (prop::collection::vec(tensor(), 0..4), prop::collection::vec(field(), 0..3))
        .prop_map(|(tensors, others)| {
            let others = others.into_iter().filter(|(number, ..)| *number != 5).collect::<Vec<_>>();
            with_fields(Message::new(), &others).messages(5, tensors)
        });
    (prop::collection::vec(graph, 0..3), prop::collection::vec(field(), 0..3)).prop_map(
        |(graphs, others)| {
            let others = others.into_iter().filter(|(number, ..)| *number != 7).collect::<Vec<_>>();
            with_fields(Message::new(), &others).messages(7, graphs).finish()
        },
    )
}

proptest! {
    #[test]
    fn elements_that_are_taken_out_and_the_rest_are_the_file(
        file in file(),
        parts in prop::collection::vec(1usize..700, 1..8),
    ) {
        let (rest, found) = scanned(&file, &parts);
        prop_assert_eq!(decoded(&rest, &found), decoded(&file, &[]));
        prop_assert_eq!(scanned(&file, &[1]), (rest, found));
    }

    /// Up to the mistake the decoder reads the same fields, and from there on the same bytes.
    #[test]
    fn malformed_files_stay_malformed(
        file in file(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
        parts in prop::collection::vec(1usize..700, 1..8),
    ) {
        let mut file = file;
        if !file.is_empty() {
            let at = at.index(file.len());
            file[at] = byte;
            file.truncate(file.len() - cut.index(file.len()).min(cut.index(9)));
        }
        let (rest, found) = scanned(&file, &parts);
        prop_assert_eq!(decoded(&rest, &found), decoded(&file, &[]));
        prop_assert_eq!(scanned(&file, &[1]), (rest, found));
    }
}

#[test]
fn a_length_beyond_the_file_allocates_nothing() {
    // A graph with an initializer, whose raw data is said to have 1 GiB.
    let tensor = Message::new().int(2, 1).finish();
    let lie = [&tensor[..], &[9 << 3 | 2, 0x80, 0x80, 0x80, 0x80, 4]].concat();
    let file = Message::new().message(7, Message::new().bytes(5, lie)).finish();
    let (rest, found) = scanned(&file, &[3]);
    assert!(found.is_empty());
    assert!(rest.ends_with(&[9 << 3 | 2, 0x80, 0x80, 0x80, 0x80, 4]));
}
