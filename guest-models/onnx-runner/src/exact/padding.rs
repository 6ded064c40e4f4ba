//! Pad (ONNX) as tract does not have it: around a torus (operator set 19), by reflection as the
//! attributes of old models say it (up to operator set 10), and beside a value that is not used,
//! which tract pads with.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::guards::MOST;
use super::own::{
    Known, Own, Said, advance, built, concrete, from_bytes, ints, needed, optional, strides,
    unknown, volume,
};
use super::resolve;

/// What is beyond an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beyond {
    /// What is at the other end.
    Wrap,
    /// What is before it, backwards.
    Reflect,
    /// The last element.
    Edge,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pad {
    beyond: Beyond,
    /// Pads that are an attribute.
    said: Option<Vec<i64>>,
}

pub(super) fn pad(version: i64, node: &NodeProto) -> super::Built {
    let beyond = match node.get_attr_opt::<&str>("mode")? {
        Some("wrap") => Beyond::Wrap,
        Some("reflect") => Beyond::Reflect,
        Some("edge") => Beyond::Edge,
        mode => bail!("the mode {mode:?} is not implemented this way"),
    };
    let said = if version < 11 { Some(node.get_attr_vec("pads")?) } else { None };
    built(Pad { beyond, said }, node)
}

impl Pad {
    /// How much is put before and behind along each dimension.
    fn pads(
        &self,
        rank: usize,
        pads: &[i64],
        axes: Option<&[i64]>,
    ) -> TractResult<Vec<[usize; 2]>> {
        let axes: Vec<usize> = match axes {
            Some(axes) => {
                axes.iter().map(|axis| resolve(*axis, rank)).collect::<TractResult<_>>()?
            }
            None => (0..rank).collect(),
        };
        ensure!(pads.len() == 2 * axes.len(), "{} pads for {} axes", pads.len(), axes.len());
        let mut all = vec![[0; 2]; rank];
        for (at, axis) in axes.iter().enumerate() {
            ensure!(!axes[..at].contains(axis), "axis {axis} is there twice");
            for (end, pad) in [pads[at], pads[at + axes.len()]].into_iter().enumerate() {
                ensure!((0..=MOST).contains(&pad), "a pad of {pad} is not implemented");
                all[*axis][end] = pad as usize;
            }
        }
        Ok(all)
    }

    fn padded(&self, shape: &[usize], pads: &[[usize; 2]]) -> TractResult<Vec<usize>> {
        let mut to = Vec::with_capacity(shape.len());
        for (size, [before, behind]) in shape.iter().zip(pads) {
            let most = match self.beyond {
                Beyond::Reflect => size.saturating_sub(1),
                Beyond::Wrap | Beyond::Edge => usize::MAX,
            };
            let some = *size > 0 || before + behind == 0;
            ensure!(some, "no element is there to repeat");
            let near = *before <= most && *behind <= most;
            ensure!(near, "{size} elements do not reflect {before} and {behind} beyond");
            to.push(size.saturating_add(*before).saturating_add(*behind));
        }
        volume(&to)?;
        Ok(to)
    }
}

impl Own for Pad {
    fn name(&self) -> &'static str {
        "Pad"
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let data = needed(inputs, 0)?;
        let axes = optional(inputs, 3).map(Known::ints).transpose()?;
        let pads = match &self.said {
            Some(said) => Some(said.clone()),
            None => needed(inputs, 1)?.ints()?,
        };
        let known = match axes {
            Some(None) => None,
            axes => concrete(&data.shape).zip(pads).map(|(shape, pads)| (shape, pads, axes)),
        };
        let Some((shape, pads, axes)) = known else {
            return Ok(tvec!(unknown(data.dtype, data.rank())));
        };
        let axes = axes.flatten();
        let to = self.padded(&shape, &self.pads(shape.len(), &pads, axes.as_deref())?)?;
        Ok(tvec!((data.dtype, to.into_iter().map(|dim| Some(dim.to_dim())).collect())))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *needed(inputs, 0)?;
        ensure!(data.datum_type().is_copy(), "{:?} is not implemented", data.datum_type());
        let axes = optional(inputs, 3).map(|axes| ints(axes)).transpose()?;
        let pads = match &self.said {
            Some(said) => said.clone(),
            None => ints(needed(inputs, 1)?)?,
        };
        let shape = data.shape();
        let pads = self.pads(shape.len(), &pads, axes.as_deref())?;
        let to = self.padded(shape, &pads)?;
        let (size, strides) = (data.datum_type().size_of(), strides(shape));
        let bytes = data.as_bytes();
        let mut out = vec![0; volume(&to)? * size];
        let mut at = vec![0; to.len()];
        for target in out.chunks_exact_mut(size) {
            let mut from = 0;
            for (axis, at) in at.iter().enumerate() {
                let place = *at as i64 - pads[axis][0] as i64;
                let last = shape[axis] as i64 - 1;
                let place = match self.beyond {
                    Beyond::Wrap => place.rem_euclid(last + 1),
                    Beyond::Reflect => last - (last - place.abs()).abs(),
                    Beyond::Edge => place.clamp(0, last),
                };
                from += place as usize * strides[axis];
            }
            target.copy_from_slice(&bytes[from * size..][..size]);
            advance(&mut at, &to);
        }
        Ok(tvec!(from_bytes(data.datum_type(), &to, &out)?))
    }
}
