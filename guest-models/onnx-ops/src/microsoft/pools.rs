//! NhwcMaxPool: the maximum of windows of bytes, with the channels last; and MaxpoolWithMask, in whose
//! windows a masked element ends its row.

use belljar_operators::MICROSOFT;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::assumptions;
use crate::framework::dims::{advance, strides, volume};
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, concrete, required, unknown_dims, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::ints;
use crate::framework::upstream::BuildResult;
use crate::nn::window_spec::WindowSpec;

pub(crate) const OPERATORS: &[Registration] =
    &[own("NhwcMaxPool", build).of(MICROSOFT), own("MaxpoolWithMask", build).of(MICROSOFT)];

fn build(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let auto_pad = node.get_attr_opt::<&str>("auto_pad")?.unwrap_or("NOTSET");
    let dilations = node.get_attr_opt_vec::<i64>("dilations")?.unwrap_or_default();
    let dilated = dilations.iter().any(|dilation| *dilation != 1);
    // The documentation and onnxruntime disagree about the size of the padding.
    ensure!(
        !dilated || !auto_pad.starts_with("SAME"),
        "auto_pad {auto_pad} with dilations is not implemented; use pads"
    );
    let pool = Pool {
        masked: node.op_type == "MaxpoolWithMask",
        spec: WindowSpec::of(node)?.with_gaps(),
        ceil: node.get_attr_opt::<i64>("ceil_mode")?.unwrap_or(0) != 0
            && !auto_pad.starts_with("SAME"),
    };
    built(pool, node)
}

#[derive(Debug)]
struct Pool {
    /// Whether a mask ends rows of windows, and the channels are the second axis.
    masked: bool,
    spec: WindowSpec,
    /// Whether a last window that is only partly in the padded input counts.
    ceil: bool,
}

/// The windows along one axis.
struct Axis {
    size: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    before: usize,
    count: usize,
}

impl Axis {
    /// The positions of the elements of a window that are not in the padding.
    fn window(&self, at: usize) -> impl Iterator<Item = usize> + '_ {
        let start = at * self.stride;
        let places = (0..self.kernel).map(move |tap| start + tap * self.dilation);
        places.filter_map(|place| place.checked_sub(self.before)).filter(|place| *place < self.size)
    }
}

impl Pool {
    /// The windows along each spatial axis of an input.
    fn axes(&self, image: &[usize]) -> TractResult<Vec<Axis>> {
        let (rank, spec) = (image.len(), &self.spec);
        let fits = |list: &[usize], count: usize| list.is_empty() || list.len() == count;
        ensure!(
            spec.kernel.len() == rank
                && fits(&spec.strides, rank)
                && fits(&spec.dilations, rank)
                && fits(&spec.pads, 2 * rank),
            "a kernel of {:?} with its strides, dilations and pads does not match {rank} spatial \
             dimensions",
            spec.kernel
        );
        let all = spec.kernel.iter().chain(&spec.strides).chain(&spec.dilations);
        let small = all.clone().chain(&spec.pads).all(|number| *number <= 1 << 16);
        ensure!(
            small && all.clone().all(|number| *number > 0),
            "the kernel's sizes, strides and dilations must be from 1 to 65536, and pads not larger"
        );
        let axis = |(axis, size): (usize, &usize)| {
            let size = *size;
            ensure!(size > 0, "the maximum of an input without elements is not defined");
            let (mut count, before) = spec.count(&spec.kernel, axis, size)?;
            let (kernel, stride, dilation) =
                (spec.kernel[axis], spec.stride(axis), spec.dilation(axis));
            if self.ceil {
                let behind = if spec.has_explicit_pads() { spec.pad(axis + rank) } else { 0 };
                let room = size + before + behind - ((kernel - 1) * dilation + 1);
                // A window that starts behind the input does not count.
                if room % stride > 0 && count * stride < size + before {
                    count += 1;
                }
            }
            Ok(Axis { size, kernel, stride, dilation, before, count })
        };
        image.iter().enumerate().map(axis).collect()
    }

    /// The sizes of the batch and the channels, the windows, and the shape of the output.
    fn sizes(&self, x: &[usize]) -> TractResult<(usize, usize, Vec<Axis>, Vec<usize>)> {
        ensure!(x.len() > 2, "an input of {} dimensions has no spatial dimensions", x.len());
        let last = x.len() - 1;
        let (channels, image) = if self.masked { (x[1], &x[2..]) } else { (x[last], &x[1..last]) };
        let axes = self.axes(image)?;
        let mut shape = vec![x[0]];
        shape.extend(self.masked.then_some(channels));
        shape.extend(axes.iter().map(|axis| axis.count));
        shape.extend((!self.masked).then_some(channels));
        volume(&shape)?;
        Ok((x[0], channels, axes, shape))
    }

