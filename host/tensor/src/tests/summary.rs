//! Tests of tensor summaries.

use proptest::prelude::*;

use super::super::summary::Summary;
use super::{Tensor, f16};

fn of(values: &[f64], top: usize) -> Summary {
    Summary::of(&Tensor::new(values.to_vec(), &[values.len()]).unwrap(), top)
}

#[test]
fn values_are_listed_with_their_indices() {
    let values: Vec<i32> = vec![3, 9, -1, 9, 0, 4];
    let summary = Summary::of(&Tensor::new(values, &[2, 1, 3]).unwrap(), 3);
    assert_eq!((summary.min, summary.mean, summary.max), (Some(-1.0), Some(4.0), Some(9.0)));
    let top = [(vec![0, 0, 1], 9.0), (vec![1, 0, 0], 9.0), (vec![1, 0, 2], 4.0)];
    assert_eq!(summary.top, top);
}

#[test]
fn non_finite_values_are_counted_separately() {
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    let summary = of(&[nan, 1.0, inf, -inf, 3.0, nan, nan], 9);
    assert_eq!((summary.min, summary.mean, summary.max), (Some(1.0), Some(2.0), Some(3.0)));
    assert_eq!((summary.nan_count, summary.infinite_count), (3, 2));
    assert_eq!(summary.top, [(vec![2], inf), (vec![4], 3.0), (vec![1], 1.0), (vec![3], -inf)]);
    let summary = of(&[nan, inf], 1);
    assert_eq!((summary.min, summary.mean, summary.max), (None, None, None));
}

#[test]
fn empty_scalar_bool_and_strings() {
    let empty = Summary::of(&Tensor::new(Vec::<f32>::new(), &[0, 3]).unwrap(), 5);
    assert_eq!(empty, Summary::default());
    let scalar = Summary::of(&Tensor::scalar(f16::from_f32(0.5)), 5);
    assert_eq!(scalar.top, [(vec![], 0.5)]);
    let bools = Summary::of(&Tensor::new(vec![false, true, true, true], &[4]).unwrap(), 1);
    assert_eq!((bools.mean, bools.top), (Some(0.75), vec![(vec![1], 1.0)]));
    let strings = Tensor::new(["a", "b", "c"].map(String::from).to_vec(), &[3]).unwrap();
    let strings = Summary::of(&strings, 2);
    assert_eq!(strings.strings, ["a", "b"]);
    assert_eq!(strings.mean, None);
}

#[test]
fn values_near_the_range_limits() {
    assert_eq!(of(&[f64::MAX, f64::MAX], 0).mean, Some(f64::MAX));
    assert_eq!(of(&[f64::MAX, f64::MIN], 0).mean, Some(0.0));
    assert_eq!(of(&[0.0, -0.0], 1).top, [(vec![0], 0.0)]);
    assert_eq!(of(&[1.0], usize::MAX).top.len(), 1);
    assert!(of(&[1.0, 2.0], 0).top.is_empty());
}

proptest! {
    #[test]
    fn top_values_match_sorting(
        values in prop::collection::vec(-4i8..4, 0..40),
        top in 0usize..45,
    ) {
        let values: Vec<f64> = values.into_iter().map(f64::from).collect();
        let mut sorted: Vec<(Vec<usize>, f64)> =
            values.iter().enumerate().map(|(at, value)| (vec![at], *value)).collect();
        sorted.sort_by(|(_, left), (_, right)| right.total_cmp(left));
        sorted.truncate(top);
        prop_assert_eq!(of(&values, top).top, sorted);
    }
}
