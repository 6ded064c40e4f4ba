//! The flags that say how PNG and JPEG inputs become tensors.

use clap::{Args, ValueEnum};

#[cfg(feature = "programs")]
use crate::failure::Failure;

/// The help heading of the image flags.
const IMAGES: &str = "Images (inputs that are PNG or JPEG files)";

/// How PNG and JPEG inputs are converted to tensors.
#[derive(Debug, Args)]
pub(crate) struct PictureArgs {
    /// Resize images to WIDTHxHEIGHT, or so that their shorter side has N pixels. Default: the
    /// height and width that the input declares, if it declares both; otherwise images keep their
    /// size
    #[arg(long, help_heading = IMAGES, value_name = "WIDTHxHEIGHT|N", value_parser = size)]
    pub(crate) resize: Option<Size>,

    /// How to resize an image to a different aspect ratio. Default: stretch
    #[arg(long, help_heading = IMAGES, value_name = "FIT")]
    pub(crate) fit: Option<FitArg>,

    /// Keep only the central WIDTHxHEIGHT or NxN pixels, after --resize. Default: no crop
    #[arg(long, help_heading = IMAGES, value_name = "WIDTHxHEIGHT|N", value_parser = size)]
    pub(crate) center_crop: Option<Size>,

    /// Multiply each pixel value (0 to 255) by this. Default: 1/255
    #[arg(long, help_heading = IMAGES, value_name = "FACTOR", value_parser = number, allow_hyphen_values = true)]
    pub(crate) scale: Option<f64>,

    /// Subtract this from scaled pixel values: one number, or one for each channel in the order of
    /// --channels. Default: 0
    #[arg(long, help_heading = IMAGES, value_name = "N[,N,N]", value_delimiter = ',', value_parser = number)]
    #[arg(allow_hyphen_values = true)]
    pub(crate) mean: Option<Vec<f64>>,

    /// Then divide by this: one number, or one for each channel. Default: 1
    #[arg(long, help_heading = IMAGES, value_name = "N[,N,N]", value_delimiter = ',', value_parser = divisor)]
    #[arg(allow_hyphen_values = true)]
    pub(crate) std: Option<Vec<f64>>,

    /// The channels and their order. Default: gray for an input of one channel, otherwise rgb
    #[arg(long, help_heading = IMAGES, value_name = "CHANNELS")]
    pub(crate) channels: Option<ChannelsArg>,

    /// The axes of the input: n batch (of one), c channels, h height, w width. Default: inferred
    /// from the input's shape, if only one axis can hold one or three channels
    #[arg(long, help_heading = IMAGES, value_name = "AXES")]
    pub(crate) layout: Option<LayoutArg>,

    /// Do not rotate images. Default: rotate them as their EXIF orientation says
    #[arg(long, help_heading = IMAGES)]
    pub(crate) ignore_orientation: bool,
}

impl PictureArgs {
    /// The first flag that was given.
    pub(crate) fn first_given(&self) -> Option<&'static str> {
        let flags = [
            ("--resize", self.resize.is_some()),
            ("--fit", self.fit.is_some()),
            ("--center-crop", self.center_crop.is_some()),
            ("--scale", self.scale.is_some()),
            ("--mean", self.mean.is_some()),
            ("--std", self.std.is_some()),
            ("--channels", self.channels.is_some()),
            ("--layout", self.layout.is_some()),
            ("--ignore-orientation", self.ignore_orientation),
        ];
        flags.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }

    /// Fails if a flag was given, because a guest program decodes images itself.
    #[cfg(feature = "programs")]
    pub(crate) fn refuse_for_program(&self) -> Result<(), Failure> {
        match self.first_given() {
            None => Ok(()),
            Some(flag) => {
                let text =
                    format!("{flag} applies only to models: a guest program decodes images itself");
                Err(Failure::usage(text).hint("remove the flag"))
            }
        }
    }
}

/// A size in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// Width and height.
    Both(u32, u32),
    /// One side.
    One(u32),
}

/// How an image is resized to a different aspect ratio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FitArg {
    /// Resize width and height independently; the aspect ratio changes
    Stretch,
    /// Keep the aspect ratio, and cut off the excess equally at both ends
    Crop,
}

/// Channels of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ChannelsArg {
    Rgb,
    Bgr,
    Gray,
}

/// Axes of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LayoutArg {
    Nchw,
    Nhwc,
    Chw,
    Hwc,
    Hw,
}

/// Parses `640x480` or `224`.
fn size(text: &str) -> Result<Size, String> {
    let side = |text: &str| match text.trim().parse::<u32>() {
        Ok(side @ 1..=65_535) => Ok(side),
        _ => Err("expected WIDTHxHEIGHT such as 640x480, or one number; each from 1 to 65535"),
    };
    match text.split_once(['x', 'X', '×']) {
        Some((width, height)) => Ok(Size::Both(side(width)?, side(height)?)),
        None => Ok(Size::One(side(text)?)),
    }
}

/// Parses a number, or a fraction such as `1/255`.
fn number(text: &str) -> Result<f64, String> {
    let one = |text: &str| text.trim().parse::<f64>().ok();
    let value = match text.split_once('/') {
        Some((over, under)) => one(over).zip(one(under)).map(|(over, under)| over / under),
        None => one(text),
    };
    let finite = value.filter(|value| value.is_finite());
    finite.ok_or_else(|| "expected a number such as 0.485, or a fraction such as 1/255".to_owned())
}

/// Parses a number that is not zero.
fn divisor(text: &str) -> Result<f64, String> {
    number(text).and_then(|value| match value {
        0.0 => Err("expected a number other than 0: pixel values are divided by it".to_owned()),
        value => Ok(value),
    })
}
