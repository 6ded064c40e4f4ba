//! RoiAlign (ONNX, operator sets 10 to 22) and DeformConv (19): pixels between pixels, at places that
//! another tensor says. Computed in 64 bits.

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::tract_hir::internal::*;

use super::own::{
    Bits, Known, Own, Said, built, floats, from_floats, ints, known_shapes, needed, optional,
    shapes, sized, unknown, volume,
};
use super::windows::Lie;

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("RoiAlign", |context, node| {
        let mode = node.get_attr_opt::<&str>("coordinate_transformation_mode")?;
        // Before version 16 nothing was shifted.
        let default = context.onnx_operator_set_version >= 16;
        let op = RoiAlign {
            shifted: mode.map_or(default, |mode| mode == "half_pixel"),
            max: node.get_attr_opt::<&str>("mode")? == Some("max"),
            height: node.get_attr_opt("output_height")?.unwrap_or(1),
            width: node.get_attr_opt("output_width")?.unwrap_or(1),
            samples: node.get_attr_opt("sampling_ratio")?.unwrap_or(0),
            scale: Bits::of(node, "spatial_scale", 1.0)?,
        };
        built(op, node)
    });
    registry.insert("DeformConv", |_, node| {
        let groups = node.get_attr_opt("group")?.unwrap_or(1);
        let offset_groups = node.get_attr_opt("offset_group")?.unwrap_or(1);
        built(DeformConv { lie: Lie::of(node)?, groups, offset_groups }, node)
    });
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct RoiAlign {
    /// Whether coordinates are those of the middles of pixels.
    shifted: bool,
    max: bool,
    height: usize,
    width: usize,
    /// Samples along each side of a bin; none for as many as there are pixels.
    samples: usize,
    scale: Bits,
}

/// Most samples along one side of a bin.
const SAMPLES: f64 = 4096.0;

impl RoiAlign {
    fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<[usize; 4]> {
        let (x, rois, batch) = (needed(shapes, 0)?, needed(shapes, 1)?, needed(shapes, 2)?);
        let [_, channels, height, width] = **x else { bail!("images of {x:?}") };
        let [count, 4] = **rois else { bail!("regions of {rois:?}") };
        ensure!(**batch == [count], "{batch:?} places in the batch for {count} regions");
        ensure!(height > 0 && width > 0, "images of {x:?}");
        let shape = [count, channels, self.height, self.width];
        volume(&shape)?;
        Ok(shape)
    }

    /// The four pixels around each sample of a bin, with their weights, along one dimension: those
    /// of a sample beyond the image weigh nothing.
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
        ensure!(count <= SAMPLES, "a region with {count} samples in a bin");
        Ok(count.max(0.0) as usize)
    }
}

impl Own for RoiAlign {
    fn name(&self) -> &'static str {
        "RoiAlign"
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let dtype = needed(inputs, 0)?.dtype;
        let Some(shapes) = known_shapes(inputs) else { return Ok(tvec!(unknown(dtype, 4))) };
        let shape = self.sizes(&shapes)?;
        Ok(tvec!(sized(dtype, shape.iter().map(|dim| dim.to_dim()))))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let shape = self.sizes(&shapes(inputs))?;
        let x = *needed(inputs, 0)?;
        let [images, channels, height, width] = *x.shape() else { bail!("no images") };
        let (values, rois) = (floats(x)?, floats(needed(inputs, 1)?)?);
        ensure!(rois.iter().all(|corner| corner.is_finite()), "regions that are no numbers");
        let (scale, shift) = (f64::from(self.scale.get()), if self.shifted { 0.5 } else { 0.0 });
        let mut results = Vec::with_capacity(volume(&shape)?);
        for (roi, image) in rois.chunks_exact(4).zip(ints(needed(inputs, 2)?)?) {
            let image = usize::try_from(image).ok().filter(|image| *image < images);
            let image = image.with_context(|| format!("a region of an image beyond {images}"))?;
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
                    let (mut sum, mut most) = (0.0, None::<f64>);
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
                            // The greatest of the parts: implementations agree on that.
                            let greatest = parts.into_iter().fold(f64::NEG_INFINITY, greater);
                            most = Some(most.map_or(greatest, |most| greater(most, greatest)));
                        }
                    }
                    results.push(match self.max {
                        true => most.unwrap_or(0.0),
                        false => sum / (rows * columns).max(1) as f64,
                    });
                }
            }
        }
        Ok(tvec!(from_floats(x.datum_type(), &shape, &results)?))
    }
}

