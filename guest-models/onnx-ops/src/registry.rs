//! The list of all operators, and their entry into tract's registry.

use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;

use crate::control_flow::loop_op;
use crate::framework::errors::bail;
use crate::framework::registration::{Registration, own};
use crate::framework::synthetic::{OPERATOR, VERSION, VERSIONED};
use crate::framework::upstream::BuildResult;

/// All registrations, by family.
pub fn all() -> impl Iterator<Item = &'static Registration> {
    let families = [
        crate::array::OPERATORS,
        crate::control_flow::OPERATORS,
        crate::elementwise::OPERATORS,
        crate::math::OPERATORS,
        crate::ml::OPERATORS,
        crate::nn::OPERATORS,
        crate::quantization::OPERATORS,
        crate::sequence::OPERATORS,
        crate::strings::OPERATORS,
    ];
    families.into_iter().flatten().copied().flatten()
}

/// Operators that no model can use, and that the table does not have.
pub(crate) fn synthetic() -> impl Iterator<Item = &'static Registration> {
    let lists = [
        VERSIONED_OPERATORS,
        crate::array::cast::SYNTHETIC,
        crate::elementwise::narrow_cast::OPERATORS,
        crate::quantization::quantize_any::OPERATORS,
        crate::strings::cast::OPERATORS,
    ];
    lists.into_iter().flatten()
}

/// Puts all operators into tract's registry. `optimize` optimises the bodies of loops.
pub fn register(
    registry: &mut OnnxOpRegister,
    optimize: fn(InferenceModel) -> TractResult<TypedModel>,
) {
    loop_op::optimize_bodies_by(optimize);
    for operator in all().chain(synthetic()) {
        registry.insert(operator.name, build);
    }
}

/// The builder in tract's registry for every name. tract distinguishes operators by name alone, so
/// the domain and the version are looked up here.
pub(crate) fn build(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    let domain = if node.domain == "ai.onnx" { "" } else { &*node.domain };
    // tract knows only the version of ONNX's own operator set; the gate has checked the others.
    let version = context.onnx_operator_set_version;
    let found = all().chain(synthetic()).find(|operator| {
        operator.name == node.op_type
            && operator.domain == domain
            && (!domain.is_empty() || operator.versions.contains(&version))
    });
    match found {
        Some(operator) => operator.build(context, node),
        None => bail!("{} is not implemented", node.op_type),
    }
}

/// Operators in another version of the operator set than the model's: nodes of the model's
/// functions, which the gate has marked.
const VERSIONED_OPERATORS: &[Registration] = &[own(VERSIONED, build_versioned)];

/// Builds the operator as it is in its own version.
fn build_versioned(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    let (operator, version): (String, i64) = (node.get_attr(OPERATOR)?, node.get_attr(VERSION)?);
    let mut node = node.clone();
    node.attribute.retain(|attribute| ![OPERATOR, VERSION].contains(&&*attribute.name));
    node.op_type = operator;
    let context = ParsingContext { onnx_operator_set_version: version, ..context.clone() };
    build(&context, &node)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::framework::registration::Source;
    use crate::framework::upstream::originals;
    use crate::testing::{case, tensor};

    #[test]
    fn table_and_registrations_have_the_same_operators() {
        let table: BTreeSet<_> =
            belljar_operators::all().map(|operator| (operator.domain, operator.name)).collect();
        let registered: BTreeSet<_> =
            all().map(|operator| (operator.domain, operator.name)).collect();
        let missing: Vec<_> = table.difference(&registered).collect();
        let surplus: Vec<_> = registered.difference(&table).collect();
        assert!(
            missing.is_empty() && surplus.is_empty(),
            "missing {missing:?}, surplus {surplus:?}"
        );
    }

    #[test]
    fn table_names_the_source_of_each_operator() {
        for operator in belljar_operators::all() {
            let of_this = |other: &&Registration| {
                (other.domain, other.name) == (operator.domain, operator.name)
            };
            for registered in all().filter(of_this) {
                assert_eq!(registered.source, operator.source(), "{}", operator.name);
            }
        }
    }

    #[test]
    fn no_operator_is_registered_twice_for_a_version() {
        let all: Vec<_> = all().collect();
        for (at, one) in all.iter().enumerate() {
            for other in &all[at + 1..] {
                let same = (one.domain, one.name) == (other.domain, other.name);
                let apart = one.versions.end() < other.versions.start()
                    || other.versions.end() < one.versions.start();
                assert!(!same || apart, "{} is registered twice", one.name);
            }
        }
    }

    #[test]
    fn tract_has_every_operator_that_is_left_to_it() {
        for operator in all().filter(|operator| operator.source == Source::Upstream) {
            assert!(originals().contains_key(operator.name), "{} is not tract's", operator.name);
        }
    }

    #[test]
    fn operator_keeps_the_rules_of_its_own_version() {
        // Softmax of version 11 is over all axes from the second on.
        let node = case("BelljarVersioned").text("belljar_operator", "Softmax");
        let node = node.int("belljar_version", 11).input(tensor(&[1, 2, 2], &[0f32; 4]));
        node.gives_near(tensor(&[1, 2, 2], &[0.25f32; 4]), 1e-6);
    }

    #[test]
    fn operator_that_is_not_registered_is_refused() {
        let node = case("BelljarVersioned").text("belljar_operator", "Nothing");
        node.int("belljar_version", 11).input(tensor(&[1], &[0f32])).fails("Nothing");
    }
}
