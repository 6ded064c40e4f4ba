//! The arithmetic that all attentions share, in float32: products of queries and keys, softmax, and
//! sums of values. Several queries are computed at once, so that each key and value is read once for
//! all of them, in loops that the compiler vectorizes.

use std::borrow::Cow;
use std::ops::Range;

use tract_onnx::tract_hir::internal::*;

use crate::elementwise::approximations::{exp, tanh};
use crate::framework::dims::volume;
use crate::framework::facts::optional;
use crate::framework::tensors::Bits;

/// The number of queries that are computed at once.
const ROWS: usize = 4;
/// The number of partial sums of a product.
const LANES: usize = 8;

/// Queries that attend to the same keys and values, each a matrix of rows.
pub(super) struct Heads<'a> {
    pub(super) queries: &'a [f32],
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    pub(super) width: usize,
    pub(super) value_width: usize,
}

impl Heads<'_> {
    /// Computes the rows of the output, of which there is one for each query. `range` gives the keys
    /// that a query may attend to, and `weigh` turns their products with the query into weights.
    pub(super) fn attend(
        &self,
        range: impl Fn(usize) -> Range<usize>,
        mut weigh: impl FnMut(usize, Range<usize>, &mut [f32]),
        scores: &mut Vec<f32>,
        output: &mut [f32],
    ) {
        let rows = self.queries.len() / self.width;
        output.fill(0.0);
        let mut first = 0;
        while first < rows {
            let count = if rows - first >= ROWS { ROWS } else { 1 };
            let ranges = || (first..first + count).map(&range);
            let start = ranges().map(|range| range.start).min().unwrap_or(0);
            let end = ranges().map(|range| range.end).max().unwrap_or(0);
            let all = start.min(end)..end;
            scores.clear();
            scores.resize(count * all.len(), 0.0);
            match count {
                ROWS => self.products::<ROWS>(first, all.clone(), scores),
                _ => self.products::<1>(first, all.clone(), scores),
            }
            if !all.is_empty() {
                for (row, scores) in (first..).zip(scores.chunks_exact_mut(all.len())) {
                    let own = range(row);
                    let (from, to) = (own.start - all.start, own.end - all.start);
                    scores[..from].fill(0.0);
                    scores[to..].fill(0.0);
                    weigh(row, own, &mut scores[from..to]);
                    let output = &mut output[row * self.value_width..][..self.value_width];
                    self.sum(all.start, scores, output);
                }
            }
            first += count;
        }
    }

    /// The products of some queries with a range of keys.
    fn products<const R: usize>(&self, first: usize, keys: Range<usize>, scores: &mut [f32]) {
        let count = keys.len();
        let rows: [&[f32]; R] =
            std::array::from_fn(|row| &self.queries[(first + row) * self.width..][..self.width]);
        let keys = self.keys[keys.start * self.width..keys.end * self.width].chunks(self.width);
        for (at, key) in keys.enumerate() {
            for (row, product) in dots(rows, key).into_iter().enumerate() {
                scores[row * count + at] = product;
            }
        }
    }

    /// The sum of values, each times its weight.
    fn sum(&self, first: usize, weights: &[f32], output: &mut [f32]) {
        let width = self.value_width;
        let values = &self.values[first * width..];
        for (values, weights) in values.chunks(4 * width).zip(weights.chunks(4)) {
            if let [a, b, c, d] = *weights {
                let (one, rest) = values.split_at(width);
                let (two, rest) = rest.split_at(width);
                let (three, four) = rest.split_at(width);
                let rows = one.iter().zip(two).zip(three.iter().zip(four));
                for (to, ((one, two), (three, four))) in output.iter_mut().zip(rows) {
                    *to += (a * one + b * two) + (c * three + d * four);
                }
            } else {
                for (weight, row) in weights.iter().zip(values.chunks(width)) {
                    output.iter_mut().zip(row).for_each(|(to, value)| *to += weight * value);
                }
            }
        }
    }
}

/// The products of some rows with a key.
fn dots<const R: usize>(rows: [&[f32]; R], key: &[f32]) -> [f32; R] {
    let whole = key.len() / LANES * LANES;
    let mut sums = [[0f32; LANES]; R];
    for (at, key) in key.chunks_exact(LANES).enumerate() {
        for (sums, row) in sums.iter_mut().zip(rows) {
            let row = &row[at * LANES..][..LANES];
            for lane in 0..LANES {
                sums[lane] += row[lane] * key[lane];
            }
        }
    }
    std::array::from_fn(|row| {
        let rest: f32 = rows[row][whole..].iter().zip(&key[whole..]).map(|(a, b)| a * b).sum();
        let [a, b, c, d, e, f, g, h] = sums[row];
        ((a + b) + (c + d)) + ((e + f) + (g + h)) + rest
    })
}

