//! Tests of files that are passed into a sandbox in parts: a model and its external data. The order
//! and the lengths of parts are the host's, but a guest must not depend on them.

use belljar_abi::{
    DType, GuestError, GuestErrorCode, InputShape, TensorView, encode_run, encode_shapes,
};

use super::tests::template;
use super::*;

/// Elements of each row of the weights: enough for them to be kept apart from the model.
const COLUMNS: usize = 80;
const ROWS: usize = 60;

fn weights() -> Vec<f32> {
    (0..ROWS * COLUMNS).map(|at| ((at * 37) % 101) as f32 / 16.0 - 3.0).collect()
}

/// A product with constant weights, which are in the model or in the file `w`, from a byte on.
fn product(external: Option<usize>) -> Vec<u8> {
    let dims = [ROWS as i64, COLUMNS as i64];
    let weights = match external {
        None => onnx::tensor_f32("w", &dims, &weights()),
        Some(offset) => {
            let entry = |key: &str, value: &str| {
                onnx::Message::new().bytes(1, key).bytes(2, value.as_bytes())
            };
            let tensor = dims.iter().fold(onnx::Message::new(), |tensor, dim| tensor.int(1, *dim));
            let length = (4 * ROWS * COLUMNS).to_string();
            let entries = [
                entry("location", "w"),
                entry("offset", &offset.to_string()),
                entry("length", &length),
            ];
            tensor.int(2, onnx::FLOAT).bytes(8, "w").messages(13, entries).int(14, 1)
        }
    };
    let graph = onnx::Graph {
        nodes: vec![onnx::node("MatMul", &["x", "w"], &["y"], &[])],
        initializers: vec![weights],
        inputs: vec![onnx::value("x", onnx::FLOAT, &onnx::fixed(&[2, ROWS as i64]))],
        outputs: vec![onnx::value("y", onnx::FLOAT, &onnx::fixed(&[2, COLUMNS as i64]))],
    };
    graph.bytes()
}

/// The file `w` with the weights behind so many other bytes.
fn external_file(offset: usize) -> Vec<u8> {
    let weights = weights().into_iter().flat_map(f32::to_le_bytes);
    let name = [&1u32.to_le_bytes()[..], b"w"].concat();
    name.into_iter().chain(vec![0xee; offset]).chain(weights).chain(*b"end").collect()
}

fn empty() -> Machine {
    Machine::new(template())
}

fn first(machine: &mut Machine) -> &mut Instance {
    machine.first_instance(None).unwrap()
}

#[track_caller]
fn ok(answer: &[u8]) {
    assert!(matches!(decode_reply(answer), Ok(Reply::Ok)), "{:?}", decode_reply(answer));
}

#[track_caller]
fn refused(answer: &[u8], expected: GuestErrorCode) {
    match decode_reply(answer) {
        Ok(Reply::Error(GuestError { code, .. })) if code == expected => {}
        other => panic!("{expected:?} was expected: {other:?}"),
    }
}

fn prepare(machine: &mut Machine) -> Vec<u8> {
    let shape = InputShape { name: "x".into(), dims: vec![2, ROWS as u64] };
    let payload = Payload::Bytes(encode_shapes(&[shape], &[], &[]));
    machine.call(Call::Prepare, &payload, None, |message| Ok(message.to_vec())).unwrap().0
}

/// The bytes of the answer for a certain input.
fn answer(machine: &mut Machine) -> Vec<u8> {
    let prepared = prepare(machine);
    assert!(matches!(decode_reply(&prepared), Ok(Reply::Prepared(_))), "{prepared:?}");
    let data: Vec<u8> =
        (0..2 * ROWS).flat_map(|at| (at as f32 / 8.0 - 7.0).to_le_bytes()).collect();
    let view = TensorView { name: "x", dtype: DType::F32, dims: vec![2, ROWS as u64], data: &data };
    let payload = Payload::Bytes(encode_run(0, &[view]));
    let (answer, _) =
        machine.call(Call::Run, &payload, None, |message| Ok(message.to_vec())).unwrap();
    assert!(matches!(decode_reply(&answer), Ok(Reply::Tensors(_))));
    answer
}

#[test]
fn answers_do_not_depend_on_the_lengths_of_parts() {
    let mut machine = empty();
    ok(&first(&mut machine).file(Call::Load, &product(None), 1 << 20));
    let expected = answer(&mut machine);
    for part in [1, 3, 4096, 19_199] {
        let mut machine = empty();
        ok(&first(&mut machine).file(Call::Load, &product(None), part));
        assert_eq!(answer(&mut machine), expected, "parts of {part} bytes");
        for offset in [0, 5] {
            let mut machine = empty();
            ok(&first(&mut machine).file(Call::Load, &product(Some(offset)), part));
            ok(&first(&mut machine).file(Call::External, &external_file(offset), part));
            assert_eq!(answer(&mut machine), expected, "parts of {part} bytes behind {offset}");
        }
    }
}

