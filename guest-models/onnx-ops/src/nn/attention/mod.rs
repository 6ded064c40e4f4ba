//! Attention (ONNX, operator sets 23 to 25). This crate computes what tract does not have: masks,
//! past keys and values, padded keys, windows, soft caps, and the scores as an output.

mod compute;
mod masks;
mod sizes;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::bail;
use crate::framework::facts::concrete;
use crate::framework::operator::{built, wire_operator};
use crate::framework::registration::{Registration, wrapped_by};
use crate::framework::tensors::Bits;
use crate::framework::upstream::BuildResult;
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] = &[
    wrapped_by("Attention", |context, node| build(context, node, false)).until(23),
    wrapped_by("Attention", |context, node| build(context, node, true)).since(24),
];

fn build(context: &ParsingContext, node: &NodeProto, short_masks: bool) -> BuildResult {
    match plain(node)? {
        true => Wrapping::new(wire_by_tract).build(context, node),
        false => built(Attention { short_masks, ..attention(node)? }, node),
    }
}

/// tract's own wiring, for inputs that match and are not float64, which tract would round to 32
/// bits.
fn wire_by_tract(
    wrapped: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    // A plain node has no mask.
    let op = attention(&wrapped.node)?;
    let mut shapes = Vec::with_capacity(inputs.len());
    for input in inputs {
        shapes.push(concrete(&model.outlet_fact(*input)?.shape.to_tvec()));
    }
    let double = model.outlet_fact(inputs[0])?.datum_type == f64::datum_type();
    match shapes.iter().all(Option::is_some) && !double {
        true => {
            op.sizes(&shapes)?;
            wrapped.wire_original(prefix, model, inputs)
        }
        false => wire_operator(op, &wrapped.node, prefix, model, inputs),
    }
}

