//! RoiAlign (ONNX, operator sets 10 to 22) and DeformConv (19): bilinear samples at positions that
//! another tensor gives. Computed in 64 bits.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::volume;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{
    InputFact, OutputFact, known_shapes, optional, required, unknown_dims, with_dims,
};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{Bits, floats, from_floats, ints, shapes};
use crate::framework::upstream::BuildResult;
use crate::nn::window_spec::WindowSpec;

pub(crate) const OPERATORS: &[Registration] = &[
    // Before version 16 coordinates were not shifted.
    own("RoiAlign", |_, node| build_roi_align(node, "output_half_pixel")).until(15),
    own("RoiAlign", |_, node| build_roi_align(node, "half_pixel")).since(16),
    own("DeformConv", build_deform_conv),
];

fn build_roi_align(node: &NodeProto, default_mode: &str) -> BuildResult {
    let mode = node.get_attr_opt::<&str>("coordinate_transformation_mode")?;
    let op = RoiAlign {
        shifted: mode.unwrap_or(default_mode) == "half_pixel",
        max: node.get_attr_opt::<&str>("mode")? == Some("max"),
        height: node.get_attr_opt("output_height")?.unwrap_or(1),
        width: node.get_attr_opt("output_width")?.unwrap_or(1),
        samples: node.get_attr_opt("sampling_ratio")?.unwrap_or(0),
        scale: Bits::of(node, "spatial_scale", 1.0)?,
    };
    built(op, node)
}

