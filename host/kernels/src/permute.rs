//! Permutations of a tensor's dimensions.

use belljar_abi::kernel::{KERNEL_RANK, Permute};

use super::copy::copy_scalars_apart;
use super::regions::{Region, Regions, extent_with_repeats, volume};
use super::{Refused, Watch};

/// Rows and columns that are transposed together, so that both sides stay in the cache.
const BLOCK: usize = 16;

/// Checks a permutation and computes it.
pub(super) fn permute(memory: &mut [u8], permute: &Permute, watch: &Watch) -> Result<(), Refused> {
    if permute.dims.contains(&0) {
        return Err(Refused::Malformed);
    }
    let mut along = [(0, 0); KERNEL_RANK];
    for (along, pair) in along.iter_mut().zip(permute.dims.iter().zip(permute.strides)) {
        *along = (*pair.0, pair.1);
    }
    let input = Region::new(memory, permute.input, extent_with_repeats(&along)?)?;
    let output = Region::new(memory, permute.output, volume(&permute.dims)?)?;
    let (output, regions) = Regions::split(memory, output)?;
    let input = regions.get(input)?;
    let [d0, d1, d2, rows, columns] = permute.dims.map(|dim| dim as usize);
    let [s0, s1, s2, row, column] = permute.strides.map(|stride| stride as usize);
    for (at, to) in output.chunks_exact_mut(rows * columns).enumerate() {
        if watch.expired() {
            return Err(Refused::Interrupted);
        }
        let (i, j, l) = (at / (d1 * d2) % d0, at / d2 % d1, at % d2);
        let from = &input[i * s0 + j * s1 + l * s2..];
        if column == 1 {
            for (y, to) in to.chunks_exact_mut(columns).enumerate() {
                to.copy_from_slice(&from[y * row..][..columns]);
            }
            continue;
        }
        for y in (0..rows).step_by(BLOCK) {
            for x in (0..columns).step_by(BLOCK) {
                for y in y..(y + BLOCK).min(rows) {
                    let end = (x + BLOCK).min(columns);
                    let to = &mut to[y * columns + x..y * columns + end];
                    let from = &from[y * row + x * column..];
                    // A stride of 0 repeats one element along the row.
                    match column {
                        0 => to.fill(from[0]),
                        _ => copy_scalars_apart(from, column, to),
                    }
                }
            }
        }
    }
    Ok(())
}