    /// The maximum of each window of pixels, all of whose channels are next to each other.
    fn maxima<T: Datum + Copy + Ord>(&self, x: &Tensor, least: T) -> TractResult<Tensor> {
        let (batch, channels, axes, shape) = self.sizes(x.shape())?;
        let plain = x.try_as_plain_ram()?;
        let values = plain.as_slice::<T>()?;
        let mut output = vec![least; volume(&shape)?];
        if output.is_empty() {
            return Tensor::from_shape(&shape, &output);
        }
        let (counts, image): (Vec<usize>, Vec<usize>) =
            axes.iter().map(|axis| (axis.count, axis.size)).unzip();
        let (pixels, strides) = (image.iter().product::<usize>(), strides(&image));
        let windows: usize = counts.iter().product();
        for image in 0..batch {
            let mut place = vec![0; axes.len()];
            let outputs = output[image * windows * channels..].chunks_exact_mut(channels);
            for to in outputs.take(windows) {
                for pixel in window(&axes, &place, &strides) {
                    let from = &values[(image * pixels + pixel) * channels..][..channels];
                    to.iter_mut().zip(from).for_each(|(to, from)| *to = (*to).max(*from));
                }
                advance(&mut place, &counts);
            }
        }
        Tensor::from_shape(&shape, &output)
    }

    /// The maximum of each window, of whose rows nothing from a masked element on counts.
    fn masked_maxima(&self, x: &Tensor, mask: &Tensor) -> TractResult<Tensor> {
        let (batch, channels, axes, shape) = self.sizes(x.shape())?;
        let plain = x.try_as_plain_ram()?;
        let (values, mask) = (plain.as_slice::<f32>()?, ints(mask)?);
        let mut output = vec![f32::MIN; volume(&shape)?];
        let (counts, image): (Vec<usize>, Vec<usize>) =
            axes.iter().map(|axis| (axis.count, axis.size)).unzip();
        let (pixels, strides) = (image.iter().product::<usize>(), strides(&image));
        let windows: usize = counts.iter().product();
        let Some((last, ahead)) = axes.split_last() else { bail!("there are no axes") };
        // With several axes onnxruntime does not read the mask of a plane's first element.
        let is_masked = |at: usize| mask[at] == 0 && (axes.len() == 1 || at > 0);
        for plane in 0..batch * channels {
            let mut place = vec![0; axes.len()];
            for to in &mut output[plane * windows..][..windows] {
                for row in window(ahead, &place, &strides) {
                    let columns = last.window(place[ahead.len()]).map(|column| row + column);
                    for at in columns.take_while(|at| !is_masked(*at)) {
                        *to = to.max(values[plane * pixels + at]);
                    }
                }
                advance(&mut place, &counts);
            }
        }
        Tensor::from_shape(&shape, &output)
    }
}

/// The positions in an image of the elements of a window over several axes.
fn window(axes: &[Axis], place: &[usize], strides: &[usize]) -> Vec<usize> {
    let mut places = vec![0];
    for ((axis, at), stride) in axes.iter().zip(place).zip(strides) {
        let further = |place: usize| axis.window(*at).map(move |next| place + next * stride);
        places = places.into_iter().flat_map(further).collect();
    }
    places
}

