//! Operators that move elements without changing them: CenterCropPad (operator set 18), Compress
//! (9), ReverseSequence (10), TensorScatter (24), BitCast (26).

use belljar_abi::codes;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::axes::resolve;
use crate::framework::dims::{advance, sizes, strides, volume};
use crate::framework::element_type::ElementType;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{
    InputFact, OutputFact, concrete, like, optional, required, unknown_dims,
};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{from_bytes, ints};
use crate::framework::upstream::BuildResult;

/// An operator with its attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rearrange {
    CenterCropPad { axes: Option<Vec<i64>> },
    Compress { axis: Option<i64> },
    ReverseSequence { batch: usize, time: usize },
    TensorScatter { axis: i64, circular: bool },
    BitCast { to: DatumType },
}

pub(crate) const OPERATORS: &[Registration] = &[
    own("CenterCropPad", build_center_crop_pad),
    own("Compress", build_compress),
    own("ReverseSequence", build_reverse_sequence),
    own("TensorScatter", build_tensor_scatter),
    own("BitCast", |_, node| built(Rearrange::BitCast { to: target(node)? }, node)),
];

fn build_center_crop_pad(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    built(Rearrange::CenterCropPad { axes: node.get_attr_opt_vec("axes")? }, node)
}

fn build_compress(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    built(Rearrange::Compress { axis: node.get_attr_opt("axis")? }, node)
}

fn build_reverse_sequence(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let axis = |name, default| Ok::<_, TractError>(node.get_attr_opt(name)?.unwrap_or(default));
    let (batch, time) = (axis("batch_axis", 1)?, axis("time_axis", 0)?);
    built(Rearrange::ReverseSequence { batch, time }, node)
}

fn build_tensor_scatter(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let axis = node.get_attr_opt("axis")?.unwrap_or(-2);
    let circular = node.get_attr_opt::<&str>("mode")? == Some("circular");
    built(Rearrange::TensorScatter { axis, circular }, node)
}

/// The element type of the result; small types are carried as their codes (gate/carry.rs).
fn target(node: &NodeProto) -> TractResult<DatumType> {
    match ElementType::of(u32::try_from(node.get_attr::<i64>("to")?)?)? {
        ElementType::Small(dtype) if codes::bits(dtype).is_none_or(|bits| bits < 8) => {
            bail!("reinterpreting bits as {dtype} is not implemented")
        }
        elements => Ok(elements.carrier()),
    }
}

/// A tensor whose elements are copied from the positions that a function returns, or zero.
pub(crate) fn picked(
    from: &Tensor,
    shape: &[usize],
    place: impl Fn(&[usize]) -> Option<usize>,
) -> TractResult<Tensor> {
    let size = from.datum_type().size_of();
    let count = volume(shape)?;
    let bytes = from.as_bytes();
    let mut out = vec![0; count.saturating_mul(size)];
    let mut at = vec![0; shape.len()];
    for to in out.chunks_exact_mut(size) {
        if let Some(from) = place(&at) {
            let from = bytes.get(from * size..).and_then(|rest| rest.get(..size));
            to.copy_from_slice(
                from.or_user_error("internal error: a position is outside of the tensor")?,
            );
        }
        advance(&mut at, shape);
    }
    from_bytes(from.datum_type(), shape, &out)
}

/// The flat index of coordinates.
pub(crate) fn flat(at: &[usize], strides: &[usize]) -> usize {
    at.iter().zip(strides).map(|(at, stride)| at * stride).sum()
}

impl Rearrange {
    /// The output shape of CenterCropPad.
    fn cropped(&self, shape: &[usize], wanted: &[i64]) -> TractResult<Vec<usize>> {
        let Rearrange::CenterCropPad { axes } = self else { bail!("not cropped") };
        let axes = match axes {
            Some(axes) => axes.clone(),
            None => (0..shape.len() as i64).collect(),
        };
        ensure!(
            axes.len() == wanted.len(),
            "{} sizes do not match {} axes",
            wanted.len(),
            axes.len()
        );
        let mut to = shape.to_vec();
        for (at, (axis, size)) in axes.iter().zip(sizes(wanted)?).enumerate() {
            ensure!(!axes[..at].contains(axis), "duplicate axis {axis}");
            to[resolve(*axis, shape.len())?] = size;
        }
        Ok(to)
    }

    fn crop(&self, data: &Tensor, wanted: &Tensor) -> TractResult<Tensor> {
        let shape = data.shape();
        let to = self.cropped(shape, &ints(wanted)?)?;
        let strides = strides(shape);
        picked(data, &to, |at| {
            let mut from = 0;
            for (axis, at) in at.iter().enumerate() {
                let (size, to) = (shape[axis], to[axis]);
                // Half is cropped or padded before, and the rest after.
                let at = match to >= size {
                    true => at.checked_sub((to - size) / 2).filter(|at| *at < size)?,
                    false => at + (size - to) / 2,
                };
                from += at * strides[axis];
            }
            Some(from)
        })
    }

