//! GatherElements, ScatterElements, ScatterND and the deprecated Scatter (ONNX). tract's operators
//! write outside of a row, panic outside of the tensor, and drop a NaN.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::axes::resolve;
use crate::framework::dims::{advance, index, strides, volume};
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, concrete, like, required};
use crate::framework::numbers::{Number, by_number};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{from_bytes, ints};
use crate::framework::upstream::BuildResult;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reduction {
    None,
    Add,
    Mul,
    Max,
    Min,
}

fn reduction(node: &NodeProto) -> TractResult<Reduction> {
    Ok(match node.get_attr_opt::<&str>("reduction")?.unwrap_or("none") {
        "none" => Reduction::None,
        "add" => Reduction::Add,
        "mul" => Reduction::Mul,
        "max" => Reduction::Max,
        "min" => Reduction::Min,
        other => bail!("the reduction {other:?} is not implemented"),
    })
}

/// Along one axis, or to positions in the first dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scatter {
    Elements { axis: i64, reduction: Reduction },
    Nd { reduction: Reduction },
}

pub(crate) const OPERATORS: &[Registration] = &[
    own("Scatter", build_scatter),
    own("ScatterElements", build_scatter),
    own("GatherElements", build_gather_elements),
    own("ScatterND", build_scatter_nd),
];

fn build_scatter(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let axis = node.get_attr_opt("axis")?.unwrap_or(0);
    built(Scatter::Elements { axis, reduction: reduction(node)? }, node)
}

fn build_gather_elements(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    built(GatherElements { axis: node.get_attr_opt("axis")?.unwrap_or(0) }, node)
}

fn build_scatter_nd(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    built(Scatter::Nd { reduction: reduction(node)? }, node)
}

/// Elements at indices along one axis; the other coordinates stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct GatherElements {
    axis: i64,
}

impl GatherElements {
    fn check(&self, data: &[usize], indices: &[usize]) -> TractResult<usize> {
        let axis = resolve(self.axis, data.len())?;
        let fits = |at: usize| at == axis || indices[at] <= data[at];
        ensure!(
            indices.len() == data.len() && (0..data.len()).all(fits),
            "indices of the shape {indices:?} do not match data of the shape {data:?}"
        );
        Ok(axis)
    }
}

impl Operator for GatherElements {
    fn name(&self) -> &'static str {
        "GatherElements"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (data, indices) = (required(inputs, 0)?, required(inputs, 1)?);
        if let (Some(data), Some(indices)) = (concrete(&data.shape), concrete(&indices.shape)) {
            self.check(&data, &indices)?;
        }
        Ok(tvec!((data.dtype, like(indices).1)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (data, indices) = (*required(inputs, 0)?, *required(inputs, 1)?);
        ensure!(
            data.datum_type().is_copy(),
            "element type {:?} is not implemented",
            data.datum_type()
        );
        let (shape, places) = (data.shape(), indices.shape());
        let axis = self.check(shape, places)?;
        let (size, strides) = (data.datum_type().size_of(), strides(shape));
        let mut bytes = Vec::with_capacity(volume(places)?.saturating_mul(size));
        let mut place = vec![0; shape.len()];
        for given in ints(indices)? {
            let along = index(given, shape[axis])?;
            let mut from = 0;
            for (at, stride) in strides.iter().enumerate() {
                from += if at == axis { along } else { place[at] } * stride;
            }
            bytes.extend_from_slice(&data.as_bytes()[from * size..][..size]);
            advance(&mut place, places);
        }
        Ok(tvec!(from_bytes(data.datum_type(), places, &bytes)?))
    }
}

impl Scatter {
    /// Checks that the shapes match.
    fn check<D: PartialEq + Clone + std::fmt::Debug>(
        &self,
        data: &[D],
        indices: &[D],
        updates: &[D],
        deep: impl Fn(&D) -> TractResult<usize>,
    ) -> TractResult<()> {
        match self {
            Scatter::Elements { axis, .. } => {
                resolve(*axis, data.len())?;
                ensure!(
                    indices == updates && indices.len() == data.len(),
                    "updates of the shape {updates:?} do not match indices of the shape {indices:?} and data of the shape {data:?}"
                );
            }
            Scatter::Nd { .. } => {
                let last = indices.last().or_user_error("the indices have no dimensions")?;
                let deep = deep(last)?;
                ensure!(
                    deep <= data.len(),
                    "indices of {deep} dimensions do not match data of {} dimensions",
                    data.len()
                );
                let wanted = [&indices[..indices.len() - 1], &data[deep..]].concat();
                ensure!(
                    updates == wanted,
                    "updates have the shape {updates:?}, expected {wanted:?}"
                );
            }
        }
        Ok(())
    }