/// Whether tract computes the node correctly, and faster: no masks, no cache, no skipped outputs.
fn plain(node: &NodeProto) -> TractResult<bool> {
    let more_inputs = node.input.iter().skip(3).any(|name| !name.is_empty());
    let gap = node.output.iter().skip_while(|name| !name.is_empty()).any(|name| !name.is_empty());
    let window = |name| Ok::<_, TractError>(node.get_attr_opt::<i64>(name)?.unwrap_or(-1) >= 0);
    let causal = node.get_attr_opt::<i64>("is_causal")?.unwrap_or(0) != 0;
    let outputs = if causal { 1 } else { 3 };
    Ok(!more_inputs
        && !gap
        && node.output.len() <= outputs
        && node.get_attr_opt::<f32>("softcap")?.unwrap_or(0.0) == 0.0
        && node.get_attr_opt::<i64>("softmax_precision")?.is_none()
        && !window("left_window_size")?
        && !window("right_window_size")?)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Attention {
    causal: bool,
    /// The number of query heads and of key heads, if all heads are packed into one dimension.
    heads: [Option<usize>; 2],
    scale: Option<Bits>,
    softcap: Bits,
    precision: Option<DatumType>,
    /// The step at which the scores are an output.
    shown: ScoresStep,
    /// How many keys back and ahead a query attends to.
    windows: [Option<usize>; 2],
    /// Whether masks may be shorter than the keys.
    short_masks: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ScoresStep {
    Never,
    Products,
    Capped,
    Masked,
    Softmax,
}

fn attention(node: &NodeProto) -> TractResult<Attention> {
    let int = |name| node.get_attr_opt::<i64>(name);
    let size = |name| Ok::<_, TractError>(int(name)?.and_then(|size| usize::try_from(size).ok()));
    let named = node.output.get(3).is_some_and(|name| !name.is_empty());
    let scale = match node.get_attr_opt::<f32>("scale")? {
        Some(_) => Some(Bits::of(node, "scale", 0.0)?),
        None => None,
    };
    let precision = match int("softmax_precision")? {
        Some(number) => Some(DatumType::try_from(DataType::try_from(i32::try_from(number)?)?)?),
        None => None,
    };
    Ok(Attention {
        causal: int("is_causal")?.unwrap_or(0) != 0,
        heads: [size("q_num_heads")?, size("kv_num_heads")?],
        scale,
        softcap: Bits::of(node, "softcap", 0.0)?,
        precision,
        shown: match int("qk_matmul_output_mode")?.unwrap_or(0) {
            _ if !named => ScoresStep::Never,
            0 => ScoresStep::Products,
            1 => ScoresStep::Capped,
            2 => ScoresStep::Masked,
            3 => ScoresStep::Softmax,
            other => bail!("the score mode {other} is not implemented"),
        },
        windows: [size("left_window_size")?, size("right_window_size")?],
        short_masks: false,
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, tensor};

    /// Queries of one number each, over keys whose exponentials are 1 and 3.
    fn attention(queries: &[f32]) -> Case {
        let case = case("Attention").float("scale", 1.0);
        let case = case.input(tensor(&[1, 1, queries.len(), 1], queries));
        case.input(tensor(&[1, 1, 2, 1], &[0f32, 3f32.ln()]))
            .input(tensor(&[1, 1, 2, 1], &[4f32, 8.0]))
    }

    #[test]
    fn attention_weighs_values_by_the_softmax_of_products() {
        attention(&[1.0]).gives_near(tensor(&[1, 1, 1, 1], &[7f32]), 1e-6);
        // The value of the only key that the mask leaves.
        let masked = attention(&[1.0]).input(tensor(&[1, 2], &[true, false]));
        masked.gives_near(tensor(&[1, 1, 1, 1], &[4f32]), 1e-6);
        let added = attention(&[1.0]).input(tensor(&[1, 2], &[3f32.ln(), 0.0]));
        added.gives_near(tensor(&[1, 1, 1, 1], &[6f32]), 1e-6);
    }

    #[test]
    fn mask_may_be_shorter_than_the_keys_from_version_24_on() {
        let masked = |opset| {
            let case = case("Attention").opset(opset).float("scale", 1.0);
            let case = case.input(tensor(&[1, 1, 1, 1], &[1f32]));
            let case = case.input(tensor(&[1, 1, 3, 1], &[0f32, 3f32.ln(), 9.0]));
            let case = case.input(tensor(&[1, 1, 3, 1], &[4f32, 8.0, 100.0]));
            case.input(tensor(&[1, 2], &[true, true]))
        };
        masked(23).fails("[1, 2]");
        masked(24).gives_near(tensor(&[1, 1, 1, 1], &[7f32]), 1e-6);
    }

    #[test]
    fn causal_attention_does_not_look_ahead() {
        let causal = attention(&[1.0, 1.0]).int("is_causal", 1);
        causal.gives_near(tensor(&[1, 1, 2, 1], &[4f32, 7.0]), 1e-6);
    }

    #[test]
    fn earlier_keys_and_values_come_first_and_are_outputs() {
        let past = |number| tensor(&[1, 1, 1, 1], &[number]);
        let case = attention(&[1.0]).outputs(3).missing().input(past(0f32)).input(past(-12f32));
        let keys = tensor(&[1, 1, 3, 1], &[0f32, 0.0, 3f32.ln()]);
        let values = tensor(&[1, 1, 3, 1], &[-12f32, 4.0, 8.0]);
        // (-12 + 4 + 3 * 8) / 5
        let expected = tensor(&[1, 1, 1, 1], &[3.2f32]);
        case.gives_all_near(&[expected, keys, values], 1e-6);
    }

    #[test]
    fn packed_heads_share_keys_and_the_scale_is_by_their_width() {
        let case = case("Attention").int("q_num_heads", 2).int("kv_num_heads", 1);
        let case = case.input(tensor(&[1, 1, 8], &[1f32, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0]));
        // Products with the second key are 2 ln 3 and 0, at half of the size.
        let key = 2.0 * 3f32.ln();
        let case = case.input(tensor(&[1, 2, 4], &[0f32, 0.0, 0.0, 0.0, key, 0.0, 0.0, 0.0]));
        let case = case.input(tensor(&[1, 2, 1], &[4f32, 8.0]));
        case.gives_near(tensor(&[1, 1, 2], &[7f32, 6.0]), 1e-6);
    }

    #[test]
    fn attention_refuses_keys_and_values_of_different_lengths() {
        let case = case("Attention").input(tensor(&[1, 1, 1, 1], &[1f32]));
        let case = case.input(tensor(&[1, 1, 2, 1], &[1f32, 2.0]));
        case.input(tensor(&[1, 1, 3, 1], &[1f32, 2.0, 3.0])).fails("");
    }
}
