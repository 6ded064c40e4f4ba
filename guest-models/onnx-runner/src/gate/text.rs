//! Formats names and values of a model for messages: escaped and truncated.

use tract_onnx::pb::tensor_proto::DataType;

/// Maximum length of a name in a message, in bytes.
const MAX_NAME: usize = 100;

/// A name from the model, in quotes.
pub(crate) fn shown(name: &str) -> String {
    let start = &name[..name.floor_char_boundary(MAX_NAME)];
    let more = if start.len() < name.len() { "…" } else { "" };
    format!("{start:?}{more}")
}

/// The name of an operator, in quotes unless it is a plain word.
pub(super) fn operator(op_type: &str) -> String {
    let start = &op_type[..op_type.floor_char_boundary(60)];
    // Names of operators come from the model and are as untrusted as other names.
    let plain = start.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    if plain { start.to_owned() } else { shown(start) }
}

/// A domain of operators.
pub(super) fn domain(name: &str) -> String {
    if name.is_empty() { "of ONNX".into() } else { shown(name) }
}

/// A set of operators.
pub(super) fn set(domain: &str) -> String {
    if domain.is_empty() {
        "the ONNX operator set".into()
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

/// The ONNX name of an element type, also if it is not implemented.
pub fn name_of(number: i32) -> String {
    match DataType::try_from(number) {
        Ok(DataType::Undefined) => "undefined".into(),
        Ok(dtype) => dtype.as_str_name().to_lowercase(),
        Err(_) => match u32::try_from(number).map_or("unknown", belljar_abi::DType::onnx_name) {
            "unknown" => format!("unknown ({number})"),
            name => name.to_owned(),
        },
    }
}
