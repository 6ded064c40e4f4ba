//! Keeps constants apart that only differ in the sign of a zero, and the elements of large ones out
//! of inference. tract compares constants as numbers and merges equal ones, so a division by -0
//! could become a division by 0.

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto};
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::*;

use crate::framework::inference::infer;

/// Turns initializers with a negative zero into `Constant` nodes. While parsing, tract merges equal
/// initializers, but not nodes.
pub fn move_negative_zeros_to_nodes(graph: &mut GraphProto) {
    // The protobuf decoder limits the nesting.
    for node in &mut graph.node {
        let bodies = node.attribute.iter_mut().filter_map(|attribute| attribute.g.as_mut());
        bodies.for_each(move_negative_zeros_to_nodes);
    }
    let is_input = |name: &str| graph.input.iter().any(|input| input.name == name);
    let moved = |tensor: &TensorProto| {
        let raw = tensor.dims.contains(&0) || !tensor.raw_data.is_empty();
        raw && !is_input(&tensor.name) && has_negative_zero(&tensor.raw_data, tensor.data_type)
    };
    let (moved, kept): (Vec<_>, Vec<_>) =
        std::mem::take(&mut graph.initializer).into_iter().partition(moved);
    graph.initializer = kept;
    let nodes = moved.into_iter().map(|tensor| NodeProto {
        name: tensor.name.clone(),
        op_type: "Constant".into(),
        output: vec![tensor.name.clone()],
        attribute: vec![AttributeProto {
            name: "value".into(),
            r#type: AttributeType::Tensor as i32,
            t: Some(tensor),
            ..AttributeProto::default()
        }],
        ..NodeProto::default()
    });
    graph.node.splice(0..0, nodes);
}

/// Whether an ONNX tensor contains a negative zero.
fn has_negative_zero(raw: &[u8], data_type: i32) -> bool {
    match DataType::try_from(data_type) {
        Ok(DataType::Float) => any_negative_zero::<4>(raw),
        Ok(DataType::Double) => any_negative_zero::<8>(raw),
        Ok(DataType::Float16) => any_negative_zero::<2>(raw),
        _ => false,
    }
}

/// Whether one of the floats of `N` bytes is a negative zero: only the highest bit is set.
fn any_negative_zero<const N: usize>(raw: &[u8]) -> bool {
    let is_one = |float: &[u8; N]| {
        let (last, rest) = (float[N - 1], &float[..N - 1]);
        last == 0x80 && rest.iter().all(|byte| *byte == 0)
    };
    raw.as_chunks::<N>().0.iter().any(is_one)
}

/// tract's conversion to a typed model, which merges equal constants, with constants that hold a
/// negative zero kept out of it.
pub(crate) fn into_typed(mut model: InferenceModel) -> TractResult<TypedModel> {
    infer(&mut model)?;
    inferred_into_typed(model)
}

/// As [`into_typed`], for a model whose facts have been inferred.
pub(super) fn inferred_into_typed(mut model: InferenceModel) -> TractResult<TypedModel> {
    for id in 0..model.nodes.len() {
        let node = &model.nodes[id];
        let [output] = &*node.outputs else { continue };
        let Some(value) = output.fact.value.concretize() else { continue };
        let size = value.datum_type().size_of();
        let negative = value.datum_type().is_float()
            && value.is_plain()
            && match size {
                2 => any_negative_zero::<2>(value.as_bytes()),
                4 => any_negative_zero::<4>(value.as_bytes()),
                _ => any_negative_zero::<8>(value.as_bytes()),
            };
        if !negative || InferenceModel::is_source(&node.op) {
            continue;
        }
        for input in std::mem::take(&mut model.nodes[id].inputs) {
            let read = &mut model.nodes[input.node].outputs[input.slot].successors;
            read.retain(|reader| reader.node != id);
        }
        model.nodes[id].op = Box::new(Unmerged { value, is_inferred: true });
    }
    let mut model = super::translate::translate(model)?;
    for node in &mut model.nodes {
        if let Some(Unmerged { value, .. }) = node.op_as() {
            node.op = Box::new(Const::new(Arc::clone(value))?);
        }
    }
    Ok(model)
}

