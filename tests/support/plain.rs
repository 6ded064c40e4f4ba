//! Errors as a user reads them: in words of this program, and not of what it is built on.

/// Words of the inside of tract and of ndarray, which mean nothing to a user.
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
    "AtRunTime",
    "InBounds",
    "unwrap()",
    "called `",
];

/// What of a message is no word for a user.
pub(crate) fn internal(text: &str) -> Option<&'static str> {
    INTERNAL.into_iter().find(|word| text.contains(word))
}

#[track_caller]
pub(crate) fn check(error: &belljar::Error) {
    let text = error.to_string();
    if let Some(word) = internal(&text) {
        panic!("an error speaks of {word:?}: {text}");
    }
}
