//! Matrix products with right operands of whole numbers of a few bits, quantized in blocks.

use belljar_abi::kernel::BlockGemm;
use belljar_abi::narrow::Narrow;

use super::product::{Blocks, Finish, Left, Panels, Product, Right, packed_right_len};
use super::regions::{Region, Regions, extent, narrow_type, volume};
use super::vector::{Job, Vector};
use super::{Refused, Rows, Watch, in_parallel, split_rows};

/// Checks a product and computes it.
pub(super) fn block_gemm(
    memory: &mut [u8],
    gemm: &BlockGemm,
    watch: &Watch,
) -> Result<(), Refused> {
    let g = gemm;
    if [g.m, g.n, g.k, g.block].contains(&0) || ![2, 4, 8].contains(&g.bits) {
        return Err(Refused::Malformed);
    }
    let per_word = 32 / g.bits;
    if !g.block.is_multiple_of(per_word) {
        return Err(Refused::Malformed);
    }
    let (round_sum, round) = (narrow_type(g.round_sum)?, narrow_type(g.round)?);
    let a = extent(&[(g.m, g.a_row_stride), (g.k, 1)])?;
    let columns = packed_right_len(g.n as usize, 1) as u64;
    // Both factors fit 32 bits.
    let words = columns * u64::from(g.k.div_ceil(per_word));
    let scales = columns * u64::from(g.k.div_ceil(g.block));
    let a = Region::new(memory, g.a, a)?;
    let b = Region::new(memory, g.b, words)?;
    let scales_ = Region::new(memory, g.scales, scales)?;
    // Panels are whole words wide.
    let zeros = (g.zeros != 0).then(|| Region::new(memory, g.zeros, scales / 4)).transpose()?;
    let bias = (g.bias != 0).then(|| Region::new(memory, g.bias, g.n.into())).transpose()?;
    let output = Region::new(memory, g.output, volume(&[g.m, g.n])?)?;
    let (output, regions) = Regions::split(memory, output)?;
    let zeros = zeros.map(|zeros| regions.get(zeros)).transpose()?;
    let blocks = Blocks {
        words: bytemuck::cast_slice(regions.get(b)?),
        scales: regions.get(scales_)?,
        zeros: zeros.map(bytemuck::cast_slice),
        bits: g.bits as usize,
        block: g.block as usize,
        steps: g.k as usize,
        in_registers: Blocks::in_registers(g.m as usize),
    };
    let a = regions.get(a)?;
    let bias = bias.map(|bias| regions.get(bias)).transpose()?;
    let jobs = split_rows(output, g.n as usize, g.m as usize, 8, watch.threads());
    in_parallel(watch, g.scratch_bytes(), jobs, |part| {
        let job = Products { gemm, a, blocks, bias, round_sum, round, part, watch };
        super::dispatch(watch.set(), job)
    })
}

struct Products<'a, 'o> {
    gemm: &'a BlockGemm,
    a: &'a [f32],
    blocks: Blocks<'a>,
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
        let Products { gemm: g, a, blocks, bias, round_sum, round, part, watch } = self;
        let n = g.n as usize;
        let mut panels = Panels::new(watch);
        for (first, output) in part.pieces() {
            let row = g.a_row_stride as usize;
            let product = Product {
                m: output.len() / n,
                n,
                k: g.k as usize,
                left: Left::Strided { elements: &a[first * row..], row, step: 1 },
                right: Right::Blocks(blocks),
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
