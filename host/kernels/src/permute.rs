//! Permutations of a tensor's dimensions.

use belljar_abi::kernel::{KERNEL_RANK, Permute};

use super::copy::copy_scalars_apart;
use super::regions::{Region, Regions, extent_with_repeats, volume};
use super::watch::{Clock, done};
use super::{Refused, Watch};

/// The last dimension.
const LAST: usize = KERNEL_RANK - 1;

/// Rows and columns that are transposed together: a cache line of both sides.
const BLOCK: usize = 16;

/// Elements that are copied between two looks at the clock.
const PIECE: usize = 1 << 16;

type Sizes = [usize; KERNEL_RANK];

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
    let dims = permute.dims.map(|dim| dim as usize);
    let strides = permute.strides.map(|stride| stride as usize);
    if watch.expired() {
        return Err(Refused::Interrupted);
    }
    let mut clock = Clock::new(watch);
    // The dimension along which the elements of the input are consecutive.
    let inner = (0..LAST).rev().find(|axis| dims[*axis] > 1 && strides[*axis] == 1);
    done(match inner {
        Some(axis) if strides[LAST] > 1 => {
            transposes(&dims, &strides, axis, input, output, &mut clock)
        }
        _ => rows(&dims, &strides, input, output, &mut clock),
    })
}

/// Fills the output row by row; whether it finished before the deadline.
fn rows(
    dims: &Sizes,
    strides: &Sizes,
    input: &[f32],
    output: &mut [f32],
    clock: &mut Clock<'_>,
) -> bool {
    let apart = strides[LAST];
    let mut index = [0; LAST];
    let mut start = 0;
    for row in output.chunks_exact_mut(dims[LAST]) {
        for (at, to) in row.chunks_mut(PIECE).enumerate() {
            // Elements that are apart from each other take longer.
            if clock.expired_before(if apart == 1 { to.len() / 32 + 1 } else { to.len() }) {
                return false;
            }
            let from = &input[start + at * PIECE * apart..];
            match apart {
                0 => to.fill(from[0]),
                1 => to.copy_from_slice(&from[..to.len()]),
                _ => copy_scalars_apart(from, apart, to),
            }
        }
        for axis in (0..LAST).rev() {
            index[axis] += 1;
            start += strides[axis];
            if index[axis] < dims[axis] {
                break;
            }
            start -= dims[axis] * strides[axis];
            index[axis] = 0;
        }
    }
    true
}

/// Fills the output by transposing matrices, whose rows are consecutive in the input along the
/// dimension `axis` and in the output along the last one; whether it finished before the deadline.
fn transposes(
    dims: &Sizes,
    strides: &Sizes,
    axis: usize,
    input: &[f32],
    output: &mut [f32],
    clock: &mut Clock<'_>,
) -> bool {
    let mut to_strides = [1; KERNEL_RANK];
    for at in (0..LAST).rev() {
        to_strides[at] = to_strides[at + 1] * dims[at + 1];
    }
    let matrix = Matrix {
        rows: dims[axis],
        columns: dims[LAST],
        from_stride: strides[LAST],
        to_stride: to_strides[axis],
    };
    let mut others = *dims;
    (others[axis], others[LAST]) = (1, 1);
    for number in 0..others.iter().product() {
        let (mut rest, mut from, mut to): (usize, usize, usize) = (number, 0, 0);
        for at in (0..LAST).rev().filter(|at| others[*at] > 1) {
            from += rest % others[at] * strides[at];
            to += rest % others[at] * to_strides[at];
            rest /= others[at];
        }
        if !matrix.transpose(&input[from..], &mut output[to..], clock) {
            return false;
        }
    }
    true
}

/// A matrix that is transposed.
struct Matrix {
    /// Rows of the output.
    rows: usize,
    /// Columns of the output.
    columns: usize,
    /// Elements from one column of the output to the next, in the input.
    from_stride: usize,
    /// Elements from one row of the output to the next.
    to_stride: usize,
}

impl Matrix {
    fn transpose(&self, from: &[f32], to: &mut [f32], clock: &mut Clock<'_>) -> bool {
        for y in (0..self.rows).step_by(BLOCK) {
            let rows = BLOCK.min(self.rows - y);
            for x in (0..self.columns).step_by(BLOCK) {
                let columns = BLOCK.min(self.columns - x);
                if clock.expired_before(BLOCK) {
                    return false;
                }
                let from = &from[x * self.from_stride + y..];
                let to = &mut to[y * self.to_stride + x..];
                self.block(rows, columns, from, to);
            }
        }
        true
    }

    /// Transposes a block, by squares of four times four elements as far as there are any.
    fn block(&self, rows: usize, columns: usize, from: &[f32], to: &mut [f32]) {
        let (whole_rows, whole_columns) = (rows / 4 * 4, columns / 4 * 4);
        for y in (0..whole_rows).step_by(4) {
            for x in (0..whole_columns).step_by(4) {
                let from = &from[x * self.from_stride + y..];
                self.square(from, &mut to[y * self.to_stride + x..]);
            }
        }
        let mut single = |y: usize, x: usize| {
            to[y * self.to_stride + x] = from[x * self.from_stride + y];
        };
        for y in 0..whole_rows {
            (whole_columns..columns).for_each(|x| single(y, x));
        }
        for y in whole_rows..rows {
            (0..columns).for_each(|x| single(y, x));
        }
    }

    /// Transposes four times four elements. The compiler turns this into shuffles.
    #[inline(always)]
    fn square(&self, from: &[f32], to: &mut [f32]) {
        let mut square = [[0.0; 4]; 4];
        for (x, column) in square.iter_mut().enumerate() {
            column.copy_from_slice(&from[x * self.from_stride..][..4]);
        }
        let [a, b, c, d] = square;
        for y in 0..4 {
            to[y * self.to_stride..][..4].copy_from_slice(&[a[y], b[y], c[y], d[y]]);
        }
    }
}
