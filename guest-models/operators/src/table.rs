//! The table of operators that are computed as ONNX specifies: the versions of the operator set for
//! which that was checked, the inputs and outputs with their element types, and the attributes with
//! the values that were checked. Everything else is refused.

use crate::entry::{MICROSOFT, ML, NEWEST, NEWEST_MICROSOFT, NEWEST_ML, Operator};
use crate::{
    attention, elementwise, layers, legacy, microsoft, ml, quantized, random, recurrent, regions,
    sequences, shapes, strings,
};

/// Every operator, in the order of the files.
pub fn all() -> impl Iterator<Item = &'static Operator> {
    let files = [
        elementwise::OPERATORS,
        attention::OPERATORS,
        layers::OPERATORS,
        recurrent::OPERATORS,
        quantized::OPERATORS,
        regions::OPERATORS,
        legacy::OPERATORS,
        random::OPERATORS,
        shapes::OPERATORS,
        sequences::OPERATORS,
        strings::OPERATORS,
        ml::OPERATORS,
        microsoft::activations::OPERATORS,
        microsoft::attention::OPERATORS,
        microsoft::quantized::OPERATORS,
        microsoft::blocks::OPERATORS,
        microsoft::fused::OPERATORS,
        microsoft::normalization::OPERATORS,
        microsoft::small::OPERATORS,
    ];
    files.into_iter().flatten()
}

/// The newest version of a domain's operator set, if the domain is known.
pub fn newest(domain: &str) -> Option<i64> {
    match domain {
        "" => Some(NEWEST),
        ML => Some(NEWEST_ML),
        MICROSOFT => Some(NEWEST_MICROSOFT),
        _ => None,
    }
}

/// The operator of this name in this version of a domain, or why it is not implemented.
pub fn find(domain: &str, name: &str, version: i64) -> Result<&'static Operator, String> {
    let named = || all().filter(|operator| operator.domain == domain && operator.name == name);
    let fits = |operator: &&Operator| (operator.since..=operator.until).contains(&version);
    if let Some(found) = named().find(fits) {
        return Ok(found);
    }
    if domain == ML && ["ZipMap", "CastMap", "DictVectorizer"].contains(&name) {
        return Err(maps(name));
    }
    if domain == MICROSOFT
        && let Some(reason) = microsoft::reason(name)
    {
        return Err(reason.into());
    }
    let ranges: Vec<String> = named()
        .map(|operator| match (operator.since, operator.until) {
            (since, until) if Some(until) == newest(domain) => format!("{since} and newer"),
            (since, until) => format!("{since} to {until}"),
        })
        .collect();
    if ranges.is_empty() {
        return Err("the operator is not implemented".into());
    }
    Err(format!("the operator is only implemented in operator set {}", ranges.join(", ")))
}

/// The message for operators that make or take maps.
fn maps(name: &str) -> String {
    let why = "maps are not implemented";
    match name {
        "ZipMap" => format!(
            "{why}; export the model with its scores as a tensor, in skl2onnx with the option \
             zipmap=False"
        ),
        _ => format!("{why}; export the model with a matrix as its input"),
    }
}
