//! GridSample (com.microsoft) with cubic interpolation of images that are padded with their border or
//! their reflection. tract computes all other modes, as for ONNX's operator.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::assumptions;
use crate::framework::dims::volume;
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, required, with_dims};
use crate::framework::operator::Operator;

#[derive(Debug)]
pub(super) struct CubicSample {
    /// Whether pixels outside are those of the reflection, and not of the border.
    reflect: bool,
    /// Whether -1 and 1 are the centers of the outer pixels, and not their edges.
    align_corners: bool,
}

impl CubicSample {
    /// The operator for a node, unless tract computes it.
    pub(super) fn of(node: &NodeProto) -> TractResult<Option<CubicSample>> {
        let padding = node.get_attr_opt::<&str>("padding_mode")?.unwrap_or("zeros");
        if node.get_attr_opt::<&str>("mode")? != Some("bicubic") || padding == "zeros" {
            return Ok(None);
        }
        let reflect = match padding {
            "border" => false,
            "reflection" => true,
            other => bail!("the padding mode {other:?} is not implemented"),
        };
        let align_corners = node.get_attr_opt::<i64>("align_corners")?.unwrap_or(0) != 0;
        Ok(Some(CubicSample { reflect, align_corners }))
    }

    /// The four pixels along an axis around a place from -1 to 1, with their weights.
    fn around(&self, place: f32, size: usize) -> [(usize, f64); 4] {
        let (place, length) = (f64::from(place), size as f64);
        let at = match self.align_corners {
            true => (place + 1.0) / 2.0 * (length - 1.0),
            false => ((place + 1.0) * length - 1.0) / 2.0,
        };
        let first = at.floor();
        let weights = weights(at - first);
        std::array::from_fn(|tap| {
            let pixel = self.pixel(first - 1.0 + tap as f64, length);
            (pixel.clamp(0.0, length - 1.0) as usize, weights[tap])
        })
    }

    /// The pixel whose value one at a whole coordinate has, up to the nearest in the image.
    fn pixel(&self, at: f64, length: f64) -> f64 {
        if !self.reflect {
            return at;
        }
        let (low, high) =
            if self.align_corners { (0.0, length - 1.0) } else { (-0.5, length - 0.5) };
        let span = high - low;
        if span == 0.0 {
            return low;
        }
        let over = (at - low).abs() % (2.0 * span);
        (low + if over <= span { over } else { 2.0 * span - over }).trunc()
    }
}

/// The weights of four neighbours for a point at a distance behind the second (R. Keys, "Cubic
/// Convolution Interpolation", 1981), with the parameter -0.75.
fn weights(t: f64) -> [f64; 4] {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

impl Operator for CubicSample {
    fn name(&self) -> &'static str {
        "CubicSample"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (x, grid) = (required(inputs, 0)?, required(inputs, 1)?);
        let ([batch, channels, height, width], [of_grid, rows, columns, two]) =
            (&*x.shape, &*grid.shape)
        else {
            bail!("cubic mode needs 4 dimensions, found {} and {}", x.rank(), grid.rank())
        };
        let fits = assumptions::equal(batch, of_grid)? && assumptions::equal(two, &2.to_dim())?;
        ensure!(fits, "the grid {:?} does not match the input {:?}", grid.shape, x.shape);
        for size in [height, width] {
            let some = assumptions::at_most(&1.to_dim(), size)?;
            ensure!(some, "an image without pixels cannot be sampled");
        }
        let dims = [batch, channels, rows, columns].map(TDim::clone);
        Ok(tvec!(with_dims(x.dtype, dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (x, grid) = (*required(inputs, 0)?, *required(inputs, 1)?);
        let (&[batch, channels, height, width], &[_, rows, columns, _]) = (x.shape(), grid.shape())
        else {
            bail!("cubic mode needs 4 dimensions, found {} and {}", x.rank(), grid.rank())
        };
        let shape = [batch, channels, rows, columns];
        let (x, grid) = (x.try_as_plain_ram()?, grid.try_as_plain_ram()?);
        let (values, grid) = (x.as_slice::<f32>()?, grid.as_slice::<f32>()?);
        let mut output = vec![0f32; volume(&shape)?];
        let points = rows * columns;
        for image in 0..batch {
            for point in 0..points {
                let at = (image * points + point) * 2;
                let (x, y) = (grid[at], grid[at + 1]);
                // Implementations disagree about places that are not numbers.
                ensure!(x.is_finite() && y.is_finite(), "the grid has the place ({x}, {y})");
                let (across, down) = (self.around(x, width), self.around(y, height));
                for channel in 0..channels {
                    let plane = image * channels + channel;
                    let pixels = &values[plane * height * width..][..height * width];
                    let row = |(row, weight): &(usize, f64)| {
                        let taps = across.iter().map(|(column, weight)| {
                            weight * f64::from(pixels[row * width + column])
                        });
                        weight * taps.sum::<f64>()
                    };
                    output[plane * points + point] = down.iter().map(row).sum::<f64>() as f32;
                }
            }
        }
        Ok(tvec!(Tensor::from_shape(&shape, &output)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, counting, microsoft, tensor};

    // The expected numbers are those of onnxruntime 1.32 and of the definition.

    fn node(padding: &str, corners: i64, grid: &[f32]) -> Case {
        let node = microsoft("GridSample").text("mode", "bicubic").text("padding_mode", padding);
        let node = node.int("align_corners", corners).input(counting(&[1, 1, 3, 3]));
        node.input(tensor(&[1, 1, grid.len() / 2, 2], grid))
    }

    #[test]
    fn cubic_samples_may_be_padded_with_the_border_or_the_reflection() {
        let grid = [0.0, 0.0, 0.5, -0.25, 1.5, 0.0, -1.0, -1.0, 0.9, -2.75f32];
        for (padding, corners, expected) in [
            ("border", 0, [4.0, 3.397_949_2, 5.0, -0.375, 2.110_906_4]),
            ("border", 1, [4.0, 3.597_656_2, 5.093_75, 0.0, 1.924_75]),
            ("reflection", 0, [4.0, 3.397_949_2, 4.808_593_8, -0.75, 8.416_718]),
            ("reflection", 1, [4.0, 3.585_937_5, 4.687_5, 0.0, 7.727_687_4f32]),
        ] {
            node(padding, corners, &grid).gives_within(tensor(&[1, 1, 1, 5], &expected), 5e-6);
        }
    }

    #[test]
    fn grids_that_are_not_of_finite_pairs_are_refused() {
        node("border", 0, &[f32::NAN, 0.0]).fails("NaN");
        let node = microsoft("GridSample").text("mode", "bicubic").text("padding_mode", "border");
        let flat = node.clone().input(counting(&[1, 1, 3])).input(counting(&[1, 1, 2]));
        flat.fails("4 dimensions");
        let empty = node.clone().input(counting(&[1, 1, 0, 3]));
        empty.input(counting(&[1, 1, 1, 2])).fails("without pixels");
        node.input(counting(&[1, 1, 3, 3])).input(counting(&[1, 1, 1, 3])).fails("does not match");
    }
}
