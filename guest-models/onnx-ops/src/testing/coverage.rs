//! Checks that every operator has a unit test. It reads the sources, which a sandbox does not have.

use std::collections::BTreeSet;
use std::path::Path;

use crate::framework::registration::Source;
use crate::registry;

/// The names of operators for which there is a `case` in the sources under a folder.
fn tested(folder: &Path, names: &mut BTreeSet<String>) {
    if folder.ends_with("testing") {
        return;
    }
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tested(&path, names);
        } else {
            let source = std::fs::read_to_string(&path).unwrap();
            for case in source.split("case(\"").skip(1) {
                names.extend(case.split_once('"').map(|(name, _)| name.to_owned()));
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
        .filter(|operator| !names.contains(operator.name))
        .map(|operator| operator.name)
        .collect();
    assert!(untested.is_empty(), "{} operators have no test: {untested:?}", untested.len());
}
