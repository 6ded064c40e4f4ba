//! Resize (ONNX, from operator set 11) where tract does not compute it as the specification says:
//! with antialiasing, a crop, an aspect ratio that is kept, cubic interpolation as in PyTorch, and
//! element types other than float32. Each dimension is resized in turn, in 64 bits.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::coordinates::{Along, Coordinates};
use super::targets::Targets;
use crate::framework::dims::{advance, strides, volume};
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{
    InputFact, OutputFact, concrete, optional, required, unknown_dims, with_dims,
};
use crate::framework::operator::Operator;
use crate::framework::tensors::{Bits, floats, from_bytes, from_floats, ints};

/// Whether a node needs this implementation, whatever its element type.
pub(super) fn is_needed(node: &NodeProto) -> TractResult<bool> {
    let text = |name| node.get_attr_opt::<&str>(name);
    let coordinates = Coordinates::of(node)?;
    let filtered = node.get_attr_opt::<i64>("antialias")?.unwrap_or(0) != 0;
    let kept = text("keep_aspect_ratio_policy")?.is_some_and(|policy| policy != "stretch");
    // tract puts the one element of a result half a pixel before the first element.
    let single = text("mode")? == Some("cubic") && coordinates == Coordinates::PytorchHalfPixel;
    Ok(filtered || kept || single || coordinates == Coordinates::Crop)
}

