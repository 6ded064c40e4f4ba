//! Images as inputs. This process must never decode them: it only checks their first bytes, and a
//! sandbox without a model decodes, resizes and scales them.

use std::io::Read;

use belljar_abi::picture::{Channels, Layout, PictureOptions, Resize};

use super::super::args::{ChannelsArg, FitArg, LayoutArg, PictureArgs, Size};
use super::super::failure::Failure;
use super::source::Source;
use super::{Budget, Needed};
use belljar::internals::PictureError;
use belljar::{Dim, Model, ValueInfo};
use belljar_tensor::{DType, Tensor, TensorError};
use belljar_text::Escaped;

/// Whether a file starts with the signature of PNG or JPEG.
pub(super) fn is_picture(start: &[u8]) -> bool {
    start.starts_with(b"\x89PNG\r\n\x1a\n") || start.starts_with(b"\xff\xd8\xff")
}

/// The model that images are read for, and the image flags.
#[derive(Clone, Copy)]
pub(crate) struct Pictures<'a> {
    pub(crate) model: &'a Model,
    pub(crate) arguments: &'a PictureArgs,
}

impl Pictures<'_> {
    /// Converts an image to a tensor for the input `declared`.
    pub(super) fn read(
        self,
        input: Source,
        declared: &ValueInfo,
        source: &str,
        budget: Budget,
    ) -> Result<(Tensor, Needed), Failure> {
        let wanted = Wanted { declared, source, arguments: self.arguments };
        let options = wanted.options(self.model.policy().limits.memory)?;
        let limit = budget.left();
        let mut message = options.start_message();
        let start = message.len();
        let unreadable = |err: std::io::Error| Failure::usage(format!("{source}: {err}"));
        // Reserves the known size to avoid copies, and reads at most one byte over the limit.
        let size = input.len().map_err(unreadable)?.unwrap_or(0).min(limit);
        message.reserve_exact(usize::try_from(size).unwrap_or(0).saturating_add(1));
        let mut stream = input.stream().take(limit.saturating_add(1));
        stream.read_to_end(&mut message).map_err(unreadable)?;
        let file = (message.len() - start) as u64;
        let too_large = |what: &str| {
            budget.failure(source, TensorError::TooLarge { what: what.to_owned(), limit })
        };
        if file > limit {
            return Err(too_large("the file"));
        }
        let (tensor, cost) = self.model.picture(message).map_err(|err| match err {
            PictureError::File(why) => {
                Failure::usage(format!("{source}: {}", Escaped::new(&why))).hint(SUPPORTED_FILES)
            }
            PictureError::Size(why) => Failure::usage(format!("{source}: {}", Escaped::new(&why)))
                .hint("change --resize or --center-crop"),
            PictureError::Limit(why) => {
                let why = Escaped::new(&why);
                Failure::limit(format!("{source}: the image was not decoded: {why}"))
                    .hint("use a smaller image, or raise the limit in the policy")
            }
            PictureError::Tensor => too_large("the tensor of the image"),
            PictureError::Host(err) => err.into(),
        })?;
        if tensor.memory_len() > limit {
            return Err(too_large("the tensor of the image"));
        }
        wanted.fits(options.layout, &tensor)?;
        let bytes = file.max(tensor.byte_len());
        Ok((tensor, Needed { bytes, memory: cost.memory, time: cost.time, pictures: 1 }))
    }
}

const SUPPORTED_FILES: &str = "convert the image to a plain PNG or JPEG, or to a .npy file";

/// The size to resize an image to, and the size of the central crop.
struct Sizes {
    resize: Option<Resize>,
    crop: Option<(u32, u32)>,
}

/// The declared input and the flags.
struct Wanted<'a> {
    declared: &'a ValueInfo,
    source: &'a str,
    arguments: &'a PictureArgs,
}

