//! The part of an output that its rule lets out: the largest elements, rounded numbers.

use std::cmp::Ordering;

use belljar_policy::ValueRule;
use belljar_tensor::{Coded, Data, Tensor, bf16, f16};

/// The part of an output that its rule lets out.
pub(in crate::model) fn disclosed(rule: &ValueRule, tensor: Tensor) -> Tensor {
    if rule.top_k.is_none() && rule.decimals.is_none() {
        return tensor;
    }
    tensor.changed(|shape, data| cut_and_round(rule, shape, data))
}

fn cut_and_round(rule: &ValueRule, shape: &[usize], data: &mut Data) {
    let row = shape.last().copied().unwrap_or(1);
    if let Some(k) = rule.top_k {
        let k = usize::try_from(k).unwrap_or(usize::MAX);
        macro_rules! cut {
            ($($variant:ident $least:expr),*) => {
                match data {
                    $(Data::$variant(values) => {
                        cut_rows(values, row, k, $least, PartialOrd::partial_cmp);
                    })*
                    Data::Coded(coded) => {
                        let (dtype, least) = (coded.dtype(), coded.least());
                        let order = |a: &u8, b: &u8| {
                            Coded::meaning(dtype, *a).partial_cmp(&Coded::meaning(dtype, *b))
                        };
                        cut_rows(coded.codes_mut(), row, k, least, order);
                    }
                    Data::Bool(_) | Data::String(_) => {}
                }
            };
        }
        cut!(F16 f16::NEG_INFINITY, F32 f32::NEG_INFINITY, F64 f64::NEG_INFINITY, I8 i8::MIN,
            I16 i16::MIN, I32 i32::MIN, I64 i64::MIN, U8 u8::MIN, U16 u16::MIN, U32 u32::MIN,
            U64 u64::MIN, BF16 bf16::NEG_INFINITY);
    }
    if let Some(decimals) = rule.decimals {
        let scale = 10f64.powi(i32::try_from(decimals).unwrap_or(0));
        let round = |value: f64| {
            let rounded = (value * scale).round() / scale;
            // A number this large has no decimals to round.
            if rounded.is_finite() { rounded } else { value }
        };
        match data {
            Data::F16(values) => {
                values.iter_mut().for_each(|v| *v = f16::from_f64(round(v.to_f64())))
            }
            Data::BF16(values) => {
                values.iter_mut().for_each(|v| *v = bf16::from_f64(round(v.to_f64())))
            }
            Data::F32(values) => values.iter_mut().for_each(|v| *v = round(f64::from(*v)) as f32),
            Data::F64(values) => values.iter_mut().for_each(|v| *v = round(*v)),
            _ => {}
        }
    }
}

/// Replaces all elements that are not among the `k` largest of their row: the first of equal
/// elements are kept, and NaN only if there are fewer numbers. Copies one row at a time.
fn cut_rows<T: Copy>(
    values: &mut [T],
    row: usize,
    k: usize,
    least: T,
    order: impl Fn(&T, &T) -> Option<Ordering>,
) {
    let is_number = |value: &T| order(value, value).is_some();
    for row in values.chunks_mut(row.max(1)) {
        if k >= row.len() {
            continue;
        }
        let mut numbers = Vec::with_capacity(row.len());
        numbers.extend(row.iter().copied().filter(is_number));
        let mut others = k.saturating_sub(numbers.len());
        // Keep the numbers greater than this threshold, and this many equal to it.
        let mut last = match k.checked_sub(1) {
            Some(index) if k < numbers.len() => {
                let descending = |a: &T, b: &T| order(b, a).unwrap_or(Ordering::Equal);
                let (greater, last, _) = numbers.select_nth_unstable_by(index, descending);
                let last = *last;
                let equal = |value: &&T| order(value, &last) == Some(Ordering::Equal);
                Some((last, greater.iter().filter(equal).count() + 1))
            }
            _ => None,
        };
        for value in row {
            let kept = match &mut last {
                _ if !is_number(value) => take_one(&mut others),
                Some((last, equals)) => match order(value, last) {
                    Some(Ordering::Equal) => take_one(equals),
                    order => order == Some(Ordering::Greater),
                },
                None => k > 0,
            };
            if !kept {
                *value = least;
            }
        }
    }
}

/// Takes one if any are left.
fn take_one(left: &mut usize) -> bool {
    let found = *left > 0;
    *left -= usize::from(found);
    found
}

#[cfg(test)]
mod tests {
    use belljar_abi::DType;
    use proptest::prelude::*;

    use super::*;

    /// The result of a stable sort: the largest first, the first of equals first, NaN last.
    fn sorted(values: &[f32], row: usize, k: usize, least: f32) -> Vec<f32> {
        let mut out = values.to_vec();
        for row in out.chunks_mut(row.max(1)) {
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|a, b| match (row[*a], row[*b]) {
                (a, b) if a.is_nan() || b.is_nan() => a.is_nan().cmp(&b.is_nan()),
                (a, b) => b.partial_cmp(&a).unwrap(),
            });
            order.into_iter().skip(k).for_each(|at| row[at] = least);
        }
        out
    }

    proptest! {
        #[test]
        fn largest_elements_of_each_row_are_kept(
            values in prop::collection::vec(
                prop::sample::select(&[0.0f32, -0.0, 1.0, 2.0, -3.0, f32::INFINITY, f32::NAN][..]),
                0..40,
            ),
            row in 0usize..12,
            k in 0usize..14,
        ) {
            let mut found = values.clone();
            cut_rows(&mut found, row, k, f32::NEG_INFINITY, PartialOrd::partial_cmp);
            let expected = sorted(&values, row, k, f32::NEG_INFINITY);
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&found), bits(&expected));
        }
    }

    #[test]
    fn small_elements_are_compared_by_value() {
        let mut rule = ValueRule::new("y");
        rule.top_k = Some(1);
        let coded = Coded::new(DType::I4, vec![15, 2, 8, 1]).unwrap();
        let tensor = Tensor::new(Data::from(coded), &[2, 2]).unwrap();
        match disclosed(&rule, tensor).data() {
            Data::Coded(coded) => {
                assert_eq!(coded.values().collect::<Vec<_>>(), [-8.0, 2.0, -8.0, 1.0]);
            }
            other => panic!("{other:?}"),
        }
    }
}
