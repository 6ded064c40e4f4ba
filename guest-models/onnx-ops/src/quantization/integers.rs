//! Exact sums of products of 8-bit integers, by the host's kernels or in plain Rust. There the right
//! operand, usually weights, stays in memory as it is: its zero points are subtracted from the sums.

use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, concrete, optional, required};
use crate::framework::tensors::from_bytes;
use crate::quantization::native::{self, Finish};
use crate::quantization::packed::Packed;

/// The largest number of products of 8-bit integers whose sum fits 32 bits.
const MAX_DEPTH: usize = 1 << 15;

/// Rows of the right operand that are multiplied with all rows of the left one before the next.
const TILE: usize = 64;

/// 8-bit integers of either sign.
#[derive(Clone, Copy)]
pub(crate) enum Bytes<'t> {
    Unsigned(&'t [u8]),
    Signed(&'t [i8]),
}

impl<'t> Bytes<'t> {
    pub(crate) fn of(tensor: &'t Tensor) -> TractResult<Bytes<'t>> {
        let plain = tensor.try_as_plain_ram()?;
        Ok(match tensor.datum_type() {
            DatumType::U8 => Bytes::Unsigned(plain.as_slice()?),
            DatumType::I8 => Bytes::Signed(plain.as_slice()?),
            other => bail!("{other:?} is not an 8-bit integer type"),
        })
    }

    pub(crate) fn slice(self, from: usize, count: usize) -> Bytes<'t> {
        match self {
            Bytes::Unsigned(all) => Bytes::Unsigned(&all[from..from + count]),
            Bytes::Signed(all) => Bytes::Signed(&all[from..from + count]),
        }
    }

    pub(crate) fn len(self) -> usize {
        match self {
            Bytes::Unsigned(all) => all.len(),
            Bytes::Signed(all) => all.len(),
        }
    }

    pub(crate) fn get(self, at: usize) -> i32 {
        match self {
            Bytes::Unsigned(all) => all[at].into(),
            Bytes::Signed(all) => all[at].into(),
        }
    }

    /// All integers.
    pub(crate) fn to_vec(self) -> Vec<i32> {
        match self {
            Bytes::Unsigned(all) => all.iter().copied().map(i32::from).collect(),
            Bytes::Signed(all) => all.iter().copied().map(i32::from).collect(),
        }
    }
}

/// Refuses sums that may not fit 32 bits.
pub(crate) fn check_depth(depth: usize) -> TractResult<()> {
    ensure!(
        depth <= MAX_DEPTH,
        "a sum of {depth} products may not fit 32 bits, which is not implemented; the most is {MAX_DEPTH}"
    );
    Ok(())
}

/// The product of two matrices of the sizes rows, depth and columns, minus their zero points, of
/// which there is one, or one for each row or column. Sums wrap around at 32 bits.
#[derive(Clone, Copy)]
pub(crate) struct ByteProduct<'t> {
    pub(crate) left: Bytes<'t>,
    pub(crate) left_zeros: &'t [i32],
    pub(crate) right: Right<'t>,
    pub(crate) right_zeros: &'t [i32],
    /// Rows, depth and columns.
    pub(crate) sizes: [usize; 3],
}

/// The right operand of a product.
#[derive(Clone, Copy)]
pub(crate) enum Right<'t> {
    /// A row for each step.
    Rows(Bytes<'t>),
    /// A row for each column.
    Columns(Bytes<'t>),
    /// In the layout of the host's kernels, which are there then; and whether it is signed.
    Packed(&'t [u8], bool),
}

/// The right operands of products that have the same sizes: those of an input, or packed ones.
#[derive(Clone, Copy)]
pub(crate) struct Rights<'t> {
    given: Result<Bytes<'t>, &'t Packed>,
    transposed: bool,
}

impl<'t> Rights<'t> {
    /// Of an input at this position, unless it was packed.
    pub(crate) fn of(
        inputs: &[Option<&'t Tensor>],
        at: usize,
        packed: Option<&'t Packed>,
        transposed: bool,
    ) -> TractResult<Rights<'t>> {
        let given = match packed {
            Some(packed) => Err(packed),
            None => Ok(Bytes::of(required(inputs, at)?)?),
        };
        Ok(Rights { given, transposed })
    }

    /// One of the matrices of so many elements.
    pub(crate) fn matrix(self, at: usize, elements: usize) -> Right<'t> {
        match self.given {
            Err(packed) => Right::Packed(packed.matrix(at), packed.signed),
            Ok(all) if self.transposed => Right::Columns(all.slice(at * elements, elements)),
            Ok(all) => Right::Rows(all.slice(at * elements, elements)),
        }
    }
}