/// A large constant of a model, of which inference knows only the type and the shape. With the
/// elements, it would compare them and compute what follows from them in each of its rounds.
pub fn large_constant(value: Arc<Tensor>) -> Box<dyn InferenceOp> {
    Box::new(Unmerged { value, is_inferred: false })
}

/// A constant that is never equal to another one.
#[derive(Clone, Debug)]
struct Unmerged {
    value: Arc<Tensor>,
    /// Whether inference knows its elements.
    is_inferred: bool,
}

impl PartialEq for Unmerged {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl Eq for Unmerged {}

impl Op for Unmerged {
    fn name(&self) -> StaticName {
        "Unmerged".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Unmerged {
    not_out_of_plan!();

    // The conversion does not fold operators with a state.
    fn state(&self, _ctx: &EvalContext) -> TractResult<Option<Box<dyn OpState>>> {
        Ok(Some(Box::new(Value(Arc::clone(&self.value)))))
    }
}

#[derive(Clone, Debug)]
struct Value(Arc<Tensor>);

impl OpState for Value {
    fn eval(
        &mut self,
        _ctx: &EvalContext,
        _op: &dyn Op,
        _inputs: TVec<TValue>,
    ) -> TractResult<TVec<TValue>> {
        Ok(tvec!(Arc::clone(&self.0).into_tvalue()))
    }

    fn reset_lanes(&mut self, _lanes: &[LaneId]) -> TractResult<()> {
        Ok(())
    }
}

impl InferenceRulesOp for Unmerged {
    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        _inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        if self.is_inferred {
            return s.equals(&outputs[0].value, Arc::clone(&self.value).bex());
        }
        s.equals(&outputs[0].datum_type, self.value.datum_type())?;
        s.equals(&outputs[0].shape, ShapeFactoid::from(self.value.shape()))
    }

    as_op!();
    to_typed!();
}

impl TypedOp for Unmerged {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(TypedFact::try_from(&self.value)?))
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, graph, row, scalar};

    #[test]
    fn constants_of_zeros_keep_their_signs() {
        let both = |first: f32, second: f32| {
            case("Concat").int("axis", 0).input(row(&[first])).input(row(&[second]))
        };
        both(0.0, -0.0).gives(row(&[0f32, -0.0]));
        both(-0.0, 0.0).gives(row(&[-0f32, 0.0]));
        let many = case("Concat").int("axis", 0).input(row(&[1f64, 0.0, f64::NAN]));
        let many = many.input(row(&[1f64, -0.0, f64::NAN]));
        many.gives(row(&[1f64, 0.0, f64::NAN, 1.0, -0.0, f64::NAN]));
    }

    #[test]
    fn constants_in_bodies_and_of_constant_nodes_keep_the_signs_of_zeros() {
        let branch = |values: [f32; 2]| {
            let body = graph(&[], &["y"]).node("Concat", &["a", "b"], "y").last_int("axis", 0);
            body.constant("a", &row(&values[..1])).constant("b", &row(&values[1..]))
        };
        for condition in [true, false] {
            let case = case("If").graph("then_branch", branch([0.0, -0.0]));
            let case = case.graph("else_branch", branch([-0.0, 0.0])).input(scalar(condition));
            case.gives(row(&if condition { [0f32, -0.0] } else { [-0f32, 0.0] }));
        }
        // The negative zero is computed from a constant.
        let body = graph(&[], &["y"]).node("Neg", &["a"], "b").node("Concat", &["a", "b"], "y");
        let body = body.last_int("axis", 0).constant("a", &row(&[0f32]));
        let same = graph(&[], &["y"]).constant("y", &row(&[0f32, -0.0]));
        let case = case("If").graph("then_branch", body).graph("else_branch", same);
        case.input(scalar(true)).gives(row(&[0f32, -0.0]));
    }
}
