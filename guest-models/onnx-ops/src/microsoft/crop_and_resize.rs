//! CropAndResize (com.microsoft): cuts boxes out of images, and resizes each to one size. The first
//! and last pixels of a crop are sampled at the edges of its box.

use belljar_operators::MICROSOFT;
use tract_onnx::tract_hir::internal::*;

use crate::framework::assumptions;
use crate::framework::dims::{sizes, volume};
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{Bits, ints};

pub(crate) const OPERATORS: &[Registration] = &[own("CropAndResize", |_, node| {
    let nearest = node.get_attr_opt::<&str>("mode")? == Some("nearest");
    let outside = Bits::of(node, "extrapolation_value", 0.0)?;
    built(CropAndResize { nearest, outside }, node)
})
.of(MICROSOFT)];

#[derive(Debug)]
struct CropAndResize {
    /// Whether the nearest pixel is taken, and not a mean of four.
    nearest: bool,
    /// The value of pixels outside of the image.
    outside: Bits,
}

/// The height and width of the crops.
fn crop_size(numbers: &[i64]) -> TractResult<[usize; 2]> {
    let [height, width] = *numbers else {
        bail!("expected a crop size of two numbers, found {}", numbers.len())
    };
    ensure!(height > 0 && width > 0, "the crop size {height} × {width} is not positive");
    let both = sizes(&[height, width])?;
    Ok([both[0], both[1]])
}

/// Where a pixel of a crop is between the pixels of an image, along one axis: the one before and
/// the one after it, and how far it is from the first. Nothing outside of the image.
fn place(
    at: usize,
    count: usize,
    [start, end]: [f32; 2],
    length: usize,
) -> Option<(usize, usize, f32)> {
    let (start, end, last) = (f64::from(start), f64::from(end), (length - 1) as f64);
    let position = match count {
        1 => 0.5 * (start + end) * last,
        // Not by addition, which may pass the edge.
        _ if at == count - 1 => end * last,
        _ => start * last + at as f64 * (end - start) * last / (count - 1) as f64,
    };
    if !(0.0..=last).contains(&position) {
        return None;
    }
    let before = position.floor();
    Some((before as usize, position.ceil() as usize, (position - before) as f32))
}

impl CropAndResize {
    /// The pixel of one channel at these places.
    fn sample(
        &self,
        channel: &[f32],
        width: usize,
        y: (usize, usize, f32),
        x: (usize, usize, f32),
    ) -> f32 {
        let pixel = |y: usize, x: usize| channel[y * width + x];
        if self.nearest {
            let nearest = |(before, after, part): (usize, usize, f32)| {
                if part >= 0.5 { after } else { before }
            };
            return pixel(nearest(y), nearest(x));
        }
        let between = |row: usize| {
            let (left, right) = (pixel(row, x.0), pixel(row, x.1));
            left + (right - left) * x.2
        };
        let (top, bottom) = (between(y.0), between(y.1));
        top + (bottom - top) * y.2
    }
}