impl Resize {
    pub(super) fn of(node: &NodeProto) -> TractResult<Resize> {
        let mode = match node.get_attr_opt::<&str>("mode")?.unwrap_or("nearest") {
            "nearest" => Mode::Nearest(Rounding::of(node)?),
            "linear" => Mode::Linear,
            "cubic" => Mode::Cubic(Bits::of(node, "cubic_coeff_a", -0.75)?),
            other => bail!("the mode {other:?} is not implemented"),
        };
        let flag = |name| Ok::<_, TractError>(node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0);
        Ok(Resize {
            mode,
            coordinates: Coordinates::of(node)?,
            targets: Targets::of(node)?,
            filtered: flag("antialias")?,
            inside: flag("exclude_outside")?,
            beyond: Bits::of(node, "extrapolation_value", 0.0)?,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Nearest(Rounding),
    Linear,
    /// With the coefficient of the curve.
    Cubic(Bits),
}

/// The attribute `nearest_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rounding {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
}

impl Rounding {
    fn of(node: &NodeProto) -> TractResult<Rounding> {
        Ok(match node.get_attr_opt::<&str>("nearest_mode")?.unwrap_or("round_prefer_floor") {
            "round_prefer_floor" => Rounding::PreferFloor,
            "round_prefer_ceil" => Rounding::PreferCeil,
            "floor" => Rounding::Floor,
            "ceil" => Rounding::Ceil,
            other => bail!("the nearest_mode {other:?} is not implemented"),
        })
    }

    fn round(self, place: f64) -> f64 {
        match self {
            Rounding::PreferFloor => (place - 0.5).ceil(),
            Rounding::PreferCeil => (place + 0.5).floor(),
            Rounding::Floor => place.floor(),
            Rounding::Ceil => place.ceil(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resize {
    mode: Mode,
    coordinates: Coordinates,
    targets: Targets,
    filtered: bool,
    /// Whether positions outside of the input have no weight.
    inside: bool,
    /// The value outside of the input, with a crop.
    beyond: Bits,
}

impl Resize {
    /// Checks that implementations agree on this element type.
    fn check_type(&self, dtype: DatumType) -> TractResult<()> {
        let agreed = matches!(self.mode, Mode::Nearest(_)) || dtype.is_float();
        ensure!(
            agreed,
            "interpolation between elements of type {dtype:?} is not implemented: implementations round differently"
        );
        Ok(())
    }

    /// The weight of an element at this distance.
    fn weight(&self, distance: f64) -> f64 {
        let x = distance.abs();
        let Mode::Cubic(slope) = self.mode else { return (1.0 - x).max(0.0) };
        let a = f64::from(slope.get());
        match x {
            x if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            x if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
            _ => 0.0,
        }
    }

    /// The input elements of an output element, with their weights.
    fn mixture(&self, at: usize, along: &Along) -> TractResult<Vec<(usize, f64)>> {
        let Some(place) = self.coordinates.origin(at, along, |place| place) else {
            return Ok(vec![]);
        };
        let stretch = if self.filtered { along.scale.value().min(1.0) } else { 1.0 };
        let reach = if matches!(self.mode, Mode::Cubic(_)) { 2.0 } else { 1.0 } / stretch;
        let (first, last) = ((place - reach).ceil() as i64, (place + reach).floor() as i64);
        let end = along.from as i64 - 1;
        let mut mixture = Vec::with_capacity((last - first + 1).max(0) as usize);
        for neighbour in first..=last {
            let inside = (0..=end).contains(&neighbour);
            if inside || !self.inside {
                let weight = self.weight((neighbour as f64 - place) * stretch);
                mixture.push((neighbour.clamp(0, end) as usize, weight));
            }
        }
        let sum: f64 = mixture.iter().map(|(_, weight)| weight).sum();
        ensure!(sum.abs() > 1e-9, "the interpolation weights add up to zero");
        mixture.iter_mut().for_each(|(_, weight)| *weight /= sum);
        Ok(mixture)
    }

    /// Resizes one dimension by interpolation.
    fn along(
        &self,
        values: &[f64],
        shape: &[usize],
        axis: usize,
        to: &Along,
    ) -> TractResult<Vec<f64>> {
        let (from, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
        let mixtures: Vec<Vec<(usize, f64)>> =
            (0..to.size).map(|at| self.mixture(at, to)).collect::<TractResult<_>>()?;
        let outer: usize = shape[..axis].iter().product();
        let mut results = Vec::with_capacity(outer * to.size * inner);
        for block in 0..outer {
            for mixture in &mixtures {
                let start = results.len();
                let nothing = mixture.is_empty();
                let fill = if nothing { f64::from(self.beyond.get()) } else { 0.0 };
                results.resize(start + inner, fill);
                for (at, weight) in mixture {
                    let row = &values[(block * from + at) * inner..][..inner];
                    let to = results[start..].iter_mut();
                    to.zip(row).for_each(|(to, value)| *to += weight * value);
                }
            }
        }
        Ok(results)
    }

    /// Takes the nearest element of each dimension. `all` has the axes that are resized.
    fn nearest(
        &self,
        rounding: Rounding,
        data: &Tensor,
        all: &[(usize, Along)],
    ) -> TractResult<Tensor> {
        let (shape, dtype) = (data.shape(), data.datum_type());
        let mut sources: Vec<Vec<Option<usize>>> =
            shape.iter().map(|size| (0..*size).map(Some).collect()).collect();
        for (axis, along) in all {
            let end = along.from as f64 - 1.0;
            // A part is given in 32 bits, as scales are.
            let single = along.scale.is_given() || self.coordinates == Coordinates::Crop;
            let round = |place: f64| if single { f64::from(place as f32) } else { place };
            let source = |at| {
                let place = self.coordinates.origin(at, along, round)?;
                Some(rounding.round(place).clamp(0.0, end) as usize)
            };
            sources[*axis] = (0..along.size).map(source).collect();
        }
        let to: Vec<usize> = sources.iter().map(Vec::len).collect();
        let (strides, width, bytes) = (strides(shape), dtype.size_of(), data.as_bytes());
        let beyond = from_floats(dtype, &[], &[f64::from(self.beyond.get())])?;
        let mut out = beyond.as_bytes().repeat(volume(&to)?);
        let mut at = vec![0; to.len()];
        for target in out.chunks_exact_mut(width) {
            let each = at.iter().zip(&sources).zip(&strides);
            let place: Option<usize> =
                each.map(|((at, source), stride)| Some(source[*at]? * stride)).sum();
            if let Some(place) = place {
                target.copy_from_slice(&bytes[place * width..][..width]);
            }
            advance(&mut at, &to);
        }
        from_bytes(dtype, &to, &out)
    }
}

impl Operator for Resize {
    fn name(&self) -> &'static str {
        "Resize"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let data = required(inputs, 0)?;
        self.check_type(data.dtype)?;
        let deferred = || Ok(tvec!(unknown_dims(data.dtype, data.rank())));
        let empty = |input: &&InputFact| input.shape.iter().any(|dim| dim.as_i64() == Some(0));
        let given = |at| optional(inputs, at).filter(|input| !empty(input));
        let value = |at| given(at).map(|input| input.value.clone());
        let Some(shape) = concrete(&data.shape) else {
            let (None, Some(Some(wanted))) = (value(2), value(3)) else {
                return deferred();
            };
            let (mut to, axes) = (data.shape.clone(), self.targets.axes(data.rank())?);
            return match whole(Some(&wanted))?.map(|wanted| self.targets.fixed(&wanted)) {
                Some(Ok(Some(sizes))) if sizes.len() == axes.len() => {
                    axes.iter().zip(sizes).for_each(|(axis, size)| to[*axis] = size.to_dim());
                    Ok(tvec!(with_dims(data.dtype, to)))
                }
                _ => deferred(),
            };
        };
        let (scales, wanted) = match (value(2), value(3)) {
            (Some(None), _) | (_, Some(None)) => return deferred(),
            (scales, wanted) => (scales.flatten(), wanted.flatten()),
        };
        let (scales, wanted) = (list(scales.as_deref())?, whole(wanted.as_deref())?);
        let targets = self.targets.sizes(&shape, scales, wanted)?;
        let mut to = shape.clone();
        for (axis, (size, _)) in self.targets.axes(shape.len())?.into_iter().zip(targets) {
            to[axis] = size;
        }
        Ok(tvec!((data.dtype, to.into_iter().map(|dim| Some(dim.to_dim())).collect())))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *required(inputs, 0)?;
        self.check_type(data.datum_type())?;
        let mut shape = data.shape().to_vec();
        let given = |at| optional(inputs, at).copied();
        let targets = self.targets.sizes(&shape, list(given(2))?, whole(given(3))?)?;
        let axes = self.targets.axes(shape.len())?;
        let crop = self.coordinates == Coordinates::Crop;
        let parts = match given(1).filter(|_| crop) {
            Some(parts) => floats(parts)?,
            None => vec![],
        };
        let fits = !crop || parts.len() == 2 * axes.len();
        ensure!(
            fits,
            "roi has {} numbers, expected two for each of {} axes",
            parts.len(),
            axes.len()
        );
        ensure!(parts.iter().all(|bound| bound.is_finite()), "roi has values that are not finite");
        let mut all = Vec::with_capacity(axes.len());
        for (at, (axis, (size, scale))) in axes.iter().zip(targets).enumerate() {
            let part = if crop { [parts[at], parts[at + axes.len()]] } else { [0.0, 1.0] };
            let from = shape[*axis];
            if size != from || scale.value() != 1.0 || part != [0.0, 1.0] {
                all.push((*axis, Along { from, size, scale, part }));
            }
        }
        if let Mode::Nearest(rounding) = self.mode {
            return Ok(tvec!(self.nearest(rounding, data, &all)?));
        }
        let mut values = floats(data)?;
        for (axis, along) in &all {
            values = self.along(&values, &shape, *axis, along)?;
            shape[*axis] = along.size;
        }
        Ok(tvec!(from_floats(data.datum_type(), &shape, &values)?))
    }
}

/// The scales. An empty list counts as missing.
fn list(tensor: Option<&Tensor>) -> TractResult<Option<Vec<f64>>> {
    Ok(tensor.map(floats).transpose()?.filter(|list| !list.is_empty()))
}

fn whole(tensor: Option<&Tensor>) -> TractResult<Option<Vec<i64>>> {
    Ok(tensor.map(ints).transpose()?.filter(|list| !list.is_empty()))
}
