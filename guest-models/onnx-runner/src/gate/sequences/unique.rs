//! Checks that a graph defines each value once, before values are removed from it.

use std::collections::HashSet;

use tract_onnx::pb::GraphProto;

use crate::gate::bounds;
use crate::gate::text::shown;

/// Refuses duplicate values. Later checks would miss a duplicate if one of the two is removed here.
pub(super) fn check<'g>(
    graph: &'g GraphProto,
    taken: &mut HashSet<&'g str>,
    depth: usize,
) -> Result<(), String> {
    if depth > bounds::DEPTH {
        return Err(format!("graphs are nested deeper than {}", bounds::DEPTH));
    }
    let inputs: HashSet<&str> = graph.input.iter().map(|input| &*input.name).collect();
    // An initializer with the name of an input is its default.
    let tensors = graph.initializer.iter().map(|tensor| &*tensor.name);
    let tensors = tensors.filter(|name| !inputs.contains(name));
    let outputs = graph.node.iter().flat_map(|node| &node.output).map(|name| &**name);
    let inputs = graph.input.iter().map(|input| &*input.name);
    let mut here: Vec<&str> = Vec::new();
    for name in inputs.chain(tensors).chain(outputs).filter(|name| !name.is_empty()) {
        if !taken.insert(name) {
            return Err(format!("duplicate value {}: two nodes make the same value", shown(name)));
        }
        here.push(name);
    }
    let attributes = graph.node.iter().flat_map(|node| &node.attribute);
    for body in attributes.filter_map(|attribute| attribute.g.as_ref()) {
        check(body, taken, depth + 1)?;
    }
    here.into_iter().for_each(|name| {
        taken.remove(name);
    });
    Ok(())
}
