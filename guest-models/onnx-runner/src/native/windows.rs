//! The geometry of the windows of convolutions and poolings.

use belljar_abi::kernel::MAX_TAPS;
use belljar_abi::scratch::MAX_SCRATCH_BYTES;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::cnn::PoolSpec;
use tract_onnx::tract_core::ops::nn::DataFormat;

use super::elements;

/// Whether the host accepts a request with this scratch memory and window size. Otherwise the
/// sandbox computes it.
pub(super) fn fits(scratch_bytes: u64, kernel: [u32; 2]) -> bool {
    let taps = u64::from(kernel[0]) * u64::from(kernel[1]);
    scratch_bytes <= MAX_SCRATCH_BYTES && taps <= MAX_TAPS as u64
}

/// Sizes along rows and columns, in this order. A one-dimensional input has one row.
pub(super) struct Windows {
    pub(super) batch: u32,
    pub(super) channels: u32,
    pub(super) input: [u32; 2],
    pub(super) output: [u32; 2],
    pub(super) kernel: [u32; 2],
    pub(super) stride: [u32; 2],
    pub(super) dilation: [u32; 2],
    pub(super) pad_before: [u32; 2],
    pub(super) pad_after: [u32; 2],
}

impl Windows {
    /// The windows of an input of this shape, and the shape of the output. `None` unless channels
    /// come before one or two spatial dimensions.
    pub(super) fn new(spec: &PoolSpec, input: &[usize]) -> Option<(Windows, TVec<usize>)> {
        let batch = match spec.data_format {
            DataFormat::NCHW => input.first().copied(),
            DataFormat::CHW => None,
            _ => return None,
        };
        let rank = spec.rank();
        let first = usize::from(batch.is_some()) + 1;
        if !matches!(rank, 1 | 2) || input.len() != first + rank || elements(input).is_none() {
            return None;
        }
        let pair = |sizes: &[usize], missing: usize| match sizes {
            [h, w] => [*h as u32, *w as u32],
            [w] => [missing as u32, *w as u32],
            _ => [0, 0],
        };
        let output = spec.output_shape(input).ok()?.shape;
        elements(&output)?;
        let padding = spec.computed_padding(&input[first..]);
        let before: TVec<usize> = padding.iter().map(|axis| axis.pad_before).collect();
        let after: TVec<usize> = padding.iter().map(|axis| axis.pad_after).collect();
        let windows = Windows {
            batch: batch.unwrap_or(1) as u32,
            channels: input[first - 1] as u32,
            input: pair(&input[first..], 1),
            output: pair(&output[first..], 1),
            kernel: pair(&spec.kernel_shape, 1),
            stride: pair(&spec.strides(), 1),
            dilation: pair(&spec.dilations(), 1),
            pad_before: pair(&before, 0),
            pad_after: pair(&after, 0),
        };
        Some((windows, output))
    }
}
