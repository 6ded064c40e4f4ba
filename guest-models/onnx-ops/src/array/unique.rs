//! Unique (operator set 11): the different elements, or slices along an axis, with where each was
//! first, which each is, and how often there is one.

use std::cmp::Ordering;

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::tract_hir::internal::*;

use super::numbers::{Number, by_number};
use super::own::{Known, Own, Said, built, from_bytes, from_ints, like, needed, unknown, volume};
use super::resolve;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Unique {
    axis: Option<i64>,
    sorted: bool,
}

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("Unique", |_, node| {
        let axis = node.get_attr_opt("axis")?;
        let sorted = node.get_attr_opt::<i64>("sorted")?.unwrap_or(1) != 0;
        built(Unique { axis, sorted }, node)
    });
}

/// Outer, long, inner: how slices along an axis lie.
type Lie = (usize, usize, usize);

/// The order in which the slices are when sorted, and which are equal to the one before.
fn order<T: Number>(data: &Tensor, lie: Lie) -> TractResult<Vec<(usize, bool)>> {
    let (outer, long, inner) = lie;
    let values = data.try_as_plain_ram()?;
    let values = values.as_slice::<T>()?;
    ensure!(values.iter().all(|value| value.is_number()), "of NaN nobody agrees what is unique");
    let slice = |at: usize| {
        (0..outer).flat_map(move |start| {
            (0..inner).map(move |offset| (start * long + at) * inner + offset)
        })
    };
    let compare = |a: usize, b: usize| {
        let mut pairs = slice(a).zip(slice(b));
        let other =
            pairs.find_map(|(a, b)| values[a].partial_cmp(&values[b]).filter(|o| o.is_ne()));
        other.unwrap_or(Ordering::Equal)
    };
    let mut sorted: Vec<usize> = (0..long).collect();
    sorted.sort_by(|a, b| compare(*a, *b));
    let same = |at: usize| at > 0 && compare(sorted[at - 1], sorted[at]).is_eq();
    Ok((0..long).map(|at| (sorted[at], same(at))).collect())
}

impl Own for Unique {
    fn name(&self) -> &'static str {
        "Unique"
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let data = needed(inputs, 0)?;
        let values = match self.axis {
            None => unknown(data.dtype, 1),
            Some(axis) => {
                let (dtype, mut dims) = like(data);
                dims[resolve(axis, data.rank())?] = None;
                (dtype, dims)
            }
        };
        let list = || unknown(i64::datum_type(), 1);
        Ok(tvec!(values, list(), list(), list()))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *needed(inputs, 0)?;
        let shape = match self.axis {
            Some(_) => data.shape().to_vec(),
            None => vec![volume(data.shape())?],
        };
        let axis = resolve(self.axis.unwrap_or(0), shape.len())?;
        let (outer, inner) = (shape[..axis].iter().product(), shape[axis + 1..].iter().product());
        let lie = (outer, shape[axis], inner);
        let order = by_number!(order(data.datum_type())(data, lie))?;
        // Each kind: where it was first, and how often it is there.
        let mut kinds: Vec<(usize, i64)> = Vec::new();
        let mut kind_of = vec![0; shape[axis]];
        for (at, same) in order {
            if !same {
                kinds.push((at, 0));
            }
            let last = kinds.len().checked_sub(1).context("nothing before it")?;
            kind_of[at] = last;
            kinds[last].1 += 1;
            kinds[last].0 = kinds[last].0.min(at);
        }
        let mut ranks: Vec<usize> = (0..kinds.len()).collect();
        if !self.sorted {
            ranks.sort_by_key(|kind| kinds[*kind].0);
        }
        let mut place = vec![0; kinds.len()];
        for (at, kind) in ranks.iter().enumerate() {
            place[*kind] = at as i64;
        }
        let first: Vec<i64> = ranks.iter().map(|kind| kinds[*kind].0 as i64).collect();
        let counts: Vec<i64> = ranks.iter().map(|kind| kinds[*kind].1).collect();
        let inverse: Vec<i64> = kind_of.iter().map(|kind| place[*kind]).collect();
        let size = data.datum_type().size_of();
        let row = inner * size;
        let bytes = data.as_bytes();
        let mut values = Vec::with_capacity(outer * first.len() * row);
        for start in 0..outer {
            for at in &first {
                values.extend_from_slice(&bytes[(start * lie.1 + *at as usize) * row..][..row]);
            }
        }
        let mut to = shape;
        to[axis] = first.len();
        let list = |values: &[i64]| from_ints(&[values.len()], values);
        Ok(tvec!(
            from_bytes(data.datum_type(), &to, &values)?,
            list(&first)?,
            list(&inverse)?,
            list(&counts)?
        ))
    }
}
