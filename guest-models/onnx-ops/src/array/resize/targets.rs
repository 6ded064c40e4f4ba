//! The sizes that Resize gives to its axes, from scales or from sizes.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::coordinates::{Coordinates, Scale};
use crate::framework::axes::resolve;
use crate::framework::dims::{sizes, volume};
use crate::framework::errors::{bail, ensure};

/// The attribute `keep_aspect_ratio_policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Stretch,
    NotLarger,
    NotSmaller,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Targets {
    axes: Option<Vec<i64>>,
    policy: Policy,
    coordinates: Coordinates,
}

impl Targets {
    pub(super) fn of(node: &NodeProto) -> TractResult<Targets> {
        let policy = node.get_attr_opt::<&str>("keep_aspect_ratio_policy")?;
        let policy = match policy.unwrap_or("stretch") {
            "stretch" => Policy::Stretch,
            "not_larger" => Policy::NotLarger,
            "not_smaller" => Policy::NotSmaller,
            other => bail!("the keep_aspect_ratio_policy {other:?} is not implemented"),
        };
        let coordinates = Coordinates::of(node)?;
        Ok(Targets { axes: node.get_attr_opt_vec("axes")?, policy, coordinates })
    }

    pub(super) fn axes(&self, rank: usize) -> TractResult<Vec<usize>> {
        let Some(axes) = &self.axes else { return Ok((0..rank).collect()) };
        let axes: Vec<usize> =
            axes.iter().map(|axis| resolve(*axis, rank)).collect::<TractResult<_>>()?;
        for (at, axis) in axes.iter().enumerate() {
            ensure!(!axes[..at].contains(axis), "duplicate axis {axis}");
        }
        Ok(axes)
    }

    /// The new size of each axis, and its scale.
    pub(super) fn sizes(
        &self,
        shape: &[usize],
        scales: Option<Vec<f64>>,
        wanted: Option<Vec<i64>>,
    ) -> TractResult<Vec<(usize, Scale)>> {
        let axes = self.axes(shape.len())?;
        let from: Vec<usize> = axes.iter().map(|axis| shape[*axis]).collect();
        ensure!(!from.contains(&0), "cannot resize a tensor with a zero dimension");
        let targets: Vec<(usize, Scale)> = match (scales, wanted) {
            (Some(_), Some(_)) => bail!("both scales and sizes are given"),
            (None, None) => bail!("neither scales nor sizes are given"),
            (None, Some(wanted)) => {
                ensure!(
                    wanted.len() == axes.len(),
                    "{} sizes do not match {} axes",
                    wanted.len(),
                    axes.len()
                );
                self.of_sizes(&from, &sizes(&wanted)?)?
            }
            (Some(scales), None) => {
                ensure!(
                    scales.len() == axes.len(),
                    "{} scales do not match {} axes",
                    scales.len(),
                    axes.len()
                );
                let each = scales.iter().zip(&from);
                each.map(|(scale, from)| self.of_scale(*from, *scale))
                    .collect::<TractResult<_>>()?
            }
        };
        let mut to = shape.to_vec();
        for (axis, (size, _)) in axes.iter().zip(&targets) {
            to[*axis] = *size;
        }
        volume(&to)?;
        Ok(targets)
    }

    /// The sizes that are wanted, if they are those of the output whatever those of the input are.
    pub(super) fn fixed(&self, wanted: &[i64]) -> TractResult<Option<Vec<usize>>> {
        match self.policy {
            Policy::Stretch => sizes(wanted).map(Some),
            _ => Ok(None),
        }
    }

    /// Each size and scale, from the sizes that are wanted.
    fn of_sizes(&self, from: &[usize], wanted: &[usize]) -> TractResult<Vec<(usize, Scale)>> {
        let ratios = wanted.iter().copied().zip(from.iter().copied());
        // Fractions are compared and rounded exactly.
        let order = |a: &(usize, usize), b: &(usize, usize)| {
            (a.0 as u128 * b.1 as u128).cmp(&(b.0 as u128 * a.1 as u128))
        };
        let common = match self.policy {
            Policy::Stretch => None,
            Policy::NotLarger => ratios.clone().min_by(order),
            Policy::NotSmaller => ratios.clone().max_by(order),
        };
        match common {
            None => {
                let scale = |(size, from)| Scale { by: size as f64, of: from as f64 };
                Ok(ratios.map(|ratio: (usize, usize)| (ratio.0, scale(ratio))).collect())
            }
            Some((by, of)) => {
                let target = |from: &usize| {
                    let scale = Scale { by: by as f64, of: of as f64 };
                    self.check_whole(*from as f64 * scale.value())?;
                    let twice = 2 * *from as u128 * by as u128 + of as u128;
                    Ok(((twice / (2 * of as u128)) as usize, scale))
                };
                from.iter().map(target).collect()
            }
        }
    }

    /// With `align_corners`, the formula of the specification has the size after rounding, its example
    /// the one before.
    fn check_whole(&self, exact: f64) -> TractResult<()> {
        let whole = (exact - exact.round()).abs() < 1e-4;
        ensure!(
            whole || self.coordinates != Coordinates::AlignCorners,
            "align_corners with an output size of {exact}, which is not whole, is not implemented"
        );
        Ok(())
    }

    fn of_scale(&self, from: usize, scale: f64) -> TractResult<(usize, Scale)> {
        // The specification multiplies the size by the part as well, implementations do not.
        ensure!(
            self.coordinates != Coordinates::Crop,
            "scales with tf_crop_and_resize are not implemented"
        );
        let exact = from as f64 * scale;
        let single = (from as f32 * scale as f32).floor();
        let sure = scale.is_finite() && scale > 0.0 && f64::from(single) == exact.floor();
        ensure!(sure && exact < 1e9, "cannot scale {from} elements by {scale}");
        self.check_whole(exact)?;
        Ok((exact.floor() as usize, Scale { by: scale, of: 1.0 }))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, counting, row, tensor};

    #[test]
    fn kept_aspect_ratio_rounds_half_up() {
        let resize = |policy: &str| {
            let case = case("Resize").text("keep_aspect_ratio_policy", policy);
            let case = case.input(tensor(&[6, 3], &[0f32; 18])).missing().missing();
            case.input(row(&[5i64, 3]))
        };
        // 5/6 of 3 is 2.5.
        resize("not_larger").gives(tensor(&[5, 3], &[0f32; 15]));
        resize("not_smaller").gives(tensor(&[6, 3], &[0f32; 18]));
    }

    #[test]
    fn align_corners_refuses_a_size_that_is_not_whole() {
        for mode in ["linear", "cubic"] {
            let case = case("Resize").text("mode", mode);
            let case = case.text("coordinate_transformation_mode", "align_corners");
            let case = case.input(counting(&[1, 4])).missing();
            case.input(row(&[1f32, 0.8])).fails("3.2");
        }
    }
}
