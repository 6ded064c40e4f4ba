//! How things that a model names are shown in messages: escaped, and cut.

use tract_onnx::pb::tensor_proto::DataType;

/// Enough of a name to recognise it by.
const MOST: usize = 100;

/// A name from the model, in quotes.
pub(crate) fn shown(name: &str) -> String {
    let start = &name[..name.floor_char_boundary(MOST)];
    let more = if start.len() < name.len() { "…" } else { "" };
    format!("{start:?}{more}")
}

/// The name of an operator, in quotes if it is no plain word.
pub(super) fn operator(op_type: &str) -> String {
    let start = &op_type[..op_type.floor_char_boundary(60)];
    // Names of operators are part of the message, and no better than other names.
    let plain = start.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    if plain { start.to_owned() } else { shown(start) }
}

/// A domain of operators.
pub(super) fn domain(name: &str) -> String {
    if name.is_empty() { "of ONNX itself".into() } else { shown(name) }
}

/// A set of operators.
pub(super) fn set(domain: &str) -> String {
    if domain.is_empty() {
        "ONNX's operator set".into()
    } else {
        format!("the operator set {}", shown(domain))
    }
}

/// Some numbers from the model.
pub(super) fn list(values: &[i64]) -> String {
    let start: Vec<String> = values.iter().take(16).map(i64::to_string).collect();
    let more = if values.len() > 16 { ", …" } else { "" };
    format!("[{}{more}]", start.join(", "))
}

/// As ONNX calls an element type, known here or not.
pub fn name_of(number: i32) -> String {
    match DataType::try_from(number) {
        Ok(DataType::Undefined) => "an undefined type".into(),
        Ok(dtype) => dtype.as_str_name().to_lowercase(),
        Err(_) => match u32::try_from(number).map_or("unknown", belljar_abi::DType::onnx_name) {
            "unknown" => format!("the unknown type {number}"),
            name => name.to_owned(),
        },
    }
}
