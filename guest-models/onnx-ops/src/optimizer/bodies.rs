//! Graphs inside nodes: the body of a Scan. tract optimises the body of a
//! Scan again with its own passes, when it generates code and when it drops an input that the body
//! does not read. Both are done here instead, with the passes of this crate.

use tract_onnx::tract_core::ops::scan::{InputMapping, Scan};
use tract_onnx::tract_core::optim::OptimizerSession;
use tract_onnx::tract_hir::internal::*;

/// Changes the graphs of all nodes of this model, but not the graphs nested in them.
pub(crate) fn change_each(
    model: &mut TypedModel,
    change: impl Fn(&mut TypedModel) -> TractResult<()>,
) -> TractResult<()> {
    for node in &mut model.nodes {
        if let Some(scan) = node.op_as::<Scan>() {
            let mut scan = scan.clone();
            change(&mut scan.body)?;
            node.op = Box::new(scan);
        }
    }
    Ok(())
}

/// Simplifies a Scan whose body does not read one of its inputs; `None` where tract's own
/// simplification may be called.
pub(crate) fn simplify_scan(
    session: &mut OptimizerSession,
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<Simplified>> {
    let Some(scan) = node.op_as::<Scan>() else { return Ok(None) };
    let outputs = scan.body.output_outlets()?;
    let is_unused = |input: &OutletId| {
        let read = &scan.body.node(input.node).outputs[input.slot].successors;
        read.is_empty() && !outputs.contains(input)
    };
    let inputs = scan.body.input_outlets()?;
    let unused = |state: bool| {
        let mut each = inputs.iter().zip(&scan.input_mapping);
        each.position(|(input, mapping)| {
            is_unused(input) && matches!(mapping, InputMapping::State) == state
        })
    };
    if let Some(slot) = unused(false) {
        let mut changed = scan.clone();
        changed.input_mapping.remove(slot);
        let mut left = inputs.to_vec();
        left.remove(slot);
        changed.body.set_input_outlets(&left)?;
        changed.body.compact()?;
        let mut read = node.inputs.clone();
        read.remove(slot);
        let patch = TypedModelPatch::replace_single_op(model, node, &read, changed)?;
        return Ok(Some(Simplified::To(Box::new(patch))));
    }
    // A state that nothing reads is still an output, which tract drops with it.
    if unused(true).is_none() && tract_can_pull_inputs(model, node, scan)? {
        return Ok(None);
    }
    // The body is optimised, and everything else stays.
    if scan.decluttered {
        return Ok(Some(Simplified::Already));
    }
    let mut changed = scan.clone();
    session.optimize(&mut changed.body)?;
    changed.decluttered = true;
    let patch = TypedModelPatch::replace_single_op(model, node, &node.inputs, changed)?;
    Ok(Some(Simplified::To(Box::new(patch))))
}

/// Whether tract can correctly move operators that read a scanned input out of the body. It uses
/// the value of a constant as the value of each slice, and panics if an operator reads a slice
/// twice.
fn tract_can_pull_inputs(model: &TypedModel, node: &TypedNode, scan: &Scan) -> TractResult<bool> {
    for (slot, mapping) in scan.input_mapping.iter().enumerate() {
        if !matches!(mapping, InputMapping::Scan(_)) {
            continue;
        }
        if model.outlet_fact(node.inputs[slot])?.konst.is_some() {
            return Ok(false);
        }
        let source = scan.body.input_outlets()?[slot];
        let readers = &scan.body.node(source.node).outputs[source.slot].successors;
        let twice = |at: usize| readers[..at].iter().any(|other| other.node == readers[at].node);
        if (0..readers.len()).any(twice) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The result of simplifying a node.
pub(crate) enum Simplified {
    To(Box<TypedModelPatch>),
    /// The node is simplified already.
    Already,
}

/// Generates the code of a Scan, by `generate` for its body.
pub(crate) fn lower_scan(
    model: &TypedModel,
    node: &TypedNode,
    generate: impl Fn(&mut TypedModel) -> TractResult<()>,
) -> TractResult<Option<TypedModelPatch>> {
    let Some(scan) = node.op_as::<Scan>() else { return Ok(None) };
    let mut scan = scan.clone();
    generate(&mut scan.body)?;
    let op = scan.to_codegen_op(false)?;
    TypedModelPatch::replace_single_op(model, node, &node.inputs, op).map(Some)
}

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::DatumType;

    use crate::testing::{Case, Graph, case, graph, row, scalar, tensor};

    const F32: DatumType = DatumType::F32;

    /// A body that counts its iterations in its only state.
    fn counting(outputs: &[&str]) -> Graph {
        let outputs = [&["next"], outputs].concat();
        let body = graph(&[("count", F32), ("x", F32)], &outputs);
        body.node("Add", &["count", "one"], "next").constant("one", &scalar(1f32))
    }

    fn scan(body: Graph, scanned: i64) -> Case {
        case("Scan").graph("body", body).int("num_scan_inputs", scanned).outputs(2)
    }

    #[test]
    fn strided_slice_stays_after_softmax_in_the_body_of_a_scan() {
        let body = counting(&["y"]).node("Softmax", &["x"], "all");
        let body = body.node("Slice", &["all", "start", "end", "axis", "step"], "y");
        let number = |value: i64| row(&[value]);
        let body = body.constant("start", &number(0)).constant("end", &number(4));
        let body = body.constant("axis", &number(0)).constant("step", &number(2));
        let rows = [[0f32, 1.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0]];
        let expected: Vec<f32> = rows
            .iter()
            .flat_map(|row| {
                let sum: f32 = row.iter().map(|x| x.exp()).sum();
                [row[0].exp() / sum, row[2].exp() / sum]
            })
            .collect();
        let case = scan(body, 1).input(scalar(0f32)).input(tensor(&[2, 4], &rows.concat()));
        case.gives_all_near(&[scalar(2f32), tensor(&[2, 2], &expected)], 1e-6);
    }

    #[test]
    fn squares_of_roots_of_negative_numbers_are_nan_in_the_body_of_a_scan() {
        let body = counting(&["y"]).node("Sqrt", &["x"], "root");
        let body = body.node("Mul", &["root", "root"], "y");
        let case = scan(body, 1).input(scalar(0f32)).input(row(&[4f32, -4.0]));
        case.gives_all(&[scalar(2f32), row(&[4f32, f32::NAN])]);
    }

    #[test]
    fn body_may_ignore_a_scanned_input() {
        let body = graph(&[("count", F32), ("unused", F32), ("x", F32)], &["next", "y"]);
        let body = body.node("Add", &["count", "one"], "next").constant("one", &scalar(1f32));
        let body = body.node("Neg", &["x"], "y");
        let case = scan(body, 2).input(scalar(0f32)).input(row(&[7f32, 8.0]));
        case.input(row(&[1f32, -2.0])).gives_all(&[scalar(2f32), row(&[-1f32, 2.0])]);
    }

    #[test]
    fn unread_states_do_not_shift_the_other_states() {
        let states = |read: &str| {
            let unread = if read == "first" { "second" } else { "first" };
            let inputs = [("first", F32), ("second", F32), ("x", F32)];
            let (next, last) = (format!("{read}_next"), format!("{unread}_next"));
            let body = graph(&inputs, &["first_next", "second_next", "y"]);
            let body = body.node("Add", &[read, "one"], &next).constant("one", &scalar(1f32));
            let body = body.node("Neg", &["x"], &last).node("Add", &[read, "x"], "y");
            let case = case("Scan").graph("body", body).int("num_scan_inputs", 1).outputs(3);
            case.input(scalar(10f32)).input(scalar(20f32)).input(row(&[3f32, 5.0]))
        };
        states("first").gives_all(&[scalar(12f32), scalar(-5f32), row(&[13f32, 16.0])]);
        states("second").gives_all(&[scalar(-5f32), scalar(22f32), row(&[23f32, 26.0])]);
    }

    #[test]
    fn max_pool_keeps_nan_in_bodies_and_branches() {
        let body = counting(&["y"]).pool("x", "y");
        let data = tensor(&[1, 1, 1, 2], &[f32::NAN, 1.0]);
        let case = scan(body, 1).input(scalar(0f32)).input(data.clone());
        case.gives_all(&[scalar(1f32), tensor(&[1, 1, 1, 1], &[f32::NAN])]);
    }
}
