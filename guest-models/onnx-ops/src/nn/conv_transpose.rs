//! ConvTranspose (ONNX). tract computes it. The padding, which may follow from the sizes, is computed
//! here.

use tract_onnx::tract_core::ops::cnn::{Deconv, KernelFormat, PaddingSpec, PoolSpec};
use tract_onnx::tract_core::ops::nn::DataFormat;
use tract_onnx::tract_hir::internal::*;

use crate::framework::checks::check_fits;
use crate::framework::errors::{OrUserError, ensure};
use crate::framework::facts::concrete;
use crate::framework::registration::{Registration, wrapped};
use crate::framework::wrapped::{Wrapped, Wrapping};
use crate::nn::conv::check_ranks;
use crate::nn::window_spec::check_lists;

pub(crate) const OPERATORS: &[Registration] =
    &[wrapped("ConvTranspose", Wrapping::new(conv_transpose).check(check).rules(rules))];

fn check<'r>(op: &'r Wrapped, s: &mut Solver<'r>, inputs: &'r [TensorProxy]) -> InferenceResult {
    check_lists(op, s, &inputs[0])?;
    check_ranks(s, inputs)
}

/// The attributes, with their defaults.
struct Spec {
    strides: Vec<usize>,
    dilations: Vec<usize>,
    kernel: Vec<usize>,
    output_padding: Vec<usize>,
    padding: Padding,
    group: usize,
}

/// What decides the padding.
enum Padding {
    /// Before and after each axis.
    Explicit(Vec<usize>),
    /// These sizes of the output. The larger half of the padding is at the end if `upper`.
    Shape { sizes: Vec<usize>, upper: bool },
    /// An output as large as the input times the strides.
    Same { upper: bool },
}

/// The padding along an axis.
struct Pads {
    before: usize,
    behind: usize,
    /// Elements that are added at the end.
    more: usize,
}

impl Spec {
    fn of(op: &Wrapped, kernel: &[usize]) -> TractResult<Spec> {
        let list = |name| op.node.get_attr_opt_vec::<usize>(name);
        let axes = kernel.len();
        let stated = list("kernel_shape")?;
        ensure!(
            stated.as_ref().is_none_or(|stated| stated == kernel),
            "kernel_shape is {stated:?}, but the weights have kernels of {kernel:?}"
        );
        let auto_pad = op.node.get_attr_opt::<&str>("auto_pad")?.unwrap_or("NOTSET");
        let upper = auto_pad == "SAME_UPPER";
        let padding = match list("output_shape")? {
            // It takes precedence over the pads.
            Some(sizes) => Padding::Shape { sizes, upper },
            None if auto_pad.starts_with("SAME") => Padding::Same { upper },
            None => Padding::Explicit(list("pads")?.unwrap_or_else(|| vec![0; 2 * axes])),
        };
        Ok(Spec {
            strides: list("strides")?.unwrap_or_else(|| vec![1; axes]),
            dilations: list("dilations")?.unwrap_or_else(|| vec![1; axes]),
            kernel: kernel.to_vec(),
            output_padding: list("output_padding")?.unwrap_or_else(|| vec![0; axes]),
            padding,
            group: usize::try_from(op.int("group", 1)?)?,
        })
    }

    /// What an axis gets without padding, beyond the steps of the input.
    fn extent(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilations[axis] + 1 + self.output_padding[axis]
    }

    /// The size of an axis without padding.
    fn whole(&self, axis: usize, from: &TDim) -> TDim {
        (from.clone() - 1) * self.strides[axis] + self.extent(axis)
    }

    fn pads(&self, axis: usize, from: &TDim) -> TractResult<Pads> {
        let (total, upper) = match &self.padding {
            Padding::Explicit(pads) => {
                let [before, behind] = [pads[axis], pads[axis + self.kernel.len()]];
                return Ok(Pads { before, behind, more: self.output_padding[axis] });
            }
            // The steps of the input cancel out.
            Padding::Same { upper } => {
                (self.extent(axis) as i64 - self.strides[axis] as i64, *upper)
            }
            Padding::Shape { sizes, upper } => {
                let whole = self.whole(axis, from).as_i64().or_user_error(
                    "the padding for output_shape follows from a size that is not known",
                )?;
                (whole - sizes[axis] as i64, *upper)
            }
        };
        let half = total.div_euclid(2);
        let [before, behind] = if upper { [half, total - half] } else { [total - half, half] };
        // What a negative padding at the start means is not specified, and implementations differ.
        ensure!(
            before >= 0,
            "an output with {} more elements than the kernels reach is not implemented",
            -total
        );
        let more = self.output_padding[axis] + (-behind).max(0) as usize;
        Ok(Pads { before: before as usize, behind: behind.max(0) as usize, more })
    }