    /// Calls a function with the positions in the data and in the updates of each run of elements.
    fn each(
        &self,
        data: &[usize],
        indices: &[usize],
        list: &[i64],
        mut write: impl FnMut(usize, usize),
    ) -> TractResult<()> {
        let strides = strides(data);
        match *self {
            Scatter::Elements { axis, .. } => {
                let axis = resolve(axis, data.len())?;
                for (at, (count, size)) in indices.iter().zip(data).enumerate() {
                    ensure!(
                        at == axis || count <= size,
                        "indices of the shape {indices:?} do not match data of the shape {data:?}"
                    );
                }
                let mut place = vec![0; data.len()];
                for (from, given) in list.iter().enumerate() {
                    let along = index(*given, data[axis])?;
                    let offset = |(at, (place, stride)): (usize, (&usize, &usize))| {
                        if at == axis { along * stride } else { place * stride }
                    };
                    let to = place.iter().zip(&strides).enumerate().map(offset).sum();
                    write(to, from);
                    advance(&mut place, indices);
                }
            }
            Scatter::Nd { .. } => {
                let deep = indices.last().copied().unwrap_or(0);
                let count = indices[..indices.len() - 1].iter().product();
                let run: usize = data[deep..].iter().product();
                for from in 0..count {
                    let mut to = 0;
                    for (axis, given) in list[from * deep..][..deep].iter().enumerate() {
                        to += index(*given, data[axis])? * strides[axis];
                    }
                    write(to, from * run);
                }
            }
        }
        Ok(())
    }