impl Operator for Pool {
    fn name(&self) -> &'static str {
        if self.masked { "MaxpoolWithMask" } else { "NhwcMaxPool" }
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let x = required(inputs, 0)?;
        if self.masked {
            let mask = required(inputs, 1)?;
            let one = mask.shape.iter().take(2).all(|dim| dim.is_one());
            let mut same = one && mask.rank() == x.rank();
            for (left, right) in x.shape.iter().zip(&mask.shape).skip(2) {
                same = same && assumptions::equal(left, right)?;
            }
            ensure!(
                same,
                "the mask has the shape {:?}, expected [1, 1] and the spatial dimensions of {:?}",
                mask.shape,
                x.shape
            );
        }
        let Some(shape) = concrete(&x.shape) else {
            return Ok(tvec!(unknown_dims(x.dtype, x.rank())));
        };
        let (_, _, _, shape) = self.sizes(&shape)?;
        Ok(tvec!(with_dims(x.dtype, shape.into_iter().map(|size| size.to_dim()))))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let x = *required(inputs, 0)?;
        if self.masked {
            return Ok(tvec!(self.masked_maxima(x, required(inputs, 1)?)?));
        }
        Ok(tvec!(match x.datum_type() {
            DatumType::U8 => self.maxima(x, u8::MIN)?,
            DatumType::I8 => self.maxima(x, i8::MIN)?,
            other => bail!("element type {other:?} is not implemented; use int8 or uint8"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{counting, microsoft, row, tensor};

    // The expected numbers follow from the definition.

    #[test]
    fn nhwc_max_pool_has_a_maximum_for_each_channel() {
        let node = || microsoft("NhwcMaxPool").input(tensor(&[1, 3, 2], &[1i8, -6, -5, 4, 3, -2]));
        let pool = |kernel: &[i64]| node().ints("kernel_shape", kernel);
        pool(&[2]).gives(tensor(&[1, 2, 2], &[1i8, 4, 3, 4]));
        pool(&[2]).ints("dilations", &[2]).gives(tensor(&[1, 1, 2], &[3i8, -2]));
        let padded = pool(&[2]).ints("strides", &[2]).ints("pads", &[1, 0]);
        padded.gives(tensor(&[1, 2, 2], &[1i8, -6, 3, 4]));
        let ceil = pool(&[2]).ints("strides", &[2]).int("ceil_mode", 1);
        ceil.gives(tensor(&[1, 2, 2], &[1i8, 4, 3, -2]));
        let same = pool(&[2]).text("auto_pad", "SAME_UPPER");
        same.gives(tensor(&[1, 3, 2], &[1i8, 4, 3, 4, 3, -2]));
        let gaps = pool(&[1]).ints("strides", &[2]).text("auto_pad", "SAME_LOWER");
        gaps.gives(tensor(&[1, 2, 2], &[1i8, -6, 3, -2]));
        let image = tensor(&[1, 2, 2, 1], &[7u8, 200, 9, 3]);
        let image = microsoft("NhwcMaxPool").input(image).ints("kernel_shape", &[2, 1]);
        image.gives(tensor(&[1, 1, 2, 1], &[9u8, 200]));
    }

    #[test]
    fn nhwc_max_pool_refuses_windows_that_do_not_fit() {
        let pool = |kernel: &[i64]| {
            let node = microsoft("NhwcMaxPool").input(tensor(&[1, 3, 1], &[1u8, 2, 3]));
            node.ints("kernel_shape", kernel)
        };
        pool(&[4]).fails("does not fit");
        pool(&[2, 2]).fails("spatial dimensions");
        pool(&[0]).fails("from 1 to 65536");
        let same = pool(&[2]).text("auto_pad", "SAME_LOWER");
        same.ints("dilations", &[2]).fails("use pads");
        pool(&[2]).ints("strides", &[0]).fails("from 1 to 65536");
        pool(&[2]).ints("pads", &[1]).fails("spatial dimensions");
        microsoft("NhwcMaxPool").input(row(&[1u8])).ints("kernel_shape", &[1]).fails("spatial");
    }

    #[test]
    fn masked_elements_end_the_rows_of_windows() {
        let node = |mask: &[i32]| {
            let node = microsoft("MaxpoolWithMask").input(counting(&[1, 1, 2, 3]));
            node.input(tensor(&[1, 1, 2, 3], mask)).ints("kernel_shape", &[2, 2])
        };
        node(&[1; 6]).gives(tensor(&[1, 1, 1, 2], &[4f32, 5.0]));
        node(&[1, 1, 1, 1, 0, 1]).gives(tensor(&[1, 1, 1, 2], &[3f32, 2.0]));
        // The mask of the first element is not read.
        node(&[0; 6]).gives(tensor(&[1, 1, 1, 2], &[0f32, f32::MIN]));
        let line = microsoft("MaxpoolWithMask").input(counting(&[1, 1, 3]));
        let line = line.ints("kernel_shape", &[2]);
        line.clone()
            .input(tensor(&[1, 1, 3], &[0i32, 1, 1]))
            .gives(tensor(&[1, 1, 2], &[f32::MIN, 2.0]));
        line.input(tensor(&[1, 2, 3], &[1i32; 6])).fails("mask");
    }
}