    /// The size of an axis of the output.
    fn size(&self, axis: usize, from: &TDim) -> TractResult<TDim> {
        let pads = self.pads(axis, from)?;
        let whole = self.whole(axis, from) - self.output_padding[axis] + pads.more;
        let left = (whole.clone() - pads.before - pads.behind).reduce();
        ensure!(
            left.as_i64().is_none_or(|left| left > 0),
            "the pads remove the whole output of {whole}"
        );
        Ok(left)
    }

    /// The sizes of the spatial axes of the output.
    fn sizes(&self, from: &[TDim]) -> TractResult<TVec<TDim>> {
        from.iter().enumerate().map(|(axis, from)| self.size(axis, from)).collect()
    }
}

fn rules<'r>(
    op: &'r Wrapped,
    s: &mut Solver<'r>,
    inputs: &'r [TensorProxy],
    outputs: &'r [TensorProxy],
) -> InferenceResult {
    check_output_arity(outputs, 1)?;
    let group = op.int("group", 1)?;
    for input in inputs {
        s.equals(&input.datum_type, &outputs[0].datum_type)?;
    }
    s.equals(&inputs[0].rank, &outputs[0].rank)?;
    s.equals(&outputs[0].shape[0], &inputs[0].shape[0])?;
    s.equals(&inputs[0].shape[1], &inputs[1].shape[0])?;
    s.equals(&outputs[0].shape[1], group * inputs[1].shape[1].bex())?;
    if let Some(bias) = inputs.get(2) {
        s.equals(&bias.rank, 1)?;
        s.equals(&bias.shape[0], &outputs[0].shape[1])?;
    }
    s.given_2(&inputs[0].shape, &inputs[1].shape, move |s, image, weights| {
        let Some(kernel) = concrete(&weights[2..]) else { return Ok(()) };
        check_kernel(&kernel)?;
        let sizes = Spec::of(op, &kernel)?.sizes(&image[2..])?;
        for (axis, size) in sizes.into_iter().enumerate() {
            s.equals(&outputs[0].shape[axis + 2], size)?;
        }
        Ok(())
    })
}

fn check_kernel(kernel: &[usize]) -> TractResult<()> {
    ensure!(!kernel.contains(&0), "the kernel {kernel:?} has a zero dimension");
    Ok(())
}

