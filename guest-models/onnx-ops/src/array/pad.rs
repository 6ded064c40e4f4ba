//! Pad (ONNX). This crate computes the mode `wrap` (operator set 19), `reflect` and negative pads up
//! to operator set 10, and `reflect` and `edge` with a value that is unused, which tract would pad
//! with. Negative pads remove elements, before any are added: the padding is made of what is left.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::array::Slice;
use tract_onnx::tract_hir::internal::*;

use crate::framework::assumptions::{self, at_most};
use crate::framework::axes::resolve;
use crate::framework::checks::check_fits;
use crate::framework::dims::{MAX_DIM, advance, strides, volume};
use crate::framework::errors::{OrUserError, ensure};
use crate::framework::facts::{InputFact, OutputFact, concrete, optional, required, unknown_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{Bits, from_bytes, from_floats, ints};
use crate::framework::upstream::{self, BuildResult};
use crate::framework::wiring::constant_ints;
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] =
    &[own("Pad", build_2).until(10), own("Pad", build_11).since(11)];

const PAD: Wrapping = Wrapping::new(pad).constant_from(1).rules(pad_rules);

/// Pad with everything in the attributes, which the gate has checked.
fn build_2(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    let pads: Vec<i64> = node.get_attr_vec("pads")?;
    let mode = match node.get_attr_opt::<&str>("mode")? {
        Some("reflect") => PadMode::Reflect,
        _ if pads.iter().all(|pad| *pad >= 0) => return upstream::build(context, node),
        Some("edge") => PadMode::Edge,
        _ => PadMode::Constant(Bits::of(node, "value", 0.0)?),
    };
    built(Pad { mode, attribute: Some(pads) }, node)
}

fn build_11(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    let value = node.input.get(2).is_some_and(|name| !name.is_empty());
    let mode = match node.get_attr_opt::<&str>("mode")? {
        Some("wrap") => PadMode::Wrap,
        // These modes ignore the value, but tract uses it.
        Some("reflect") if value => PadMode::Reflect,
        Some("edge") if value => PadMode::Edge,
        _ => return PAD.build(context, node),
    };
    built(Pad { mode, attribute: None }, node)
}

/// tract's rules, except that the value may have one dimension.
fn pad_rules<'r>(
    op: &'r Wrapped,
    s: &mut Solver<'r>,
    inputs: &'r [TensorProxy],
    outputs: &'r [TensorProxy],
) -> InferenceResult {
    check_output_arity(outputs, 1)?;
    s.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
    s.equals(&inputs[0].rank, &outputs[0].rank)?;
    s.equals(&inputs[1].rank, 1)?;
    let axes = op.input(3);
    s.given_2(&inputs[0].shape, &inputs[1].value, move |s, shape, pads| {
        let padded = move |axes: Option<&Tensor>| -> TractResult<TVec<TDim>> {
            let axes = match axes {
                Some(axes) => ints(axes)?,
                None => (0..shape.len() as i64).collect(),
            };
            let pads = ints(&pads)?;
            ensure!(
                pads.len() == 2 * axes.len(),
                "{} pads do not match {} axes: each axis needs two",
                pads.len(),
                axes.len()
            );
            let mut shape = shape.clone();
            for (at, axis) in axes.iter().enumerate() {
                let axis = resolve(*axis, shape.len())?;
                let [before, behind] = [pads[at], pads[at + axes.len()]];
                let both = before.checked_add(behind).or_user_error("the pads are too large")?;
                shape[axis] = shape[axis].clone() + both;
                let left = shape[axis].as_i64().is_none_or(|size| size >= 0);
                ensure!(
                    left,
                    "pads of {before} and {behind} elements remove more than axis {axis} has"
                );
            }
            Ok(shape)
        };
        match axes {
            None => s.equals(&outputs[0].shape, ShapeFactoid::from(padded(None)?)),
            Some(at) => s.given(&inputs[at].value, move |s, axes: Arc<Tensor>| {
                s.equals(&outputs[0].shape, ShapeFactoid::from(padded(Some(&axes))?))
            }),
        }
    })
}

