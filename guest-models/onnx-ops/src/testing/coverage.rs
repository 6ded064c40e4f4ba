//! Checks that every operator has a unit test. It reads the sources, which a sandbox does not have.

use std::collections::BTreeSet;
use std::path::Path;

use belljar_operators::MICROSOFT;

use crate::framework::registration::Source;
use crate::registry;

/// The operators for which there is a `case`, or `microsoft` for the domain `com.microsoft`, in the
/// sources under a folder. The other domains have no names in common.
fn tested(folder: &Path, names: &mut BTreeSet<(&str, String)>) {
    if folder.ends_with("testing") {
        return;
    }
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tested(&path, names);
        } else {
            let source = std::fs::read_to_string(&path).unwrap();
            for (call, domain) in [("case(\"", ""), ("microsoft(\"", MICROSOFT)] {
                for case in source.split(call).skip(1) {
                    let name = case.split_once('"').map(|(name, _)| name.to_owned());
                    names.extend(name.map(|name| (domain, name)));
                }
            }
        }
    }
}

#[test]
fn every_operator_has_a_unit_test_unless_the_gate_replaces_it() {
    let mut names = BTreeSet::new();
    tested(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut names);
    let untested: Vec<_> = registry::all()
        .chain(registry::synthetic())
        .filter(|operator| operator.source != Source::Lowered)
        .map(|operator| {
            let domain = if operator.domain == MICROSOFT { MICROSOFT } else { "" };
            (domain, operator.name.to_owned())
        })
        .filter(|operator| !names.contains(operator))
        .collect();
    assert!(untested.is_empty(), "{} operators have no test: {untested:?}", untested.len());
}