impl Wanted<'_> {
    fn failure(&self, why: &str) -> Failure {
        Failure::usage(format!("{}: {why}", self.source))
    }

    fn name(&self) -> String {
        Escaped::cut(&self.declared.name, 60).to_string()
    }

    fn options(&self, room: u64) -> Result<PictureOptions, Failure> {
        let PictureArgs { scale, mean, std, ignore_orientation, .. } = self.arguments;
        let dtype = self.dtype()?;
        if dtype == DType::U8 && (scale.is_some() || mean.is_some() || std.is_some()) {
            let name = self.name();
            let why = format!("--scale, --mean and --std apply to floats, but {name} takes u8");
            return Err(self.failure(&why).hint("remove them: the input gets unscaled pixels"));
        }
        let layout = self.layout()?;
        let channels = self.channels(layout)?;
        let Sizes { resize, crop } = self.sizes(layout)?;
        Ok(PictureOptions {
            dtype,
            layout,
            channels,
            upright: !ignore_orientation,
            resize,
            crop,
            scale: scale.unwrap_or(1.0 / 255.0),
            mean: self.numbers("--mean", mean.as_deref(), channels, 0.0)?,
            std: self.numbers("--std", std.as_deref(), channels, 1.0)?,
            room,
        })
    }

    fn dtype(&self) -> Result<DType, Failure> {
        use DType::{BF16, F16, F32, F64, U8};
        match self.declared.dtype() {
            Some(dtype @ (F32 | F64 | F16 | BF16 | U8)) => Ok(dtype),
            other => {
                let found =
                    other.map_or_else(|| "an unsupported type".to_owned(), |d| d.to_string());
                let why = format!(
                    "an image converts to floats or u8, but the input {} takes {found}",
                    self.name()
                );
                Err(self.failure(&why).hint("convert the image to a .npy file"))
            }
        }
    }

    /// The layout given by the flag, or inferred from the declared shape.
    fn layout(&self) -> Result<Layout, Failure> {
        let dims = self.declared.shape.as_deref();
        let layout = self.arguments.layout.map(|layout| match layout {
            LayoutArg::Nchw => Layout::Nchw,
            LayoutArg::Nhwc => Layout::Nhwc,
            LayoutArg::Chw => Layout::Chw,
            LayoutArg::Hwc => Layout::Hwc,
            LayoutArg::Hw => Layout::Hw,
        });
        let found = layout.or_else(|| dims.and_then(inferred_layout)).ok_or_else(|| {
            let declares = dims.map_or_else(|| "no shape".to_owned(), shape_of);
            let why = format!(
                "cannot infer the layout of the input {}, which declares {declares}",
                self.name()
            );
            self.failure(&why).hint("give --layout nchw, nhwc, chw, hwc or hw")
        })?;
        if let Some(dims) = dims {
            if dims.len() != found.rank() {
                let (rank, name, shape) = (found.rank(), self.name(), shape_of(dims));
                let why = format!("--layout has {rank} axes, but the input {name} has {shape}");
                return Err(self.failure(&why).hint("give a layout with the same number of axes"));
            }
            let batch = dims.first().filter(|_| found.rank() == 4);
            if let Some(Dim::Fixed(count)) = batch.filter(|dim| **dim != Dim::Fixed(1)) {
                let name = self.name();
                let why = format!("the input {name} takes a batch of {count} images, not one");
                return Err(self.failure(&why).hint("combine the images in a .npy file"));
            }
        }
        Ok(found)
    }

    fn dim(&self, axis: usize) -> Option<u64> {
        match self.declared.shape.as_deref()?.get(axis)? {
            Dim::Fixed(size) => Some(*size),
            Dim::Symbol(_) | Dim::Unknown => None,
        }
    }

    fn channels(&self, layout: Layout) -> Result<Channels, Failure> {
        let count = layout.channel_axis().map_or(Some(1), |axis| self.dim(axis));
        let channels = match self.arguments.channels {
            Some(ChannelsArg::Rgb) => Channels::Rgb,
            Some(ChannelsArg::Bgr) => Channels::Bgr,
            Some(ChannelsArg::Gray) => Channels::Gray,
            None if count == Some(1) => Channels::Gray,
            None => Channels::Rgb,
        };
        match count {
            Some(count) if count != channels.count() as u64 => {
                let (name, made) = (self.name(), channels.count());
                let why =
                    format!("the input {name} takes {count} channels, but the image has {made}");
                Err(self.failure(&why).hint(match count {
                    1 => "give --channels gray",
                    3 => "give --channels rgb or bgr",
                    _ => "change --layout, or convert the image to a .npy file",
                }))
            }
            _ => Ok(channels),
        }
    }

    fn sizes(&self, layout: Layout) -> Result<Sizes, Failure> {
        let PictureArgs { resize, fit, center_crop, .. } = *self.arguments;
        let (height, width) = layout.size_axes();
        let side = |axis: usize| self.dim(axis).and_then(|side| u32::try_from(side).ok());
        let declared = side(width).zip(side(height)).filter(|(w, h)| *w > 0 && *h > 0);
        let crop = center_crop.map(|size| match size {
            Size::Both(width, height) => (width, height),
            Size::One(side) => (side, side),
        });
        if crop.is_some() && fit == Some(FitArg::Crop) {
            let why = "--fit crop and --center-crop cannot be combined";
            return Err(self.failure(why).hint("use one of the two"));
        }
        let target = match (resize, crop, declared) {
            (Some(Size::One(_)), ..) if fit.is_some() => {
                let why = "--fit needs a width and a height, but --resize has one number";
                return Err(self.failure(why).hint("write --resize WIDTHxHEIGHT"));
            }
            (Some(Size::One(side)), ..) => {
                return Ok(Sizes { resize: Some(Resize::Shorter(side)), crop });
            }
            (Some(Size::Both(width, height)), ..) => Some((width, height)),
            (None, None, declared) => declared,
            (None, Some(_), _) => None,
        };
        match (target, fit) {
            (None, Some(_)) => {
                let name = self.name();
                let why = format!("--fit needs a size, but the input {name} declares none");
                Err(self.failure(&why).hint("give --resize WIDTHxHEIGHT"))
            }
            (None, None) => Ok(Sizes { resize: None, crop }),
            (Some((width, height)), None | Some(FitArg::Stretch)) => {
                Ok(Sizes { resize: Some(Resize::Stretch(width, height)), crop })
            }
            (Some((width, height)), Some(FitArg::Crop)) => {
                let size = (width, height);
                Ok(Sizes { resize: Some(Resize::Cover(width, height)), crop: Some(size) })
            }
        }
    }

    /// One number for each channel.
    fn numbers(
        &self,
        flag: &str,
        given: Option<&[f64]>,
        channels: Channels,
        default: f64,
    ) -> Result<[f64; 3], Failure> {
        match (given, channels.count()) {
            (None, _) => Ok([default; 3]),
            (Some([one]), _) => Ok([*one; 3]),
            (Some([a, b, c]), 3) => Ok([*a, *b, *c]),
            (Some(given), count) => {
                let given = given.len();
                let why = format!("{flag} has {given} numbers, but the image has {count} channels");
                Err(self.failure(&why).hint("give one number, or one for each channel"))
            }
        }
    }

    /// Checks that the tensor has the declared sizes, and suggests flags if not.
    fn fits(&self, layout: Layout, tensor: &Tensor) -> Result<(), Failure> {
        let (height, width) = layout.size_axes();
        let found = |axis: usize| tensor.shape().get(axis).map(|side| *side as u64);
        let differs = |axis: usize| self.dim(axis).is_some_and(|side| found(axis) != Some(side));
        if !differs(height) && !differs(width) {
            return Ok(());
        }
        let shown =
            |side: Option<u64>| side.map_or_else(|| "?".to_owned(), |side| side.to_string());
        let size = |width, height| format!("{}x{}", shown(width), shown(height));
        let wanted = size(self.dim(width), self.dim(height));
        let why = format!(
            "the image has size {} after resizing and cropping, but the input {} takes {wanted}",
            size(found(width), found(height)),
            self.name(),
        );
        let cut = match (found(width), found(height), self.dim(width), self.dim(height)) {
            (Some(w), Some(h), Some(to_w), Some(to_h)) => w >= to_w && h >= to_h,
            _ => false,
        };
        let hint = match (cut, wanted.contains('?')) {
            (_, true) => "give --resize WIDTHxHEIGHT with the size of the input".to_owned(),
            (true, _) => format!("give --center-crop {wanted}, or --resize {wanted}"),
            (false, _) => {
                format!("give --resize {wanted}, with --fit crop to keep the aspect ratio")
            }
        };
        Err(self.failure(&why).hint(hint))
    }
}

