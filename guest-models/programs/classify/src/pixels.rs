//! Converts an image file to the model's input.

use std::io::Cursor;

/// Maximum number of pixels of an image. More would not fit the memory that a policy gives such a
/// program.
const MAX_PIXELS: u64 = 1 << 26;

/// Pixels along each side of the model's input.
pub(crate) const SIDE: usize = 224;

/// An image: rows of pixels of three bytes each.
pub(crate) struct Image {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Image {
    /// Decodes a PNG or JPEG file, as its first bytes show.
    pub(crate) fn decode(file: &[u8]) -> Result<Image, String> {
        if file.starts_with(b"\x89PNG\r\n\x1a\n") {
            png(file).map_err(|err| format!("the PNG file: {err}"))
        } else if file.starts_with(b"\xff\xd8") {
            jpeg(file).map_err(|err| format!("the JPEG file: {err}"))
        } else {
            Err("the input is neither a PNG nor a JPEG file".into())
        }
    }

    /// Takes over pixels of this many bytes each, of which the first one or three are colours.
    fn new(width: u32, height: u32, each: usize, bytes: &[u8]) -> Result<Image, String> {
        let (width, height) = (width as usize, height as usize);
        let count = width.checked_mul(height).ok_or("it is too large")?;
        if count == 0 || count.checked_mul(each) != Some(bytes.len()) {
            return Err("the number of decoded pixels does not match its header".into());
        }
        let rgb = match each {
            3 => bytes.to_vec(),
            1 | 2 => bytes.chunks_exact(each).flat_map(|pixel| [pixel[0]; 3]).collect(),
            _ => bytes.chunks_exact(each).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        };
        Ok(Image { width, height, rgb })
    }

    /// The model's input, by colour: the resized image, each pixel the mean of the pixels that it
    /// covers, or a copy of the pixel that contains it; then `(value - 128) / 64`.
    pub(crate) fn numbers(&self) -> Vec<f32> {
        let mut numbers = Vec::with_capacity(3 * SIDE * SIDE);
        for colour in 0..3 {
            for y in 0..SIDE {
                let rows = part(y, self.height);
                for x in 0..SIDE {
                    let columns = part(x, self.width);
                    let mut sum = 0u64;
                    for row in rows.clone() {
                        for column in columns.clone() {
                            sum += u64::from(self.rgb[3 * (row * self.width + column) + colour]);
                        }
                    }
                    let mean = sum as f32 / (rows.len() * columns.len()) as f32;
                    numbers.push((mean - 128.0) / 64.0);
                }
            }
        }
        numbers
    }
}

/// The range of the image's pixels that a pixel of the model covers; at least one.
fn part(at: usize, size: usize) -> std::ops::Range<usize> {
    let start = at * size / SIDE;
    start..((at + 1) * size / SIDE).max(start + 1)
}

fn png(file: &[u8]) -> Result<Image, String> {
    let text = |err: png::DecodingError| err.to_string();
    let mut decoder = png::Decoder::new(Cursor::new(file));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(text)?;
    let (width, height) = reader.info().size();
    fits(width, height)?;
    let mut bytes = vec![0; reader.output_buffer_size().ok_or("it is too large")?];
    let frame = reader.next_frame(&mut bytes).map_err(text)?;
    let bytes = bytes.get(..frame.buffer_size()).ok_or("it is cut off")?;
    Image::new(frame.width, frame.height, frame.color_type.samples(), bytes)
}

fn jpeg(file: &[u8]) -> Result<Image, String> {
    let text = |err: jpeg_decoder::Error| err.to_string();
    let mut decoder = jpeg_decoder::Decoder::new(Cursor::new(file));
    decoder.read_info().map_err(text)?;
    let info = decoder.info().ok_or("its header is missing")?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    fits(width, height)?;
    let each = match info.pixel_format {
        jpeg_decoder::PixelFormat::L8 => 1,
        jpeg_decoder::PixelFormat::RGB24 => 3,
        other => return Err(format!("pixels of {other:?} are not supported")),
    };
    Image::new(width, height, each, &decoder.decode().map_err(text)?)
}

fn fits(width: u32, height: u32) -> Result<(), String> {
    match u64::from(width) * u64::from(height) {
        1..=MAX_PIXELS => Ok(()),
        _ => Err(format!(
            "{width} by {height} pixels are not supported; an image must have 1 to {MAX_PIXELS}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_means_or_copies() {
        assert_eq!(part(0, 448), 0..2);
        assert_eq!(part(223, 448), 446..448);
        assert_eq!(part(0, 1), 0..1);
        assert_eq!(part(223, 1), 0..1);
        for size in [1, 2, 100, 223, 224, 225, 1000] {
            assert!((0..SIDE).all(|at| part(at, size).end <= size));
        }
        let image = Image::new(2, 1, 1, &[128, 192]).expect("an image");
        let numbers = image.numbers();
        assert_eq!((numbers[0], numbers[SIDE - 1]), (0.0, 1.0));
        assert_eq!(numbers.len(), 3 * SIDE * SIDE);
    }

    #[test]
    fn invalid_images_are_refused() {
        assert!(Image::new(2, 2, 3, &[0; 11]).is_err());
        assert!(Image::new(0, 0, 3, &[]).is_err());
        for file in [&b""[..], b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"] {
            assert!(Image::decode(file).is_err(), "{file:?}");
        }
    }
}
