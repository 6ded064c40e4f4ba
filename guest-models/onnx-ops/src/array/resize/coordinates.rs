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