fn conv_transpose(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let fact = model.outlet_fact(inputs[0])?.clone();
    let weights = model.outlet_fact(inputs[1])?.shape.to_tvec();
    let weights = concrete(&weights).or_user_error("the shape of the weights is not known")?;
    check_kernel(&weights[2..])?;
    let spec = Spec::of(op, &weights[2..])?;
    let group = spec.group;
    ensure!(
        weights[0].is_multiple_of(group) && weights[0] > 0,
        "{} input channels are not divisible into {group} groups",
        weights[0]
    );
    let sizes = spec.sizes(&fact.shape[2..])?;
    check_fits(sizes.iter().map(|size| size.as_i64().unwrap_or(1) as f64))?;
    let axes = spec.kernel.len();
    let pads = (0..axes).map(|axis| spec.pads(axis, &fact.shape[axis + 2]));
    let pads: Vec<Pads> = pads.collect::<TractResult<_>>()?;
    let padding = PaddingSpec::Explicit(
        pads.iter().map(|pads| pads.before).collect(),
        pads.iter().map(|pads| pads.behind).collect(),
    );
    // The kernels of ONNX have their groups in the dimension of the input's channels.
    let name = |part: &str| format!("{prefix}.kernel_{part}");
    let kernel = AxisOp::wire_split_axis(model, name("groups"), inputs[1], 0, group)?;
    let kernel = model.wire_node(name("order"), AxisOp::Move(1, 2), &kernel)?;
    let kernel = AxisOp::wire_collapse_axis(model, name("merged"), kernel[0], 0)?;
    let bias = match inputs.get(2) {
        Some(bias) => *bias,
        None => {
            model.add_const(format!("{prefix}.bias"), Tensor::zero_scalar_dt(fact.datum_type)?)?
        }
    };
    let pool = PoolSpec::new(
        DataFormat::NCHW,
        spec.kernel.iter().copied().collect(),
        padding,
        Some(spec.dilations.iter().copied().collect()),
        Some(spec.strides.iter().copied().collect()),
        weights[0],
        weights[1] * group,
    );
    let more = pads.iter().map(|pads| pads.more).collect();
    let deconv = Deconv::new(pool, KernelFormat::OIHW, more, group);
    model.wire_node(prefix, deconv, &[inputs[0], kernel[0], bias])
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, counting, row, tensor};

    fn conv() -> Case {
        let case = case("ConvTranspose").input(tensor(&[1, 1, 2], &[1f32, 2.0]));
        case.input(tensor(&[1, 1, 2], &[1f32, 10.0]))
    }

    #[test]
    fn conv_transpose_sums_overlaps_and_pads_or_crops() {
        conv().gives(tensor(&[1, 1, 3], &[1f32, 12.0, 20.0]));
        conv().ints("strides", &[2]).gives(tensor(&[1, 1, 4], &[1f32, 10.0, 2.0, 20.0]));
        let more = conv().ints("strides", &[2]).ints("output_padding", &[1]);
        more.gives(tensor(&[1, 1, 5], &[1f32, 10.0, 2.0, 20.0, 0.0]));
        conv().ints("pads", &[1, 1]).gives(tensor(&[1, 1, 1], &[12f32]));
        conv().ints("pads", &[2, 2]).fails("pads");
        conv().ints("kernel_shape", &[3]).fails("3");
    }

    #[test]
    fn conv_transpose_has_groups_and_a_bias() {
        let node = case("ConvTranspose").int("group", 2).input(counting(&[1, 2, 2]));
        let node = node.input(tensor(&[2, 1, 1], &[10f32, 100.0])).input(row(&[0.5f32, -1.0]));
        node.gives(tensor(&[1, 2, 2], &[0.5f32, 10.5, 199.0, 299.0]));
    }

    #[test]
    fn same_padding_gives_the_size_times_the_strides() {
        let same = |end, stride| conv().text("auto_pad", end).ints("strides", &[stride]);
        same("SAME_UPPER", 1).gives(tensor(&[1, 1, 2], &[1f32, 12.0]));
        same("SAME_LOWER", 1).gives(tensor(&[1, 1, 2], &[12f32, 20.0]));
        for end in ["SAME_UPPER", "SAME_LOWER"] {
            same(end, 2).gives(tensor(&[1, 1, 4], &[1f32, 10.0, 2.0, 20.0]));
        }
        // Nothing reaches the third element of each step.
        let wide = tensor(&[1, 1, 6], &[1f32, 10.0, 0.0, 2.0, 20.0, 0.0]);
        same("SAME_LOWER", 3).gives(wide);
        same("SAME_UPPER", 3).fails("1 more");
        let more = |end| same(end, 2).ints("output_padding", &[1]);
        more("SAME_UPPER").gives(tensor(&[1, 1, 4], &[1f32, 10.0, 2.0, 20.0]));
        more("SAME_LOWER").gives(tensor(&[1, 1, 4], &[10f32, 2.0, 20.0, 0.0]));
    }

    #[test]
    fn output_shape_decides_the_padding() {
        let shaped = |size| conv().ints("output_shape", &[size]);
        // An odd element is removed at the start, unless it says SAME_UPPER.
        shaped(2).gives(tensor(&[1, 1, 2], &[12f32, 20.0]));
        shaped(2).text("auto_pad", "SAME_UPPER").gives(tensor(&[1, 1, 2], &[1f32, 12.0]));
        shaped(2).ints("pads", &[0, 1]).gives(tensor(&[1, 1, 2], &[12f32, 20.0]));
        shaped(1).gives(tensor(&[1, 1, 1], &[12f32]));
        shaped(4).gives(tensor(&[1, 1, 4], &[1f32, 12.0, 20.0, 0.0]));
        shaped(5).fails("2 more");
        // The output padding is part of the output that is padded.
        let more = shaped(4).ints("strides", &[2]).ints("output_padding", &[1]);
        more.gives(tensor(&[1, 1, 4], &[10f32, 2.0, 20.0, 0.0]));
    }

    #[test]
    fn same_padding_keeps_open_dimensions() {
        let node = || {
            let case = case("ConvTranspose").input(tensor(&[1, 1, 2], &[1f32, 2.0])).constants();
            case.input(tensor(&[1, 1, 2], &[1f32, 10.0])).ints("strides", &[2])
        };
        let open = [(0, 2, "n")];
        let same = tensor(&[1, 1, 4], &[1f32, 10.0, 2.0, 20.0]);
        node().text("auto_pad", "SAME_UPPER").gives_open(&open, &["1,1,2*n"], &[same], 0.0);
        let padded = node().ints("pads", &[1, 0]).ints("output_padding", &[1]);
        let expected = tensor(&[1, 1, 4], &[10f32, 2.0, 20.0, 0.0]);
        padded.gives_open(&open, &["1,1,2*n"], &[expected], 0.0);
        let cropped = node().ints("pads", &[1, 1]);
        cropped.gives_open(&open, &["1,1,-2+2*n"], &[tensor(&[1, 1, 2], &[10f32, 2.0])], 0.0);
    }
}
