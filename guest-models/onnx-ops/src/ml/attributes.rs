//! Attributes of a node without copies, since lists may be as long as the model. The gate has
//! checked their kinds.

use tract_onnx::data_resolver::FopenDataResolver;
use tract_onnx::pb::{AttributeProto, NodeProto};
use tract_onnx::tensor::load_tensor;
use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::{bail, ensure};

pub(crate) fn find<'n>(node: &'n NodeProto, name: &str) -> Option<&'n AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

pub(crate) fn ints<'n>(node: &'n NodeProto, name: &str) -> &'n [i64] {
    find(node, name).map_or(&[], |attribute| &attribute.ints)
}

pub(crate) fn floats<'n>(node: &'n NodeProto, name: &str) -> &'n [f32] {
    find(node, name).map_or(&[], |attribute| &attribute.floats)
}

pub(crate) fn int(node: &NodeProto, name: &str, default: i64) -> i64 {
    find(node, name).map_or(default, |attribute| attribute.i)
}

pub(crate) fn float(node: &NodeProto, name: &str, default: f32) -> f32 {
    find(node, name).map_or(default, |attribute| attribute.f)
}

pub(crate) fn text<'n>(node: &'n NodeProto, name: &str, default: &'n str) -> TractResult<&'n str> {
    match find(node, name) {
        Some(attribute) => Ok(std::str::from_utf8(&attribute.s)?),
        None => Ok(default),
    }
}

pub(crate) fn texts<'n>(node: &'n NodeProto, name: &str) -> TractResult<Vec<&'n str>> {
    let texts = find(node, name).map_or(&[][..], |attribute| &attribute.strings);
    texts.iter().map(|text| Ok(std::str::from_utf8(text)?)).collect()
}

/// A tensor attribute, which the gate has checked to be complete.
pub(crate) fn tensor(node: &NodeProto, name: &str) -> TractResult<Option<Tensor>> {
    match find(node, name).and_then(|attribute| attribute.t.as_ref()) {
        Some(tensor) => load_tensor(&FopenDataResolver, tensor, None).map(Some),
        None => Ok(None),
    }
}

/// Numbers as a list of floats, or as a tensor of doubles with another name, which the
/// specification allows only for inputs of doubles.
pub(crate) fn either(node: &NodeProto, name: &str) -> TractResult<(Vec<f64>, bool)> {
    let plain = floats(node, name);
    let wide = format!("{name}_as_tensor");
    let Some(tensor) = tensor(node, &wide)? else {
        return Ok((plain.iter().map(|value| f64::from(*value)).collect(), false));
    };
    ensure!(plain.is_empty(), "both {name} and {wide} are given");
    ensure!(tensor.datum_type() == f64::datum_type(), "{wide} is not a tensor of doubles");
    let values = tensor.try_as_plain_ram()?.as_slice::<f64>()?.to_vec();
    Ok((values, true))
}

/// Checks that numbers are finite.
pub(crate) fn finite(values: &[f64], what: &str) -> TractResult<()> {
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => bail!("{what} has a {value}"),
        None => Ok(()),
    }
}

/// Finite 32-bit floats as 64-bit floats.
pub(crate) fn wide(values: &[f32], what: &str) -> TractResult<Vec<f64>> {
    let wide: Vec<f64> = values.iter().map(|value| f64::from(*value)).collect();
    finite(&wide, what)?;
    Ok(wide)
}
