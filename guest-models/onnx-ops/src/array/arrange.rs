//! Operators that move elements about as they are: CenterCropPad (operator set 18), Compress (9),
//! ReverseSequence (10), TensorScatter (24), Upsample (9), BitCast (26).

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::pb::NodeProto;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::tract_hir::internal::*;

use super::own::{
    Known, Own, Said, advance, built, concrete, floats, from_bytes, ints, like, needed, optional,
    sizes, strides, unknown, volume,
};
use super::resolve;

/// What is moved, and what the operator's attributes say.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Arrange {
    CenterCropPad {
        axes: Option<Vec<i64>>,
    },
    Compress {
        axis: Option<i64>,
    },
    ReverseSequence {
        batch: usize,
        time: usize,
    },
    TensorScatter {
        axis: i64,
        circular: bool,
    },
    /// Each element as often as a factor says; or, to be smaller, one in so many.
    Nearest {
        smaller: bool,
    },
    BitCast {
        to: DatumType,
    },
}

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("CenterCropPad", |_, node| {
        built(Arrange::CenterCropPad { axes: node.get_attr_opt_vec("axes")? }, node)
    });
    registry.insert("Compress", |_, node| {
        built(Arrange::Compress { axis: node.get_attr_opt("axis")? }, node)
    });
    registry.insert("ReverseSequence", |_, node| {
        let axis = |name, default| Ok::<_, TractError>(node.get_attr_opt(name)?.unwrap_or(default));
        let (batch, time) = (axis("batch_axis", 1)?, axis("time_axis", 0)?);
        built(Arrange::ReverseSequence { batch, time }, node)
    });
    registry.insert("TensorScatter", |_, node| {
        let axis = node.get_attr_opt("axis")?.unwrap_or(-2);
        let circular = node.get_attr_opt::<&str>("mode")? == Some("circular");
        built(Arrange::TensorScatter { axis, circular }, node)
    });
    registry.insert("Upsample", |_, node| built(Arrange::Nearest { smaller: false }, node));
    registry.insert("BitCast", |_, node| built(Arrange::BitCast { to: target(node)? }, node));
}

/// Resize of version 10 in the mode `nearest`. Where an element is in the midst of others, that
/// version does not say which of them is the nearest; onnxruntime takes the one before.
pub(super) fn resize_10(node: &NodeProto) -> super::Built {
    built(Arrange::Nearest { smaller: true }, node)
}

fn target(node: &NodeProto) -> TractResult<DatumType> {
    let to = i32::try_from(node.get_attr::<i64>("to")?)?;
    Ok(DatumType::try_from(DataType::try_from(to)?)?)
}

/// A tensor whose elements are those of another one, each at a place that a function says, or zero.
fn picked(
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
            to.copy_from_slice(from.context("a place outside of the tensor")?);
        }
        advance(&mut at, shape);
    }
    from_bytes(from.datum_type(), shape, &out)
}

/// The flat place of coordinates.
fn flat(at: &[usize], strides: &[usize]) -> usize {
    at.iter().zip(strides).map(|(at, stride)| at * stride).sum()
}

