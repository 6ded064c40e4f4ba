//! TopK (ONNX): the greatest or least elements along an axis. NaN is greater than every number, and
//! of equal elements the one with the lower index comes first.

use std::cmp::Ordering;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::axes::resolve;
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, like, required};
use crate::framework::numbers::{Number, by_number};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{from_ints, ints};
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] = &[own("TopK", build)];

#[derive(Clone, Debug, PartialEq, Eq)]
struct TopK {
    axis: i64,
    largest: bool,
}

fn build(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let axis = node.get_attr_opt("axis")?.unwrap_or(-1);
    let largest = node.get_attr_opt::<i64>("largest")?.unwrap_or(1) != 0;
    // If `sorted` is 0, any order is correct, including the sorted one.
    built(TopK { axis, largest }, node)
}

impl TopK {
    fn axis(&self, rank: usize) -> TractResult<usize> {
        ensure!(rank > 0, "the input has no dimensions, so it has no axis");
        resolve(self.axis, rank)
    }
}

/// `k`, which is one number.
fn one(k: &[i64]) -> TractResult<i64> {
    match k {
        [k] => Ok(*k),
        _ => bail!("k has {} values, expected one", k.len()),
    }
}

fn check(k: i64, size: usize) -> TractResult<usize> {
    match usize::try_from(k) {
        Ok(count) if count <= size => Ok(count),
        _ => bail!("k {k} is not between 0 and {size}"),
    }
}

/// Compares elements, with NaN as the greatest.
fn compare<T: Number>(a: T, b: T) -> Ordering {
    let nan = |value: T| !value.is_number();
    a.partial_cmp(&b).unwrap_or_else(|| nan(a).cmp(&nan(b)))
}

/// The values and their indices.
fn top<T: Number>(
    data: &Tensor,
    axis: usize,
    k: usize,
    largest: bool,
) -> TractResult<TVec<Tensor>> {
    let values = data.try_as_plain_ram()?;
    let values = values.as_slice::<T>()?;
    let mut shape = data.shape().to_vec();
    let outer: usize = shape[..axis].iter().product();
    let inner: usize = shape[axis + 1..].iter().product();
    let long = shape[axis];
    shape[axis] = k;
    let mut output = Tensor::zero_dt(T::datum_type(), &shape)?;
    let mut places = vec![0i64; output.len()];
    {
        let mut plain = output.try_as_plain_ram_mut()?;
        let chosen = plain.as_slice_mut::<T>()?;
        let mut order: Vec<usize> = Vec::with_capacity(long);
        let lines = if k == 0 { 0 } else { outer };
        for (start, offset) in (0..lines).flat_map(|o| (0..inner).map(move |i| (o, i))) {
            let value = |at: usize| values[(start * long + at) * inner + offset];
            let by_value = |a: &usize, b: &usize| {
                let ordering = compare(value(*a), value(*b));
                let ordering = if largest { ordering.reverse() } else { ordering };
                ordering.then(a.cmp(b))
            };
            order.clear();
            order.extend(0..long);
            if k < long {
                order.select_nth_unstable_by(k, by_value);
                order.truncate(k);
            }
            order.sort_unstable_by(by_value);
            for (at, from) in order.iter().enumerate() {
                let to = (start * k + at) * inner + offset;
                chosen[to] = value(*from);
                places[to] = *from as i64;
            }
        }
    }
    Ok(tvec!(output, from_ints(&shape, &places)?))
}

impl Operator for TopK {
    fn name(&self) -> &'static str {
        "TopK"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let data = required(inputs, 0)?;
        let axis = self.axis(data.rank())?;
        let (dtype, mut dims) = like(data);
        let k = required(inputs, 1)?.ints()?.map(|k| one(&k)).transpose()?;
        if let (Some(k), Ok(size)) = (k, data.shape[axis].to_usize()) {
            check(k, size)?;
        }
        dims[axis] = k.map(|k| k.to_dim());
        Ok(tvec!((dtype, dims.clone()), (i64::datum_type(), dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *required(inputs, 0)?;
        let axis = self.axis(data.rank())?;
        let k = check(one(&ints(required(inputs, 1)?)?)?, data.shape()[axis])?;
        by_number!(top(data.datum_type())(data, axis, k, self.largest))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, tensor};

    #[test]
    fn top_k_takes_the_lower_index_of_equals() {
        let data = || tensor(&[1, 4], &[3f32, 5.0, 5.0, 1.0]);
        let largest = case("TopK").outputs(2).input(data()).input(row(&[2i64]));
        largest.gives_all(&[tensor(&[1, 2], &[5f32, 5.0]), tensor(&[1, 2], &[1i64, 2])]);
        let least = case("TopK").int("largest", 0).outputs(2).input(data()).input(row(&[3i64]));
        least.gives_all(&[tensor(&[1, 3], &[1f32, 3.0, 5.0]), tensor(&[1, 3], &[3i64, 0, 1])]);
    }

    #[test]
    fn top_k_takes_none_or_all_and_refuses_more() {
        let node = |k: i64| {
            case("TopK").int("axis", 0).outputs(2).input(row(&[1i64, 1 << 40])).input(row(&[k]))
        };
        node(0).gives_all(&[row::<i64>(&[]), row::<i64>(&[])]);
        node(2).gives_all(&[row(&[1i64 << 40, 1]), row(&[1i64, 0])]);
        node(3).fails("3");
        node(-1).fails("-1");
    }

    #[test]
    fn top_k_treats_nan_as_the_greatest() {
        let node = case("TopK").outputs(2).input(row(&[1f32, f32::NAN, 3.0])).input(row(&[2i64]));
        node.gives_all(&[row(&[f32::NAN, 3.0]), row(&[1i64, 2])]);
    }

    #[test]
    fn top_k_orders_several_nans_by_index() {
        let nan = f32::NAN;
        let data = || tensor(&[1, 5], &[nan, 2.0, -nan, 1.0, f32::INFINITY]);
        let node = |k: i64| case("TopK").outputs(2).input(data()).input(row(&[k]));
        let all = tensor(&[1, 5], &[nan, nan, f32::INFINITY, 2.0, 1.0]);
        node(5).gives_all(&[all, tensor(&[1, 5], &[0i64, 2, 4, 1, 3])]);
        let least = node(4).int("largest", 0);
        let numbers = tensor(&[1, 4], &[1.0, 2.0, f32::INFINITY, nan]);
        least.gives_all(&[numbers, tensor(&[1, 4], &[3i64, 1, 4, 0])]);
    }

    #[test]
    fn top_k_is_along_any_axis_and_element_type() {
        let data = || tensor(&[2, 3], &[1u8, 200, 3, 4, 100, 3]);
        let node = || case("TopK").outputs(2).input(data()).input(row(&[1i64]));
        let (values, places) = (tensor(&[1, 3], &[4u8, 200, 3]), tensor(&[1, 3], &[1i64, 0, 0]));
        node().int("axis", -2).gives_all(&[values.clone(), places.clone()]);
        node().int("axis", 0).int("sorted", 0).gives_all(&[values, places]);
        node().int("axis", 2).fails("2");
        node().int("axis", -3).fails("-3");
        let scalar = case("TopK").outputs(2).input(crate::testing::scalar(1f32));
        scalar.input(row(&[1i64])).fails("");
    }
}
