//! Resize (ONNX, from operator set 11) with antialiasing (18) or `tf_crop_and_resize`, which tract
//! does not have. Each dimension is resized in turn, in 64 bits.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::axes::resolve;
use crate::framework::dims::{sizes, volume};
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, concrete, optional, required, unknown_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::tensors::{Bits, floats, from_floats, ints};
use crate::framework::upstream::BuildResult;

/// Whether a node needs this implementation.
pub(crate) fn is_needed(node: &NodeProto) -> TractResult<bool> {
    let mode = node.get_attr_opt::<&str>("coordinate_transformation_mode")?;
    let filtered = node.get_attr_opt::<i64>("antialias")?.unwrap_or(0) != 0;
    Ok(filtered || mode == Some("tf_crop_and_resize"))
}

pub(crate) fn resize(node: &NodeProto) -> BuildResult {
    let text = |name| node.get_attr_opt::<&str>(name);
    let crop = text("coordinate_transformation_mode")? == Some("tf_crop_and_resize");
    let half = matches!(text("coordinate_transformation_mode")?, None | Some("half_pixel"));
    let cubic = match text("mode")?.unwrap_or("nearest") {
        "linear" => false,
        "cubic" if !crop => true,
        other => bail!("the mode {other:?} is not implemented with this filter or coordinate mode"),
    };
    ensure!(crop || half, "antialias with this coordinate_transformation_mode is not implemented");
    let policy = text("keep_aspect_ratio_policy")?.unwrap_or("stretch");
    ensure!(
        policy == "stretch",
        "keep_aspect_ratio_policy {policy:?} is not implemented in this mode"
    );
    let flag = |name| Ok::<_, TractError>(node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0);
    let op = Resize {
        cubic,
        crop,
        filtered: flag("antialias")?,
        inside: flag("exclude_outside")?,
        slope: Bits::of(node, "cubic_coeff_a", -0.75)?,
        beyond: Bits::of(node, "extrapolation_value", 0.0)?,
        axes: node.get_attr_opt_vec("axes")?,
    };
    built(op, node)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Resize {
    cubic: bool,
    /// Whether a part of the input is resized, with `extrapolation_value` around it.
    crop: bool,
    filtered: bool,
    /// Whether positions outside of the input have no weight.
    inside: bool,
    slope: Bits,
    beyond: Bits,
    axes: Option<Vec<i64>>,
}

/// How one dimension is resized.
struct Along {
    size: usize,
    scale: f64,
    /// Start and end of the part, from 0 to 1.
    part: [f64; 2],
}

impl Resize {
    fn axes(&self, rank: usize) -> TractResult<Vec<usize>> {
        let Some(axes) = &self.axes else { return Ok((0..rank).collect()) };
        let axes: Vec<usize> =
            axes.iter().map(|axis| resolve(*axis, rank)).collect::<TractResult<_>>()?;
        for (at, axis) in axes.iter().enumerate() {
            ensure!(!axes[..at].contains(axis), "duplicate axis {axis}");
        }
        Ok(axes)
    }

    /// The new size of each axis, and its scale.
    fn targets(
        &self,
        shape: &[usize],
        scales: Option<Vec<f64>>,
        wanted: Option<Vec<i64>>,
    ) -> TractResult<Vec<(usize, f64)>> {
        let axes = self.axes(shape.len())?;
        let targets: Vec<(usize, f64)> = match (scales, wanted) {
            (Some(_), Some(_)) => bail!("both scales and sizes are given"),
            (None, None) => bail!("neither scales nor sizes are given"),
            (None, Some(wanted)) => {
                ensure!(
                    wanted.len() == axes.len(),
                    "{} sizes do not match {} axes",
                    wanted.len(),
                    axes.len()
                );
                let each = sizes(&wanted)?.into_iter().zip(&axes);
                each.map(|(size, axis)| (size, size as f64 / shape[*axis] as f64)).collect()
            }
            (Some(scales), None) => {
                ensure!(!self.crop, "scales with tf_crop_and_resize are not implemented");
                ensure!(
                    scales.len() == axes.len(),
                    "{} scales do not match {} axes",
                    scales.len(),
                    axes.len()
                );
                let target = |(scale, axis): (&f64, &usize)| {
                    let size = (shape[*axis] as f64 * scale).floor();
                    let single = (shape[*axis] as f32 * *scale as f32).floor();
                    let sure = scale.is_finite() && *scale > 0.0 && f64::from(single) == size;
                    ensure!(
                        sure && size < 1e9,
                        "cannot scale {} elements by {scale}",
                        shape[*axis]
                    );
                    Ok((size as usize, *scale))
                };
                scales.iter().zip(&axes).map(target).collect::<TractResult<_>>()?
            }
        };
        let mut to = shape.to_vec();
        for (axis, (size, _)) in axes.iter().zip(&targets) {
            ensure!(*size > 0 && shape[*axis] > 0, "cannot resize a zero dimension, or to one");
            to[*axis] = *size;
        }
        volume(&to)?;
        Ok(targets)
    }

    /// The weight of an element at this distance.
    fn weight(&self, distance: f64) -> f64 {
        let x = distance.abs();
        if !self.cubic {
            return (1.0 - x).max(0.0);
        }
        let a = f64::from(self.slope.get());
        match x {
            x if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            x if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
            _ => 0.0,
        }
    }

    /// The position in the input of an output element. With `crop`, `None` outside of the input.
    fn origin(&self, at: usize, from: usize, along: &Along) -> Option<f64> {
        if !self.crop {
            return Some((at as f64 + 0.5) / along.scale - 0.5);
        }
        let (last, [start, end]) = ((from - 1) as f64, along.part);
        let place = match along.size {
            1 => 0.5 * (start + end) * last,
            size => start * last + at as f64 * (end - start) * last / (size - 1) as f64,
        };
        (0.0..=last).contains(&place).then_some(place)
    }

    /// The input elements of an output element, with their weights.
    fn mixture(&self, at: usize, from: usize, along: &Along) -> TractResult<Vec<(usize, f64)>> {
        let Some(place) = self.origin(at, from, along) else { return Ok(vec![]) };
        let stretch = if self.filtered { along.scale.min(1.0) } else { 1.0 };
        let reach = if self.cubic { 2.0 } else { 1.0 } / stretch;
        let (first, last) = ((place - reach).ceil() as i64, (place + reach).floor() as i64);
        let mut mixture = Vec::with_capacity((last - first + 1).max(0) as usize);
        for neighbour in first..=last {
            let inside = (0..from as i64).contains(&neighbour);
            if inside || !self.inside {
                let weight = self.weight((neighbour as f64 - place) * stretch);
                mixture.push((neighbour.clamp(0, from as i64 - 1) as usize, weight));
            }
        }
        let sum: f64 = mixture.iter().map(|(_, weight)| weight).sum();
        ensure!(sum.abs() > 1e-9, "the interpolation weights add up to zero");
        mixture.iter_mut().for_each(|(_, weight)| *weight /= sum);
        Ok(mixture)
    }

    fn along(
        &self,
        values: &[f64],
        shape: &[usize],
        axis: usize,
        to: &Along,
    ) -> TractResult<Vec<f64>> {
        let (from, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
        let mixtures: Vec<Vec<(usize, f64)>> =
            (0..to.size).map(|at| self.mixture(at, from, to)).collect::<TractResult<_>>()?;
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
}

impl Operator for Resize {
    fn name(&self) -> &'static str {
        "Resize"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let data = required(inputs, 0)?;
        let deferred = || Ok(tvec!(unknown_dims(data.dtype, data.rank())));
        let Some(shape) = concrete(&data.shape) else { return deferred() };
        let value = |at| optional(inputs, at).map(|input| input.value.clone());
        let (scales, wanted) = match (value(2), value(3)) {
            (Some(None), _) | (_, Some(None)) => return deferred(),
            (scales, wanted) => (scales.flatten(), wanted.flatten()),
        };
        let targets = self.targets(&shape, list(scales.as_deref())?, whole(wanted.as_deref())?)?;
        let mut to = shape.clone();
        for (axis, (size, _)) in self.axes(shape.len())?.into_iter().zip(targets) {
            to[axis] = size;
        }
        Ok(tvec!((data.dtype, to.into_iter().map(|dim| Some(dim.to_dim())).collect())))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *required(inputs, 0)?;
        let mut shape = data.shape().to_vec();
        let given = |at| optional(inputs, at).copied();
        let targets = self.targets(&shape, list(given(2))?, whole(given(3))?)?;
        let axes = self.axes(shape.len())?;
        let parts = match given(1).filter(|_| self.crop) {
            Some(parts) => floats(parts)?,
            None => vec![],
        };
        let fits = !self.crop || parts.len() == 2 * axes.len();
        ensure!(
            fits,
            "roi has {} numbers, expected two for each of {} axes",
            parts.len(),
            axes.len()
        );
        ensure!(parts.iter().all(|bound| bound.is_finite()), "roi has values that are not finite");
        let mut values = floats(data)?;
        for (at, (axis, (size, scale))) in axes.iter().zip(targets).enumerate() {
            let part = if self.crop { [parts[at], parts[at + axes.len()]] } else { [0.0, 1.0] };
            if size == shape[*axis] && scale == 1.0 && part == [0.0, 1.0] {
                continue;
            }
            values = self.along(&values, &shape, *axis, &Along { size, scale, part })?;
            shape[*axis] = size;
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