/// The factor of scores: an attribute, or one over the root of the width where it is zero.
pub(super) fn factor(scale: Bits, width: usize) -> f32 {
    match scale.get() {
        0.0 => 1.0 / (width as f32).sqrt(),
        scale => scale,
    }
}

/// Limits scores to a cap in both directions, unless it is zero.
pub(super) fn cap(scores: &mut [f32], cap: f32) {
    if cap > 0.0 {
        scores.iter_mut().for_each(|score| *score = cap * tanh(*score / cap));
    }
}

/// Turns scores into weights, whose sum is one. A sink is one more score, without a value.
pub(super) fn softmax(scores: &mut [f32], sink: Option<f32>) {
    let greatest = |a: f32, b: f32| if b > a || b.is_nan() { b } else { a };
    let most = scores.iter().copied().chain(sink).fold(f32::NEG_INFINITY, greatest);
    let mut sum = sink.map_or(0.0, |sink| f64::from(exp(sink - most)));
    for scores in scores.chunks_mut(256) {
        scores.iter_mut().for_each(|score| *score = exp(*score - most));
        sum += f64::from(scores.iter().sum::<f32>());
    }
    let share = (1.0 / sum) as f32;
    scores.iter_mut().for_each(|score| *score *= share);
}

/// A tensor of an element type from float32.
pub(super) fn from_singles(
    dtype: DatumType,
    shape: &[usize],
    values: Vec<f32>,
) -> TractResult<Tensor> {
    let array = tract_ndarray::ArrayD::from_shape_vec(shape, values)?;
    Ok(array.into_tensor().cast_to_dt(dtype)?.into_owned())
}

/// Zeros for a tensor of this shape.
pub(super) fn zeros(shape: &[usize]) -> TractResult<Vec<f32>> {
    Ok(vec![0.0; volume(shape)?])
}

/// The elements of a tensor as float32, which are only copied if it has another element type.
pub(super) struct Singles<'a>(Cow<'a, Tensor>);

impl<'a> Singles<'a> {
    pub(super) fn of(tensor: &'a Tensor) -> TractResult<Singles<'a>> {
        Ok(Singles(tensor.cast_to::<f32>()?))
    }

    /// Those of a tensor of float32.
    pub(super) fn owned(tensor: Tensor) -> Singles<'static> {
        Singles(Cow::Owned(tensor))
    }

    /// Those of an optional input, or none.
    pub(super) fn given(
        inputs: &[Option<&'a Tensor>],
        at: usize,
    ) -> TractResult<Option<Singles<'a>>> {
        optional(inputs, at).map(|tensor| Singles::of(tensor)).transpose()
    }

    pub(super) fn get(&self) -> TractResult<&[f32]> {
        self.0.try_as_plain_ram()?.as_slice::<f32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (f64::from(state >> 24) / 64.0 - 2.0) as f32
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn blocks_of_queries_give_what_single_queries_give() {
        for (rows, keys, width, value_width) in [(1, 1, 1, 1), (4, 5, 8, 3), (7, 13, 19, 9)] {
            let queries = numbers(rows * width, 1);
            let (k, v) = (numbers(keys * width, 2), numbers(keys * value_width, 3));
            let heads = Heads { queries: &queries, keys: &k, values: &v, width, value_width };
            let mut output = vec![f32::NAN; rows * value_width];
            let range = |row: usize| row.min(keys - 1) / 2..(row + 1).min(keys);
            let weigh = |_, _: Range<usize>, scores: &mut [f32]| softmax(scores, None);
            heads.attend(range, weigh, &mut vec![], &mut output);
            for row in 0..rows {
                let query = &queries[row * width..][..width];
                let score = |key: usize| {
                    let key = k[key * width..][..width].iter();
                    query.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
                };
                let powers: Vec<f64> = range(row).map(|key| score(key).exp()).collect();
                for column in 0..value_width {
                    let value = |key: usize| f64::from(v[key * value_width + column]);
                    let sum: f64 = range(row).zip(&powers).map(|(key, p)| p * value(key)).sum();
                    let expected = sum / powers.iter().sum::<f64>();
                    let found = f64::from(output[row * value_width + column]);
                    assert!((found - expected).abs() < 2e-6, "{found} instead of {expected}");
                }
            }
        }
    }

    #[test]
    fn sink_takes_a_share_of_the_softmax_and_large_scores_do_not_overflow() {
        let mut scores = [1000f32, 1000.0];
        softmax(&mut scores, Some(1000.0));
        assert!(scores.iter().all(|score| (score - 1.0 / 3.0).abs() < 1e-7));
        let mut hidden = [f32::NEG_INFINITY, 0.0];
        softmax(&mut hidden, None);
        assert_eq!(hidden, [0.0, 1.0]);
        let mut nan = [f32::NAN, 0.0];
        softmax(&mut nan, None);
        assert!(nan.iter().all(|score| score.is_nan()));
    }
}
