//! GridSample (ONNX) where the input or the grid is float64, and of linear samples where the host's
//! kernels may be used; computed in float64. Along each axis a
//! point has one, two or four neighbours with their weights; a sample is the sum over all of their
//! combinations.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::{strides, volume};
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, required, with_dims};
use crate::framework::operator::Operator;
use crate::framework::tensors::{floats, from_floats};

/// Points whose pixels are looked up before the first channel is sampled.
const POINTS: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Padding {
    Zeros,
    Border,
    Reflection,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DoubleSample {
    mode: Mode,
    padding: Padding,
    /// Whether -1 and 1 are the centers of the outer pixels, and not their edges.
    align_corners: bool,
}

/// The neighbours of a point along an axis, with their weights. A pixel outside of the image is
/// zero.
type Taps = TVec<(Option<usize>, f64)>;

impl DoubleSample {
    pub(super) fn new(node: &NodeProto) -> TractResult<DoubleSample> {
        let mode = match node.get_attr_opt::<&str>("mode")?.unwrap_or("linear") {
            "nearest" => Mode::Nearest,
            "linear" | "bilinear" => Mode::Linear,
            "cubic" | "bicubic" => Mode::Cubic,
            other => bail!("the mode {other:?} is not implemented"),
        };
        let padding = match node.get_attr_opt::<&str>("padding_mode")?.unwrap_or("zeros") {
            "zeros" => Padding::Zeros,
            "border" => Padding::Border,
            "reflection" => Padding::Reflection,
            other => bail!("the padding mode {other:?} is not implemented"),
        };
        let implemented = mode != Mode::Cubic || padding == Padding::Zeros;
        ensure!(implemented, "cubic mode is only implemented with zeros outside of the image");
        let align_corners = node.get_attr_opt::<i64>("align_corners")?.unwrap_or(0) != 0;
        Ok(DoubleSample { mode, padding, align_corners })
    }

    /// The coordinates of the ends of the image along an axis.
    fn ends(&self, size: usize) -> (f64, f64) {
        let size = size as f64;
        if self.align_corners { (0.0, size - 1.0) } else { (-0.5, size - 0.5) }
    }

    /// A coordinate brought into the image, where there is no padding with zeros.
    fn padded(&self, at: f64, size: usize) -> f64 {
        let (low, high) = self.ends(size);
        match self.padding {
            _ if at >= low && at <= high => at,
            Padding::Zeros => at,
            Padding::Border => at.clamp(0.0, size as f64 - 1.0),
            Padding::Reflection => {
                let span = high - low;
                if span == 0.0 {
                    return low;
                }
                let over = (at - low).abs() % (2.0 * span);
                low + if over <= span { over } else { 2.0 * span - over }
            }
        }
    }

    /// The pixel at a whole coordinate.
    fn pixel(&self, at: f64, size: usize) -> Option<usize> {
        let last = size as f64 - 1.0;
        match self.padding {
            Padding::Zeros => (at >= 0.0 && at <= last).then_some(at as usize),
            _ => Some(self.padded(at, size).clamp(0.0, last) as usize),
        }
    }

    /// The neighbours of a place from -1 to 1.
    fn taps(&self, place: f64, size: usize) -> Taps {
        let length = size as f64;
        let at = match self.align_corners {
            true => (place + 1.0) / 2.0 * (length - 1.0),
            false => ((place + 1.0) * length - 1.0) / 2.0,
        };
        let tap = |at: f64, weight: f64| (self.pixel(at, size), weight);
        match self.mode {
            Mode::Nearest => tvec![tap(self.padded(at.round_ties_even(), size), 1.0)],
            Mode::Linear => {
                let at = self.padded(at, size);
                let first = at.floor();
                tvec![tap(first, first + 1.0 - at), tap(first + 1.0, at - first)]
            }
            Mode::Cubic => {
                let first = at.floor();
                let weights = cubic_weights(at - first);
                (0..4).map(|tap_at| tap(first - 1.0 + tap_at as f64, weights[tap_at])).collect()
            }
        }
    }

    /// The pixels around a place and their weights, without those outside of the image.
    fn pixels(&self, place: &[f64], sizes: &[usize], strides: &[usize]) -> Vec<(usize, f64)> {
        // The first number of a place is that of the last axis.
        let each = place.iter().rev().zip(sizes);
        let taps: TVec<Taps> = each.map(|(place, size)| self.taps(*place, *size)).collect();
        let mut all = vec![(0, 1.0)];
        for (taps, stride) in taps.iter().zip(strides) {
            let before = std::mem::take(&mut all);
            all.extend(before.iter().flat_map(|(from, weight)| {
                let inside = taps.iter().filter_map(|(pixel, factor)| Some(((*pixel)?, factor)));
                inside.map(move |(pixel, factor)| (from + pixel * stride, weight * factor))
            }));
        }
        all
    }

    /// Samples of all channels of images, at as many points of each. `to` rounds a result.
    fn samples<T: Copy + Default + Into<f64>>(
        &self,
        values: &[T],
        places: &[f64],
        sizes: &[usize],
        [batch, channels, count]: [usize; 3],
        to: impl Fn(f64) -> T,
    ) -> Vec<T> {
        let (area, strides) = (sizes.iter().product::<usize>(), strides(sizes));
        let mut output = vec![T::default(); batch * channels * count];
        for sample in 0..batch {
            for first in (0..count).step_by(POINTS) {
                let some = POINTS.min(count - first);
                let from = (sample * count + first) * sizes.len();
                let places = places[from..from + some * sizes.len()].chunks(sizes.len());
                let points: Vec<_> =
                    places.map(|place| self.pixels(place, sizes, &strides)).collect();
                for channel in 0..channels {
                    let plane = sample * channels + channel;
                    let image = &values[plane * area..][..area];
                    let results = &mut output[plane * count + first..][..some];
                    for (result, pixels) in results.iter_mut().zip(&points) {
                        let each = pixels.iter().map(|(at, weight)| image[*at].into() * weight);
                        *result = to(each.fold(0.0, |sum, product| sum + product));
                    }
                }
            }
        }
        output
    }
}

/// The weights of four neighbours for a point at a distance behind the second (R. Keys, "Cubic
/// Convolution Interpolation", 1981), with the parameter -0.75.
fn cubic_weights(t: f64) -> [f64; 4] {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

impl Operator for DoubleSample {
    fn name(&self) -> &'static str {
        "DoubleSample"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (x, grid) = (required(inputs, 0)?, required(inputs, 1)?);
        ensure!(
            x.rank() >= 3 && x.rank() == grid.rank(),
            "the grid has {} dimensions, but the input has {}",
            grid.rank(),
            x.rank()
        );
        let points = &grid.shape[1..grid.rank() - 1];
        let dims = x.shape[..2].iter().chain(points).cloned();
        Ok(tvec!(with_dims(x.dtype, dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (x, grid) = (*required(inputs, 0)?, *required(inputs, 1)?);
        let ([batch, channels, sizes @ ..], [of, points @ .., axes]) = (x.shape(), grid.shape())
        else {
            bail!("the input has {} dimensions, expected at least 3", x.rank())
        };
        ensure!(
            of == batch && *axes == sizes.len(),
            "the grid {:?} does not match the input {:?}",
            grid.shape(),
            x.shape()
        );
        ensure!(!sizes.contains(&0), "an image without pixels cannot be sampled");
        let shape: Vec<usize> = [*batch, *channels].iter().chain(points).copied().collect();
        volume(&shape)?;
        let places = floats(grid)?;
        let numbers = [*batch, *channels, points.iter().product::<usize>()];
        let tensor = if x.datum_type() == f32::datum_type() {
            let plain = x.try_as_plain_ram()?;
            let single = |number: f64| number as f32;
            let samples = self.samples(plain.as_slice()?, &places, sizes, numbers, single);
            Tensor::from_shape(&shape, &samples)?
        } else {
            let samples = self.samples(&floats(x)?, &places, sizes, numbers, |number| number);
            from_floats(x.datum_type(), &shape, &samples)?
        };
        Ok(tvec!(tensor))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, tensor};

    // The expected numbers are those of onnxruntime 1.32, from the script below.
    //
    // x = numpy.array([1, 2, 4, 8, 16, 32], dtype).reshape(1, 1, 2, 3)
    // grid = numpy.array(PLACES, dtype).reshape(1, 1, 5, 2)

    const PLACES: [f64; 10] = [0.0, 0.0, 0.5, -0.25, 1.25, 0.0, -1.0, -1.0, 0.9, -2.75];

    const CASES: [(&str, &str, i64, [f64; 5]); 14] = [
        ("nearest", "zeros", 0, [2.0, 4.0, 0.0, 1.0, 0.0]),
        ("nearest", "zeros", 1, [2.0, 4.0, 4.0, 1.0, 0.0]),
        ("nearest", "border", 0, [2.0, 4.0, 4.0, 1.0, 4.0]),
        ("nearest", "border", 1, [2.0, 4.0, 4.0, 1.0, 4.0]),
        ("nearest", "reflection", 0, [2.0, 4.0, 4.0, 1.0, 32.0]),
        ("nearest", "reflection", 1, [2.0, 4.0, 4.0, 1.0, 32.0]),
        ("linear", "zeros", 0, [9.0, 9.625, 2.25, 0.25, 0.0]),
        ("linear", "zeros", 1, [9.0, 10.875, 13.5, 1.0, 0.475]),
        ("linear", "border", 0, [9.0, 9.625, 18.0, 1.0, 4.0]),
        ("linear", "border", 1, [9.0, 10.875, 18.0, 1.0, 3.8]),
        ("linear", "reflection", 0, [9.0, 9.625, 18.0, 1.0, 32.0]),
        ("linear", "reflection", 1, [9.0, 10.875, 15.75, 1.0, 27.075]),
        ("cubic", "zeros", 0, [10.6875, 11.902236938476562, 2.343109130859375, -0.0634765625, 0.0]),
        (
            "cubic",
            "zeros",
            1,
            [10.6875, 14.428848266601562, 17.659423828125, 1.0, 0.13366467285156253],
        ),
    ];

    fn node(mode: &str, padding: &str, corners: i64) -> Case {
        let node = case("GridSample").text("mode", mode).text("padding_mode", padding);
        node.int("align_corners", corners)
    }

    #[test]
    fn grid_sample_of_float64_is_computed_in_float64() {
        let x = tensor(&[1, 1, 2, 3], &[1f64, 2.0, 4.0, 8.0, 16.0, 32.0]);
        let grid = tensor(&[1, 1, 5, 2], &PLACES);
        for (mode, padding, corners, expected) in CASES {
            let sample = node(mode, padding, corners).input(x.clone()).input(grid.clone());
            sample.gives_within(tensor(&[1, 1, 1, 5], &expected), 1e-13);
        }
    }

    #[test]
    fn grid_sample_mixes_float64_and_float32() {
        let x = [1f64, 2.0, 4.0];
        let single = tensor(&[1, 1, 3], &x.map(|x| x as f32));
        let half = || tensor(&[1, 1, 1], &[0.5f64]);
        let sample = node("linear", "border", 1).input(single).input(half());
        sample.gives(tensor(&[1, 1, 1], &[3f32]));
        let sample = node("linear", "border", 1).input(tensor(&[1, 1, 3], &x));
        sample.clone().input(tensor(&[1, 1, 1], &[0.5f32])).gives(tensor(&[1, 1, 1], &[3f64]));
        sample.input(tensor(&[1, 1, 2], &[0f64; 2])).fails("");
    }
}