impl Arrange {
    /// The shape that CenterCropPad makes.
    fn cropped(&self, shape: &[usize], wanted: &[i64]) -> TractResult<Vec<usize>> {
        let Arrange::CenterCropPad { axes } = self else { bail!("not cropped") };
        let axes = match axes {
            Some(axes) => axes.clone(),
            None => (0..shape.len() as i64).collect(),
        };
        ensure!(axes.len() == wanted.len(), "{} sizes for {} axes", wanted.len(), axes.len());
        let mut to = shape.to_vec();
        for (at, (axis, size)) in axes.iter().zip(sizes(wanted)?).enumerate() {
            ensure!(!axes[..at].contains(axis), "axis {axis} is there twice");
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
                // What is cropped or padded is as much before as behind, or one more behind.
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
        ensure!(condition.rank() == 1, "a condition of {} dimensions", condition.rank());
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
            "a condition of {} for {} elements",
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
            "axes that are not there"
        );
        let lens = sizes(&ints(lens)?)?;
        ensure!(lens.len() == shape[batch], "{} lengths for {}", lens.len(), shape[batch]);
        let longest = lens.iter().max().copied().unwrap_or(0);
        ensure!(longest <= shape[time], "a length of {longest} of {}", shape[time]);
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
        ensure!(axis > 0, "the axis of batches is none to write along");
        let fits = update.rank() == shape.len()
            && update.datum_type() == past.datum_type()
            && (0..shape.len()).all(|at| at == axis || update.shape()[at] == shape[at])
            && update.shape()[axis] <= shape[axis];
        ensure!(fits, "an update of {:?} of {shape:?}", update.shape());
        let starts = match indices {
            Some(indices) => sizes(&ints(indices)?)?,
            None => vec![0; shape[0]],
        };
        ensure!(starts.len() == shape[0], "{} indices for {}", starts.len(), shape[0]);
        let (long, count) = (shape[axis], update.shape()[axis]);
        let within = |start: &usize| *start + if circular { 1 } else { count } <= long.max(1);
        ensure!(starts.iter().all(within), "the indices {starts:?} lead outside of {long}");
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

    /// The whole numbers by which each dimension is multiplied and divided, one of which is 1.
    fn factors(scales: &Tensor, rank: usize, smaller: bool) -> TractResult<Vec<(usize, usize)>> {
        let scales = floats(scales)?;
        ensure!(scales.len() == rank, "{} factors for {rank} dimensions", scales.len());
        let whole = |number: f64| {
            ((1.0..=65536.0).contains(&number) && number.fract() == 0.0).then_some(number as usize)
        };
        let factor = |scale: &f64| match (whole(*scale), whole(1.0 / scale)) {
            (Some(by), _) => Ok((by, 1)),
            // Of others, a number of 32 bits is not quite the fraction.
            (None, Some(by)) if smaller && by.is_power_of_two() => Ok((1, by)),
            _ => bail!("a factor of {scale} is not implemented in the mode \"nearest\""),
        };
        scales.iter().map(factor).collect()
    }

    fn nearest(data: &Tensor, scales: &Tensor, smaller: bool) -> TractResult<Tensor> {
        let factors = Arrange::factors(scales, data.rank(), smaller)?;
        let strides = strides(data.shape());
        let to = scaled(data.shape(), &factors)?;
        picked(data, &to, |at| {
            let each = at.iter().zip(&factors);
            let near: Vec<usize> = each.map(|(at, (up, down))| at / up * down).collect();
            Some(flat(&near, &strides))
        })
    }
}

fn scaled(shape: &[usize], factors: &[(usize, usize)]) -> TractResult<Vec<usize>> {
    let to = shape.iter().zip(factors).map(|(size, (up, down))| (size / down).checked_mul(*up));
    to.collect::<Option<_>>().context("a tensor that is too large")
}

impl Own for Arrange {
    fn name(&self) -> &'static str {
        match self {
            Arrange::CenterCropPad { .. } => "CenterCropPad",
            Arrange::Compress { .. } => "Compress",
            Arrange::ReverseSequence { .. } => "ReverseSequence",
            Arrange::TensorScatter { .. } => "TensorScatter",
            Arrange::Nearest { smaller: false } => "Upsample",
            Arrange::Nearest { smaller: true } => "Resize",
            Arrange::BitCast { .. } => "BitCast",
        }
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let data = needed(inputs, 0)?;
        let rank = data.rank();
        let known = |dims: Vec<usize>| {
            (data.dtype, dims.into_iter().map(|dim| Some(dim.to_dim())).collect::<TVec<_>>())
        };
        Ok(tvec!(match self {
            Arrange::CenterCropPad { .. } => {
                match (concrete(&data.shape), needed(inputs, 1)?.ints()?) {
                    (Some(shape), Some(wanted)) => known(self.cropped(&shape, &wanted)?),
                    _ => unknown(data.dtype, rank),
                }
            }
            Arrange::Compress { axis: None } => unknown(data.dtype, 1),
            Arrange::Compress { axis: Some(axis) } => {
                let (dtype, mut dims) = like(data);
                dims[resolve(*axis, rank)?] = None;
                (dtype, dims)
            }
            Arrange::ReverseSequence { .. } | Arrange::TensorScatter { .. } => like(data),
            Arrange::Nearest { smaller } =>
                match (concrete(&data.shape), &needed(inputs, 1)?.value) {
                    (Some(shape), Some(scales)) => {
                        known(scaled(&shape, &Arrange::factors(scales, rank, *smaller)?)?)
                    }
                    _ => unknown(data.dtype, rank),
                },
            Arrange::BitCast { to } => {
                let (from, same) = (data.dtype, to.size_of() == data.dtype.size_of());
                ensure!(same && to.is_copy() && *to != bool::datum_type(), "{from:?} as {to:?}");
                (*to, like(data).1)
            }
        }))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *needed(inputs, 0)?;
        ensure!(data.datum_type().is_copy(), "{:?} is not implemented", data.datum_type());
        let second = || needed(inputs, 1).copied();
        Ok(tvec!(match self {
            Arrange::CenterCropPad { .. } => self.crop(data, second()?)?,
            Arrange::Compress { axis } => Arrange::compress(data, second()?, *axis)?,
            Arrange::ReverseSequence { batch, time } => {
                Arrange::reverse(data, second()?, *batch, *time)?
            }
            Arrange::TensorScatter { axis, circular } => {
                let indices = optional(inputs, 2).copied();
                Arrange::tensor_scatter(data, second()?, indices, *axis, *circular)?
            }
            Arrange::Nearest { smaller } => Arrange::nearest(data, second()?, *smaller)?,
            Arrange::BitCast { to } => from_bytes(*to, data.shape(), data.as_bytes())?,
        }))
    }
}
