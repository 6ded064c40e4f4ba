//! Numbers as bytes with a scale and a zero point, and back.

use belljar_abi::kernel::{Dequantize, Quantize};

use super::super::regions::{Region, Regions};
use super::super::{Refused, Watch, done};
use super::path::{Job, Path, Tiles};

/// Number of elements between checks of the deadline.
const BETWEEN: usize = 1 << 16;

/// 1.5 · 2²³: the last bits of its sum with a small number are that number, rounded to the nearest
/// integer, of two equally near ones to the even one.
const ROUNDING: f32 = 12_582_912.0;

/// Checks a quantization and computes it.
pub(in super::super) fn quantize(
    memory: &mut [u8],
    quantize: &Quantize,
    watch: &Watch,
) -> Result<(), Refused> {
    quantize_by(Path::of(watch.set()), memory, quantize, watch)
}

pub(super) fn quantize_by(
    path: Path,
    memory: &mut [u8],
    quantize: &Quantize,
    watch: &Watch,
) -> Result<(), Refused> {
    let q = quantize;
    let ([min, max], zero) = range(q.signed, q.zero)?;
    if q.count == 0 || q.nan > 255 {
        return Err(Refused::Malformed);
    }
    let input = Region::new(memory, q.input, q.count.into())?;
    let output = Region::new(memory, q.output, u64::from(q.count).div_ceil(4))?;
    let (output, regions) = Regions::split(memory, output)?;
    let input = regions.get(input)?;
    // The region may end after the last byte.
    let output = &mut bytemuck::cast_slice_mut(output)[..q.count as usize];
    let bounds = [min, max].map(|bound| (bound - zero) as f32);
    let scale = f32::from_bits(q.scale);
    done(path.run(Numbers { input, output, scale, bounds, zero, nan: q.nan as u8, watch }))
}

/// The range of a type of bytes, and a zero point in it.
fn range(signed: u32, zero: u32) -> Result<([i32; 2], i32), Refused> {
    let range = match signed {
        0 => [0, 255],
        1 => [-128, 127],
        _ => return Err(Refused::Malformed),
    };
    let zero = zero.cast_signed();
    if zero < range[0] || zero > range[1] {
        return Err(Refused::Malformed);
    }
    Ok((range, zero))
}

/// Checks a dequantization and computes it.
pub(in super::super) fn dequantize(
    memory: &mut [u8],
    dequantize: &Dequantize,
    watch: &Watch,
) -> Result<(), Refused> {
    dequantize_by(Path::of(watch.set()), memory, dequantize, watch)
}

pub(super) fn dequantize_by(
    path: Path,
    memory: &mut [u8],
    dequantize: &Dequantize,
    watch: &Watch,
) -> Result<(), Refused> {
    let d = dequantize;
    let (_, zero) = range(d.signed, d.zero)?;
    if d.count == 0 {
        return Err(Refused::Malformed);
    }
    let output = Region::new(memory, d.output, d.count.into())?;
    let (output, regions) = Regions::split(memory, output)?;
    let input = regions.bytes(d.input, d.count.into())?;
    let (signed, scale) = (d.signed == 1, f32::from_bits(d.scale));
    done(path.run(Bytes { input, output, signed, zero, scale, watch }))
}

struct Bytes<'a, 'o> {
    input: &'a [u8],
    output: &'o mut [f32],
    signed: bool,
    zero: i32,
    scale: f32,
    watch: &'a Watch,
}

impl Job for Bytes<'_, '_> {
    #[inline(always)]
    unsafe fn run<T: Tiles>(self) -> bool {
        let Bytes { input, output, signed, zero, scale, watch } = self;
        let flip = if signed { 0x80 } else { 0 };
        // Of signed bytes with their top bit flipped, the zero point is 128 higher.
        let zero = zero.wrapping_add(flip.into());
        for (from, to) in input.chunks(BETWEEN).zip(output.chunks_mut(BETWEEN)) {
            if watch.expired() {
                return false;
            }
            for (from, to) in from.iter().zip(to) {
                *to = i32::from(from ^ flip).wrapping_sub(zero) as f32 * scale;
            }
        }
        true
    }
}

struct Numbers<'a, 'o> {
    input: &'a [f32],
    output: &'o mut [u8],
    scale: f32,
    /// The lowest and the highest result minus the zero point.
    bounds: [f32; 2],
    zero: i32,
    nan: u8,
    watch: &'a Watch,
}

impl Job for Numbers<'_, '_> {
    #[inline(always)]
    unsafe fn run<T: Tiles>(self) -> bool {
        let Numbers { input, output, scale, bounds: [low, high], zero, nan, watch } = self;
        for (from, to) in input.chunks(BETWEEN).zip(output.chunks_mut(BETWEEN)) {
            if watch.expired() {
                return false;
            }
            for (from, to) in from.iter().zip(to) {
                let quotient = from / scale;
                let rounded = (quotient.clamp(low, high) + ROUNDING).to_bits();
                let byte = rounded.wrapping_add(zero.cast_unsigned()) as u8;
                *to = if quotient.is_nan() { nan } else { byte };
            }
        }
        true
    }
}
