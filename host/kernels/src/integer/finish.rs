//! What becomes of the sums of an integer product.

use belljar_abi::kernel::PANEL_COLUMNS;

use super::super::Refused;
use super::super::regions::Regions;

/// 1.5 · 2⁵²: the last bits of its sum with a small number are that number, rounded to the nearest
/// integer, of two equally near ones to the even one.
const ROUNDING: f64 = 6_755_399_441_055_744.0;

/// The output of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The sums.
    Sums,
    /// Single floats: `sum · scale + bias`, rounded twice.
    Floats,
    /// Bytes: `(sum + bias) · scale`, computed with double floats, rounded to the nearest even and
    /// moved by the zero point. Sums and biases are smaller than 2³², so their sum is exact.
    Bytes { signed: bool },
}

impl Kind {
    fn of(word: u32) -> Option<Kind> {
        Some(match word {
            0 => Kind::Sums,
            1 => Kind::Floats,
            2 => Kind::Bytes { signed: false },
            3 => Kind::Bytes { signed: true },
            _ => return None,
        })
    }
}

/// The words of a request that say what becomes of the sums.
#[derive(Clone, Copy)]
pub(super) struct Words {
    pub(super) output_type: u32,
    pub(super) scales: u32,
    /// 0: one scale. 1: one for each row or column.
    pub(super) scale_stride: u32,
    pub(super) bias: u32,
    pub(super) zero: u32,
}

/// The parameters are those of rows if `BY_ROW` is set, else of columns.
pub(super) struct Finish<'a, const BY_ROW: bool> {
    kind: Kind,
    scales: &'a [u8],
    stride: usize,
    bias: Option<&'a [u8]>,
    zero: i32,
}

/// The parameters of the columns of a tile.
pub(super) struct Parameters {
    factors: [f64; PANEL_COLUMNS],
    biases: [i32; PANEL_COLUMNS],
}

/// Bytes of an element of the output.
pub(super) fn output_bytes(words: Words) -> Result<u64, Refused> {
    match Kind::of(words.output_type).ok_or(Refused::Malformed)? {
        Kind::Sums | Kind::Floats => Ok(4),
        Kind::Bytes { .. } => Ok(1),
    }
}

impl<'a, const BY_ROW: bool> Finish<'a, BY_ROW> {
    /// Checks the parameters for so many rows or columns.
    pub(super) fn new(words: Words, regions: &Regions<'a>, count: u32) -> Result<Self, Refused> {
        let kind = Kind::of(words.output_type).ok_or(Refused::Malformed)?;
        let zero = words.zero.cast_signed();
        let scale_bytes = match kind {
            Kind::Sums => 0,
            Kind::Floats => 4,
            Kind::Bytes { .. } => 8,
        };
        let range = match kind {
            Kind::Sums | Kind::Floats => 0..1,
            Kind::Bytes { signed: false } => 0..256,
            Kind::Bytes { signed: true } => -128..128,
        };
        let unused = kind == Kind::Sums && (words.scales, words.bias) != (0, 0);
        if words.scale_stride > 1 || unused || !range.contains(&zero) {
            return Err(Refused::Malformed);
        }
        let scales = if words.scale_stride == 0 { 1 } else { u64::from(count) };
        let scales = match kind {
            Kind::Sums => &[],
            _ => regions.bytes(words.scales, scales * scale_bytes)?,
        };
        let bias = match words.bias {
            0 => None,
            address => Some(regions.bytes(address, 4 * u64::from(count))?),
        };
        Ok(Finish { kind, scales, stride: words.scale_stride as usize, bias, zero })
    }

    /// Bytes of an element of the output.
    pub(super) fn bytes(&self) -> usize {
        match self.kind {
            Kind::Sums | Kind::Floats => 4,
            Kind::Bytes { .. } => 1,
        }
    }

    /// The scale and the bias of a row or column.
    #[inline(always)]
    fn of(&self, at: usize) -> (f64, i32) {
        let place = at * self.stride;
        let bias = self.bias.map_or([0; 4], |all| all.as_chunks::<4>().0[at]);
        let scale = match self.kind {
            Kind::Sums => 0.0,
            Kind::Floats => f64::from(f32::from_le_bytes(self.scales.as_chunks::<4>().0[place])),
            Kind::Bytes { .. } => f64::from_le_bytes(self.scales.as_chunks::<8>().0[place]),
        };
        (scale, i32::from_le_bytes(bias))
    }

    /// The parameters of the columns from `column` on.
    #[inline(always)]
    pub(super) fn parameters(&self, column: usize, valid: usize) -> Parameters {
        let mut all = Parameters { factors: [0.0; PANEL_COLUMNS], biases: [0; PANEL_COLUMNS] };
        if !BY_ROW && self.kind != Kind::Sums {
            let each = all.factors.iter_mut().zip(&mut all.biases).take(valid).enumerate();
            each.for_each(|(at, (factor, bias))| (*factor, *bias) = self.of(column + at));
        }
        all
    }

    /// Stores the sums of some columns of a row.
    #[inline(always)]
    pub(super) fn store(
        &self,
        sums: &[i32; PANEL_COLUMNS],
        row: usize,
        parameters: &mut Parameters,
        to: &mut [u8],
    ) {
        if BY_ROW && self.kind != Kind::Sums {
            let (factor, bias) = self.of(row);
            parameters.factors.fill(factor);
            parameters.biases.fill(bias);
        }
        let each = sums.iter().zip(&parameters.factors).zip(&parameters.biases);
        match self.kind {
            Kind::Sums => {
                let to = to.as_chunks_mut::<4>().0;
                to.iter_mut().zip(sums).for_each(|(to, sum)| *to = sum.to_le_bytes());
            }
            Kind::Floats => {
                let to = to.as_chunks_mut::<4>().0;
                // Without a bias nothing is added: -0 stays what it is.
                let nothing = if self.bias.is_none() { -0.0f32 } else { 0.0 };
                for (to, ((sum, factor), bias)) in to.iter_mut().zip(each) {
                    let bias = f32::from_bits(bias.cast_unsigned() | nothing.to_bits());
                    *to = (*sum as f32 * *factor as f32 + bias).to_le_bytes();
                }
            }
            Kind::Bytes { signed } => {
                let (min, max) = if signed { (-128, 127) } else { (0, 255) };
                let [low, high] = [min, max].map(|bound| f64::from(bound - self.zero));
                for (to, ((sum, factor), bias)) in to.iter_mut().zip(each) {
                    let sum = f64::from(*sum) + f64::from(*bias);
                    // Both bounds are integers, so the order of bounding and rounding is irrelevant.
                    let bounded = (sum * factor).clamp(low, high);
                    let rounded = (bounded + ROUNDING).to_bits() as u32;
                    *to = rounded.wrapping_add(self.zero.cast_unsigned()) as u8;
                }
            }
        }
    }
}
