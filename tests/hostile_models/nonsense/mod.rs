//! Operators with nonsense, at preparation and at run time: inputs of other types, ranks and sizes,
//! numbers and attributes out of any range, missing and additional inputs. All operators of
//! com.microsoft are here, and those of ONNX that read sizes or counts. Each hostile node differs in one
//! place from a node that is answered (`microsoft.rs`, `onnx.rs`). It is answered or refused within the
//! limits, and nothing panics.

mod microsoft;
mod node;
mod onnx;

use std::collections::BTreeSet;

use crate::run_time::{nothing_found, sound};
use crate::support::onnx::{
    FLOAT, MICROSOFT, Message, float_attribute, int_attribute, ints_attribute, string_attribute,
};
use node::Kind::{self, Bool, F32, F64, I8, I16, I32, I64, Text, U8};
use node::Row;

/// Shapes that differ from this one in the number of dimensions or in one size.
fn other_shapes(shape: &[usize]) -> Vec<Vec<usize>> {
    let mut found = vec![vec![], vec![0], vec![1], [&[1], shape].concat(), [shape, &[1]].concat()];
    for at in 0..shape.len() {
        let mut fewer = shape.to_vec();
        fewer.remove(at);
        found.push(fewer);
        for size in [0, 1, shape[at] + 1, 300] {
            let mut other = shape.to_vec();
            other[at] = size;
            found.push(other);
        }
    }
    found.retain(|other| other != shape && other.iter().product::<usize>() <= 1 << 16);
    found
}

/// Numbers that no operator expects, for elements of this type.
fn wild(kind: Kind) -> &'static [f64] {
    match kind {
        F32 | F64 => &[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 3e38, -3e38, -0.0, 1e-40],
        U8 | I8 | Bool => &[0.0, 1.0, 127.0, 255.0, -128.0],
        I16 | I32 => &[0.0, -1.0, 2.0, 3.0, 65536.0, 2147483647.0, -2147483648.0],
        I64 => &[0.0, -1.0, 2.0, 3.0, 4294967296.0, 9.3e18, -9.3e18],
        Text => &[0.0, -1.0],
    }
}

/// Values that an attribute of this name may be given.
fn nonsense(name: &str) -> Vec<Message> {
    let ints = [0, 1, -1, 2, 3, 1 << 16, 1 << 24, 1 << 30, 1 << 32, i64::MAX, i64::MIN];
    let floats = [0.0, -1.0, f32::NAN, f32::INFINITY, f32::MAX, 1e-45];
    let lists: [&[i64]; 6] = [&[], &[0], &[-1, -1], &[2, 2, 2], &[i64::MAX, 1], &[1; 9]];
    let texts = ["", "none", "SAME_UPPER", "VALID", "\u{0}"];
    ints.map(|number| int_attribute(name, number))
        .into_iter()
        .chain(floats.map(|number| float_attribute(name, number)))
        .chain(lists.map(|numbers| ints_attribute(name, numbers)))
        .chain(texts.map(|text| string_attribute(name, text)))
        .collect()
}

fn rows() -> impl Iterator<Item = &'static Row> {
    microsoft::ROWS.iter().chain(onnx::ROWS)
}

#[test]
fn every_operator_of_microsoft_has_a_row() {
    let rows: BTreeSet<&str> = microsoft::ROWS.iter().map(|row| row.name).collect();
    let all = belljar_operators::all().filter(|operator| operator.domain == MICROSOFT);
    assert_eq!(rows, all.map(|operator| operator.name).collect());
}

/// Otherwise the hostile nodes would be refused for a reason that they share.
#[test]
fn rows_are_answered() {
    for row in rows() {
        row.node().ends().unwrap_or_else(|err| panic!("{}: {err}", row.name));
    }
}

#[test]
fn unknown_attributes_and_scalars_end_as_on_the_command_line() {
    for row in rows() {
        let err = row.node().with("nonsense", int_attribute("nonsense", 1)).ends().unwrap_err();
        assert!(err.exit_code() == 4 && err.to_string().contains("\"nonsense\""), "{err}");
        let mut scalars = row.node();
        for (_, shape, _) in scalars.inputs.iter_mut().flatten() {
            shape.clear();
        }
        if let Err(err) = scalars.ends() {
            sound(row.name, "scalars", &err);
        }
    }
    nothing_found();
}

#[test]
fn operators_survive_other_shapes() {
    for row in rows() {
        for (at, input) in row.inputs.iter().enumerate() {
            for shape in input.iter().flat_map(|(_, shape, _)| other_shapes(shape)) {
                let mut other = row.node();
                let what = format!("input {at} of {shape:?}");
                other.inputs[at].as_mut().unwrap().1 = shape;
                other.survives(&what, &[]);
            }
        }
    }
    nothing_found();
}

#[test]
fn operators_survive_other_types_and_missing_inputs() {
    for row in rows() {
        for (at, input) in row.inputs.iter().enumerate() {
            let Some((kind, shape, number)) = input else { continue };
            for other in [F32, F64, U8, I8, I16, I32, I64, Bool, Text]
                .into_iter()
                .filter(|other| other != kind)
            {
                let mut changed = row.node();
                changed.inputs[at] = Some((other, shape.to_vec(), *number as f64));
                changed.survives(&format!("input {at} of {other:?}"), &[]);
            }
            let mut missing = row.node();
            missing.inputs[at] = None;
            missing.survives(&format!("input {at} left out"), &[]);
            missing.inputs.truncate(at);
            missing.survives(&format!("{at} inputs"), &[]);
        }
        let mut more = row.node();
        more.inputs.resize(40, Some((F32, vec![2], 1.0)));
        more.survives("40 inputs", &[]);
        let mut outputs = row.node();
        outputs.outputs.resize(9, FLOAT);
        outputs.survives("9 outputs", &[]);
    }
    nothing_found();
}

#[test]
fn operators_survive_invalid_numbers() {
    for row in rows() {
        let numbers: Vec<(usize, f64)> = (row.inputs.iter().enumerate())
            .filter_map(|(at, input)| input.map(|(kind, ..)| (at, kind)))
            .flat_map(|(at, kind)| wild(kind).iter().map(move |number| (at, *number)))
            .collect();
        row.node().survives("numbers", &numbers);
    }
    nothing_found();
}

#[test]
fn operators_survive_invalid_attributes() {
    for row in rows() {
        for attribute in row.known() {
            for (which, message) in nonsense(attribute.name).into_iter().enumerate() {
                let what = format!("{} {which}", attribute.name);
                row.node().with(attribute.name, message).survives(&what, &[]);
            }
        }
    }
    nothing_found();
}