/// The shape of an input at this position, or the one that it had before it was packed.
pub(crate) fn right_shape<'t>(
    inputs: &[Option<&'t Tensor>],
    at: usize,
    packed: Option<&'t Packed>,
) -> TractResult<&'t [usize]> {
    match packed {
        Some(packed) => Ok(&packed.shape),
        None => Ok(required(inputs, at)?.shape()),
    }
}

impl ByteProduct<'_> {
    fn check(&self) -> TractResult<()> {
        let [rows, depth, columns] = self.sizes;
        let right = match self.right {
            Right::Rows(right) | Right::Columns(right) => right.len() == depth * columns,
            Right::Packed(..) => true,
        };
        let matches = self.left.len() == rows * depth && right;
        let (left, right) = (self.left_zeros.len(), self.right_zeros.len());
        let zeros = (left == 1 || left == rows) && (right == 1 || right == columns);
        ensure!(matches && zeros, "internal error: operands of other sizes than expected");
        Ok(())
    }

    /// The sums.
    pub(crate) fn sums(&self) -> TractResult<Vec<i32>> {
        self.check()?;
        let [rows, _, columns] = self.sizes;
        let mut sums = vec![0i32; rows * columns];
        if !sums.is_empty() && !native::product(self, Finish::Sums(&mut sums)) {
            self.add(&mut sums)?;
        }
        Ok(sums)
    }

    /// The sums as floats, each times a scale, plus the bias of its column. There is one scale, or
    /// one for each column.
    pub(crate) fn floats(&self, scales: &[f32], bias: Option<&[f32]>) -> TractResult<Vec<f32>> {
        self.check()?;
        let [rows, _, columns] = self.sizes;
        let mut results = vec![0f32; rows * columns];
        let finish = Finish::Floats { scales, bias, results: &mut results };
        if results_are_empty(&self.sizes) || native::product(self, finish) {
            return Ok(results);
        }
        let mut sums = vec![0i32; rows * columns];
        self.add(&mut sums)?;
        for (results, sums) in results.chunks_mut(columns).zip(sums.chunks(columns)) {
            let each = results.iter_mut().zip(sums).zip(scales.iter().cycle());
            each.for_each(|((result, sum), scale)| *result = *sum as f32 * scale);
            if let Some(bias) = bias {
                results.iter_mut().zip(bias).for_each(|(result, bias)| *result += bias);
            }
        }
        Ok(results)
    }

    /// The sums times a factor, of which there is one, or one for each column, as integers of 8 bits.
    pub(crate) fn bytes(&self, factors: &[f64], rounding: Rounding) -> TractResult<Vec<u8>> {
        self.check()?;
        let [rows, _, columns] = self.sizes;
        let mut results = vec![0u8; rows * columns];
        let finish = Finish::Bytes { factors, bias: None, rounding, results: &mut results };
        if results_are_empty(&self.sizes) || native::product(self, finish) {
            return Ok(results);
        }
        let sums = self.sums()?;
        for (results, sums) in results.chunks_mut(columns).zip(sums.chunks(columns)) {
            let each = results.iter_mut().zip(sums).zip(factors.iter().cycle());
            each.for_each(|((result, sum), factor)| {
                *result = rounding.byte(f64::from(*sum) * factor)
            });
        }
        Ok(results)
    }

    /// Adds the products without the host.
    fn add(&self, sums: &mut [i32]) -> TractResult<()> {
        let [_, depth, columns] = self.sizes;
        if depth == 0 {
            return Ok(());
        }
        let mut left = self.left.to_vec();
        let zeros = self.left_zeros.iter().cycle();
        for (row, zero) in left.chunks_mut(depth).zip(zeros) {
            row.iter_mut().for_each(|value| *value -= zero);
        }
        match self.right {
            Right::Rows(Bytes::Unsigned(right)) => add_rows(sums, &left, right, depth, columns),
            Right::Rows(Bytes::Signed(right)) => add_rows(sums, &left, right, depth, columns),
            Right::Columns(Bytes::Unsigned(right)) => add_dots(sums, &left, right, depth, columns),
            Right::Columns(Bytes::Signed(right)) => add_dots(sums, &left, right, depth, columns),
            Right::Packed(..) => {
                bail!("internal error: a packed operand without the host's kernels")
            }
        }
        if self.right_zeros.iter().any(|zero| *zero != 0) {
            for (sums, left) in sums.chunks_mut(columns).zip(left.chunks(depth)) {
                let total = left.iter().fold(0i32, |total, value| total.wrapping_add(*value));
                for (sum, zero) in sums.iter_mut().zip(self.right_zeros.iter().cycle()) {
                    // The difference fits, even if one of its terms does not.
                    *sum = sum.wrapping_sub(zero.wrapping_mul(total));
                }
            }
        }
        Ok(())
    }
}

fn results_are_empty(sizes: &[usize; 3]) -> bool {
    sizes[0] * sizes[2] == 0
}