    fn compress(data: &Tensor, condition: &Tensor, axis: Option<i64>) -> TractResult<Tensor> {
        ensure!(
            condition.rank() == 1,
            "the condition has {} dimensions, expected 1",
            condition.rank()
        );
        let condition = condition.try_as_plain_ram()?;
        let condition = condition.as_slice::<bool>()?;
        let chosen: Vec<usize> =
            condition.iter().enumerate().filter(|(_, taken)| **taken).map(|(at, _)| at).collect();
        let (shape, axis) = match axis {
            Some(axis) => (data.shape().to_vec(), resolve(axis, data.rank())?),
            None => (vec![data.len()], 0),
        };
        ensure!(
            condition.len() <= shape[axis],
            "the condition has {} elements for an axis of {}",
            condition.len(),
            shape[axis]
        );
        let strides = strides(&shape);
        let mut to = shape.clone();
        to[axis] = chosen.len();
        picked(data, &to, |at| {
            let moved = chosen[at[axis]] * strides[axis];
            Some(flat(at, &strides) - at[axis] * strides[axis] + moved)
        })
    }

    fn reverse(data: &Tensor, lens: &Tensor, batch: usize, time: usize) -> TractResult<Tensor> {
        let shape = data.shape();
        ensure!(
            batch != time && batch < shape.len() && time < shape.len(),
            "batch_axis and time_axis must be two different axes of the input"
        );
        let lens = sizes(&ints(lens)?)?;
        ensure!(
            lens.len() == shape[batch],
            "{} lengths do not match a batch of {}",
            lens.len(),
            shape[batch]
        );
        let longest = lens.iter().max().copied().unwrap_or(0);
        ensure!(
            longest <= shape[time],
            "a length of {longest} does not fit an axis of {}",
            shape[time]
        );
        let strides = strides(shape);
        picked(data, shape, |at| {
            let (step, length) = (at[time], lens[at[batch]]);
            let from = if step < length { length - 1 - step } else { step };
            Some(flat(at, &strides) - step * strides[time] + from * strides[time])
        })
    }

    fn tensor_scatter(
        past: &Tensor,
        update: &Tensor,
        indices: Option<&Tensor>,
        axis: i64,
        circular: bool,
    ) -> TractResult<Tensor> {
        let shape = past.shape();
        let axis = resolve(axis, shape.len())?;
        ensure!(axis > 0, "cannot write along the batch axis");
        let fits = update.rank() == shape.len()
            && update.datum_type() == past.datum_type()
            && (0..shape.len()).all(|at| at == axis || update.shape()[at] == shape[at])
            && update.shape()[axis] <= shape[axis];
        ensure!(
            fits,
            "an update of the shape {:?} does not fit a cache of the shape {shape:?}",
            update.shape()
        );
        let starts = match indices {
            Some(indices) => sizes(&ints(indices)?)?,
            None => vec![0; shape[0]],
        };
        ensure!(
            starts.len() == shape[0],
            "{} indices do not match a batch of {}",
            starts.len(),
            shape[0]
        );
        let (long, count) = (shape[axis], update.shape()[axis]);
        let within = |start: &usize| *start + if circular { 1 } else { count } <= long.max(1);
        ensure!(
            starts.iter().all(within),
            "the indices {starts:?} write past the end of an axis of {long}"
        );
        let size = past.datum_type().size_of();
        let mut bytes = past.as_bytes().to_vec();
        let to = strides(shape);
        let mut at = vec![0; shape.len()];
        for from in update.as_bytes().chunks_exact(size) {
            let mut place = at.clone();
            place[axis] = (starts[at[0]] + at[axis]) % long;
            bytes[flat(&place, &to) * size..][..size].copy_from_slice(from);
            advance(&mut at, update.shape());
        }
        from_bytes(past.datum_type(), shape, &bytes)
    }
}