fn pad(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let fact = model.outlet_fact(inputs[0])?.clone();
    let axes: Vec<usize> = match op.input(3) {
        Some(at) => {
            let axes = constant_ints(model, inputs[at], "the axes")?;
            axes.iter().map(|axis| resolve(*axis, fact.rank())).collect::<TractResult<_>>()?
        }
        None => (0..fact.rank()).collect(),
    };
    let pads = constant_ints(model, inputs[1], "the pads")?;
    ensure!(
        pads.len() == 2 * axes.len(),
        "{} pads do not match {} axes: each axis needs two",
        pads.len(),
        axes.len()
    );
    let reflect = op.node.get_attr_opt("mode")? == Some("reflect");
    let edge = op.node.get_attr_opt("mode")? == Some("edge");
    // The sizes of open dimensions are checked at each run.
    let mut padded: Vec<f64> =
        fact.shape.iter().map(|dim| assumptions::size(dim).unwrap_or(1) as f64).collect();
    for (at, axis) in axes.iter().enumerate() {
        padded[*axis] += pads[at] as f64 + pads[at + axes.len()] as f64;
    }
    check_fits(padded)?;
    let mut inputs: TVec<OutletId> = inputs.into();
    let mut added = pads.clone();
    for (at, axis) in axes.iter().enumerate() {
        ensure!(!axes[..at].contains(axis), "duplicate axis {axis}");
        let ends = [pads[at], pads[at + axes.len()]];
        for pad in ends {
            ensure!((-MAX_DIM..=MAX_DIM).contains(&pad), "a pad of {pad} elements is too large");
        }
        let [before, behind] = ends.map(|pad| (-pad).max(0));
        let mut size = fact.shape[*axis].clone();
        if before + behind > 0 {
            ensure!(
                at_most(&(before + behind).to_dim(), &size)?,
                "pads of {} and {} elements remove more than the {size} elements of axis {axis}",
                ends[0],
                ends[1]
            );
            let slice = Slice::new(*axis, before.to_dim(), size.clone() - behind);
            inputs[0] = model.wire_node(format!("{prefix}.left_{axis}"), slice, &inputs[..1])?[0];
            size = size - before - behind;
            added[at] = ends[0].max(0);
            added[at + axes.len()] = ends[1].max(0);
        }
        for pad in ends.map(|pad| pad.max(0)) {
            ensure!(
                !reflect || pad == 0 || at_most(&(pad + 1).to_dim(), &size)?,
                "cannot reflect {pad} elements of a dimension of {size}"
            );
            ensure!(
                !edge || pad == 0 || at_most(&1.to_dim(), &size)?,
                "cannot pad an empty dimension by repeating its elements"
            );
        }
    }
    if added != pads {
        inputs[1] = model.add_const(format!("{prefix}.added"), tensor1(&added))?;
    }
    if let Some(at) = op.input(2) {
        let value = model.outlet_fact(inputs[at])?.konst.clone();
        let value = value.or_user_error("the padding value must be a constant")?;
        if value.rank() > 0 {
            ensure!(
                value.rank() == 1 && value.len() == 1,
                "expected one padding value, found {}",
                value.len()
            );
            let value = value.into_tensor().into_shape(&[])?;
            inputs[at] = model.add_const(format!("{prefix}.beyond"), value)?;
        }
    }
    op.wire_original(prefix, model, &inputs)
}

/// The values of the padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PadMode {
    /// The elements at the other end.
    Wrap,
    /// The elements before the end, in reverse.
    Reflect,
    /// The last element.
    Edge,
    /// This number.
    Constant(Bits),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pad {
    mode: PadMode,
    /// Pads that are an attribute.
    attribute: Option<Vec<i64>>,
}

impl Pad {
    /// The padding before and after each dimension. A negative one removes elements.
    fn pads(&self, rank: usize, pads: &[i64], axes: Option<&[i64]>) -> TractResult<Vec<[i64; 2]>> {
        let axes: Vec<usize> = match axes {
            Some(axes) => {
                axes.iter().map(|axis| resolve(*axis, rank)).collect::<TractResult<_>>()?
            }
            None => (0..rank).collect(),
        };
        ensure!(
            pads.len() == 2 * axes.len(),
            "{} pads do not match {} axes: each axis needs two",
            pads.len(),
            axes.len()
        );
        let mut all = vec![[0; 2]; rank];
        for (at, axis) in axes.iter().enumerate() {
            ensure!(!axes[..at].contains(axis), "duplicate axis {axis}");
            for (end, pad) in [pads[at], pads[at + axes.len()]].into_iter().enumerate() {
                ensure!(
                    (-MAX_DIM..=MAX_DIM).contains(&pad),
                    "a pad of {pad} elements is too large"
                );
                all[*axis][end] = pad;
            }
        }
        Ok(all)
    }