/// How the parameters of a right operand apply to its columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Columns {
    /// One for all.
    One,
    /// One for each column, the same in every matrix of a batch.
    Each,
    /// One for each column of each matrix.
    Batched,
}

impl Columns {
    /// How parameters of this shape apply to matrices of this one.
    pub(crate) fn of(parameters: &[usize], matrices: &[usize], what: &str) -> TractResult<Columns> {
        if parameters.iter().all(|size| *size == 1) {
            return Ok(Columns::One);
        }
        let columns = if matrices.len() > 1 { matrices[matrices.len() - 1] } else { 1 };
        if *parameters == [columns] {
            return Ok(Columns::Each);
        }
        let mut batched = matrices.to_vec();
        if let Some(at) = matrices.len().checked_sub(2) {
            batched[at] = 1;
        }
        ensure!(
            matrices.len() > 1 && *parameters == *batched,
            "{what} have the shape {parameters:?}, expected one number, or one for each of the {columns} columns"
        );
        Ok(Columns::Batched)
    }

    /// Those of one matrix of this number of columns.
    pub(crate) fn part<T>(self, all: &[T], matrix: usize, columns: usize) -> &[T] {
        match self {
            Columns::One | Columns::Each => all,
            Columns::Batched => &all[matrix * columns..][..columns],
        }
    }
}

/// Checks parameters of the columns of an input, if the shapes of both are known.
pub(crate) fn check_columns(
    inputs: &[Option<InputFact>],
    at: usize,
    matrices: usize,
    what: &str,
) -> TractResult<()> {
    let shape = |at| optional(inputs, at).and_then(|input| concrete(&input.shape));
    if let (Some(parameters), Some(matrices)) = (shape(at), shape(matrices)) {
        Columns::of(&parameters, &matrices, what)?;
    }
    Ok(())
}

/// How numbers are rounded to integers of 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rounding {
    pub(crate) signed: bool,
    pub(crate) zero: i32,
}

impl Rounding {
    /// For results of the type of their zero point.
    pub(crate) fn of(zero: &Tensor) -> TractResult<Rounding> {
        let bytes = Bytes::of(zero)?;
        ensure!(bytes.len() == 1, "expected one zero point, found {}", bytes.len());
        Ok(Rounding { signed: matches!(bytes, Bytes::Signed(_)), zero: bytes.get(0) })
    }

    /// A number rounded to the nearest integer, of two to the even one, moved by the zero point and
    /// saturated, as a byte.
    pub(crate) fn byte(self, number: f64) -> u8 {
        let (min, max) = if self.signed { (-128, 127) } else { (0, 255) };
        let [low, high] = [min, max].map(|bound| f64::from(bound - self.zero));
        (number.round_ties_even().clamp(low, high) as i32 + self.zero) as u8
    }
}

/// A tensor of bytes of either sign.
pub(crate) fn of_bytes(signed: bool, shape: &[usize], bytes: &[u8]) -> TractResult<Tensor> {
    from_bytes(if signed { i8::datum_type() } else { u8::datum_type() }, shape, bytes)
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
        for sizes in [
            [1, 1, 0],
            [0, 3, 2],
            [2, 0, 3],
            [1, 1, 1],
            [3, 5, 7],
            [2, 64, 9],
            [5, 130, 17],
            [1, 67, 4],
        ] {
            let [rows, depth, columns] = sizes;
            let left = numbers(rows * depth, 1);
            let left = Bytes::Unsigned(&left);
            let left_zeros = [200];
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
                        let of =
                            |k| (left.get(row * depth + k) - 200) * (right.get(place(k, n)) - zero);
                        expected.push((0..depth).map(of).sum::<i32>());
                    }
                    let (left_zeros, right_zeros) = (&left_zeros[..], &zeros[..]);
                    let right = if transposed { Right::Columns(right) } else { Right::Rows(right) };
                    let product = ByteProduct { left, left_zeros, right, right_zeros, sizes };
                    assert_eq!(product.sums().unwrap(), expected, "{sizes:?}");
                }
            }
        }
    }

    #[test]
    fn longest_integer_sums_fit_and_longer_ones_are_refused() {
        let depth = MAX_DEPTH;
        let bytes = vec![0u8; depth];
        let (left, right) = (Bytes::Unsigned(&bytes), Bytes::Unsigned(&bytes));
        let (left_zeros, right_zeros) = (&[255][..], &[255][..]);
        let sizes = [1, depth, 1];
        let right = Right::Rows(right);
        let product = ByteProduct { left, left_zeros, right, right_zeros, sizes };
        assert_eq!(product.sums().unwrap(), [255 * 255 * depth as i32]);
        assert!(check_depth(depth + 1).is_err());
    }
}
