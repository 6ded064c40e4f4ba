//! The attributes of a GroupQueryAttention.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::{GroupQuery, Shown, cache};
use crate::framework::errors::{bail, ensure};
use crate::framework::tensors::Bits;
use crate::microsoft::attention::grouped::Groups;

pub(super) fn group_query(node: &NodeProto) -> TractResult<GroupQuery> {
    let int =
        |name, default| Ok::<_, TractError>(node.get_attr_opt::<i64>(name)?.unwrap_or(default));
    let groups = Groups::of(node)?;
    let causal = int("causal", 1)? != 0;
    let window = match int("local_window_size", -1)? {
        -1 => None,
        size => match usize::try_from(size).ok().filter(|size| *size > 0) {
            Some(size) => Some(size),
            None => {
                bail!("local_window_size is {size}, expected a positive number, or -1 for none")
            }
        },
    };
    ensure!(
        causal || window.is_none(),
        "local_window_size must be -1 when causal is 0, but it is {}",
        window.unwrap_or(0)
    );
    let windowed = int("sliding_window_cache", 0)? != 0;
    ensure!(
        !windowed || window.is_some(),
        "sliding_window_cache is 1, but local_window_size is -1. Give the size of the window"
    );
    let named = node.output.get(3).is_some_and(|name| !name.is_empty());
    let mode = int("qk_output", 0)?;
    ensure!(
        named == (mode != 0),
        "qk_output is {mode}, but the output output_qk is {}",
        if named { "used" } else { "missing" }
    );
    ensure!(mode == 0 || !windowed, "qk_output is {mode}, but sliding_window_cache is 1");
    let (bits, per_channel) = quantization(node)?;
    let epsilon = Bits::of(node, "qk_norm_epsilon", 1e-6)?.get();
    let epsilons =
        [Bits::of(node, "q_norm_epsilon", epsilon)?, Bits::of(node, "k_norm_epsilon", epsilon)?];
    for epsilon in epsilons {
        let epsilon = epsilon.get();
        let positive = epsilon.is_finite() && epsilon > 0.0;
        ensure!(
            positive,
            "the epsilon of a normalization is {epsilon}, expected a positive number"
        );
    }
    Ok(GroupQuery {
        groups,
        scale: Bits::of(node, "scale", 0.0)?,
        softcap: Bits::of(node, "softcap", 0.0)?,
        causal,
        window,
        windowed,
        bits,
        per_channel,
        rotates: int("do_rotary", 0)? != 0,
        interleaved: int("rotary_interleaved", 0)? != 0,
        smooth: int("smooth_softmax", -1)? == 1,
        shown: match mode {
            0 => Shown::Nothing,
            1 => Shown::Scores,
            _ => Shown::Weights,
        },
        epsilons,
    })
}

/// How caches are quantized, and whether each element of a head has its own scale.
fn quantization(node: &NodeProto) -> TractResult<(Option<cache::Bits>, bool)> {
    let kind = |name| Ok::<_, TractError>(node.get_attr_opt::<&str>(name)?.unwrap_or("NONE"));
    let (key, value) = (kind("k_quant_type")?, kind("v_quant_type")?);
    ensure!(
        key == value,
        "k_quant_type is {key:?} and v_quant_type is {value:?}. Quantize both in the same way"
    );
    let bits = node.get_attr_opt::<i64>("kv_cache_bit_width")?.unwrap_or(0);
    Ok(match (key, bits) {
        ("NONE", 0) => (None, false),
        ("PER_TENSOR" | "PER_CHANNEL", 8) => (Some(cache::Bits::Eight), key == "PER_CHANNEL"),
        ("PER_TENSOR" | "PER_CHANNEL", 4) => (Some(cache::Bits::Four), key == "PER_CHANNEL"),
        _ => bail!(
            "kv_cache_bit_width is {bits} and k_quant_type is {key:?}, expected 0 for \"NONE\", and \
             4 or 8 otherwise"
        ),
    })
}
