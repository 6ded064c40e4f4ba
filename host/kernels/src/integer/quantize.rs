//! Numbers as bytes with a scale and a zero point.

use belljar_abi::kernel::Quantize;

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
    let (min, max) = match q.signed {
        0 => (0, 255),
        1 => (-128, 127),
        _ => return Err(Refused::Malformed),
    };
    let zero = q.zero.cast_signed();
    if q.count == 0 || q.nan > 255 || !(min..=max).contains(&zero) {
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
