//! Pad (com.microsoft): as that of ONNX, but the pads may be one row, and negative ones remove elements.

use belljar_operators::MICROSOFT;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::{MAX_DIM, advance, strides, volume};
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{
    InputFact, OutputFact, concrete, optional, required, unknown_dims, with_dims,
};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{from_bytes, ints};
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] = &[own("Pad", build).of(MICROSOFT)];

fn build(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let mode = match node.get_attr_opt::<&str>("mode")?.unwrap_or("constant") {
        "constant" => Mode::Constant,
        "reflect" => Mode::Reflect,
        "edge" => Mode::Edge,
        other => bail!("the mode {other:?} is not implemented; use constant, reflect or edge"),
    };
    built(Pad { mode }, node)
}

/// The values of the padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A given value, or zero.
    Constant,
    /// The elements before the end, in reverse.
    Reflect,
    /// The last element.
    Edge,
}

#[derive(Debug)]
struct Pad {
    mode: Mode,
}

/// What happens to an axis: first elements are removed, then others are added.
struct Axis {
    /// The elements that are removed at the start.
    removed: usize,
    /// The elements that are left.
    left: usize,
    before: usize,
    behind: usize,
}

impl Axis {
    /// The position in the input of one in the output; `None` is the given value.
    fn source(&self, mode: Mode, at: usize) -> Option<usize> {
        let (place, last) = (at as i64 - self.before as i64, self.left as i64 - 1);
        let place = match mode {
            Mode::Constant if place < 0 || place > last => return None,
            Mode::Constant => place,
            Mode::Reflect => last - (last - place.abs()).abs(),
            Mode::Edge => place.clamp(0, last),
        };
        Some(self.removed + place as usize)
    }
}

impl Pad {
    fn axes(&self, shape: &[usize], pads: &[i64]) -> TractResult<Vec<Axis>> {
        let rank = shape.len();
        let count = pads.len();
        ensure!(
            count == 2 * rank,
            "{count} pads do not match {rank} dimensions: each dimension needs two"
        );
        if let Some(pad) = pads.iter().find(|pad| !(-MAX_DIM..=MAX_DIM).contains(*pad)) {
            bail!("a pad of {pad} elements is too large");
        }
        let axis = |(axis, size): (usize, &usize)| {
            let (start, end) = (pads[axis], pads[rank + axis]);
            let [removed, at_end] = [start, end].map(|pad| pad.min(0).unsigned_abs() as usize);
            let [before, behind] = [start, end].map(|pad| pad.max(0) as usize);
            let Some(left) = size.checked_sub(removed).and_then(|left| left.checked_sub(at_end))
            else {
                bail!(
                    "the pads {start} and {end} remove more than the {size} elements of axis {axis}"
                )
            };
            let most = match self.mode {
                Mode::Reflect => left.saturating_sub(1),
                Mode::Edge if left == 0 => 0,
                Mode::Constant | Mode::Edge => usize::MAX,
            };
            let enough = before.max(behind) <= most;
            ensure!(
                enough,
                "a dimension of {left} elements is too short for the pads {start} and {end} in this mode"
            );
            Ok(Axis { removed, left, before, behind })
        };
        shape.iter().enumerate().map(axis).collect()
    }
}

/// The size of each axis with its padding.
fn padded(axes: &[Axis]) -> TractResult<Vec<usize>> {
    let size = |axis: &Axis| axis.left.saturating_add(axis.before).saturating_add(axis.behind);
    let shape: Vec<usize> = axes.iter().map(size).collect();
    volume(&shape)?;
    Ok(shape)
}

