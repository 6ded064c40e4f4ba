//! The message for converting an image file to a tensor: the options, then the bytes of the file.
//!
//! The file comes last and without a length, so that the host can read it directly to the end of
//! the message.

use alloc::vec::Vec;

use crate::DType;
use crate::header::{Kind, expect_header, write_header};
use crate::reader::{DecodeError, Reader};
use crate::writer::Writer;

/// The axes of the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Layout {
    /// A batch of one, channels, height, width.
    Nchw = 0,
    /// A batch of one, height, width, channels.
    Nhwc = 1,
    /// Channels, height, width.
    Chw = 2,
    /// Height, width, channels.
    Hwc = 3,
    /// Height, width: one channel.
    Hw = 4,
}

impl Layout {
    const ALL: [Layout; 5] = [Layout::Nchw, Layout::Nhwc, Layout::Chw, Layout::Hwc, Layout::Hw];

    /// Number of axes.
    pub const fn rank(self) -> usize {
        match self {
            Layout::Nchw | Layout::Nhwc => 4,
            Layout::Chw | Layout::Hwc => 3,
            Layout::Hw => 2,
        }
    }

    /// Which axis the channels are along; `None` if they have no axis.
    pub const fn channel_axis(self) -> Option<usize> {
        match self {
            Layout::Nchw => Some(1),
            Layout::Nhwc => Some(3),
            Layout::Chw => Some(0),
            Layout::Hwc => Some(2),
            Layout::Hw => None,
        }
    }

    /// Which axes height and width are along.
    pub const fn size_axes(self) -> (usize, usize) {
        match self {
            Layout::Nchw => (2, 3),
            Layout::Nhwc | Layout::Chw => (1, 2),
            Layout::Hwc | Layout::Hw => (0, 1),
        }
    }
}

/// The channels of the tensor, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Channels {
    /// Red, green, blue.
    Rgb = 0,
    /// Blue, green, red.
    Bgr = 1,
    /// One: the luma of ITU-R BT.601.
    Gray = 2,
}

impl Channels {
    const ALL: [Channels; 3] = [Channels::Rgb, Channels::Bgr, Channels::Gray];

    /// Number of channels.
    pub const fn count(self) -> usize {
        match self {
            Channels::Rgb | Channels::Bgr => 3,
            Channels::Gray => 1,
        }
    }
}

/// The size to which an image is resized, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// This width and height, without keeping the proportions.
    Stretch(u32, u32),
    /// At least this width and height, and one of them exactly; the proportions are kept.
    Cover(u32, u32),
    /// The shorter side; the proportions are kept.
    Shorter(u32),
}

/// How an image file is converted to a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PictureOptions {
    /// Element type of the tensor: `u8`, which gets the pixels as they are, or a float.
    pub dtype: DType,
    /// Axes.
    pub layout: Layout,
    /// Channels.
    pub channels: Channels,
    /// Whether the image is turned as its EXIF orientation says.
    pub upright: bool,
    /// The size before the image is cropped, if not its own.
    pub resize: Option<Resize>,
    /// Width and height of the part in the middle that is kept, if not all.
    pub crop: Option<(u32, u32)>,
    /// A float is `(pixel * scale - mean) / std`, with the mean and std of its channel, in the
    /// order of `channels`.
    pub scale: f64,
    /// See `scale`.
    pub mean: [f64; 3],
    /// See `scale`.
    pub std: [f64; 3],
    /// Maximum size of the pixels of one step, in bytes. A larger image is refused before memory is
    /// allocated.
    pub room: u64,
}

impl PictureOptions {
    /// The message without the file, whose bytes the caller appends.
    pub fn start_message(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(256);
        write_header(&mut writer, Kind::Picture);
        writer.u32(self.dtype.to_onnx());
        writer.u32(self.layout as u32);
        writer.u32(self.channels as u32);
        writer.u32(self.upright.into());
        let (kind, width, height) = match self.resize {
            None => (0, 0, 0),
            Some(Resize::Stretch(width, height)) => (1, width, height),
            Some(Resize::Cover(width, height)) => (2, width, height),
            Some(Resize::Shorter(side)) => (3, side, side),
        };
        let (crop_width, crop_height) = self.crop.unwrap_or((0, 0));
        for value in [kind, width, height, crop_width, crop_height] {
            writer.u32(value);
        }
        let [mean, std] = [self.mean, self.std];
        for value in [self.scale].into_iter().chain(mean).chain(std) {
            writer.u64(value.to_bits());
        }
        writer.u64(self.room);
        writer.finish()
    }
}

/// Decodes the options and the bytes of the file.
pub fn decode_picture(bytes: &[u8]) -> Result<(PictureOptions, &[u8]), DecodeError> {
    let mut reader = Reader::new(bytes);
    expect_header(&mut reader, Kind::Picture)?;
    let dtype = one_of(&mut reader, "element type", DType::from_onnx)?;
    let layout = one_of(&mut reader, "layout", |code| Layout::ALL.get(code as usize).copied())?;
    let channels =
        one_of(&mut reader, "channels", |code| Channels::ALL.get(code as usize).copied())?;
    let upright = reader.bool("mark of orientation")?;
    let at = reader.at();
    let (kind, width, height) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let resize = match (kind, width, height) {
        (0, 0, 0) => None,
        (1, 1.., 1..) => Some(Resize::Stretch(width, height)),
        (2, 1.., 1..) => Some(Resize::Cover(width, height)),
        (3, 1.., _) if width == height => Some(Resize::Shorter(width)),
        _ => return Err(DecodeError::Invalid { at, what: "size" }),
    };
    let at = reader.at();
    let crop = match (reader.u32()?, reader.u32()?) {
        (0, 0) => None,
        (width @ 1.., height @ 1..) => Some((width, height)),
        _ => return Err(DecodeError::Invalid { at, what: "size of a crop" }),
    };
    let mut numbers = [0.0; 7];
    for number in &mut numbers {
        *number = f64::from_bits(reader.u64()?);
    }
    let [scale, mean @ .., a, b, c] = numbers;
    let (std, room) = ([a, b, c], reader.u64()?);
    let options =
        PictureOptions { dtype, layout, channels, upright, resize, crop, scale, mean, std, room };
    Ok((options, reader.take(reader.remaining())?))
}

fn one_of<T>(
    reader: &mut Reader<'_>,
    what: &'static str,
    decode: impl Fn(u32) -> Option<T>,
) -> Result<T, DecodeError> {
    let at = reader.at();
    decode(reader.u32()?).ok_or(DecodeError::Invalid { at, what })
}