    fn padded(&self, shape: &[usize], pads: &[[i64; 2]]) -> TractResult<Vec<usize>> {
        let mut to = Vec::with_capacity(shape.len());
        for (size, [before, behind]) in shape.iter().zip(pads) {
            let removed = before.min(&0) + behind.min(&0);
            let left = *size as i64 + removed;
            ensure!(
                left >= 0,
                "pads of {before} and {behind} elements remove more than a dimension of {size} has"
            );
            let (before, behind) = (*before.max(&0), *behind.max(&0));
            let max = match self.mode {
                PadMode::Reflect => (left - 1).max(0),
                PadMode::Wrap | PadMode::Edge | PadMode::Constant(_) => i64::MAX,
            };
            let constant = matches!(self.mode, PadMode::Constant(_));
            let some = constant || left > 0 || before + behind == 0;
            ensure!(some, "cannot pad an empty dimension by repeating its elements");
            let near = before <= max && behind <= max;
            ensure!(near, "cannot reflect {before} and {behind} elements of a dimension of {left}");
            to.push((left + before + behind) as usize);
        }
        volume(&to)?;
        Ok(to)
    }

    /// The position in an axis of an element at a position of the output, if it is one of the input.
    fn place(&self, at: usize, size: usize, [before, behind]: [i64; 2]) -> Option<usize> {
        // Positions among the elements that are left.
        let last = size as i64 + before.min(0) + behind.min(0) - 1;
        let place = at as i64 - before.max(0);
        let place = match self.mode {
            PadMode::Wrap => place.rem_euclid(last + 1),
            PadMode::Reflect => last - (last - place.abs()).abs(),
            PadMode::Edge => place.clamp(0, last),
            PadMode::Constant(_) if !(0..=last).contains(&place) => return None,
            PadMode::Constant(_) => place,
        };
        Some((place - before.min(0)) as usize)
    }
}

