//! The greatest number of each window, NaN if one is.

use tract_onnx::tract_core::model::{TypedModel, TypedNode};
use tract_onnx::tract_core::ops::cnn::{MaxPool, PoolSpec};
use tract_onnx::tract_hir::internal::*;

use super::numbers::Number;

/// A pooling of floats.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct Pool {
    spec: PoolSpec,
}

/// Whether all are numbers above the least: then tract's own way, which is faster, does as well.
fn ordinary<T: Number>(input: &Tensor) -> TractResult<bool> {
    let input = input.try_as_plain_ram()?;
    Ok(input.as_slice::<T>()?.iter().fold(true, |all, value| all & (*value > T::LEAST)))
}

impl Pool {
    fn of<T: Number>(&self, input: &Tensor) -> TractResult<Tensor> {
        let shape: TVec<TDim> = input.shape().iter().map(|dim| dim.to_dim()).collect();
        let geometry = self.spec.compute_geo(&shape)?;
        let geometry = geometry.to_concrete(input.shape())?;
        let input = input.try_as_plain_ram()?;
        let from = input.as_slice::<T>()?;
        let mut output = Tensor::zero_dt(T::datum_type(), &geometry.output_shape.shape)?;
        let mut plain = output.try_as_plain_ram_mut()?;
        let to = plain.as_slice_mut::<T>()?;
        let (ins, outs) = (&geometry.input_shape, &geometry.output_shape);
        let stride = |stride: Option<&usize>| stride.copied().unwrap_or(0);
        let (n_in, n_out) = (stride(ins.n_stride()), stride(outs.n_stride()));
        geometry.patch.visit_output(|window| {
            for n in 0..ins.n().copied().unwrap_or(1) {
                for c in 0..*ins.c() {
                    let base = n * n_in + c * ins.c_stride();
                    let place = n * n_out + c * outs.c_stride();
                    let values = window
                        .valid_offsets()
                        .filter_map(|offset| from.get(base.checked_add_signed(offset)?).copied());
                    let most = values.fold(T::LEAST, T::greater);
                    if let Some(to) = to.get_mut(place.wrapping_add_signed(window.output_offset)) {
                        *to = most;
                    }
                }
            }
        });
        Ok(output)
    }
}

impl Op for Pool {
    fn name(&self) -> StaticName {
        "MaxPool".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Pool {
    op_out_of_plan!();

    fn eval(&self, ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = &inputs[0];
        let usual = match input.datum_type() {
            DatumType::F16 => ordinary::<f16>(input)?,
            DatumType::F32 => ordinary::<f32>(input)?,
            DatumType::F64 => ordinary::<f64>(input)?,
            _ => false,
        };
        if usual {
            return MaxPool::new(self.spec.clone(), None).eval(ctx, inputs);
        }
        let output = match input.datum_type() {
            DatumType::F16 => self.of::<f16>(input)?,
            DatumType::F32 => self.of::<f32>(input)?,
            DatumType::F64 => self.of::<f64>(input)?,
            other => bail!("{other:?} is not implemented here"),
        };
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for Pool {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        self.spec.output_facts(inputs)
    }

    as_op!();
}

/// Takes the place of a pooling that is left to tract.
pub(crate) fn keep_nan(
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<TypedModelPatch>> {
    let Some(MaxPool { pool_spec, with_index_outputs: None }) = node.op_as() else {
        return Ok(None);
    };
    if !model.outlet_fact(node.inputs[0])?.datum_type.is_float() {
        return Ok(None);
    }
    let op = Pool { spec: pool_spec.clone() };
    TypedModelPatch::replace_single_op(model, node, &node.inputs, op).map(Some)
}
