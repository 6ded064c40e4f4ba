//! Converts an image file to an input tensor: decodes it, turns it upright, resizes, crops and
//! scales it.
//!
//! The host makes this call in a sandbox without a model, so that an exploited bug in a decoder
//! reaches neither the model nor the supervisor. The message is that of [`belljar_abi::picture`];
//! the answer is one tensor, `image`.
//!
//! This must never allocate a size that a file declares before comparing it with what the file can
//! hold and what the policy allows.

mod decode;
mod orient;
mod resample;

use belljar_abi::narrow::Narrow;
use belljar_abi::picture::{Channels, Layout, PictureOptions, Resize, decode_picture};
use belljar_abi::{DType, TensorView, encode_tensors};
use belljar_pixels::{MAX_SIDE, Pixels, Room, gray};

/// Why an image cannot be converted.
#[derive(Debug)]
pub(crate) enum PictureError {
    /// The host's message is invalid.
    Message(String),
    /// The file cannot be decoded.
    File(String),
    /// The image cannot be resized or cropped to the requested size.
    Size(String),
    /// The image needs more memory than is allowed.
    TooLarge(String),
}

/// Converts the image in a message, and returns the message with its tensor.
pub(crate) fn picture(message: &[u8]) -> Result<Vec<u8>, PictureError> {
    let (options, file) =
        decode_picture(message).map_err(|err| PictureError::Message(err.to_string()))?;
    let room = Room(options.room);
    let (mut pixels, orientation) = decode::decode(file, room)?;
    if options.channels == Channels::Gray {
        pixels = gray(pixels);
    }
    if options.upright {
        pixels = orient::turned(pixels, orientation);
    }
    if let Some(resize) = options.resize {
        let (width, height) = resized(resize, &pixels)?;
        pixels = resample::resample(pixels, width, height, room)?;
    }
    if let Some((width, height)) = options.crop {
        pixels = cropped(&pixels, width as usize, height as usize)?;
    }
    tensor(&pixels, &options)
}

/// The size of the resized image.
fn resized(resize: Resize, pixels: &Pixels) -> Result<(usize, usize), PictureError> {
    let (from_width, from_height) = (pixels.width as u64, pixels.height as u64);
    // The other side keeps the aspect ratio, rounded down as in torchvision.
    let by_width = |width: u64| (width, width * from_height / from_width);
    let by_height = |height: u64| (height * from_width / from_height, height);
    let (width, height) = match resize {
        Resize::Stretch(width, height) => (u64::from(width), u64::from(height)),
        Resize::Cover(width, height) => {
            let (width, height) = (u64::from(width), u64::from(height));
            match from_width * height <= width * from_height {
                true => by_width(width),
                false => by_height(height),
            }
        }
        Resize::Shorter(side) => match from_width <= from_height {
            true => by_width(u64::from(side)),
            false => by_height(u64::from(side)),
        },
    };
    match (width, height) {
        (1..=MAX_SIDE, 1..=MAX_SIDE) => Ok((width as usize, height as usize)),
        _ => Err(PictureError::Size(format!(
            "the image has {from_width}x{from_height} pixels and cannot be resized to \
             {width}x{height}: sides must be from 1 to {MAX_SIDE}"
        ))),
    }
}

/// Crops an image to its centre. If an odd number of pixels is cut off, the offset is rounded to
/// even, as in torchvision's `CenterCrop`.
fn cropped(from: &Pixels, width: usize, height: usize) -> Result<Pixels, PictureError> {
    if width > from.width || height > from.height {
        let (has_width, has_height) = (from.width, from.height);
        return Err(PictureError::Size(format!(
            "the image has {has_width}x{has_height} pixels, which cannot be cropped to \
             {width}x{height}"
        )));
    }
    let start = |over: usize| over / 2 + usize::from(over % 4 == 3);
    let (left, top) = (start(from.width - width), start(from.height - height));
    let channels = from.channels;
    let mut bytes = Vec::with_capacity(width * height * channels);
    for row in from.bytes.chunks_exact(from.width * channels).skip(top).take(height) {
        bytes.extend_from_slice(&row[left * channels..(left + width) * channels]);
    }
    Ok(Pixels { width, height, channels, bytes })
}

/// The message with the tensor.
fn tensor(pixels: &Pixels, options: &PictureOptions) -> Result<Vec<u8>, PictureError> {
    let PictureOptions { layout, channels, dtype, room, .. } = *options;
    let size = match dtype {
        DType::U8 | DType::F32 | DType::F64 | DType::F16 | DType::BF16 => dtype.size(),
        _ => None,
    };
    let Some(size) = size else {
        return Err(PictureError::Message(format!("an image cannot become a tensor of {dtype}")));
    };
    if layout == Layout::Hw && channels != Channels::Gray {
        return Err(PictureError::Message("a layout of two axes requires a single channel".into()));
    }
    let (width, height, count) = (pixels.width, pixels.height, channels.count());
    Room(room).holds(width as u64, height as u64, (count * size) as u64)?;
    let (w, h, c) = (width as u64, height as u64, count as u64);
    let dims = match layout {
        Layout::Nchw => vec![1, c, h, w],
        Layout::Nhwc => vec![1, h, w, c],
        Layout::Chw => vec![c, h, w],
        Layout::Hwc => vec![h, w, c],
        Layout::Hw => vec![h, w],
    };
    let planes = matches!(layout, Layout::Nchw | Layout::Chw);
    let area = width * height;
    let mut data = vec![0; area * count * size];
    for channel in 0..count {
        let source = match (pixels.channels, channels) {
            // A single channel is copied to all three.
            (1, _) => 0,
            (_, Channels::Bgr) => count - 1 - channel,
            (_, Channels::Rgb | Channels::Gray) => channel,
        };
        let values: Vec<u8> =
            (0..=u8::MAX).flat_map(|pixel| value(pixel, channel, options)).collect();
        let (start, step) = if planes { (channel * area, 1) } else { (channel, count) };
        let sources = pixels.bytes.iter().skip(source).step_by(pixels.channels);
        let targets = data.chunks_exact_mut(size).skip(start).step_by(step);
        for (target, pixel) in targets.zip(sources).take(area) {
            let at = usize::from(*pixel) * size;
            target.copy_from_slice(&values[at..at + size]);
        }
    }
    Ok(encode_tensors(&[TensorView { name: "image", dtype, dims, data: &data }]))
}

/// The encoded element for a pixel value, computed in float64 and rounded once.
fn value(pixel: u8, channel: usize, options: &PictureOptions) -> Vec<u8> {
    let PictureOptions { dtype, scale, mean, std, .. } = options;
    let value = (f64::from(pixel) * scale - mean[channel]) / std[channel];
    match (dtype, Narrow::of(*dtype)) {
        (DType::F32, _) => (value as f32).to_le_bytes().to_vec(),
        (DType::F64, _) => value.to_le_bytes().to_vec(),
        (_, Some(narrow)) => narrow.encode_f64(value).to_le_bytes().to_vec(),
        (_, None) => vec![pixel],
    }
}