impl Operator for CropAndResize {
    fn name(&self) -> &'static str {
        "CropAndResize"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (images, boxes) = (required(inputs, 0)?, required(inputs, 1)?);
        let (of_images, size) = (required(inputs, 2)?, required(inputs, 3)?);
        ensure!(images.rank() == 4, "expected images of 4 dimensions, found {}", images.rank());
        for axis in [2, 3] {
            let positive = assumptions::is_positive(&images.shape[axis]);
            ensure!(positive, "cannot crop images without pixels");
        }
        ensure!(boxes.rank() == 2, "expected boxes of 2 dimensions, found {}", boxes.rank());
        let corners = assumptions::equal(&boxes.shape[1], &4.to_dim())?;
        ensure!(corners, "expected boxes of 4 numbers, found {}", boxes.shape[1]);
        let rank = of_images.rank();
        ensure!(rank == 1, "expected image indices of one dimension, found {rank}");
        let (count, indices) = (&boxes.shape[0], &of_images.shape[0]);
        let equal = assumptions::equal(count, indices)?;
        ensure!(equal, "{indices} image indices do not match {count} boxes");
        ensure!(size.rank() == 1, "expected a crop size of one dimension, found {}", size.rank());
        let known = size.ints()?.map(|size| crop_size(&size)).transpose()?;
        let side = |at: usize| known.map(|size| size[at].to_dim());
        let dims = [Some(count.clone()), Some(images.shape[1].clone()), side(0), side(1)];
        Ok(tvec!((images.dtype, dims.into_iter().collect())))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let images = *required(inputs, 0)?;
        let [batch, channels, height, width] = *images.shape() else {
            bail!("expected images of 4 dimensions")
        };
        let [crop_height, crop_width] = crop_size(&ints(required(inputs, 3)?)?)?;
        let of_images = ints(required(inputs, 2)?)?;
        let shape = [of_images.len(), channels, crop_height, crop_width];
        volume(&shape)?;
        let mut output = Tensor::zero::<f32>(&shape)?;
        let images = images.try_as_plain_ram()?;
        let images = images.as_slice::<f32>()?;
        let boxes = required(inputs, 1)?.try_as_plain_ram()?;
        let (boxes, _) = boxes.as_slice::<f32>()?.as_chunks::<4>();
        let mut plain = output.try_as_plain_ram_mut()?;
        let crops = plain.as_slice_mut::<f32>()?;
        let (image, crop) = (channels * height * width, channels * crop_height * crop_width);
        for ((at, corners), index) in boxes.iter().enumerate().zip(&of_images) {
            let known = usize::try_from(*index).ok().filter(|index| *index < batch);
            let index = known.or_user_error(format_args!(
                "the image index {index} is not between 0 and {}",
                batch as i64 - 1
            ))?;
            let from = &images[index * image..][..image];
            let to = &mut crops[at * crop..][..crop];
            let [top, left, bottom, right] = *corners;
            for row in 0..crop_height {
                let y = place(row, crop_height, [top, bottom], height);
                for column in 0..crop_width {
                    let x = place(column, crop_width, [left, right], width);
                    for channel in 0..channels {
                        let pixels = &from[channel * height * width..][..height * width];
                        to[(channel * crop_height + row) * crop_width + column] = match (y, x) {
                            (Some(y), Some(x)) => self.sample(pixels, width, y, x),
                            _ => self.outside.get(),
                        };
                    }
                }
            }
        }
        Ok(tvec!(output))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, microsoft, row, tensor};

    // The expected numbers are those of onnxruntime 1.32 and of numpy by the documentation, which
    // agree to 1e-6.

    const BOXES: [f32; 16] =
        [0.0, 0.0, 1.0, 1.0, 0.1, 0.2, 0.8, 0.4, 0.5, -0.25, 1.5, 0.75, 1.0, 1.0, 0.0, 0.0];

    fn images() -> Case {
        let pixels: Vec<f32> = (0..48).map(|at| (at * 7 % 17) as f32).collect();
        let node = microsoft("CropAndResize").float("extrapolation_value", -5.0);
        node.input(tensor(&[2, 2, 3, 4], &pixels))
    }

    fn crops(size: [i32; 2]) -> Case {
        let node = images().input(tensor(&[4, 4], &BOXES)).input(row(&[0i32, 1, 1, 0]));
        node.input(row(&size))
    }

    #[test]
    fn crops_are_interpolated_and_aligned_with_the_corners_of_their_boxes() {
        let expected = [
            0f32, 10.5, 4.0, 5.0, 7.0, 9.0, 16.0, 9.5, 3.0, 4.0, 6.0, 8.0, 9.84, 7.86, 7.92, 9.6,
            11.7, 10.4, 8.84, 6.86, 6.92, 8.6, 10.7, 11.44, -5.0, 14.25, 7.75, -5.0, -5.0, -5.0,
            -5.0, 13.25, 6.75, -5.0, -5.0, -5.0, 9.0, 7.0, 5.0, 4.0, 10.5, 0.0, 8.0, 6.0, 4.0, 3.0,
            9.5, 16.0,
        ];
        crops([2, 3]).gives_within(tensor(&[4, 2, 2, 3], &expected), 2e-6);
        // One pixel is the middle of the box.
        let middle = [4.5f32, 3.5, 14.37, 13.37, 8.25, 7.25, 4.5, 3.5];
        crops([1, 1]).gives_within(tensor(&[4, 2, 1, 1], &middle), 2e-6);
    }

    #[test]
    fn nearest_pixels_are_rounded_away_from_zero() {
        let expected = [
            0f32, 14.0, 4.0, 5.0, 2.0, 9.0, 16.0, 13.0, 3.0, 4.0, 1.0, 8.0, 5.0, 5.0, 5.0, 10.0,
            10.0, 10.0, 4.0, 4.0, 4.0, 9.0, 9.0, 9.0, -5.0, 16.0, 6.0, -5.0, -5.0, -5.0, -5.0,
            15.0, 5.0, -5.0, -5.0, -5.0, 9.0, 2.0, 5.0, 4.0, 14.0, 0.0, 8.0, 1.0, 4.0, 3.0, 13.0,
            16.0,
        ];
        crops([2, 3]).text("mode", "nearest").gives(tensor(&[4, 2, 2, 3], &expected));
    }

    #[test]
    fn boxes_without_numbers_are_outside_and_other_shapes_are_refused() {
        let one = |corners: [f32; 4], index: i32| {
            let node = images().input(tensor(&[1, 4], &corners)).input(row(&[index]));
            node.input(row(&[1i32, 1]))
        };
        one([f32::NAN; 4], 0).gives(tensor(&[1, 2, 1, 1], &[-5f32, -5.0]));
        let infinite = [f32::NEG_INFINITY, 0.0, f32::INFINITY, 0.0];
        one(infinite, 0).gives(tensor(&[1, 2, 1, 1], &[-5f32, -5.0]));
        one([0.0; 4], 2).fails("the image index 2");
        one([0.0; 4], -1).fails("the image index -1");
        crops([0, 1]).fails("0 × 1");
        crops([i32::MAX, i32::MAX]).fails("");
        let few = images().input(tensor(&[4, 4], &BOXES)).input(row(&[0i32]));
        few.input(row(&[1i32, 1])).fails("1 image indices");
        let none = microsoft("CropAndResize").input(tensor::<f32>(&[1, 1, 0, 4], &[]));
        let none = none.input(tensor(&[1, 4], &[0f32; 4])).input(row(&[0i32]));
        none.input(row(&[1i32, 1])).fails("without pixels");
    }
}
