//! The windows of convolutions and poolings.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::assumptions::at_most;
use crate::framework::errors::{bail, ensure};
use crate::framework::wrapped::Wrapped;

/// Kernel shape, strides, dilations and padding as attributes give them. An empty list stands for
/// the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WindowSpec {
    pub(crate) kernel: Vec<usize>,
    pub(crate) strides: Vec<usize>,
    pub(crate) dilations: Vec<usize>,
    pub(crate) pads: Vec<usize>,
    auto_pad: String,
    /// Whether elements between the windows of `SAME` padding may be skipped.
    gaps: bool,
}

impl WindowSpec {
    pub(crate) fn of(node: &NodeProto) -> TractResult<WindowSpec> {
        let list = |name| node.get_attr_opt_vec::<usize>(name);
        Ok(WindowSpec {
            kernel: list("kernel_shape")?.unwrap_or_default(),
            strides: list("strides")?.unwrap_or_default(),
            dilations: list("dilations")?.unwrap_or_default(),
            pads: list("pads")?.unwrap_or_default(),
            auto_pad: node.get_attr_opt::<&str>("auto_pad")?.unwrap_or("NOTSET").to_owned(),
            gaps: false,
        })
    }

    /// The same windows, which may have gaps between them. `SAME` padding then starts the first one
    /// at the first element.
    pub(crate) fn with_gaps(self) -> WindowSpec {
        WindowSpec { gaps: true, ..self }
    }

    pub(crate) fn stride(&self, axis: usize) -> usize {
        self.strides.get(axis).copied().unwrap_or(1)
    }

    pub(crate) fn dilation(&self, axis: usize) -> usize {
        self.dilations.get(axis).copied().unwrap_or(1)
    }

    /// Whether the padding is that of `pads`, and not one that follows from the sizes.
    pub(crate) fn has_explicit_pads(&self) -> bool {
        self.auto_pad == "NOTSET"
    }

    /// The extent of a dilated kernel along an axis.
    fn extent(&self, kernel: &[usize], axis: usize) -> usize {
        (kernel[axis] - 1) * self.dilation(axis) + 1
    }

    pub(crate) fn pad(&self, at: usize) -> usize {
        self.pads.get(at).copied().unwrap_or(0)
    }

    /// The number of windows along an axis of this size, and the padding before the first one.
    pub(crate) fn count(
        &self,
        kernel: &[usize],
        axis: usize,
        size: usize,
    ) -> TractResult<(usize, usize)> {
        let (stride, extent) = (self.stride(axis), self.extent(kernel, axis));
        if self.auto_pad.starts_with("SAME") {
            // Implementations of ONNX's operators disagree on which elements between windows they
            // skip.
            ensure!(
                stride <= extent || self.gaps,
                "auto_pad with strides larger than the kernel is not implemented"
            );
            let count = size.div_ceil(stride);
            let missing = (count.saturating_sub(1) * stride + extent).saturating_sub(size);
            let before =
                if self.auto_pad == "SAME_LOWER" { missing.div_ceil(2) } else { missing / 2 };
            return Ok((count, before));
        }
        let (before, behind) = match &*self.auto_pad {
            "VALID" => (0, 0),
            _ => (self.pad(axis), self.pad(axis + kernel.len())),
        };
        let padded = size + before + behind;
        ensure!(extent <= padded, "a kernel of {extent} does not fit a padded size of {padded}");
        Ok(((padded - extent) / stride + 1, before))
    }
}

/// Checks that at least one window fits the padded input.
pub(crate) fn check_windows(
    op: &Wrapped,
    pooling: bool,
    model: &TypedModel,
    inputs: &[OutletId],
) -> TractResult<()> {
    let shape = model.outlet_fact(inputs[0])?.shape.to_tvec();
    let list = |name| op.node.get_attr_opt_vec::<i64>(name);
    let kernel = match (list("kernel_shape")?, inputs.get(1)) {
        (Some(kernel), _) => kernel,
        (None, Some(weights)) => {
            let weights = model.outlet_fact(*weights)?.shape.to_tvec();
            let sizes = weights.iter().skip(2).map(|dim| dim.to_i64());
            sizes.collect::<Result<_, _>>()?
        }
        (None, None) => bail!("the kernel's size is not known"),
    };
    let axes = kernel.len();
    ensure!(
        shape.len() == axes + 2,
        "the kernel has {axes} dimensions, but the input has {} dimensions including batch and channels",
        shape.len()
    );
    let auto_pad = op.node.get_attr_opt::<&str>("auto_pad")?.unwrap_or("NOTSET");
    let dilations = list("dilations")?.unwrap_or_else(|| vec![1; axes]);
    let strides = list("strides")?.unwrap_or_else(|| vec![1; axes]);
    let counts = dilations.len() == axes && strides.len() == axes;
    ensure!(counts, "strides and dilations do not match {axes} spatial dimensions");
    ensure!(kernel.iter().all(|size| *size > 0), "the kernel {kernel:?} has a zero dimension");
    ensure!(shape[1].as_i64().is_some(), "the number of channels must be known");
    let extent = |axis: usize| (kernel[axis] - 1) * dilations[axis] + 1;
    if auto_pad.starts_with("SAME") {
        // Implementations of poolings disagree on which elements between windows they skip.
        let near = !pooling || (0..axes).all(|axis| strides[axis] <= extent(axis));
        ensure!(near, "auto_pad with strides larger than the kernel is not implemented");
    } else {
        let pads = list("pads")?.unwrap_or_else(|| vec![0; 2 * axes]);
        ensure!(pads.len() == 2 * axes, "pads do not match {axes} spatial dimensions");
        for axis in 0..axes {
            let size = shape[axis + 2].clone() + (pads[axis] + pads[axis + axes]);
            let extent = extent(axis);
            ensure!(
                at_most(&extent.to_dim(), &size)?,
                "a kernel of {extent} does not fit a padded size of {size}"
            );
            // The result of a window of padding alone is not specified.
            let empty = pooling && pads[axis].max(pads[axis + axes]) >= extent;
            ensure!(!empty, "padding as wide as the kernel ({extent}) is not implemented");
        }
    }
    Ok(())
}

/// Checks that each list attribute has a number for each spatial dimension.
pub(crate) fn check_lists<'r>(
    op: &'r Wrapped,
    s: &mut Solver<'r>,
    image: &'r TensorProxy,
) -> InferenceResult {
    let mut lengths = Vec::new();
    for (name, times) in [
        ("kernel_shape", 1),
        ("strides", 1),
        ("dilations", 1),
        ("pads", 2),
        ("output_padding", 1),
        ("output_shape", 1),
    ] {
        if let Some(list) = op.node.get_attr_opt_vec::<i64>(name)? {
            lengths.push((name, list.len(), times));
        }
    }
    s.given(&image.rank, move |_, rank| {
        let axes = usize::try_from(rank)?.saturating_sub(2);
        ensure!(axes > 0, "an input of {rank} dimensions has no spatial dimensions");
        for (name, numbers, times) in &lengths {
            ensure!(
                *numbers == axes * times,
                "{name} has {numbers} values, which do not match {axes} spatial dimensions"
            );
        }
        Ok(())
    })
}