fn build_deform_conv(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let groups = node.get_attr_opt("group")?.unwrap_or(1);
    let offset_groups = node.get_attr_opt("offset_group")?.unwrap_or(1);
    built(DeformConv { spec: WindowSpec::of(node)?, groups, offset_groups }, node)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct RoiAlign {
    /// Whether coordinates refer to the centres of pixels.
    shifted: bool,
    max: bool,
    height: usize,
    width: usize,
    /// Samples along each side of a bin. 0 for as many as there are pixels.
    samples: usize,
    scale: Bits,
}

/// The largest number of samples along one side of a bin.
const MAX_SAMPLES: f64 = 4096.0;

impl RoiAlign {
    fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<[usize; 4]> {
        let (x, rois, batch) = (required(shapes, 0)?, required(shapes, 1)?, required(shapes, 2)?);
        let [_, channels, height, width] = **x else {
            bail!("expected an image with batch and channels, found the shape {x:?}")
        };
        let [count, 4] = **rois else {
            bail!("rois have the shape {rois:?}, expected four numbers for each region")
        };
        ensure!(
            **batch == [count],
            "batch_indices of the shape {batch:?} do not match {count} regions"
        );
        ensure!(
            height > 0 && width > 0,
            "expected an image with batch and channels, found the shape {x:?}"
        );
        let shape = [count, channels, self.height, self.width];
        volume(&shape)?;
        Ok(shape)
    }

    /// The pixels around each sample of a bin along one dimension, with their weights, which are 0
    /// for a sample outside of the image.
    fn samples(
        &self,
        start: f64,
        bin: f64,
        at: usize,
        count: usize,
        size: usize,
    ) -> Vec<Option<[(usize, f64); 2]>> {
        let sample = |step: usize| {
            let place = start + at as f64 * bin + (step as f64 + 0.5) * bin / count as f64;
            if place < -1.0 || place > size as f64 {
                return None;
            }
            let place = place.max(0.0);
            let low = place as usize;
            Some(if low >= size - 1 {
                [(size - 1, 1.0), (size - 1, 0.0)]
            } else {
                let part = place - low as f64;
                [(low, 1.0 - part), (low + 1, part)]
            })
        };
        (0..count).map(sample).collect()
    }

    fn count(&self, length: f64, bins: usize) -> TractResult<usize> {
        if self.samples > 0 {
            return Ok(self.samples);
        }
        let count = (length / bins as f64).ceil();
        ensure!(
            count <= MAX_SAMPLES,
            "a region needs {count} samples in a bin, which are too many"
        );
        Ok(count.max(0.0) as usize)
    }
}

impl Operator for RoiAlign {
    fn name(&self) -> &'static str {
        "RoiAlign"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let dtype = required(inputs, 0)?.dtype;
        let Some(shapes) = known_shapes(inputs) else { return Ok(tvec!(unknown_dims(dtype, 4))) };
        let shape = self.sizes(&shapes)?;
        Ok(tvec!(with_dims(dtype, shape.iter().map(|dim| dim.to_dim()))))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let shape = self.sizes(&shapes(inputs))?;
        let x = *required(inputs, 0)?;
        let [images, channels, height, width] = *x.shape() else { bail!("there are no images") };
        let (values, rois) = (floats(x)?, floats(required(inputs, 1)?)?);
        ensure!(
            rois.iter().all(|corner| corner.is_finite()),
            "a region's coordinates are not finite"
        );
        let (scale, shift) = (f64::from(self.scale.get()), if self.shifted { 0.5 } else { 0.0 });
        let mut results = Vec::with_capacity(volume(&shape)?);
        for (roi, image) in rois.chunks_exact(4).zip(ints(required(inputs, 2)?)?) {
            let image = usize::try_from(image).ok().filter(|image| *image < images);
            let image = image.or_user_error(format_args!(
                "a region belongs to an image that does not exist: there are {images}"
            ))?;
            let [left, top, right, bottom] = [0, 1, 2, 3].map(|at| roi[at] * scale - shift);
            let (mut wide, mut high) = (right - left, bottom - top);
            if !self.shifted {
                (wide, high) = (wide.max(1.0), high.max(1.0));
            }
            let (rows, columns) = (self.count(high, self.height)?, self.count(wide, self.width)?);
            let (bin_high, bin_wide) = (high / self.height as f64, wide / self.width as f64);
            for channel in 0..channels {
                let plane =
                    &values[(image * channels + channel) * height * width..][..height * width];
                for (y, x) in (0..self.height).flat_map(|y| (0..self.width).map(move |x| (y, x))) {
                    let across = self.samples(left, bin_wide, x, columns, width);
                    let (mut sum, mut max) = (0.0, None::<f64>);
                    for row in self.samples(top, bin_high, y, rows, height) {
                        for column in &across {
                            let parts = row.zip(*column).map(|(row, column)| {
                                let part = |(y, a): (usize, f64), (x, b): (usize, f64)| {
                                    a * b * plane[y * width + x]
                                };
                                [
                                    part(row[0], column[0]),
                                    part(row[0], column[1]),
                                    part(row[1], column[0]),
                                    part(row[1], column[1]),
                                ]
                            });
                            let parts = parts.unwrap_or([0.0; 4]);
                            sum += parts.iter().sum::<f64>();
                            // The maximum of the weighted pixels, on which implementations agree.
                            let greatest = parts.into_iter().fold(f64::NEG_INFINITY, greater);
                            max = Some(max.map_or(greatest, |max| greater(max, greatest)));
                        }
                    }
                    results.push(match self.max {
                        true => max.unwrap_or(0.0),
                        false => sum / (rows * columns).max(1) as f64,
                    });
                }
            }
        }
        Ok(tvec!(from_floats(x.datum_type(), &shape, &results)?))
    }
}

