//! Resizes an image as Pillow does with `Resampling.BILINEAR` (`src/libImaging/Resample.c`): a
//! triangle filter along rows and then along columns, each result rounded to eight bits. The result
//! is bit-exact, or differs by one where a version of Pillow filters columns first. For shrinking,
//! the triangle is as wide as two pixels of the result, so that every pixel of the source counts
//! (antialiasing); for enlarging, this is bilinear interpolation between pixel centres.

use belljar_pixels::{Pixels, Room};

use super::PictureError;

/// Fractional bits of a weight.
const PRECISION: u32 = 32 - 8 - 2;

/// The pixels of a row or column that contribute to one pixel of the result, and their weights.
struct Window {
    first: usize,
    weights: Vec<i32>,
}

pub(super) fn resample(
    from: Pixels,
    width: usize,
    height: usize,
    room: Room,
) -> Result<Pixels, PictureError> {
    let across = if width == from.width { from } else { rows(&from, width, room)? };
    if height == across.height { Ok(across) } else { columns(&across, height, room) }
}

fn rows(from: &Pixels, width: usize, room: Room) -> Result<Pixels, PictureError> {
    let (height, channels) = (from.height, from.channels);
    room.holds(width as u64, height as u64, channels as u64)?;
    let windows = windows(from.width, width);
    let mut bytes = Vec::with_capacity(width * height * channels);
    for row in from.bytes.chunks_exact(from.width * channels) {
        for Window { first, weights } in &windows {
            for channel in 0..channels {
                let pixels = row[first * channels + channel..].iter().step_by(channels);
                bytes.push(rounded(
                    pixels.zip(weights).map(|(pixel, weight)| i32::from(*pixel) * weight),
                ));
            }
        }
    }
    Ok(Pixels { width, height, channels, bytes })
}

fn columns(from: &Pixels, height: usize, room: Room) -> Result<Pixels, PictureError> {
    let (width, channels) = (from.width, from.channels);
    room.holds(width as u64, height as u64, channels as u64)?;
    let row = width * channels;
    let mut bytes = Vec::with_capacity(row * height);
    let mut sums = vec![0; row];
    for Window { first, weights } in windows(from.height, height) {
        sums.fill(0);
        // Row by row, in memory order.
        for (pixels, weight) in from.bytes[first * row..].chunks_exact(row).zip(&weights) {
            for (sum, pixel) in sums.iter_mut().zip(pixels) {
                *sum += i32::from(*pixel) * weight;
            }
        }
        bytes.extend(sums.iter().map(|sum| rounded([*sum])));
    }
    Ok(Pixels { width, height, channels, bytes })
}

fn rounded(products: impl IntoIterator<Item = i32>) -> u8 {
    let sum = products.into_iter().fold(1 << (PRECISION - 1), |sum, product| sum + product);
    (sum >> PRECISION).clamp(0, 255) as u8
}

fn windows(from: usize, to: usize) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    let reach = scale.max(1.0);
    let window = |at: usize| {
        let centre = (at as f64 + 0.5) * scale;
        let first = (centre - reach + 0.5).max(0.0) as usize;
        let end = ((centre + reach + 0.5) as usize).min(from);
        let weight = |place: usize| (1.0 - ((place as f64 - centre + 0.5) / reach).abs()).max(0.0);
        let weights: Vec<f64> = (first..end).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: f64| (weight / sum * f64::from(1 << PRECISION) + 0.5) as i32;
        Window { first, weights: weights.into_iter().map(fixed).collect() }
    };
    (0..to).map(window).collect()
}
