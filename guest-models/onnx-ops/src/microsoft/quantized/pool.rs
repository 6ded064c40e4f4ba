//! QLinearAveragePool and QLinearGlobalAveragePool: means of quantized numbers, quantized again. The
//! sums are exact, and each mean is rounded once.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::parameters::{bytes, check_one, divisor, range, scale, zero};
use crate::framework::dims::{advance, strides, volume};
use crate::framework::errors::ensure;
use crate::framework::facts::{
    InputFact, OutputFact, concrete, optional, required, unknown_dims, with_dims,
};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;
use crate::nn::window_spec::WindowSpec;
use crate::quantization::integers::Bytes;

pub(crate) const OPERATORS: &[Registration] = &[
    own("QLinearAveragePool", build).of(belljar_operators::MICROSOFT),
    own("QLinearGlobalAveragePool", build).of(belljar_operators::MICROSOFT),
];

fn build(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let flag = |name| Ok::<_, TractError>(node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0);
    let windows = match &*node.op_type {
        "QLinearAveragePool" => Some(Windows {
            spec: WindowSpec::of(node)?.with_gaps(),
            ceil: flag("ceil_mode")?,
            with_padding: flag("count_include_pad")?,
        }),
        _ => None,
    };
    built(Pool { windows, channels_last: flag("channels_last")? }, node)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Windows {
    spec: WindowSpec,
    /// Whether a last window that is only partly in the padded input counts.
    ceil: bool,
    /// Whether elements of the padding count as zeros.
    with_padding: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pool {
    /// Without windows, the mean is that of all elements of a channel.
    windows: Option<Windows>,
    channels_last: bool,
}

/// The windows along one axis.
struct Axis {
    size: usize,
    kernel: usize,
    stride: usize,
    before: usize,
    /// The size with the padding.
    padded: usize,
    count: usize,
}

impl Axis {
    /// The elements of a window: the first, the one after the last, and how many there are with those
    /// of the padding.
    fn window(&self, at: usize) -> (usize, usize, usize) {
        let start = at * self.stride;
        let end = (start + self.kernel).min(self.padded);
        let first = start.saturating_sub(self.before).min(self.size);
        (first, end.saturating_sub(self.before).min(self.size), end - start)
    }
}

impl Windows {
    fn axis(&self, axis: usize, size: usize) -> TractResult<Axis> {
        ensure!(size > 0, "the mean of windows of an input without elements is not defined");
        let kernel = &self.spec.kernel;
        let (mut count, before) = self.spec.count(kernel, axis, size)?;
        let (kernel, stride) = (kernel[axis], self.spec.stride(axis));
        let explicit = self.spec.has_explicit_pads();
        let padded = match explicit {
            true => size + before + self.spec.pad(axis + self.spec.kernel.len()),
            false => (count.saturating_sub(1) * stride + kernel).max(size),
        };
        if self.ceil && explicit {
            count = (padded - kernel).div_ceil(stride) + 1;
            // A window that starts behind the input does not count.
            if (count - 1) * stride >= size + before {
                count -= 1;
            }
        }
        let wide = before.max(padded - size - before);
        ensure!(wide < kernel, "padding as wide as the kernel ({kernel}) is not implemented");
        Ok(Axis { size, kernel, stride, before, padded, count })
    }
}

impl Pool {
    /// The batch, the channels, and the windows along each axis.
    fn sizes(&self, x: &[usize]) -> TractResult<(usize, usize, Vec<Axis>)> {
        ensure!(x.len() > 2, "an input of {} dimensions has no spatial dimensions", x.len());
        let (channels, image) = match self.channels_last {
            true => (x[x.len() - 1], &x[1..x.len() - 1]),
            false => (x[1], &x[2..]),
        };
        let Some(windows) = &self.windows else {
            let whole = |size: &usize| {
                ensure!(*size > 0, "the mean of a channel without elements is not defined");
                let (size, one) = (*size, 1);
                Ok(Axis { size, kernel: size, stride: one, before: 0, padded: size, count: one })
            };
            return Ok((x[0], channels, image.iter().map(whole).collect::<TractResult<_>>()?));
        };
        let kernel = &windows.spec.kernel;
        let of_pads = windows.spec.pads.len();
        let lists = [windows.spec.strides.len(), kernel.len()];
        let fits = (of_pads == 0 || of_pads == 2 * image.len())
            && (lists[0] == 0 || lists[0] == image.len())
            && kernel.len() == image.len();
        ensure!(
            fits && !kernel.contains(&0) && !windows.spec.strides.contains(&0),
            "windows of {kernel:?} with their strides and pads do not match {} spatial dimensions",
            image.len()
        );
        let axes = image.iter().enumerate().map(|(axis, size)| windows.axis(axis, *size));
        Ok((x[0], channels, axes.collect::<TractResult<_>>()?))
    }

    fn shape(&self, batch: usize, channels: usize, axes: &[Axis]) -> TractResult<Vec<usize>> {
        let mut shape = vec![batch];
        shape.extend((!self.channels_last).then_some(channels));
        shape.extend(axes.iter().map(|axis| axis.count));
        shape.extend(self.channels_last.then_some(channels));
        volume(&shape)?;
        Ok(shape)
    }
}

impl Operator for Pool {
    fn name(&self) -> &'static str {
        if self.windows.is_some() { "QLinearAveragePool" } else { "QLinearGlobalAveragePool" }
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let x = required(inputs, 0)?;
        for (at, what) in [(1, "a scale"), (2, "a zero point"), (3, "a scale"), (4, "a zero point")]
        {
            check_one(inputs, at, what)?;
        }
        let Some(shape) = concrete(&x.shape) else {
            let mut dims = unknown_dims(x.dtype, x.rank());
            if x.rank() > 2 {
                let channels = if self.channels_last { x.rank() - 1 } else { 1 };
                for axis in 0..x.rank() {
                    dims.1[axis] = match &self.windows {
                        _ if axis == 0 || axis == channels => Some(x.shape[axis].clone()),
                        None => Some(1.to_dim()),
                        Some(_) => None,
                    };
                }
            }
            return Ok(tvec!(dims));
        };
        let (batch, channels, axes) = self.sizes(&shape)?;
        let shape = self.shape(batch, channels, &axes)?;
        Ok(tvec!(with_dims(x.dtype, shape.into_iter().map(|size| size.to_dim()))))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let x = *required(inputs, 0)?;
        let from = f64::from(scale(required(inputs, 1)?)?);
        let from_zero = i64::from(zero(optional(inputs, 2).copied())?);
        let to = f64::from(divisor(required(inputs, 3)?)?);
        let to_zero = f64::from(zero(optional(inputs, 4).copied())?);
        let (min, max) = range(x.datum_type())?;
        let values = Bytes::of(x)?;
        let (batch, channels, axes) = self.sizes(x.shape())?;
        let shape = self.shape(batch, channels, &axes)?;
        let image: Vec<usize> = axes.iter().map(|axis| axis.size).collect();
        let counts: Vec<usize> = axes.iter().map(|axis| axis.count).collect();
        let (area, places) = (image.iter().product::<usize>(), counts.iter().product::<usize>());
        let steps = strides(&image);
        // From an element of a channel to the next, and from a channel to the next.
        let (step, next) = if self.channels_last { (channels, 1) } else { (1, area) };
        let with_padding = self.windows.as_ref().is_some_and(|windows| windows.with_padding);
        let mut results = vec![0; volume(&shape)?];
        if results.is_empty() {
            return Ok(tvec!(bytes(x.datum_type(), &shape, results.into_iter())?));
        }
        let mut at = vec![0; axes.len()];
        for place in 0..places {
            let windows: Vec<(usize, usize, usize)> =
                axes.iter().zip(&at).map(|(axis, at)| axis.window(*at)).collect();
            let sizes: Vec<usize> = windows.iter().map(|(first, end, _)| end - first).collect();
            let first = windows.iter().zip(&steps).map(|((first, ..), step)| first * step);
            let first: usize = first.sum();
            let inside: usize = sizes.iter().product();
            let count = match with_padding {
                true => windows.iter().map(|(_, _, whole)| whole).product(),
                false => inside,
            };
            for (one, channel) in (0..batch).flat_map(|one| (0..channels).map(move |c| (one, c))) {
                let base = one * channels * area + channel * next;
                let mut sum = -from_zero * inside as i64;
                if inside == area && step == 1 {
                    // The whole channel.
                    sum += match values.slice(base, area) {
                        Bytes::Unsigned(all) => {
                            all.iter().map(|value| i64::from(*value)).sum::<i64>()
                        }
                        Bytes::Signed(all) => all.iter().map(|value| i64::from(*value)).sum(),
                    };
                }
                let mut within = vec![0; axes.len()];
                while inside != area || step != 1 {
                    let offset = within.iter().zip(&steps).map(|(at, step)| at * step);
                    let from = first + offset.sum::<usize>();
                    sum += i64::from(values.get(base + from * step));
                    if !advance(&mut within, &sizes) {
                        break;
                    }
                }
                let result = (sum as f64 * from / count as f64 / to).round_ties_even() + to_zero;
                let whole = one * channels * places;
                let to = match self.channels_last {
                    true => whole + place * channels + channel,
                    false => whole + channel * places + place,
                };
                results[to] = result.clamp(min.into(), max.into()) as i32;
            }
            advance(&mut at, &counts);
        }
        Ok(tvec!(bytes(x.datum_type(), &shape, results.into_iter())?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, microsoft, scalar, tensor};

    fn scales(case: Case) -> Case {
        case.input(scalar(0.5f32)).input(scalar(2u8)).input(scalar(0.25f32)).input(scalar(100u8))
    }

    fn node(shape: &[usize]) -> Case {
        let case = microsoft("QLinearAveragePool").input(tensor(shape, &[2u8, 4, 7, 12, 12]));
        scales(case).ints("kernel_shape", &[2])
    }

    #[test]
    fn q_linear_average_pool_pads_and_has_channels_first_or_last() {
        // The numbers are 0, 1, 2.5, 5 and 5.
        node(&[1, 1, 5]).gives(tensor(&[1, 1, 4], &[102u8, 107, 115, 120]));
        node(&[1, 5, 1]).int("channels_last", 1).gives(tensor(&[1, 4, 1], &[102u8, 107, 115, 120]));
        let padded = || node(&[1, 1, 5]).ints("strides", &[2]).ints("pads", &[1, 0]);
        padded().gives(tensor(&[1, 1, 3], &[100u8, 107, 120]));
        let counted = padded().int("count_include_pad", 1).ints("pads", &[0, 1]);
        counted.gives(tensor(&[1, 1, 3], &[102u8, 115, 110]));
        let more = node(&[1, 1, 5]).ints("strides", &[2]).int("ceil_mode", 1);
        more.gives(tensor(&[1, 1, 3], &[102u8, 115, 120]));
        node(&[1, 1, 5]).ints("pads", &[2, 0]).fails("2");
        node(&[1, 5]).fails("2");
    }

    #[test]
    fn q_linear_global_average_pool_has_one_mean_for_each_channel() {
        let node = |shape: &[usize]| {
            let case = microsoft("QLinearGlobalAveragePool");
            scales(case.input(tensor(shape, &[2u8, 4, 6, 255, 254, 251])))
        };
        node(&[1, 2, 3]).gives(tensor(&[1, 2, 1], &[104u8, 255]));
        // The means of 0, 2, 252 and 1, 126.5, 124.5 in the steps of the input.
        let last = node(&[1, 3, 2]).int("channels_last", 1);
        last.gives(tensor(&[1, 1, 2], &[255u8, 255]));
    }
}