/// Infers the layout from a declared shape: exactly one of the two possible channel axes must have
/// size 1 or 3. An axis of unknown size is the channel axis if the other one is larger than four.
fn inferred_layout(dims: &[Dim]) -> Option<Layout> {
    let (planes, pixels) = match dims {
        [_, _] => return Some(Layout::Hw),
        [_, _, _] => (Layout::Chw, Layout::Hwc),
        [_, _, _, _] => (Layout::Nchw, Layout::Nhwc),
        _ => return None,
    };
    let dim = |layout: Layout| layout.channel_axis().and_then(|axis| dims.get(axis));
    let certain = |dim: &Dim| matches!(dim, Dim::Fixed(1 | 3));
    let possible = |dim: &Dim| !matches!(dim, Dim::Fixed(5..));
    let (first, last) = (dim(planes)?, dim(pixels)?);
    match (certain(first), certain(last)) {
        (true, false) => Some(planes),
        (false, true) => Some(pixels),
        (true, true) => None,
        // The first of three axes may also be a batch of gray images.
        (false, false) if dims.len() == 3 => None,
        (false, false) => match (possible(first), possible(last)) {
            (true, false) => Some(planes),
            (false, true) => Some(pixels),
            _ => None,
        },
    }
}

fn shape_of(dims: &[Dim]) -> String {
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(size) => size.to_string(),
        Dim::Symbol(symbol) => Escaped::cut(symbol, 20).to_string(),
        Dim::Unknown => "?".to_owned(),
    };
    format!("[{}]", dims.iter().map(dim).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_inferred_only_from_unambiguous_shapes() {
        let any = || Dim::Symbol("n".to_owned());
        let f = Dim::Fixed;
        for (dims, expected) in [
            (vec![f(1), f(3), f(224), f(224)], Some(Layout::Nchw)),
            (vec![f(1), f(224), f(224), f(3)], Some(Layout::Nhwc)),
            (vec![any(), f(3), any(), any()], Some(Layout::Nchw)),
            (vec![Dim::Unknown, any(), any(), f(1)], Some(Layout::Nhwc)),
            (vec![any(), any(), f(32), f(32)], Some(Layout::Nchw)),
            (vec![any(), f(32), f(32), any()], Some(Layout::Nhwc)),
            (vec![f(1), f(1), f(28), f(28)], Some(Layout::Nchw)),
            (vec![any(), any(), any(), any()], None),
            (vec![f(1), f(3), f(224), f(3)], None),
            (vec![f(1), f(4), f(224), f(224)], Some(Layout::Nchw)),
            (vec![f(1), f(4), any(), any()], None),
            (vec![f(3), f(32), f(32)], Some(Layout::Chw)),
            (vec![f(32), f(32), f(1)], Some(Layout::Hwc)),
            (vec![any(), f(28), f(28)], None),
            (vec![f(28), f(28)], Some(Layout::Hw)),
            (vec![f(784)], None),
            (vec![f(1), f(3), f(8), f(8), f(8)], None),
        ] {
            assert_eq!(inferred_layout(&dims), expected, "{dims:?}");
        }
    }
}
