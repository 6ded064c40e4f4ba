//! ImageDecoder (ONNX, operator set 20). The files are decoded by the crate `belljar-pixels`. For a
//! file that cannot be decoded, ONNX has an empty image; here the node fails with the reason.

use belljar_pixels::{DecodeError, Format, Room, decode, gray};
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::{MAX_DIM, volume};
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] = &[own("ImageDecoder", build)];

fn build(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let channels = match node.get_attr_opt::<&str>("pixel_format")?.unwrap_or("RGB") {
        "RGB" => Channels::Rgb,
        "BGR" => Channels::Bgr,
        "Grayscale" => Channels::Gray,
        other => bail!("pixel_format is {other:?}, expected RGB, BGR or Grayscale"),
    };
    built(ImageDecoder { channels }, node)
}

/// The memory that a decoder may take: four bytes for each element of the largest tensor.
const ROOM: Room = Room(MAX_DIM as u64 / 16 * 4);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channels {
    Rgb,
    Bgr,
    Gray,
}

#[derive(Clone, Debug)]
struct ImageDecoder {
    channels: Channels,
}

impl ImageDecoder {
    fn count(&self) -> usize {
        if self.channels == Channels::Gray { 1 } else { 3 }
    }
}

impl Operator for ImageDecoder {
    fn name(&self) -> &'static str {
        "ImageDecoder"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let file = required(inputs, 0)?;
        ensure!(file.rank() == 1, "the file has {} dimensions, expected 1", file.rank());
        Ok(tvec!((DatumType::U8, tvec![None, None, Some(self.count().to_dim())])))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let file = required(inputs, 0)?.try_as_plain_ram()?;
        let file = file.as_slice::<u8>()?;
        let Some(format) = Format::of(file) else {
            bail!("the file does not start like a BMP, JPEG, PNG, PNM, TIFF or WebP file")
        };
        let pixels = match decode(format, file, ROOM) {
            Ok(picture) => picture.pixels,
            Err(DecodeError::File(why) | DecodeError::TooLarge(why)) => bail!("{why}"),
        };
        let pixels = if self.channels == Channels::Gray { gray(pixels) } else { pixels };
        let shape = [pixels.height, pixels.width, self.count()];
        volume(&shape)?;
        let mut tensor = Tensor::zero_dt(DatumType::U8, &shape)?;
        let mut plain = tensor.try_as_plain_ram_mut()?;
        let places = plain.as_slice_mut::<u8>()?.chunks_exact_mut(self.count());
        for (place, pixel) in places.zip(pixels.bytes.chunks_exact(pixels.channels)) {
            match (pixel, self.channels) {
                // A single channel is copied to all.
                ([one], _) => place.fill(*one),
                (pixel, Channels::Bgr) => {
                    for (to, from) in place.iter_mut().zip(pixel.iter().rev()) {
                        *to = *from;
                    }
                }
                (pixel, _) => place.copy_from_slice(pixel),
            }
        }
        Ok(tvec!(tensor))
    }
}

#[cfg(test)]
mod tests;
