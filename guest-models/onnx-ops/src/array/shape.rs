//! Shapes as what they are in ONNX, integers of 64 bits, and not in a type of tract's own that other
//! integers get into by way of 32; conversions, and ranges.

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_hir::internal::*;

use super::Ours;
use super::guards::MOST;

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("Shape", |_, node| {
        let start = node.get_attr_opt("start")?.unwrap_or(0);
        let end = node.get_attr_opt("end")?;
        Ok((expand(Shape { start, end }), vec![]))
    });
    registry.insert("Size", |_, _| Ok((expand(Size), vec![])));
    registry.insert("Cast", |_, node| Ok((expand(Cast { to: node.get_attr("to")? }), vec![])));
    registry.insert("Range", |context, node| Ours::build_late(context, node, 0, range));
}

#[derive(Clone, Debug)]
struct Shape {
    start: i64,
    end: Option<i64>,
}

impl Shape {
    fn part<'s>(&self, shape: &'s [TDim]) -> &'s [TDim] {
        let rank = shape.len() as i64;
        let place = |at: i64| {
            let at = if at < 0 { at.saturating_add(rank) } else { at };
            at.clamp(0, rank) as usize
        };
        let (start, end) = (place(self.start), self.end.map_or(shape.len(), place));
        &shape[start..end.max(start)]
    }
}

/// Sizes as integers, if they are known.
fn integers(dims: &[TDim]) -> Option<Vec<i64>> {
    dims.iter().map(|dim| dim.to_i64().ok()).collect()
}

impl Expansion for Shape {
    fn name(&self) -> StaticName {
        "Shape".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].rank, 1)?;
        s.equals(&outputs[0].datum_type, i64::datum_type())?;
        s.given(&inputs[0].shape, |s, shape| {
            let part = self.part(&shape);
            s.equals(&outputs[0].shape[0], part.len().to_dim())?;
            match integers(part) {
                Some(sizes) => s.equals(&outputs[0].value, rctensor1(&sizes)),
                None => Ok(()),
            }
        })
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let shape = model.outlet_fact(inputs[0])?.shape.to_tvec();
        let part = self.part(&shape);
        if let Some(sizes) = integers(part) {
            return Ok(tvec!(model.add_const(prefix, tensor1(&sizes))?));
        }
        let sizes = model.add_const(format!("{prefix}.sizes"), tensor1(part))?;
        model.wire_node(prefix, cast(i64::datum_type()), &[sizes])
    }
}

#[derive(Clone, Debug)]
struct Size;

impl Expansion for Size {
    fn name(&self) -> StaticName {
        "Size".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].rank, 0)?;
        s.equals(&outputs[0].datum_type, i64::datum_type())
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let shape = model.outlet_fact(inputs[0])?.shape.to_tvec();
        if let Some(sizes) = integers(&shape) {
            let size = sizes.iter().try_fold(1i64, |size, dim| size.checked_mul(*dim));
            let size = size.context("a tensor of too many elements")?;
            return Ok(tvec!(model.add_const(prefix, tensor0(size))?));
        }
        let size =
            model.add_const(format!("{prefix}.size"), tensor0(shape.iter().product::<TDim>()))?;
        model.wire_node(prefix, cast(i64::datum_type()), &[size])
    }
}

#[derive(Clone, Debug)]
struct Cast {
    to: DatumType,
}

impl Expansion for Cast {
    fn name(&self) -> StaticName {
        "Cast".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].datum_type, self.to)?;
        s.equals(&outputs[0].shape, &inputs[0].shape)
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, cast(self.to), inputs)
    }
}

/// Numbers from a first one on. Known ones are computed each by itself: where every one is made
/// from the one before, rounding errors add up.
fn range(
    _: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let known: Option<Vec<Arc<Tensor>>> = inputs
        .iter()
        .map(|input| Ok(model.outlet_fact(*input)?.konst.clone()))
        .collect::<TractResult<_>>()?;
    let known = known.context("a range whose bounds are not known")?;
    let dtype = known[0].datum_type();
    let single = known.iter().all(|value| value.rank() <= 1 && value.len() == 1);
    ensure!(single, "the bounds of a range are one number each");
    let known: Vec<Tensor> = known
        .iter()
        .map(|value| Ok((**value).clone().into_shape(&[])?))
        .collect::<TractResult<_>>()?;
    let one = |at: usize| known[at].cast_to_scalar::<f64>();
    let (start, limit, delta) = (one(0)?, one(1)?, one(2)?);
    ensure!(
        delta != 0.0 && delta.is_finite() && start.is_finite() && limit.is_finite(),
        "a range that has no end"
    );
    let count = ((limit - start) / delta).ceil().max(0.0);
    // As many bytes as there are addresses are too many to ask for.
    ensure!(count <= (MOST / 16) as f64, "a range of {count} numbers");
    let values = if dtype.is_integer() {
        let (start, delta) = (known[0].cast_to_scalar::<i64>()?, known[2].cast_to_scalar::<i64>()?);
        let exact = known.iter().map(|value| value.cast_to_scalar::<i64>());
        for value in exact {
            ensure!(
                value?.unsigned_abs() < 1 << 53,
                "a range of such large numbers is not implemented"
            );
        }
        let each = |at: i64| start.wrapping_add(delta.wrapping_mul(at));
        tensor1(&(0..count as i64).map(each).collect::<Vec<_>>())
    } else if [f16::datum_type(), f32::datum_type()].contains(&dtype) {
        let (start, delta) = (start as f32, delta as f32);
        tensor1(&(0..count as u32).map(|at| start + at as f32 * delta).collect::<Vec<_>>())
    } else {
        tensor1(&(0..count as u32).map(|at| start + f64::from(at) * delta).collect::<Vec<_>>())
    };
    let values = values.cast_to_dt(dtype)?.into_owned();
    Ok(tvec!(model.add_const(prefix, values)?))
}
