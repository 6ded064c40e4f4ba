//! Checks that errors use the terms of ONNX and Belljar, not tract's internal terms.

/// Internal terms of tract and ndarray, which users do not know.
const INTERNAL: [&str; 38] = [
    "tract",
    "ndarray",
    "Undetermined symbol",
    "IfThenElse",
    "Condition failed",
    "Unwired",
    "Translating",
    "output_facts",
    "Failed analyse",
    "Infering",
    "Applying rule",
    "to unify",
    "Unifying",
    "Evaluating",
    "Building node",
    "Wiring",
    "Eager",
    "const-folding",
    "simplifying",
    "assertion failed",
    "declutter",
    "codegen",
    "Codegen",
    "optimizer",
    "outlet",
    "Outlet",
    "TDim",
    "Val(",
    "Only(",
    "Sym(",
    "InferenceFact",
    "TypedFact",
    "ShapeFactoid",
    "DatumType",
    "Deferred",
    "BoundsCheck",
    "unwrap()",
    "called `",
];

/// The first internal term in a message.
pub(crate) fn internal(text: &str) -> Option<&'static str> {
    INTERNAL.into_iter().find(|word| text.contains(word))
}

#[track_caller]
pub(crate) fn check(error: &belljar::Error) {
    let text = error.to_string();
    if let Some(word) = internal(&text) {
        panic!("an error contains the internal term {word:?}: {text}");
    }
}
