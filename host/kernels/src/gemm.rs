//! Matrix products of tensors.

use belljar_abi::kernel::Gemm;
use belljar_abi::narrow::Narrow;

use super::product::{Finish, Left, Panels, Product, Right, packed_right_len};
use super::regions::{Region, Regions, Stored, extent, narrow_type, volume};
use super::vector::{Job, Vector};
use super::{Refused, Rows, Watch, in_parallel, split_rows};

/// Checks a product and computes it.
pub(super) fn gemm(memory: &mut [u8], gemm: &Gemm, watch: &Watch) -> Result<(), Refused> {
    let g = gemm;
    if [g.batch, g.m, g.n, g.k].contains(&0) {
        return Err(Refused::Malformed);
    }
    let a = extent(&[(g.batch, g.a_batch_stride), (g.m, g.a_row_stride), (g.k, g.a_step_stride)])?;
    let packed = g.b_step_stride == 0;
    let b = if packed {
        // An operand that all products share has a stride of 0.
        if g.batch > 1 && g.b_batch_stride == 0 {
            return Err(Refused::Malformed);
        }
        let one = packed_right_len(g.n as usize, g.k as usize) as u64;
        let before = u64::from(g.batch - 1).checked_mul(g.b_batch_stride.into());
        before.and_then(|before| before.checked_add(one)).ok_or(Refused::OutOfBounds)?
    } else {
        extent(&[(g.batch, g.b_batch_stride), (g.k, g.b_step_stride), (g.n, g.b_column_stride)])?
    };
    let (b_type, round_sum) = (narrow_type(g.b_type)?, narrow_type(g.round_sum)?);
    let round = narrow_type(g.round)?;
    if b_type.is_some() && !packed {
        return Err(Refused::Malformed);
    }
    let a = Region::new(memory, g.a, a)?;
    let b = Region::of(memory, g.b, b, b_type)?;
    let bias = (g.bias != 0).then(|| Region::new(memory, g.bias, g.n.into())).transpose()?;
    let output = Region::new(memory, g.output, volume(&[g.batch, g.m, g.n])?)?;
    let (output, regions) = Regions::split(memory, output)?;
    let (a, b) = (regions.get(a)?, Stored::new(regions.get(b)?, b_type));
    let bias = bias.map(|bias| regions.get(bias)).transpose()?;
    let jobs = split_rows(output, g.n as usize, g.m as usize, 8, watch.threads());
    in_parallel(watch, g.scratch_bytes(), jobs, |part| {
        super::dispatch(watch.set(), Products { gemm, a, b, bias, round_sum, round, part, watch })
    })
}

struct Products<'a, 'o> {
    gemm: &'a Gemm,
    a: &'a [f32],
    b: Stored<'a>,
    bias: Option<&'a [f32]>,
    round_sum: Option<Narrow>,
    round: Option<Narrow>,
    part: Rows<'o>,
    watch: &'a Watch,
}

impl Job for Products<'_, '_> {
    type Output = bool;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> bool {
        let Products { gemm: g, a, b, bias, round_sum, round, part, watch } = self;
        let n = g.n as usize;
        let mut panels = Panels::new(watch);
        for (first, output) in part.pieces() {
            let (batch, row) = (first / g.m as usize, first % g.m as usize);
            let row_stride = g.a_row_stride as usize;
            let b = b.from(batch * g.b_batch_stride as usize);
            let product = Product {
                m: output.len() / n,
                n,
                k: g.k as usize,
                left: Left::Strided {
                    elements: &a[batch * g.a_batch_stride as usize + row * row_stride..],
                    row: row_stride,
                    step: g.a_step_stride as usize,
                },
                right: match (g.b_step_stride, b) {
                    (step @ 1.., Stored::Single(elements)) => Right::Strided {
                        elements,
                        step: step as usize,
                        column: g.b_column_stride as usize,
                    },
                    _ => Right::Packed(b),
                },
                finish: Finish {
                    row_bias: None,
                    round_sum,
                    column_bias: bias,
                    residual: None,
                    round,
                    low: f32::from_bits(g.low),
                    high: f32::from_bits(g.high),
                },
            };
            // SAFETY: the caller's.
            if !unsafe { product.run::<V>(output, &mut panels, watch) } {
                return false;
            }
        }
        true
    }
}
