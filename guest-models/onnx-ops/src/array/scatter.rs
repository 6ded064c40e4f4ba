//! Reading from and writing to places that another tensor says: GatherElements, ScatterElements,
//! ScatterND and the Scatter of old. tract's write outside of a row, panic outside of the tensor, and
//! forget a NaN.

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::numbers::{Number, by_number};
use super::own::{
    Known, Own, Said, advance, built, concrete, from_bytes, index, ints, like, needed, strides,
    volume,
};
use super::resolve;

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

/// Along one axis, or to places in the first dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scatter {
    Elements { axis: i64, reduction: Reduction },
    Places { reduction: Reduction },
}

pub(super) fn register(registry: &mut OnnxOpRegister) {
    for name in ["Scatter", "ScatterElements"] {
        registry.insert(name, |_, node| {
            let axis = node.get_attr_opt("axis")?.unwrap_or(0);
            built(Scatter::Elements { axis, reduction: reduction(node)? }, node)
        });
    }
    registry.insert("GatherElements", |_, node| {
        built(GatherElements { axis: node.get_attr_opt("axis")?.unwrap_or(0) }, node)
    });
    registry.insert("ScatterND", |_, node| {
        built(Scatter::Places { reduction: reduction(node)? }, node)
    });
}

/// Elements at places along one axis; along the others each has its own place.
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
            "indices of {indices:?} of {data:?}"
        );
        Ok(axis)
    }
}

impl Own for GatherElements {
    fn name(&self) -> &'static str {
        "GatherElements"
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let (data, indices) = (needed(inputs, 0)?, needed(inputs, 1)?);
        if let (Some(data), Some(indices)) = (concrete(&data.shape), concrete(&indices.shape)) {
            self.check(&data, &indices)?;
        }
        Ok(tvec!((data.dtype, like(indices).1)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (data, indices) = (*needed(inputs, 0)?, *needed(inputs, 1)?);
        ensure!(data.datum_type().is_copy(), "{:?} is not implemented", data.datum_type());
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
    /// Holds shapes against each other.
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
                    "updates of {updates:?} at indices of {indices:?} of {data:?}"
                );
            }
            Scatter::Places { .. } => {
                let last = indices.last().context("indices without dimensions")?;
                let deep = deep(last)?;
                ensure!(deep <= data.len(), "indices of {deep} dimensions for {}", data.len());
                let wanted = [&indices[..indices.len() - 1], &data[deep..]].concat();
                ensure!(updates == wanted, "updates of {updates:?}, wanted are {wanted:?}");
            }
        }
        Ok(())
    }

    /// Calls a function with the place in the data and in the updates of each run of elements.
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
                for (at, (most, size)) in indices.iter().zip(data).enumerate() {
                    ensure!(at == axis || most <= size, "indices of {indices:?} of {data:?}");
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
            Scatter::Places { .. } => {
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
            Scatter::Elements { reduction, .. } | Scatter::Places { reduction } => *reduction,
        }
    }
}

impl Own for Scatter {
    fn name(&self) -> &'static str {
        match self {
            Scatter::Elements { .. } => "ScatterElements",
            Scatter::Places { .. } => "ScatterND",
        }
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let (data, indices) = (needed(inputs, 0)?, needed(inputs, 1)?);
        let updates = needed(inputs, 2)?;
        let adds = self.reduction() != Reduction::None;
        ensure!(!adds || data.dtype.is_number(), "{:?} cannot be reduced", data.dtype);
        let shapes = [&data.shape, &indices.shape, &updates.shape];
        // Sizes that are known when it runs are looked at then.
        if shapes.iter().all(|shape| shape.iter().all(|dim| dim.as_i64().is_some())) {
            self.check(&data.shape, &indices.shape, &updates.shape, |dim| Ok(dim.to_usize()?))?;
        }
        Ok(tvec!(like(data)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (data, indices) = (*needed(inputs, 0)?, *needed(inputs, 1)?);
        let updates = *needed(inputs, 2)?;
        ensure!(data.datum_type() == updates.datum_type(), "updates of another type");
        let (shape, places) = (data.shape(), indices.shape());
        self.check(shape, places, updates.shape(), |size| Ok(*size))?;
        volume(shape)?;
        let list = ints(indices)?;
        let run: usize = match self {
            Scatter::Elements { .. } => 1,
            Scatter::Places { .. } => shape[places.last().copied().unwrap_or(0)..].iter().product(),
        };
        if self.reduction() == Reduction::None {
            ensure!(data.datum_type().is_copy(), "{:?} is not implemented", data.datum_type());
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
        Reduction::Max => T::greater,
        Reduction::Min => T::lesser,
    };
    scatter.each(&shape, places, list, |to, from| {
        for (to, from) in output[to..][..run].iter_mut().zip(&updates[from..][..run]) {
            *to = function(*to, *from);
        }
    })
}