#[test]
fn a_file_that_ends_early_is_not_used() {
    let model = product(Some(0));
    let mut machine = empty();
    let instance = first(&mut machine);
    ok(&instance.begin(Call::Load, model.len() as u64));
    ok(&instance.part(&model[..model.len() - 1]));
    refused(&prepare(&mut machine), GuestErrorCode::Protocol);
    refused(&first(&mut machine).begin(Call::External, 10), GuestErrorCode::Protocol);
    // The last byte completes it.
    ok(&first(&mut machine).part(&model[model.len() - 1..]));
    let file = external_file(0);
    let instance = first(&mut machine);
    ok(&instance.begin(Call::External, file.len() as u64));
    ok(&instance.part(&file[..file.len() - 1]));
    refused(&prepare(&mut machine), GuestErrorCode::Protocol);
    ok(&first(&mut machine).part(&file[file.len() - 1..]));
    answer(&mut machine);
}

#[test]
fn a_part_that_is_longer_than_its_file_is_refused() {
    let model = product(Some(0));
    let mut machine = empty();
    let instance = first(&mut machine);
    ok(&instance.begin(Call::Load, model.len() as u64 - 1));
    refused(&instance.part(&model), GuestErrorCode::Protocol);
    // The file is dropped.
    refused(&instance.part(&model[..1]), GuestErrorCode::Protocol);
    ok(&instance.file(Call::Load, &model, 100));
    let file = external_file(0);
    ok(&instance.begin(Call::External, file.len() as u64 - 1));
    refused(&instance.part(&file), GuestErrorCode::Protocol);
    refused(&prepare(&mut machine), GuestErrorCode::Protocol);
}

#[test]
fn parts_and_files_out_of_order_are_refused() {
    let model = product(None);
    let mut machine = empty();
    let instance = first(&mut machine);
    refused(&instance.part(&model), GuestErrorCode::Protocol);
    refused(&instance.begin(Call::External, 10), GuestErrorCode::Protocol);
    ok(&instance.begin(Call::Load, model.len() as u64));
    // A second model while the first one arrives, and afterwards.
    refused(&instance.begin(Call::Load, model.len() as u64), GuestErrorCode::Protocol);
    ok(&instance.part(&model));
    refused(&instance.begin(Call::Load, model.len() as u64), GuestErrorCode::Protocol);
    refused(&instance.part(&model), GuestErrorCode::Protocol);
    refused(&instance.part(b""), GuestErrorCode::Protocol);
    answer(&mut machine);
}

#[test]
fn lengths_that_lie_are_refused() {
    let mut machine = empty();
    let instance = first(&mut machine);
    refused(&instance.begin(Call::Load, 0), GuestErrorCode::NotOnnx);
    refused(&instance.begin(Call::Load, 1 << 32), GuestErrorCode::Protocol);
    ok(&instance.file(Call::Load, &product(Some(0)), 1 << 20));
    refused(&instance.begin(Call::External, 1 << 32), GuestErrorCode::Protocol);
    for file in [&b""[..], b"\x01\0\0", b"\x02\0\0\0w", b"\xff\xff\xff\xffw"] {
        for part in [1, 100] {
            let mut machine = empty();
            let instance = first(&mut machine);
            ok(&instance.file(Call::Load, &product(Some(0)), 1 << 20));
            refused(&instance.file(Call::External, file, part), GuestErrorCode::Protocol);
        }
    }
    // The weights end behind the end of the file.
    let file = external_file(0);
    let short = &file[..file.len() - 4];
    let instance = first(&mut machine);
    refused(&instance.file(Call::Load, &product(None), 1 << 20), GuestErrorCode::Protocol);
    let mut machine = empty();
    let instance = first(&mut machine);
    ok(&instance.file(Call::Load, &product(Some(0)), 1 << 20));
    refused(&instance.file(Call::External, short, 1 << 20), GuestErrorCode::ModelRefused);
}

/// A model marks nothing by itself: `data_location` (14) holds the guest's own mark for elements
/// that are not in the decoded model.
#[test]
fn a_forged_mark_stands_for_no_elements() {
    let good = onnx::tensor_f32("w", &[ROWS as i64, COLUMNS as i64], &weights());
    for mark in [-1, -2, i64::from(i32::MIN)] {
        let forged = [1, 1].iter().fold(onnx::Message::new(), |tensor, dim| tensor.int(1, *dim));
        let forged = forged.int(2, onnx::FLOAT).bytes(8, "f").int(14, mark);
        let graph = onnx::Graph {
            nodes: vec![
                onnx::node("MatMul", &["x", "w"], &["z"], &[]),
                onnx::node("Add", &["z", "f"], &["y"], &[]),
            ],
            initializers: vec![good.clone(), forged],
            inputs: vec![onnx::value("x", onnx::FLOAT, &onnx::fixed(&[2, ROWS as i64]))],
            outputs: vec![onnx::value_of_any_shape("y", onnx::FLOAT)],
        };
        let mut machine = empty();
        ok(&first(&mut machine).file(Call::Load, &graph.bytes(), 1 << 20));
        refused(&prepare(&mut machine), GuestErrorCode::ModelRefused);
    }
}
