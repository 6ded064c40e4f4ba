//! The attributes of mixtures of experts.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::Experts;
use crate::framework::errors::{bail, ensure};
use crate::framework::operator::built;
use crate::framework::tensors::Bits;
use crate::framework::upstream::BuildResult;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activation {
    Relu,
    Gelu,
    Silu,
    Identity,
    SwiGlu,
}

/// How the gate and the linear part of SwiGLU are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fusion {
    /// By two layers.
    Apart,
    /// By one layer, in turn.
    Interleaved,
    /// By one layer, one after the other.
    Joined,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quantization {
    pub(super) bits: usize,
    /// The inputs that share a scale, or none if a whole row does.
    pub(super) block: Option<usize>,
}

impl Quantization {
    pub(super) fn of(node: &NodeProto) -> TractResult<Quantization> {
        let kind = node.get_attr_opt::<&str>("quant_type")?.unwrap_or("int");
        ensure!(kind == "int", "a \"quant_type\" of {kind:?} is not implemented; use \"int\"");
        let layout = node.get_attr_opt::<i64>("weights_prepacked")?.unwrap_or(-1);
        ensure!(
            [-1, 0].contains(&layout),
            "a \"weights_prepacked\" of {layout} is not implemented; store the weights unpacked"
        );
        let bits = node.get_attr_opt::<i64>("expert_weight_bits")?.unwrap_or(4);
        ensure!(
            [2, 4, 8].contains(&bits),
            "an \"expert_weight_bits\" of {bits} is not implemented; use 2, 4 or 8"
        );
        let block = node.get_attr_opt::<i64>("block_size")?.unwrap_or(0);
        let valid = block == 0 || block >= 16 && block.count_ones() == 1;
        ensure!(valid, "a \"block_size\" of {block} is not a power of two from 16");
        let block = usize::try_from(block).ok().filter(|block| *block > 0);
        Ok(Quantization { bits: bits as usize, block })
    }
}

pub(super) fn build(node: &NodeProto, quantization: Option<Quantization>) -> BuildResult {
    let chosen = node.get_attr_opt::<i64>("k")?.unwrap_or(1);
    ensure!(chosen > 0, "a \"k\" of {chosen} is not positive");
    let mixer = node.get_attr_opt::<i64>("use_sparse_mixer")?.unwrap_or(0);
    ensure!(mixer == 0, "\"use_sparse_mixer\" = {mixer} is not implemented; use 0");
    let activation = match node.get_attr_opt::<&str>("activation_type")?.unwrap_or("relu") {
        "relu" => Activation::Relu,
        "gelu" => Activation::Gelu,
        "silu" => Activation::Silu,
        "identity" => Activation::Identity,
        "swiglu" => Activation::SwiGlu,
        other => bail!("the activation {other:?} is not implemented"),
    };
    let fusion = match node.get_attr_opt::<i64>("swiglu_fusion")?.unwrap_or(0) {
        0 => Fusion::Apart,
        1 => Fusion::Interleaved,
        2 => Fusion::Joined,
        other => bail!("a \"swiglu_fusion\" of {other} is not 0, 1 or 2"),
    };
    let limit = Bits::of(node, "swiglu_limit", f32::INFINITY)?;
    ensure!(limit.get() >= 0.0, "a \"swiglu_limit\" of {} is negative", limit.get());
    let experts = Experts {
        chosen: chosen as usize,
        normalize: node.get_attr_opt::<i64>("normalize_routing_weights")?.unwrap_or(0) != 0,
        activation,
        // Other activations have no parts.
        fusion: if activation == Activation::SwiGlu { fusion } else { Fusion::Apart },
        alpha: Bits::of(node, "activation_alpha", 1.0)?,
        beta: Bits::of(node, "activation_beta", 0.0)?,
        limit,
        quantization,
    };
    built(experts, node)
}
