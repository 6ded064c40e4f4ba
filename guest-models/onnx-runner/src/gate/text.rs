//! How things that a model names are shown in messages: escaped, and cut.

/// Enough of a name to recognise it by.
const MOST: usize = 100;

/// A name from the model, in quotes.
pub(super) fn shown(name: &str) -> String {
    let start = &name[..name.floor_char_boundary(MOST)];
    let more = if start.len() < name.len() { "…" } else { "" };
    format!("{start:?}{more}")
}

/// A domain of operators.
pub(super) fn domain(name: &str) -> String {
    if name.is_empty() { "of ONNX itself".into() } else { shown(name) }
}

/// Some numbers from the model.
pub(super) fn list(values: &[i64]) -> String {
    let start: Vec<String> = values.iter().take(16).map(i64::to_string).collect();
    let more = if values.len() > 16 { ", …" } else { "" };
    format!("[{}{more}]", start.join(", "))
}
