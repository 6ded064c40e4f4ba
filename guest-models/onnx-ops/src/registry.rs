//! The list of all operators, and their entry into tract's registry.

use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;

use crate::control_flow::body;
use crate::framework::errors::bail;
use crate::framework::registration::{Registration, own};
use crate::framework::synthetic::{OPERATOR, VERSION, VERSIONED};
use crate::framework::upstream::BuildResult;

/// All registrations, by family. An operator may have several, for different ranges of its versions.
pub fn all() -> impl Iterator<Item = &'static Registration> {
    let families = [
        crate::array::OPERATORS,
        crate::control_flow::OPERATORS,
        crate::elementwise::OPERATORS,
        crate::math::OPERATORS,
        crate::microsoft::OPERATORS,
        crate::microsoft::attention::OPERATORS,
        crate::microsoft::quantized::OPERATORS,
        crate::ml::OPERATORS,
        crate::nn::OPERATORS,
        crate::quantization::OPERATORS,
        crate::random::OPERATORS,
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
        crate::sequence::optional::OPERATORS,
        crate::sequence::packed::OPERATORS,
        crate::sequence::split::OPERATORS,
        crate::strings::cast::OPERATORS,
    ];
    lists.into_iter().flatten()
}

/// Puts all operators into tract's registry. `optimize` optimises the bodies of loops.
pub fn register(
    registry: &mut OnnxOpRegister,
    optimize: fn(InferenceModel) -> TractResult<TypedModel>,
) {
    body::optimize_bodies_by(optimize);
    for operator in all().chain(synthetic()) {
        registry.insert(operator.name, build);
    }
}

/// The registration for a version of an operator.
fn find(domain: &str, name: &str, version: i64) -> Option<&'static Registration> {
    let domain = if domain == "ai.onnx" { "" } else { domain };
    all().chain(synthetic()).find(|operator| {
        operator.name == name
            && operator.domain == domain
            && (!domain.is_empty() || operator.versions.contains(&version))
    })
}

/// The builder in tract's registry for every name. tract distinguishes operators by name alone, so
/// the domain and the version are looked up here.
pub(crate) fn build(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    // tract knows only the version of ONNX's own operator set; the gate has checked the others, and
    // their operators have one registration for all versions.
    match find(&node.domain, &node.op_type, context.onnx_operator_set_version) {
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
    use std::ops::RangeInclusive;

    use super::*;
    use crate::framework::registration::{Source, upstream};
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
            // The versions may differ: the table names the one with the most code of this crate.
            let source = all().filter(of_this).map(|registered| registered.source).min();
            assert_eq!(source, Some(operator.source()), "{}", operator.name);
        }
    }

    /// The operators with two registrations for a version, or with versions in this range that have
    /// none.
    fn faults(
        registered: &[&Registration],
        domain: &str,
        name: &str,
        versions: RangeInclusive<i64>,
    ) -> Vec<String> {
        let of_this = |one: &&&Registration| (one.domain, one.name) == (domain, name);
        let count = |version| {
            let covers = |one: &&&Registration| one.versions.contains(&version);
            registered.iter().filter(of_this).filter(covers).count()
        };
        let fault = |version| match count(version) {
            0 => Some(format!("{name} {version} is not registered")),
            1 => None,
            count => Some(format!("{name} {version} is registered {count} times")),
        };
        versions.filter_map(fault).collect()
    }

    #[test]
    fn every_version_in_the_table_has_exactly_one_registration() {
        let registered: Vec<_> = all().collect();
        let faults: Vec<_> = belljar_operators::all()
            .flat_map(|op| faults(&registered, op.domain, op.name, op.since..=op.until))
            .collect();
        assert!(faults.is_empty(), "{faults:?}");
    }

    #[test]
    fn no_two_registrations_of_an_operator_overlap() {
        let registered: Vec<_> = all().chain(synthetic()).collect();
        for (at, one) in registered.iter().enumerate() {
            assert!(!one.versions.is_empty(), "{} has no versions", one.name);
            for other in &registered[at + 1..] {
                let same = (one.domain, one.name) == (other.domain, other.name);
                assert!(!same || !overlap(one, other), "{} is registered twice", one.name);
            }
        }
    }

    fn overlap(one: &Registration, other: &Registration) -> bool {
        one.versions.start() <= other.versions.end() && other.versions.start() <= one.versions.end()
    }

    #[test]
    fn gaps_and_overlaps_of_version_ranges_are_found() {
        let op = || upstream("Abs");
        let faults = |first: &Registration, second: &Registration| {
            faults(&[first, second], "", "Abs", 1..=9).join(", ")
        };
        assert_eq!(faults(&op().until(6), &op().since(7)), "");
        assert_eq!(faults(&op().until(5), &op().since(7)), "Abs 6 is not registered");
        assert_eq!(faults(&op().until(7), &op().since(7)), "Abs 7 is registered 2 times");
        assert_eq!(faults(&op().since(2), &upstream("Neg")), "Abs 1 is not registered");
        assert_eq!(faults(&op().until(8), &op().of("other")), "Abs 9 is not registered");
        assert!(overlap(&op().until(7), &op().since(7)) && overlap(&op(), &op().since(3).until(4)));
        assert!(!overlap(&op().until(6), &op().since(7)));
    }

    #[test]
    fn registry_chooses_the_implementation_by_version() {
        let registered: Vec<_> = all().filter(|op| op.domain.is_empty()).collect();
        for operator in registered {
            for version in [*operator.versions.start(), *operator.versions.end()] {
                let found = find("ai.onnx", operator.name, version).unwrap();
                assert!(std::ptr::eq(found, operator), "{} {version}", operator.name);
            }
        }
        let source = |version| find("", "Add", version).map(|operator| operator.source);
        assert_eq!([6, 7].map(source), [Some(Source::Own), Some(Source::Upstream)]);
        assert!(find("", "Nothing", 7).is_none() && find("ai.onnx.ml", "Add", 7).is_none());
    }

    #[test]
    fn domains_may_have_operators_of_the_same_name() {
        let source = |domain| find(domain, "Gelu", 1).map(|operator| operator.domain);
        assert_eq!(
            ["", "ai.onnx", "com.microsoft"].map(source),
            [Some(""), Some(""), Some("com.microsoft")]
        );
        assert!(find("com.microsoft", "Relu", 1).is_none());
        assert!(find("", "QuickGelu", 1).is_none());
    }

    #[test]
    fn operators_of_other_domains_have_one_registration() {
        let others = || all().filter(|operator| !operator.domain.is_empty());
        for operator in others() {
            assert_eq!(operator.versions, 1..=i64::MAX, "{}", operator.name);
        }
        let names: BTreeSet<_> =
            others().map(|operator| (operator.domain, operator.name)).collect();
        assert_eq!(names.len(), others().count());
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