impl Operator for Pad {
    // "Pad" is that of pads which are known when the model is prepared.
    fn name(&self) -> &'static str {
        "PadFromInput"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (data, pads) = (required(inputs, 0)?, required(inputs, 1)?);
        let row = pads.rank() == 1 || pads.rank() == 2 && pads.shape[0].is_one();
        ensure!(row, "the pads have the shape {:?}, expected one row of them", pads.shape);
        if let Some(value) = optional(inputs, 2) {
            let one = value.shape.iter().all(|dim| dim.is_one());
            ensure!(one, "expected one padding value, found the shape {:?}", value.shape);
        }
        let known = concrete(&data.shape).zip(pads.ints()?);
        let Some((shape, pads)) = known else {
            return Ok(tvec!(unknown_dims(data.dtype, data.rank())));
        };
        let to = padded(&self.axes(&shape, &pads)?)?;
        Ok(tvec!(with_dims(data.dtype, to.into_iter().map(|size| size.to_dim()))))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *required(inputs, 0)?;
        let axes = self.axes(data.shape(), &ints(required(inputs, 1)?)?)?;
        let to = padded(&axes)?;
        let (size, strides) = (data.datum_type().size_of(), strides(data.shape()));
        let bytes = data.as_bytes();
        let value = optional(inputs, 2).map(|value| value.as_bytes().to_vec());
        let value = value.unwrap_or_else(|| vec![0; size]);
        ensure!(value.len() == size, "expected one padding value of the type of the data");
        let mut out = vec![0; volume(&to)? * size];
        let mut place = vec![0; to.len()];
        for target in out.chunks_exact_mut(size) {
            let sources = axes.iter().zip(&place).map(|(axis, at)| axis.source(self.mode, *at));
            let from = sources.zip(&strides).map(|(at, step)| at.map(|at| at * step)).sum();
            let from: Option<usize> = from;
            target.copy_from_slice(match from {
                Some(from) => &bytes[from * size..][..size],
                None => &value,
            });
            advance(&mut place, &to);
        }
        Ok(tvec!(from_bytes(data.datum_type(), &to, &out)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{counting, microsoft, row, tensor};

    // The expected numbers follow from the documentation.

    #[test]
    fn pad_has_three_modes() {
        let pad = |pads: &[i64]| microsoft("Pad").input(counting(&[2, 3])).input(row(pads));
        let columns = [0f32, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 3.0, 4.0, 5.0];
        pad(&[0, 2, 0, 0]).gives(tensor(&[2, 5], &columns));
        let both = [7f32, 0.0, 1.0, 2.0, 7.0, 3.0, 4.0, 5.0, 7.0, 7.0, 7.0, 7.0];
        pad(&[0, 1, 1, 0]).input(row(&[7f32])).gives(tensor(&[3, 4], &both));
        let reflected = [1f32, 0.0, 1.0, 2.0, 1.0, 4.0, 3.0, 4.0, 5.0, 4.0];
        pad(&[0, 1, 0, 1]).text("mode", "reflect").gives(tensor(&[2, 5], &reflected));
        let edge = [0f32, 0.0, 1.0, 2.0, 3.0, 3.0, 4.0, 5.0];
        pad(&[0, 1, 0, 0]).text("mode", "edge").gives(tensor(&[2, 4], &edge));
        pad(&[0, 1, 0]).fails("");
    }

    #[test]
    fn pads_may_be_one_row_and_negative() {
        let pad = |pads: &[i64]| {
            microsoft("Pad").input(counting(&[2, 3])).input(tensor(&[1, pads.len()], pads))
        };
        pad(&[0, -1, 0, 1]).gives(tensor(&[2, 3], &[1f32, 2.0, 0.0, 4.0, 5.0, 0.0]));
        let edge = pad(&[0, 2, 0, -2]).text("mode", "edge");
        edge.gives(tensor(&[2, 3], &[0f32, 0.0, 0.0, 3.0, 3.0, 3.0]));
        pad(&[-1, 0, -1, 0]).gives(tensor::<f32>(&[0, 3], &[]));
        pad(&[-2, 0, -1, 0]).fails("remove more");
        pad(&[0, 2, 0, -1]).text("mode", "reflect").fails("too short");
        pad(&[-1, 0, -1, 1]).text("mode", "edge").gives(tensor::<f32>(&[0, 4], &[]));
        pad(&[0, 1 << 40, 0, 0]).fails("too large");
        pad(&[i64::MIN, 0, 0, 0]).fails("too large");
        let square = microsoft("Pad").input(counting(&[2, 3]));
        square.clone().input(tensor(&[2, 2], &[0i64; 4])).fails("one row");
        square.input(row(&[0i64; 4])).input(row(&[1f32, 2.0])).fails("one padding value");
    }
}
