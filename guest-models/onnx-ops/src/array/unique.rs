//! Unique (operator set 11): the distinct elements, or slices along an axis, with first positions,
//! inverse indices and counts.

use std::cmp::Ordering;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::axes::resolve;
use crate::framework::dims::volume;
use crate::framework::errors::{OrUserError, ensure};
use crate::framework::facts::{InputFact, OutputFact, like, required, unknown_dims};
use crate::framework::numbers::{Number, by_number};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{from_bytes, from_ints};
use crate::framework::upstream::BuildResult;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Unique {
    axis: Option<i64>,
    sorted: bool,
}

pub(crate) const OPERATORS: &[Registration] = &[own("Unique", build_unique)];

fn build_unique(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let axis = node.get_attr_opt("axis")?;
    let sorted = node.get_attr_opt::<i64>("sorted")?.unwrap_or(1) != 0;
    built(Unique { axis, sorted }, node)
}

/// The layout of slices along an axis: outer size, axis size, inner size.
type AxisLayout = (usize, usize, usize);

/// The sorted order of the slices, and which of them equal the one before.
fn order<T: Number>(data: &Tensor, layout: AxisLayout) -> TractResult<Vec<(usize, bool)>> {
    let (outer, long, inner) = layout;
    let values = data.try_as_plain_ram()?;
    let values = values.as_slice::<T>()?;
    ensure!(
        values.iter().all(|value| value.is_number()),
        "implementations disagree on which NaNs are unique"
    );
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

impl Operator for Unique {
    fn name(&self) -> &'static str {
        "Unique"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let data = required(inputs, 0)?;
        let values = match self.axis {
            None => unknown_dims(data.dtype, 1),
            Some(axis) => {
                let (dtype, mut dims) = like(data);
                dims[resolve(axis, data.rank())?] = None;
                (dtype, dims)
            }
        };
        let list = || unknown_dims(i64::datum_type(), 1);
        Ok(tvec!(values, list(), list(), list()))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *required(inputs, 0)?;
        let shape = match self.axis {
            Some(_) => data.shape().to_vec(),
            None => vec![volume(data.shape())?],
        };
        let axis = resolve(self.axis.unwrap_or(0), shape.len())?;
        let (outer, inner) = (shape[..axis].iter().product(), shape[axis + 1..].iter().product());
        let layout = (outer, shape[axis], inner);
        let order = by_number!(order(data.datum_type())(data, layout))?;
        // For each distinct slice, its first position and its count.
        let mut kinds: Vec<(usize, i64)> = Vec::new();
        let mut kind_of = vec![0; shape[axis]];
        for (at, same) in order {
            if !same {
                kinds.push((at, 0));
            }
            let last = kinds.len().checked_sub(1).or_user_error("nothing before it")?;
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
                values.extend_from_slice(&bytes[(start * layout.1 + *at as usize) * row..][..row]);
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

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, tensor};

    #[test]
    fn unique_is_sorted_or_in_the_order_of_first_occurrence() {
        let wide = 1i64 << 40;
        let node = |sorted| {
            let case = case("Unique").int("sorted", sorted).outputs(4);
            case.input(row(&[wide, 1, 1, -3, wide]))
        };
        node(1).gives_all(&[
            row(&[-3i64, 1, wide]),
            row(&[3i64, 1, 0]),
            row(&[2i64, 1, 1, 0, 2]),
            row(&[1i64, 2, 2]),
        ]);
        node(0).gives_all(&[
            row(&[wide, 1, -3]),
            row(&[0i64, 1, 3]),
            row(&[0i64, 1, 1, 2, 0]),
            row(&[2i64, 2, 1]),
        ]);
    }

    #[test]
    fn unique_compares_slices_along_a_negative_axis() {
        let data = || tensor(&[2, 3], &[2f32, 1.0, 2.0, 5.0, 4.0, 5.0]);
        let node = case("Unique").int("axis", -1).outputs(3).without_output(1).input(data());
        node.gives_all(&[tensor(&[2, 2], &[1f32, 2.0, 4.0, 5.0]), row(&[1i64, 0, 1])]);
        case("Unique").int("axis", 2).input(data()).fails("2");
    }

    #[test]
    fn unique_of_no_elements_has_none() {
        let case = case("Unique").outputs(4).input(tensor::<f32>(&[0], &[]));
        let none = || row::<i64>(&[]);
        case.gives_all(&[row::<f32>(&[]), none(), none(), none()]);
    }
}
