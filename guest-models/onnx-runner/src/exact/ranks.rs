//! Numbers of dimensions that tract's rules take for granted, and panic where they are others.

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::tract_hir::infer::*;
use tract_onnx::tract_hir::internal::*;

use super::Ours;

pub(super) fn register(registry: &mut OnnxOpRegister) {
    for name in ["ConvTranspose", "Trilu", "LRN"] {
        registry.insert(name, |context, node| {
            Ours::build(context, node, |ours, prefix, model, inputs| {
                ours.original.as_ref().wire(prefix, model, inputs)
            })
        });
    }
}

/// Before tract's rules.
pub(super) fn check<'r, 'p: 'r, 's: 'r>(
    ours: &'s Ours,
    s: &mut Solver<'r>,
    inputs: &'p [TensorProxy],
) -> InferenceResult {
    let Some(first) = inputs.first() else { return Ok(()) };
    match &*ours.node.op_type {
        "MatMul" | "MatMulInteger" => {
            for input in inputs.iter().take(2) {
                s.given(&input.rank, |_, rank| {
                    ensure!(rank > 0, "a number has no product of matrices");
                    Ok(())
                })?;
            }
        }
        "Trilu" => s.given(&first.rank, |_, rank| {
            ensure!(rank >= 2, "no matrix: {rank} dimensions");
            Ok(())
        })?,
        "LRN" => s.given(&first.rank, |_, rank| {
            ensure!(rank >= 3, "no image with channels: {rank} dimensions");
            Ok(())
        })?,
        "Split" => {
            s.given(&first.rank, |_, rank| {
                ensure!(rank > 0, "a number has no parts");
                Ok(())
            })?;
            let parts = ours.node.get_attr_opt_vec::<i64>("split")?.map(|parts| parts.len());
            let outputs = ours.node.output.len();
            let whole = parts.is_none_or(|parts| parts == outputs);
            ensure!(whole, "{} parts for {outputs} outputs", parts.unwrap_or_default());
        }
        "Conv" | "ConvInteger" | "ConvTranspose" => {
            windows(ours, s, first)?;
            if let Some(weights) = inputs.get(1) {
                s.given_2(&first.rank, &weights.rank, |_, image, weights| {
                    ensure!(image == weights, "weights of {weights} dimensions for {image}");
                    Ok(())
                })?;
            }
        }
        "MaxPool" | "AveragePool" => windows(ours, s, first)?,
        _ => {}
    }
    Ok(())
}

/// Windows have the dimensions of an image, without its number and channels.
fn windows<'r, 'p: 'r, 's: 'r>(
    ours: &'s Ours,
    s: &mut Solver<'r>,
    image: &'p TensorProxy,
) -> InferenceResult {
    let mut said = Vec::new();
    for (name, times) in [
        ("kernel_shape", 1),
        ("strides", 1),
        ("dilations", 1),
        ("pads", 2),
        ("output_padding", 1),
        ("output_shape", 1),
    ] {
        if let Some(list) = ours.node.get_attr_opt_vec::<i64>(name)? {
            said.push((name, list.len(), times));
        }
    }
    s.given(&image.rank, move |_, rank| {
        let axes = usize::try_from(rank)?.saturating_sub(2);
        ensure!(axes > 0, "no windows over {rank} dimensions");
        for (name, numbers, times) in &said {
            ensure!(*numbers == axes * times, "{numbers} {name} for {axes} dimensions");
        }
        Ok(())
    })
}