impl Operator for Pad {
    fn name(&self) -> &'static str {
        "Pad"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let data = required(inputs, 0)?;
        let axes = optional(inputs, 3).map(InputFact::ints).transpose()?;
        let pads = match &self.attribute {
            Some(attribute) => Some(attribute.clone()),
            None => required(inputs, 1)?.ints()?,
        };
        let known = match axes {
            Some(None) => None,
            axes => concrete(&data.shape).zip(pads).map(|(shape, pads)| (shape, pads, axes)),
        };
        let Some((shape, pads, axes)) = known else {
            return Ok(tvec!(unknown_dims(data.dtype, data.rank())));
        };
        let axes = axes.flatten();
        let to = self.padded(&shape, &self.pads(shape.len(), &pads, axes.as_deref())?)?;
        Ok(tvec!((data.dtype, to.into_iter().map(|dim| Some(dim.to_dim())).collect())))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *required(inputs, 0)?;
        ensure!(
            data.datum_type().is_copy(),
            "element type {:?} is not implemented",
            data.datum_type()
        );
        let axes = optional(inputs, 3).map(|axes| ints(axes)).transpose()?;
        let pads = match &self.attribute {
            Some(attribute) => attribute.clone(),
            None => ints(required(inputs, 1)?)?,
        };
        let shape = data.shape();
        let pads = self.pads(shape.len(), &pads, axes.as_deref())?;
        let to = self.padded(shape, &pads)?;
        let (size, strides) = (data.datum_type().size_of(), strides(shape));
        let bytes = data.as_bytes();
        let fill = match self.mode {
            PadMode::Constant(value) => f64::from(value.get()),
            PadMode::Wrap | PadMode::Reflect | PadMode::Edge => 0.0,
        };
        let fill = from_floats(data.datum_type(), &[], &[fill])?;
        let mut out = fill.as_bytes().repeat(volume(&to)?);
        let mut at = vec![0; to.len()];
        for target in out.chunks_exact_mut(size) {
            let mut from = Some(0);
            for (axis, at) in at.iter().enumerate() {
                let place = self.place(*at, shape[axis], pads[axis]);
                from = from.zip(place).map(|(from, place)| from + place * strides[axis]);
            }
            if let Some(from) = from {
                target.copy_from_slice(&bytes[from * size..][..size]);
            }
            advance(&mut at, &to);
        }
        Ok(tvec!(from_bytes(data.datum_type(), &to, &out)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, scalar, tensor};

    #[test]
    fn pad_puts_a_value_around_some_axes() {
        let pad = case("Pad").input(tensor(&[1, 2], &[1i64, 2])).input(row(&[1i64, 2]));
        pad.clone()
            .input(scalar(1i64 << 40))
            .input(row(&[-1i64]))
            .gives(tensor(&[1, 5], &[1i64 << 40, 1, 2, 1 << 40, 1 << 40]));
        pad.missing().input(row(&[0i64])).gives(tensor(&[4, 2], &[0i64, 0, 1, 2, 0, 0, 0, 0]));
    }

    #[test]
    fn pad_reflects_repeats_and_wraps() {
        let pad = |mode, pads: &[i64]| {
            case("Pad").text("mode", mode).input(row(&[1f32, 2.0, 3.0])).input(row(pads))
        };
        pad("reflect", &[2, 1]).gives(row(&[3f32, 2.0, 1.0, 2.0, 3.0, 2.0]));
        pad("edge", &[2, 1]).gives(row(&[1f32, 1.0, 1.0, 2.0, 3.0, 3.0]));
        pad("wrap", &[2, 4]).gives(row(&[2f32, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0]));
        pad("reflect", &[3, 0]).fails("3");
        pad("constant", &[1]).fails("1");
    }

    #[test]
    fn pad_of_old_versions_has_its_pads_in_an_attribute() {
        let pad = |mode| {
            let case = case("Pad").opset(10).ints("pads", &[1, 2]).text("mode", mode);
            case.float("value", 9.0).input(row(&[1f32, 2.0, 3.0]))
        };
        pad("constant").gives(row(&[9f32, 1.0, 2.0, 3.0, 9.0, 9.0]));
        pad("reflect").gives(row(&[2f32, 1.0, 2.0, 3.0, 2.0, 1.0]));
        let pad = case("Pad").opset(11).input(row(&[1f32])).input(row(&[1i64, 0]));
        pad.input(scalar(9f32)).gives(row(&[9f32, 1.0]));
    }

    #[test]
    fn negative_pads_remove_elements_before_others_are_added() {
        let pad = |mode, pads: &[i64]| {
            case("Pad").text("mode", mode).input(row(&[1f32, 2.0, 3.0, 4.0])).input(row(pads))
        };
        pad("constant", &[-1, 0]).gives(row(&[2f32, 3.0, 4.0]));
        pad("constant", &[-1, 2]).gives(row(&[2f32, 3.0, 4.0, 0.0, 0.0]));
        pad("constant", &[-2, -2]).gives(row::<f32>(&[]));
        pad("reflect", &[1, -2]).gives(row(&[2f32, 1.0, 2.0]));
        pad("reflect", &[-2, 1]).gives(row(&[3f32, 4.0, 3.0]));
        pad("edge", &[-2, 2]).gives(row(&[3f32, 4.0, 4.0, 4.0]));
        pad("wrap", &[-2, 2]).gives(row(&[3f32, 4.0, 3.0, 4.0]));
        pad("wrap", &[1, -1]).gives(row(&[3f32, 1.0, 2.0, 3.0]));
        pad("edge", &[-2, 2]).input(scalar(9f32)).gives(row(&[3f32, 4.0, 4.0, 4.0]));
        for mode in ["constant", "reflect", "edge", "wrap"] {
            pad(mode, &[-3, -2]).fails("-3");
        }
        pad("reflect", &[2, -2]).fails("2");
        pad("edge", &[-4, 1]).fails("empty");
    }

    #[test]
    fn negative_pads_of_old_versions_remove_elements() {
        let pad = |mode, pads: &[i64]| {
            let case = case("Pad").opset(10).ints("pads", pads).text("mode", mode);
            case.float("value", 9.0).input(row(&[1f32, 2.0, 3.0]))
        };
        pad("constant", &[1, -1]).gives(row(&[9f32, 1.0, 2.0]));
        pad("constant", &[-3, 1]).gives(row(&[9f32]));
        pad("reflect", &[-1, 1]).gives(row(&[2f32, 3.0, 2.0]));
        pad("edge", &[2, -1]).gives(row(&[1f32, 1.0, 1.0, 2.0]));
        pad("edge", &[-2, -2]).fails("-2");
    }

    #[test]
    fn negative_pads_keep_open_dimensions() {
        let pad = case("Pad").input(tensor(&[1, 4], &[1f32, 2.0, 3.0, 4.0])).constants();
        let pad = pad.input(row(&[0i64, -1, 0, 2]));
        let expected = tensor(&[1, 5], &[2f32, 3.0, 4.0, 0.0, 0.0]);
        pad.gives_open(&[(0, 1, "n")], &["1,1+n"], &[expected], 0.0);
    }

    #[test]
    fn pad_refuses_pads_beyond_memory() {
        let pad = |pads: &[i64]| case("Pad").input(row(&[1f32, 2.0, 3.0])).input(row(pads));
        pad(&[1 << 40, 0]).fails("");
        pad(&[i64::MIN, 0]).fails("");
    }
}
