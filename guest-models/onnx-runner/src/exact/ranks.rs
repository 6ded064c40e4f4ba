//! Numbers of dimensions that tract's rules take for granted, and panic where they are others.

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::tract_hir::infer::*;
use tract_onnx::tract_hir::internal::*;

use super::Ours;

pub(super) fn register(registry: &mut OnnxOpRegister) {
    for name in ["ConvTranspose", "GridSample", "Trilu", "LRN"] {
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
        "GridSample" => {
            let mode = ours.node.get_attr_opt::<&str>("mode")?.unwrap_or_default();
            let cubic = mode.ends_with("cubic");
            s.given(&first.rank, move |_, rank| {
                ensure!(!cubic || rank == 4, "cubic samples of {rank} dimensions");
                Ok(())
            })?;
        }
        // tract looks for the channels without looking whether there are any.
        "BatchNormalization" => s.given(&first.rank, |_, rank| {
            ensure!(rank >= 2, "no channels: {rank} dimensions");
            Ok(())
        })?,
        "Squeeze" | "Unsqueeze" => {
            if let Some(axes) = ours.node.get_attr_opt_vec::<i64>("axes")? {
                s.given(&first.rank, move |_, rank| ours.distinct(&axes, rank))?;
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
                if ours.node.op_type == "ConvTranspose" {
                    left_over(ours, s, first, weights)?;
                }
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

/// A transposed convolution whose padding leaves something of its output.
fn left_over<'r, 'p: 'r, 's: 'r>(
    ours: &'s Ours,
    s: &mut Solver<'r>,
    image: &'p TensorProxy,
    weights: &'p TensorProxy,
) -> InferenceResult {
    let list = |name| Ok::<_, TractError>(ours.node.get_attr_opt_vec::<i64>(name)?);
    let (strides, dilations) = (list("strides")?, list("dilations")?);
    let (pads, more) = (list("pads")?, list("output_padding")?);
    s.given_2(&image.shape, &weights.shape, move |_, image, weights| {
        let axes = image.len().saturating_sub(2);
        let of = |list: &Option<Vec<i64>>, at: usize, default: i64| {
            list.as_ref().and_then(|list| list.get(at).copied()).unwrap_or(default)
        };
        for (axis, (size, kernel)) in image.iter().zip(&weights).skip(2).enumerate() {
            let (Some(size), Some(kernel)) = (size.as_i64(), kernel.as_i64()) else { continue };
            let whole = (size - 1) * of(&strides, axis, 1)
                + (kernel - 1) * of(&dilations, axis, 1)
                + 1
                + of(&more, axis, 0);
            let left = whole - of(&pads, axis, 0) - of(&pads, axis + axes, 0);
            ensure!(left > 0, "of an output {whole} wide the pads leave nothing");
        }
        Ok(())
    })
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