impl Operator for Rearrange {
    fn name(&self) -> &'static str {
        match self {
            Rearrange::CenterCropPad { .. } => "CenterCropPad",
            Rearrange::Compress { .. } => "Compress",
            Rearrange::ReverseSequence { .. } => "ReverseSequence",
            Rearrange::TensorScatter { .. } => "TensorScatter",
            Rearrange::BitCast { .. } => "BitCast",
        }
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let data = required(inputs, 0)?;
        let rank = data.rank();
        let known = |dims: Vec<usize>| {
            (data.dtype, dims.into_iter().map(|dim| Some(dim.to_dim())).collect::<TVec<_>>())
        };
        Ok(tvec!(match self {
            Rearrange::CenterCropPad { .. } => {
                match (concrete(&data.shape), required(inputs, 1)?.ints()?) {
                    (Some(shape), Some(wanted)) => known(self.cropped(&shape, &wanted)?),
                    _ => unknown_dims(data.dtype, rank),
                }
            }
            Rearrange::Compress { axis: None } => unknown_dims(data.dtype, 1),
            Rearrange::Compress { axis: Some(axis) } => {
                let (dtype, mut dims) = like(data);
                dims[resolve(*axis, rank)?] = None;
                (dtype, dims)
            }
            Rearrange::ReverseSequence { .. } | Rearrange::TensorScatter { .. } => like(data),
            Rearrange::BitCast { to } => {
                let (from, same) = (data.dtype, to.size_of() == data.dtype.size_of());
                ensure!(
                    same && to.is_copy() && *to != bool::datum_type(),
                    "cannot reinterpret {from:?} as {to:?}: their sizes differ, or their bits are not free"
                );
                (*to, like(data).1)
            }
        }))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *required(inputs, 0)?;
        ensure!(
            data.datum_type().is_copy(),
            "element type {:?} is not implemented",
            data.datum_type()
        );
        let second = || required(inputs, 1).copied();
        Ok(tvec!(match self {
            Rearrange::CenterCropPad { .. } => self.crop(data, second()?)?,
            Rearrange::Compress { axis } => Rearrange::compress(data, second()?, *axis)?,
            Rearrange::ReverseSequence { batch, time } => {
                Rearrange::reverse(data, second()?, *batch, *time)?
            }
            Rearrange::TensorScatter { axis, circular } => {
                let indices = optional(inputs, 2).copied();
                Rearrange::tensor_scatter(data, second()?, indices, *axis, *circular)?
            }
            Rearrange::BitCast { to } => from_bytes(*to, data.shape(), data.as_bytes())?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, counting, row, tensor};

    #[test]
    fn center_crop_pad_puts_an_odd_element_at_the_end() {
        let crop = case("CenterCropPad").input(row(&[1i32, 2, 3, 4])).input(row(&[1i64]));
        crop.gives(row(&[2i32]));
        let pad = case("CenterCropPad").input(row(&[1i32, 2])).input(row(&[5i64]));
        pad.gives(row(&[0i32, 1, 2, 0, 0]));
        let both = case("CenterCropPad").ints("axes", &[-1]).input(counting(&[2, 3]));
        both.input(row(&[1i64])).gives(tensor(&[2, 1], &[1f32, 4.0]));
        case("CenterCropPad").input(row(&[1i32])).input(row(&[2i64, 2])).fails("2");
    }

    #[test]
    fn compress_takes_a_shorter_condition_and_flattens_without_axis() {
        let data = || counting(&[2, 3]);
        let flat = case("Compress").input(data()).input(row(&[false, true, false, false, true]));
        flat.gives(row(&[1f32, 4.0]));
        let columns = case("Compress").int("axis", -1).input(data()).input(row(&[false, true]));
        columns.gives(tensor(&[2, 1], &[1f32, 4.0]));
        let long = case("Compress").int("axis", 0).input(data()).input(row(&[true, false, true]));
        long.fails("3");
    }

    #[test]
    fn reverse_sequence_reverses_a_part_of_each_batch() {
        let node = |lengths: &[i64]| {
            let case = case("ReverseSequence").int("batch_axis", 0).int("time_axis", 1);
            case.input(counting(&[2, 3])).input(row(lengths))
        };
        node(&[2, 3]).gives(tensor(&[2, 3], &[1f32, 0.0, 2.0, 5.0, 4.0, 3.0]));
        node(&[2, 4]).fails("4");
        let default = case("ReverseSequence").input(counting(&[2, 2])).input(row(&[1i64, 2]));
        default.gives(tensor(&[2, 2], &[0f32, 3.0, 2.0, 1.0]));
    }

    #[test]
    fn tensor_scatter_wraps_only_in_the_circular_mode() {
        let node = |starts: &[i64]| {
            let case =
                case("TensorScatter").input(tensor(&[2, 3, 1], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]));
            case.input(tensor(&[2, 2, 1], &[10f32, 20.0, 30.0, 40.0])).input(row(starts))
        };
        let expected = |numbers: &[f32]| tensor(&[2, 3, 1], numbers);
        node(&[1, 0]).gives(expected(&[1.0, 10.0, 20.0, 30.0, 40.0, 6.0]));
        node(&[2, 0]).fails("2");
        let circular = node(&[2, 0]).text("mode", "circular");
        circular.gives(expected(&[20.0, 2.0, 10.0, 30.0, 40.0, 6.0]));
    }

    #[test]
    fn bit_cast_keeps_every_bit() {
        let bits = [0x7fa0_0001u32, 0x8000_0000, 0x3f80_0000];
        let floats = case("BitCast").int("to", 12).input(row(&bits.map(f32::from_bits)));
        floats.gives(row(&bits));
        let integers = case("BitCast").int("to", 6).input(row(&[0xffff_fffeu32]));
        integers.gives(row(&[-2i32]));
        case("BitCast").int("to", 7).input(row(&[1f32])).fails("");
        // bfloat16 and float8e5m2 as their codes.
        case("BitCast").int("to", 16).input(row(&[-2i16])).gives(row(&[0xfffeu16]));
        case("BitCast").int("to", 19).input(row(&[-2i8])).gives(row(&[0xfeu8]));
        case("BitCast").int("to", 22).input(row(&[-2i8])).fails("4");
    }
}