/// The maximum. NaN if one operand is NaN.
fn greater(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct DeformConv {
    spec: WindowSpec,
    groups: usize,
    offset_groups: usize,
}

/// The sizes of image, kernel and output.
struct Planes {
    to: [usize; 4],
    channels: usize,
    image: [usize; 2],
    kernel: [usize; 2],
}

impl DeformConv {
    fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<Planes> {
        let (x, w, offset) = (required(shapes, 0)?, required(shapes, 1)?, required(shapes, 2)?);
        let ([batch, channels, high, wide], [outputs, of, kernel_high, kernel_wide]) = (&**x, &**w)
        else {
            bail!("an image of the shape {x:?} with weights of the shape {w:?} is not implemented")
        };
        let kernel = [*kernel_high, *kernel_wide];
        let grouped = self.groups > 0
            && channels / self.groups == *of
            && channels % self.groups == 0
            && outputs % self.groups == 0
            && self.offset_groups > 0
            && channels % self.offset_groups == 0;
        ensure!(
            grouped,
            "weights of the shape {w:?} in {} groups do not match an image of the shape {x:?}",
            self.groups
        );
        let matches = self.spec.kernel.is_empty() || self.spec.kernel == kernel;
        ensure!(
            matches && !kernel.contains(&0),
            "the kernel {kernel:?} does not match kernel_shape, or has a zero dimension"
        );
        let to = [
            *batch,
            *outputs,
            self.spec.count(&kernel, 0, *high)?.0,
            self.spec.count(&kernel, 1, *wide)?.0,
        ];
        let places = self.offset_groups * kernel[0] * kernel[1];
        let wanted = [*batch, 2 * places, to[2], to[3]];
        ensure!(**offset == wanted, "offsets have the shape {offset:?}, expected {wanted:?}");
        if let Some(bias) = optional(shapes, 3) {
            ensure!(
                **bias == [*outputs],
                "the bias has the shape {bias:?}, expected one value for each of {outputs} channels"
            );
        }
        if let Some(mask) = optional(shapes, 4) {
            let wanted = [*batch, places, to[2], to[3]];
            ensure!(**mask == wanted, "the mask has the shape {mask:?}, expected {wanted:?}");
        }
        volume(&to)?;
        Ok(Planes { to, channels: *channels, image: [*high, *wide], kernel })
    }
}

/// The bilinear value between four pixels. Pixels outside of the image are 0.
fn between(plane: &[f64], [high, wide]: [usize; 2], y: f64, x: f64) -> f64 {
    let inside = y > -1.0 && x > -1.0 && y < high as f64 && x < wide as f64;
    if !inside {
        return 0.0;
    }
    let (top, left) = (y.floor(), x.floor());
    let (down, right) = (y - top, x - left);
    let pixel = |y: f64, x: f64, weight: f64| {
        let inside = y >= 0.0 && x >= 0.0 && y < high as f64 && x < wide as f64;
        if inside && weight != 0.0 { plane[y as usize * wide + x as usize] * weight } else { 0.0 }
    };
    pixel(top, left, (1.0 - down) * (1.0 - right))
        + pixel(top, left + 1.0, (1.0 - down) * right)
        + pixel(top + 1.0, left, down * (1.0 - right))
        + pixel(top + 1.0, left + 1.0, down * right)
}

impl Operator for DeformConv {
    fn name(&self) -> &'static str {
        "DeformConv"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let dtype = required(inputs, 0)?.dtype;
        let Some(shapes) = known_shapes(inputs) else { return Ok(tvec!(unknown_dims(dtype, 4))) };
        let planes = self.sizes(&shapes)?;
        Ok(tvec!(with_dims(dtype, planes.to.iter().map(|dim| dim.to_dim()))))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let Planes { to, channels, image, kernel } = self.sizes(&shapes(inputs))?;
        let given = |at| optional(inputs, at).map(|tensor| floats(tensor)).transpose();
        let (x, w) = (floats(required(inputs, 0)?)?, floats(required(inputs, 1)?)?);
        let offsets = floats(required(inputs, 2)?)?;
        ensure!(offsets.iter().all(|offset| offset.is_finite()), "an offset is not finite");
        let (bias, mask) = (given(3)?, given(4)?);
        let [batch, outputs, high, wide] = to;
        let (places, area) = (kernel[0] * kernel[1], high * wide);
        let (of, per_offset) = (channels / self.groups, channels / self.offset_groups);
        let before = [self.spec.pad(0) as f64, self.spec.pad(1) as f64];
        let mut results = vec![0.0; volume(&to)?];
        // First the samples of a channel for each kernel position, then the sum for each output.
        for (one, channel) in (0..batch).flat_map(|one| (0..channels).map(move |c| (one, c))) {
            let plane = &x[(one * channels + channel) * image[0] * image[1]..];
            let offset_group = one * self.offset_groups + channel / per_offset;
            for place in 0..places {
                let within = [place / kernel[1], place % kernel[1]];
                let moved = &offsets[(offset_group * places + place) * 2 * area..][..2 * area];
                let masked = mask.as_ref().map(|m| &m[(offset_group * places + place) * area..]);
                let mut seen = Vec::with_capacity(area);
                for at in 0..area {
                    let at_of = [at / wide, at % wide];
                    let [y, x] = [0, 1].map(|axis| {
                        let step = at_of[axis] * self.spec.stride(axis)
                            + within[axis] * self.spec.dilation(axis);
                        step as f64 - before[axis] + moved[axis * area + at]
                    });
                    let value = between(plane, image, y, x);
                    seen.push(value * masked.map_or(1.0, |mask| mask[at]));
                }
                let group = channel / of;
                for output in group * (outputs / self.groups)..(group + 1) * (outputs / self.groups)
                {
                    let weight = w[(output * of + channel % of) * places + place];
                    let to = &mut results[(one * outputs + output) * area..][..area];
                    to.iter_mut().zip(&seen).for_each(|(to, seen)| *to += weight * seen);
                }
            }
        }
        if let Some(bias) = bias {
            for (at, plane) in results.chunks_mut(area.max(1)).enumerate() {
                plane.iter_mut().for_each(|value| *value += bias[at % outputs]);
            }
        }
        Ok(tvec!(from_floats(required(inputs, 0)?.datum_type(), &to, &results)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, counting, row, tensor};

    /// A region as large as an image of two by two pixels.
    fn align(image: i64) -> Case {
        let case = case("RoiAlign").int("sampling_ratio", 1).input(counting(&[1, 1, 2, 2]));
        case.input(tensor(&[1, 4], &[0f32, 0.0, 2.0, 2.0])).input(row(&[image]))
    }

    #[test]
    fn roi_align_samples_between_pixel_centres_since_version_16() {
        let one = |number| tensor(&[1, 1, 1, 1], &[number]);
        align(0).gives(one(1.5f32));
        align(0).text("coordinate_transformation_mode", "output_half_pixel").gives(one(3f32));
        align(0).opset(16).gives(one(1.5f32));
        align(0).opset(15).gives(one(3f32));
        align(0).opset(10).gives(one(3f32));
        let bins = align(0).int("output_height", 2).int("output_width", 2);
        bins.gives(counting(&[1, 1, 2, 2]));
    }

    #[test]
    fn roi_align_refuses_a_missing_image() {
        align(1).fails("1");
        align(-1).fails("");
    }

    fn deform() -> Case {
        let case = case("DeformConv").input(tensor(&[1, 1, 1, 3], &[1f32, 2.0, 4.0]));
        let case = case.input(tensor(&[1, 1, 1, 1], &[10f32]));
        case.input(tensor(&[1, 2, 1, 3], &[0f32, 0.0, 0.0, 0.5, -0.5, 0.5]))
    }

    #[test]
    fn deform_conv_interpolates_and_is_zero_outside() {
        let of = |numbers: [f32; 3]| tensor(&[1, 1, 1, 3], &numbers);
        deform().gives(of([15.0, 15.0, 20.0]));
        let masked = deform().input(row(&[1f32])).input(of([1.0, 0.5, 2.0]));
        masked.gives(of([16.0, 8.5, 41.0]));
        deform().missing().input(tensor(&[1, 1, 1, 2], &[1f32, 1.0])).fails("2");
    }
}
