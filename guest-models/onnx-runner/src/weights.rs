//! The elements of large initializers, which are not part of the decoded model. They are copied to
//! their tensors when the model is loaded, and never again: the decoded model has a mark in their
//! place, and the model that tract parses a stand-in, which the tensor replaces.

use std::sync::Arc;

use belljar_abi::{DType, codes};
use onnx_ops::optimizer;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_hir::infer::Factoid;

use crate::gate;
use crate::load::Elements;

/// Elements of fewer bytes stay in the decoded model, of which tract makes a copy.
const MIN_BYTES: usize = 16 << 10;

/// The number of dimensions of a stand-in, which no tensor of a model has.
const STAND_IN_RANK: usize = gate::MAX_DIMS + 1;

/// A tensor that is being read.
pub(crate) struct Weight(Tensor);

impl Elements for Weight {
    fn new(data_type: u64, len: usize) -> Option<Weight> {
        let dtype = carrier(i32::try_from(data_type).ok()?)?;
        if len < MIN_BYTES || !len.is_multiple_of(dtype.size_of()) {
            return None;
        }
        Tensor::zero_dt(dtype, &[len / dtype.size_of()]).ok().map(Weight)
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_bytes_mut()
    }
}

/// The tensors that are not in the decoded model. A mark there is `data_location`, with a negative
/// number that no other code writes.
pub(crate) struct Weights(Vec<Arc<Tensor>>);

impl Weights {
    /// No tensors. Removes everything from the model that could be taken for a mark.
    pub(crate) fn new(proto: &mut ModelProto) -> Weights {
        proto.graph.iter_mut().for_each(clear_graph);
        for function in &mut proto.functions {
            clear_nodes(&mut function.node);
        }
        Weights(Vec::new())
    }

    /// Whether the elements of a tensor are not in the decoded model.
    pub(crate) fn has(tensor: &TensorProto) -> bool {
        index(tensor).is_some()
    }

    /// Keeps the elements of an initializer, if they are all that it lacks.
    pub(crate) fn keep(&mut self, tensor: &mut TensorProto, Weight(mut elements): Weight) {
        let bytes = elements.as_bytes().len();
        let dims: Option<Vec<usize>> =
            tensor.dims.iter().map(|dim| usize::try_from(*dim).ok()).collect();
        let same_type = carrier(tensor.data_type) == Some(elements.datum_type());
        let shaped = gate::is_complete_with(tensor, bytes)
            && same_type
            && dims.is_some_and(|dims| elements.set_shape(&dims).is_ok());
        match i32::try_from(self.0.len()) {
            Ok(count) if shaped => {
                tensor.data_location = Some(-1 - count);
                self.0.push(elements.into_arc_tensor());
            }
            _ => tensor.raw_data = elements.as_bytes().to_vec(),
        }
    }

    /// Puts stand-ins in the place of the marks: texts with the number of the tensor.
    pub(crate) fn stand_in(&self, proto: &mut ModelProto) {
        for tensor in proto.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
            if let Some(index) = index(tensor) {
                tensor.data_type = DataType::String as i32;
                tensor.dims = vec![1; STAND_IN_RANK];
                tensor.string_data = vec![index.to_string().into_bytes()];
                tensor.data_location = None;
            }
        }
    }

    /// Replaces the stand-ins of a parsed model by the tensors.
    pub(crate) fn install(self, model: &mut InferenceModel) -> TractResult<()> {
        for node in &mut model.nodes {
            let Some(stand_in) = node.op_as::<Const>().map(|op| Arc::clone(op.val())) else {
                continue;
            };
            if stand_in.rank() != STAND_IN_RANK || stand_in.datum_type() != String::datum_type() {
                continue;
            }
            let index: Option<usize> =
                stand_in.try_as_plain_ram()?.to_scalar::<String>()?.parse().ok();
            let tensor = index.and_then(|index| self.0.get(index));
            let tensor = tensor.ok_or_else(|| TractError::msg("a stand-in has no tensor"))?;
            node.op = optimizer::large_constant(Arc::clone(tensor));
            for output in &mut node.outputs {
                // The fact of a model's output is not known yet.
                if output.fact.value.concretize().is_some() {
                    output.fact = InferenceFact::dt_shape(tensor.datum_type(), tensor.shape());
                }
            }
        }
        Ok(())
    }
}

/// The type of a tensor with these elements. bfloat16 and types of eight bits are carried as their
/// codes (gate/carry.rs). The gate reads or converts the elements of the types that are missing here.
fn carrier(data_type: i32) -> Option<DatumType> {
    Some(match DType::from_onnx(u32::try_from(data_type).ok()?)? {
        DType::F32 => DatumType::F32,
        DType::F16 => DatumType::F16,
        DType::I8 => DatumType::I8,
        DType::U8 => DatumType::U8,
        DType::BF16 => DatumType::U16,
        small if codes::bits(small) == Some(8) => DatumType::U8,
        _ => return None,
    })
}

/// The number of the tensor that a mark stands for.
fn index(tensor: &TensorProto) -> Option<usize> {
    tensor.data_location.and_then(|mark| usize::try_from(-1 - i64::from(mark)).ok())
}

/// The protobuf decoder limits the nesting.
fn clear_graph(graph: &mut GraphProto) {
    graph.initializer.iter_mut().for_each(clear);
    clear_nodes(&mut graph.node);
}

fn clear_nodes(nodes: &mut [NodeProto]) {
    for attribute in nodes.iter_mut().flat_map(|node| &mut node.attribute) {
        let AttributeProto { t, tensors, g, graphs, .. } = attribute;
        t.iter_mut().chain(tensors).for_each(clear);
        g.iter_mut().chain(graphs).for_each(clear_graph);
    }
}

/// ONNX defines no negative locations, which are read like none.
fn clear(tensor: &mut TensorProto) {
    if Weights::has(tensor) {
        tensor.data_location = None;
    }
}
