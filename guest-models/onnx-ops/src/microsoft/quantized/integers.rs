//! Exact sums of products of 8-bit integers. The right operand, usually weights, stays in memory as
//! it is: its zero points are subtracted from the sums.

use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::{bail, ensure};

/// The largest number of products of 8-bit integers whose sum fits 32 bits.
const MAX_DEPTH: usize = 1 << 15;

/// Rows of the right operand that are multiplied with all rows of the left one before the next.
const TILE: usize = 64;

/// 8-bit integers of either sign.
#[derive(Clone, Copy)]
pub(super) enum Bytes<'t> {
    Unsigned(&'t [u8]),
    Signed(&'t [i8]),
}

impl<'t> Bytes<'t> {
    pub(super) fn of(tensor: &'t Tensor) -> TractResult<Bytes<'t>> {
        let plain = tensor.try_as_plain_ram()?;
        Ok(match tensor.datum_type() {
            DatumType::U8 => Bytes::Unsigned(plain.as_slice()?),
            DatumType::I8 => Bytes::Signed(plain.as_slice()?),
            other => bail!("{other:?} is not an 8-bit integer type"),
        })
    }

    pub(super) fn slice(self, from: usize, count: usize) -> Bytes<'t> {
        match self {
            Bytes::Unsigned(all) => Bytes::Unsigned(&all[from..from + count]),
            Bytes::Signed(all) => Bytes::Signed(&all[from..from + count]),
        }
    }

    pub(super) fn len(self) -> usize {
        match self {
            Bytes::Unsigned(all) => all.len(),
            Bytes::Signed(all) => all.len(),
        }
    }

    pub(super) fn get(self, at: usize) -> i32 {
        match self {
            Bytes::Unsigned(all) => all[at].into(),
            Bytes::Signed(all) => all[at].into(),
        }
    }

    /// All integers.
    pub(super) fn to_vec(self) -> Vec<i32> {
        match self {
            Bytes::Unsigned(all) => all.iter().copied().map(i32::from).collect(),
            Bytes::Signed(all) => all.iter().copied().map(i32::from).collect(),
        }
    }

    /// All integers minus a zero point.
    pub(super) fn centred(self, zero: i32) -> Vec<i32> {
        let mut values = self.to_vec();
        values.iter_mut().for_each(|value| *value -= zero);
        values
    }
}

/// Refuses sums that may not fit 32 bits.
pub(super) fn check_depth(depth: usize) -> TractResult<()> {
    ensure!(
        depth <= MAX_DEPTH,
        "a sum of {depth} products may not fit 32 bits, which is not implemented; the most is {MAX_DEPTH}"
    );
    Ok(())
}

/// The product of two matrices of the sizes rows, depth and columns. The left operand is given minus
/// its zero point. The right one has one zero point, or one for each column; if it is transposed, its
/// columns are its rows in memory.
pub(super) fn product(
    left: &[i32],
    right: Bytes<'_>,
    zeros: &[i32],
    [rows, depth, columns]: [usize; 3],
    transposed: bool,
) -> TractResult<Vec<i32>> {
    check_depth(depth)?;
    let matches = left.len() == rows * depth && right.len() == depth * columns;
    let zero_points = zeros.len() == 1 || zeros.len() == columns;
    ensure!(matches && zero_points, "internal error: operands of other sizes than expected");
    let mut sums = vec![0i32; rows * columns];
    if sums.is_empty() || depth == 0 {
        return Ok(sums);
    }
    match (right, transposed) {
        (Bytes::Unsigned(right), false) => add_rows(&mut sums, left, right, depth, columns),
        (Bytes::Signed(right), false) => add_rows(&mut sums, left, right, depth, columns),
        (Bytes::Unsigned(right), true) => add_dots(&mut sums, left, right, depth, columns),
        (Bytes::Signed(right), true) => add_dots(&mut sums, left, right, depth, columns),
    }
    if zeros.iter().any(|zero| *zero != 0) {
        for (sums, left) in sums.chunks_mut(columns).zip(left.chunks(depth)) {
            let total: i32 = left.iter().sum();
            for (sum, zero) in sums.iter_mut().zip(zeros.iter().cycle()) {
                // The difference fits, even if one of its terms does not.
                *sum = sum.wrapping_sub(zero.wrapping_mul(total));
            }
        }
    }
    Ok(sums)
}

/// Adds the rows of the right operand, times the numbers of the left one.
fn add_rows<T: Copy + Into<i32>>(
    sums: &mut [i32],
    left: &[i32],
    right: &[T],
    depth: usize,
    columns: usize,
) {
    for (tile, right) in right.chunks(TILE * columns).enumerate() {
        let count = right.len() / columns;
        for (sums, left) in sums.chunks_mut(columns).zip(left.chunks(depth)) {
            let left = &left[tile * TILE..][..count];
            for (factors, right) in left.chunks(4).zip(right.chunks(4 * columns)) {
                add_four(sums, factors, right);
            }
        }
    }
}

/// Adds up to four rows, times their factors.
fn add_four<T: Copy + Into<i32>>(sums: &mut [i32], factors: &[i32], right: &[T]) {
    let columns = sums.len();
    if let &[a, b, c, d] = factors {
        let (first, rest) = right.split_at(columns);
        let (second, rest) = rest.split_at(columns);
        let (third, fourth) = rest.split_at(columns);
        let rows = first.iter().zip(second).zip(third).zip(fourth);
        for (sum, (((p, q), r), s)) in sums.iter_mut().zip(rows) {
            let more = a * (*p).into() + b * (*q).into() + c * (*r).into() + d * (*s).into();
            *sum = sum.wrapping_add(more);
        }
        return;
    }
    for (factor, right) in factors.iter().zip(right.chunks(columns)) {
        for (sum, value) in sums.iter_mut().zip(right) {
            *sum = sum.wrapping_add(factor * (*value).into());
        }
    }
}

/// Sets each sum to the product of a row of the left operand with a row of the right one.
fn add_dots<T: Copy + Into<i32>>(
    sums: &mut [i32],
    left: &[i32],
    right: &[T],
    depth: usize,
    columns: usize,
) {
    for (sums, left) in sums.chunks_mut(columns).zip(left.chunks(depth)) {
        for (sum, right) in sums.iter_mut().zip(right.chunks(depth)) {
            let each = left.iter().zip(right);
            *sum = each.fold(0i32, |sum, (a, b)| sum.wrapping_add(a * (*b).into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of eight bits, the extremes often among them.
    fn numbers(count: usize, mut seed: u32) -> Vec<u8> {
        let next = |_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match seed >> 29 {
                0 => 255,
                1 => 0,
                2 => 128,
                _ => (seed >> 13) as u8,
            }
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn integer_products_are_exact_for_all_sizes_and_both_layouts() {
        for sizes in [[1, 1, 1], [3, 5, 7], [2, 64, 9], [5, 130, 17], [1, 67, 4]] {
            let [rows, depth, columns] = sizes;
            let left = Bytes::Unsigned(&numbers(rows * depth, 1)).centred(200);
            let bytes = numbers(depth * columns, 2);
            let signed: Vec<i8> = bytes.iter().map(|byte| *byte as i8).collect();
            let all_zeros: Vec<i32> = (0..columns as i32).map(|at| at * 30 - 100).collect();
            for (right, zeros) in [
                (Bytes::Unsigned(&bytes), vec![255]),
                (Bytes::Signed(&signed), all_zeros.clone()),
                (Bytes::Signed(&signed), vec![0]),
            ] {
                for transposed in [false, true] {
                    let place = |k: usize, n: usize| match transposed {
                        true => n * depth + k,
                        false => k * columns + n,
                    };
                    let mut expected = vec![];
                    for (row, n) in (0..rows).flat_map(|row| (0..columns).map(move |n| (row, n))) {
                        let zero = zeros[n % zeros.len()];
                        let of = |k| left[row * depth + k] * (right.get(place(k, n)) - zero);
                        expected.push((0..depth).map(of).sum::<i32>());
                    }
                    let sums = product(&left, right, &zeros, sizes, transposed).unwrap();
                    assert_eq!(sums, expected, "{sizes:?}");
                }
            }
        }
    }

    #[test]
    fn longest_integer_sums_fit_and_longer_ones_are_refused() {
        let depth = MAX_DEPTH;
        let (left, right) = (vec![-255; depth], vec![0u8; depth]);
        let sums = product(&left, Bytes::Unsigned(&right), &[255], [1, depth, 1], false).unwrap();
        assert_eq!(sums, [255 * 255 * depth as i32]);
        assert!(check_depth(depth + 1).is_err());
    }
}