    fn reduction(&self) -> Reduction {
        match self {
            Scatter::Elements { reduction, .. } | Scatter::Nd { reduction } => *reduction,
        }
    }
}

impl Operator for Scatter {
    fn name(&self) -> &'static str {
        match self {
            Scatter::Elements { .. } => "ScatterElements",
            Scatter::Nd { .. } => "ScatterND",
        }
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (data, indices) = (required(inputs, 0)?, required(inputs, 1)?);
        let updates = required(inputs, 2)?;
        let adds = self.reduction() != Reduction::None;
        ensure!(!adds || data.dtype.is_number(), "{:?} cannot be reduced", data.dtype);
        let shapes = [&data.shape, &indices.shape, &updates.shape];
        // Sizes that are not known yet are checked when the model runs.
        if shapes.iter().all(|shape| shape.iter().all(|dim| dim.as_i64().is_some())) {
            self.check(&data.shape, &indices.shape, &updates.shape, |dim| Ok(dim.to_usize()?))?;
        }
        Ok(tvec!(like(data)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (data, indices) = (*required(inputs, 0)?, *required(inputs, 1)?);
        let updates = *required(inputs, 2)?;
        ensure!(
            data.datum_type() == updates.datum_type(),
            "the updates have another element type than the data"
        );
        let (shape, places) = (data.shape(), indices.shape());
        self.check(shape, places, updates.shape(), |size| Ok(*size))?;
        volume(shape)?;
        let list = ints(indices)?;
        let run: usize = match self {
            Scatter::Elements { .. } => 1,
            Scatter::Nd { .. } => shape[places.last().copied().unwrap_or(0)..].iter().product(),
        };
        if self.reduction() == Reduction::None {
            ensure!(
                data.datum_type().is_copy(),
                "element type {:?} is not implemented",
                data.datum_type()
            );
            let size = data.datum_type().size_of();
            let (mut bytes, from_bytes_of) = (data.as_bytes().to_vec(), updates.as_bytes());
            self.each(shape, places, &list, |to, from| {
                bytes[to * size..][..run * size]
                    .copy_from_slice(&from_bytes_of[from * size..][..run * size]);
            })?;
            return Ok(tvec!(from_bytes(data.datum_type(), shape, &bytes)?));
        }
        let mut output = data.clone();
        by_number!(reduce(data.datum_type())(self, &mut output, updates, places, &list, run))?;
        Ok(tvec!(output))
    }
}

fn reduce<T: Number>(
    scatter: &Scatter,
    output: &mut Tensor,
    updates: &Tensor,
    places: &[usize],
    list: &[i64],
    run: usize,
) -> TractResult<()> {
    let shape: TVec<usize> = output.shape().into();
    let mut output = output.try_as_plain_ram_mut()?;
    let output = output.as_slice_mut::<T>()?;
    let updates = updates.try_as_plain_ram()?;
    let updates = updates.as_slice::<T>()?;
    let function: fn(T, T) -> T = match scatter.reduction() {
        Reduction::None => |_, update| update,
        Reduction::Add => T::plus,
        Reduction::Mul => T::times,
        Reduction::Max => T::nan_max,
        Reduction::Min => T::nan_min,
    };
    scatter.each(&shape, places, list, |to, from| {
        for (to, from) in output[to..][..run].iter_mut().zip(&updates[from..][..run]) {
            *to = function(*to, *from);
        }
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, counting, row, tensor};

    /// Along the last of two dimensions, at its last and first index.
    fn elements(case: Case) -> Case {
        let case = case.int("axis", -1).input(tensor(&[1, 3], &[1f32, 2.0, 3.0]));
        case.input(tensor(&[1, 2], &[-1i64, 0])).input(tensor(&[1, 2], &[10f32, f32::NAN]))
    }

    #[test]
    fn scatter_and_scatter_elements_count_negative_indices_from_the_end() {
        let expected = || tensor(&[1, 3], &[f32::NAN, 2.0, 10.0]);
        elements(case("ScatterElements")).gives(expected());
        elements(case("Scatter").opset(10)).gives(expected());
    }

    #[test]
    fn scatter_elements_reduces_with_the_data_and_duplicate_indices() {
        let node = |reduction| {
            let case = case("ScatterElements").text("reduction", reduction);
            case.input(row(&[1f32, 5.0])).input(row(&[1i64, 1])).input(row(&[2f32, 7.0]))
        };
        node("add").gives(row(&[1f32, 14.0]));
        node("mul").gives(row(&[1f32, 70.0]));
        node("max").gives(row(&[1f32, 7.0]));
        node("min").gives(row(&[1f32, 2.0]));
    }

    #[test]
    fn scatter_and_gather_elements_refuse_indices_outside_of_the_tensor() {
        let wrong = |case: Case, index: i64| case.input(row(&[1f32, 2.0])).input(row(&[index]));
        for index in [2, -3, 1 << 32] {
            let update = row(&[9f32]);
            wrong(case("ScatterElements"), index).input(update.clone()).fails(&index.to_string());
            wrong(case("Scatter").opset(10), index).input(update).fails(&index.to_string());
            wrong(case("GatherElements"), index).fails(&index.to_string());
        }
    }

    #[test]
    fn gather_elements_takes_other_coordinates_from_the_position_of_the_index() {
        let indices = tensor(&[1, 2], &[-1i64, 0]);
        let first = case("GatherElements").input(counting(&[2, 2])).input(indices.clone());
        first.gives(tensor(&[1, 2], &[2f32, 1.0]));
        let last = case("GatherElements").int("axis", -1).input(counting(&[2, 2]));
        last.input(indices).gives(tensor(&[1, 2], &[1f32, 0.0]));
    }

    #[test]
    fn scatter_nd_writes_slices_and_sums_duplicates() {
        let node = |indices: &[i64]| {
            let case = case("ScatterND").input(counting(&[2, 2]));
            case.input(tensor(&[2, 1], indices)).input(tensor(&[2, 2], &[10f32, 20.0, 30.0, 40.0]))
        };
        node(&[-1, 0]).gives(tensor(&[2, 2], &[30f32, 40.0, 10.0, 20.0]));
        let sum = node(&[1, 1]).text("reduction", "add");
        sum.gives(tensor(&[2, 2], &[0f32, 1.0, 42.0, 63.0]));
        node(&[0, 2]).fails("2");
    }
}
