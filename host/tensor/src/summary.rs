//! Summary statistics of a tensor for display in a table.
//!
//! Everything is computed in `f64`, even for 64-bit integers: this is for people only, and programs
//! must never make decisions by it.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::{Data, Tensor};

/// Summary statistics of a tensor. Bools count as 0 and 1.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Summary {
    /// Smallest finite value; `None` if there is none.
    pub min: Option<f64>,
    /// Mean of the finite values; `None` if there is none.
    pub mean: Option<f64>,
    /// Largest finite value; `None` if there is none.
    pub max: Option<f64>,
    /// Number of NaNs.
    pub nan_count: u64,
    /// Number of infinities of either sign.
    pub infinite_count: u64,
    /// The largest values (including infinities, but not NaN) with their indices along each axis,
    /// largest first; equal values are in row-major order.
    pub top: Vec<(Vec<usize>, f64)>,
    /// The first strings, if the tensor holds strings.
    pub strings: Vec<String>,
}

impl Summary {
    /// Summarises `tensor`, with its `top` largest values, or its `top` first strings.
    pub fn of(tensor: &Tensor, top: usize) -> Summary {
        let shape = tensor.shape();
        macro_rules! wide {
            ($values:expr, $to_f64:expr) => {
                of_values(shape, $values.iter().map($to_f64), top)
            };
        }
        match tensor.data() {
            Data::F16(values) => wide!(values, |value| value.to_f64()),
            Data::F32(values) => wide!(values, |value| f64::from(*value)),
            Data::F64(values) => wide!(values, |value| *value),
            Data::I8(values) => wide!(values, |value| f64::from(*value)),
            Data::I16(values) => wide!(values, |value| f64::from(*value)),
            Data::I32(values) => wide!(values, |value| f64::from(*value)),
            Data::I64(values) => wide!(values, |value| *value as f64),
            Data::U8(values) => wide!(values, |value| f64::from(*value)),
            Data::U16(values) => wide!(values, |value| f64::from(*value)),
            Data::U32(values) => wide!(values, |value| f64::from(*value)),
            Data::U64(values) => wide!(values, |value| *value as f64),
            Data::BF16(values) => wide!(values, |value| value.to_f64()),
            Data::Bool(values) => wide!(values, |value| f64::from(*value)),
            Data::Coded(coded) => of_values(shape, coded.values(), top),
            Data::String(strings) => Summary {
                strings: strings.iter().take(top).cloned().collect(),
                ..Summary::default()
            },
        }
    }
}

/// Iterates over the values at most twice and keeps only the top ones, because a copy of small
/// elements as `f64` would be large.
fn of_values(shape: &[usize], values: impl Iterator<Item = f64> + Clone, top: usize) -> Summary {
    let mut summary = Summary::default();
    let (mut sum, mut finite) = (0.0, 0u64);
    // A heap whose maximum is the worst kept value, which is replaced first.
    let mut kept: BinaryHeap<Ranked> = BinaryHeap::new();
    for (at, value) in values.clone().enumerate() {
        if value.is_nan() {
            summary.nan_count += 1;
            continue;
        }
        if value.is_infinite() {
            summary.infinite_count += 1;
        } else {
            sum += value;
            finite += 1;
            summary.min = Some(summary.min.map_or(value, |min| min.min(value)));
            summary.max = Some(summary.max.map_or(value, |max| max.max(value)));
        }
        let ranked = Ranked { value, at };
        if kept.len() < top {
            kept.push(ranked);
        } else if let Some(mut worst) = kept.peek_mut()
            && ranked < *worst
        {
            *worst = ranked;
        }
    }
    if finite > 0 {
        let count = finite as f64;
        summary.mean = Some(match sum / count {
            mean if mean.is_finite() => mean,
            // For values near the maximum of the range, the sum overflows but the mean does not.
            _ => values.filter(|value| value.is_finite()).map(|value| value / count).sum(),
        });
    }
    let kept = kept.into_sorted_vec().into_iter();
    summary.top = kept.map(|ranked| (super::unravel(ranked.at, shape), ranked.value)).collect();
    summary
}

/// A value and its index; smaller in this order means better.
#[derive(Clone, Copy)]
struct Ranked {
    value: f64,
    at: usize,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> Ordering {
        // NaN is excluded, and both zeros are equal.
        let by_value = other.value.partial_cmp(&self.value).unwrap_or(Ordering::Equal);
        by_value.then(self.at.cmp(&other.at))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Ranked) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Ranked) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ranked {}