/// The greater one; NaN if one is.
fn greater(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct DeformConv {
    lie: Lie,
    groups: usize,
    offset_groups: usize,
}

/// The sizes of images, kernels and results.
struct Planes {
    to: [usize; 4],
    channels: usize,
    image: [usize; 2],
    kernel: [usize; 2],
}

impl DeformConv {
    fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<Planes> {
        let (x, w, offset) = (needed(shapes, 0)?, needed(shapes, 1)?, needed(shapes, 2)?);
        let ([batch, channels, high, wide], [outputs, of, kernel_high, kernel_wide]) = (&**x, &**w)
        else {
            bail!("images of {x:?} and weights of {w:?} are not implemented")
        };
        let kernel = [*kernel_high, *kernel_wide];
        let grouped = self.groups > 0
            && channels / self.groups == *of
            && channels % self.groups == 0
            && outputs % self.groups == 0
            && self.offset_groups > 0
            && channels % self.offset_groups == 0;
        ensure!(grouped, "weights of {w:?} in {} groups for images of {x:?}", self.groups);
        let said = self.lie.kernel.is_empty() || self.lie.kernel == kernel;
        ensure!(said && !kernel.contains(&0), "a kernel of {kernel:?}");
        let to = [
            *batch,
            *outputs,
            self.lie.count(&kernel, 0, *high)?.0,
            self.lie.count(&kernel, 1, *wide)?.0,
        ];
        let places = self.offset_groups * kernel[0] * kernel[1];
        let wanted = [*batch, 2 * places, to[2], to[3]];
        ensure!(**offset == wanted, "offsets of {offset:?}, wanted are {wanted:?}");
        if let Some(bias) = optional(shapes, 3) {
            ensure!(**bias == [*outputs], "a bias of {bias:?} for {outputs} channels");
        }
        if let Some(mask) = optional(shapes, 4) {
            let wanted = [*batch, places, to[2], to[3]];
            ensure!(**mask == wanted, "a mask of {mask:?}, wanted is {wanted:?}");
        }
        volume(&to)?;
        Ok(Planes { to, channels: *channels, image: [*high, *wide], kernel })
    }
}

/// The value between four pixels; those beyond the image are zero.
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

impl Own for DeformConv {
    fn name(&self) -> &'static str {
        "DeformConv"
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let dtype = needed(inputs, 0)?.dtype;
        let Some(shapes) = known_shapes(inputs) else { return Ok(tvec!(unknown(dtype, 4))) };
        let planes = self.sizes(&shapes)?;
        Ok(tvec!(sized(dtype, planes.to.iter().map(|dim| dim.to_dim()))))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let Planes { to, channels, image, kernel } = self.sizes(&shapes(inputs))?;
        let given = |at| optional(inputs, at).map(|tensor| floats(tensor)).transpose();
        let (x, w) = (floats(needed(inputs, 0)?)?, floats(needed(inputs, 1)?)?);
        let offsets = floats(needed(inputs, 2)?)?;
        ensure!(offsets.iter().all(|offset| offset.is_finite()), "offsets that are no numbers");
        let (bias, mask) = (given(3)?, given(4)?);
        let [batch, outputs, high, wide] = to;
        let (places, area) = (kernel[0] * kernel[1], high * wide);
        let (of, per_offset) = (channels / self.groups, channels / self.offset_groups);
        let before = [self.lie.pad(0) as f64, self.lie.pad(1) as f64];
        let mut results = vec![0.0; volume(&to)?];
        // What every place of the kernel sees of a channel, and then what each output makes of it.
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
                        let step = at_of[axis] * self.lie.stride(axis)
                            + within[axis] * self.lie.dilation(axis);
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
        Ok(tvec!(from_floats(needed(inputs, 0)?.datum_type(), &to, &results)?))
    }
}
