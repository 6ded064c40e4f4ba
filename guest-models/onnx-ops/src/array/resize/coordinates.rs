//! The coordinate transformations of Resize: which position of the input an element of the output is
//! at.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::bail;

/// The attribute `coordinate_transformation_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coordinates {
    HalfPixel,
    PytorchHalfPixel,
    HalfPixelSymmetric,
    AlignCorners,
    Asymmetric,
    /// `tf_crop_and_resize`: a part of the input is resized.
    Crop,
}

/// A scale as a fraction, so that positions are exact where sizes are given: in which of two elements
/// a position halfway or at their border is depends on the last bit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    pub(super) by: f64,
    pub(super) of: f64,
}

impl Scale {
    pub(super) fn value(self) -> f64 {
        self.by / self.of
    }

    /// Whether it is a number of 32 bits, with which other implementations compute in 32 bits.
    pub(super) fn is_given(self) -> bool {
        self.of == 1.0
    }
}

/// How one dimension is resized.
pub(super) struct Along {
    /// The size before.
    pub(super) from: usize,
    pub(super) size: usize,
    pub(super) scale: Scale,
    /// Start and end of the part, from 0 to 1.
    pub(super) part: [f64; 2],
}

impl Coordinates {
    pub(super) fn of(node: &NodeProto) -> TractResult<Coordinates> {
        let mode = node.get_attr_opt::<&str>("coordinate_transformation_mode")?;
        Ok(match mode.unwrap_or("half_pixel") {
            "half_pixel" => Coordinates::HalfPixel,
            "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
            "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
            "align_corners" => Coordinates::AlignCorners,
            "asymmetric" => Coordinates::Asymmetric,
            "tf_crop_and_resize" => Coordinates::Crop,
            other => bail!("the coordinate_transformation_mode {other:?} is not implemented"),
        })
    }

    /// The position in the input of an element of the output. `None` if it is outside of the input,
    /// which only a crop distinguishes. `round` rounds each result of the arithmetic.
    pub(super) fn origin(
        self,
        at: usize,
        along: &Along,
        round: impl Fn(f64) -> f64,
    ) -> Option<f64> {
        let (at, size) = (at as f64, along.size as f64);
        let (from, last) = (along.from as f64, along.from as f64 - 1.0);
        let Scale { by, of } = along.scale;
        let scaled = |place: f64| round(place * of / by);
        let half_pixel = || round(scaled(at + 0.5) - 0.5);
        let single = along.size == 1;
        Some(match self {
            Coordinates::HalfPixel => half_pixel(),
            Coordinates::PytorchHalfPixel if single => 0.0,
            Coordinates::PytorchHalfPixel => half_pixel(),
            // Both centres are the same: the formula of the specification as one fraction, whose parts
            // are exact.
            Coordinates::HalfPixelSymmetric => {
                let twice = from * by - by + (2.0 * at + 1.0 - size) * of;
                round(twice / (2.0 * by))
            }
            Coordinates::AlignCorners if single => 0.0,
            Coordinates::AlignCorners => round(round(at * last) / (size - 1.0)),
            Coordinates::Asymmetric => scaled(at),
            Coordinates::Crop => {
                let [start, end] = along.part;
                let place = match along.size {
                    1 => 0.5 * (start + end) * last,
                    _ => start * last + at * (end - start) * last / (size - 1.0),
                };
                return (0.0..=last).contains(&place).then_some(round(place));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, row, tensor};

    /// A resize of one dimension from four elements to these sizes.
    fn widened(mode: &str, coordinates: &str, size: i64) -> Case {
        let case = case("Resize").text("mode", mode);
        let case = case.text("coordinate_transformation_mode", coordinates);
        let case = case.input(tensor(&[1, 4], &[1f32, 2.0, 5.0, 3.0]));
        case.input(row(&[0f32, 0.0, 1.0, 1.0])).missing().input(row(&[1, size]))
    }

    /// Cubic interpolation with the usual curve, by the formula of the specification.
    fn cubic(place: f64) -> f32 {
        let (a, values) = (-0.75, [1.0, 2.0, 5.0, 3.0]);
        let weight = |x: f64| match x.abs() {
            x if x <= 1.0 => (a + 2.0) * x * x * x - (a + 3.0) * x * x + 1.0,
            x => a * x * x * x - 5.0 * a * x * x + 8.0 * a * x - 4.0 * a,
        };
        let first = place.floor() as i64;
        let each = (first - 1..=first + 2).map(|at| {
            let value: f64 = values[at.clamp(0, 3) as usize];
            weight(at as f64 - place) * value
        });
        each.sum::<f64>() as f32
    }

    #[test]
    fn cubic_resize_has_every_coordinate_transformation() {
        let places: [(&str, [f64; 3]); 6] = [
            ("half_pixel", [1.0 / 6.0, 1.5, 17.0 / 6.0]),
            ("pytorch_half_pixel", [1.0 / 6.0, 1.5, 17.0 / 6.0]),
            ("half_pixel_symmetric", [1.0 / 6.0, 1.5, 17.0 / 6.0]),
            ("align_corners", [0.0, 1.5, 3.0]),
            ("asymmetric", [0.0, 4.0 / 3.0, 8.0 / 3.0]),
            ("tf_crop_and_resize", [0.0, 1.5, 3.0]),
        ];
        for (coordinates, places) in places {
            let expected = tensor(&[1, 3], &places.map(cubic));
            widened("cubic", coordinates, 3).gives_within(expected, 1e-5);
        }
    }

    #[test]
    fn single_element_is_the_first_one_with_pytorch_half_pixel() {
        for mode in ["nearest", "linear", "cubic"] {
            let case = widened(mode, "pytorch_half_pixel", 1);
            case.gives_within(tensor(&[1, 1], &[1f32]), 1e-6);
        }
        widened("cubic", "half_pixel", 1).gives_within(tensor(&[1, 1], &[cubic(1.5)]), 1e-5);
    }

    #[test]
    fn symmetric_coordinates_put_the_rounded_size_in_the_middle() {
        // 4 elements times 0.8 are 3.2, of which 3 are left.
        let case = case("Resize").text("mode", "cubic").int("antialias", 1);
        let case = case.text("coordinate_transformation_mode", "half_pixel_symmetric");
        let case = case.input(tensor(&[1, 4], &[1f32, 2.0, 2.0, 1.0])).missing();
        let outputs = case.input(row(&[1f32, 0.8])).outputs_at_run_time();
        let values = outputs[0].to_plain_array_view::<f32>().unwrap();
        assert_eq!(values.shape(), [1, 3]);
        assert!((values[[0, 0]] - values[[0, 2]]).abs() < 1e-5, "{values}");
    }
}
