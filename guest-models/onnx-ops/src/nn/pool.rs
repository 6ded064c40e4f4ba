//! MaxPool, AveragePool, GlobalMaxPool and GlobalAveragePool (ONNX). tract computes them, with
//! windows that are checked; the maximum of a window with a NaN is NaN.

use std::collections::HashMap;

use tract_onnx::tract_core::model::{TypedModel, TypedNode};
use tract_onnx::tract_core::ops::cnn::{MaxPool, PoolSpec};
use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::bail;
use crate::framework::numbers::Number;
use crate::framework::registration::{Registration, wrapped};
use crate::framework::rewrite::rewrite_each_node;
use crate::framework::wrapped::{Wrapped, Wrapping};
use crate::math::reduce::{Reduction, ReductionKind, mean};
use crate::nn::window_spec::{check_lists, check_windows};

pub(crate) const OPERATORS: &[Registration] = &[
    wrapped("MaxPool", POOL),
    wrapped("AveragePool", POOL),
    wrapped("GlobalMaxPool", Wrapping::new(global_max_pool)),
    wrapped("GlobalAveragePool", Wrapping::new(global_average_pool)),
];

const POOL: Wrapping = Wrapping::new(pool).check(|op, s, inputs| check_lists(op, s, &inputs[0]));

fn pool(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    check_windows(op, true, model, inputs)?;
    let fact = model.outlet_fact(inputs[0])?;
    if fact.konst.is_none() {
        return op.wire_original(prefix, model, inputs);
    }
    // Operators on constants are computed as soon as they are in the model, so the operators that
    // keep NaN must replace them before.
    let mut apart = TypedModel { symbols: model.symbols.clone(), ..TypedModel::default() };
    let source = apart.add_source(format!("{prefix}.source"), fact.without_value())?;
    let outputs = op.wire_original(prefix, &mut apart, &[source])?;
    apart.select_output_outlets(&outputs)?;
    rewrite_each_node(&mut apart, vec![keep_nan])?;
    let mut placed = HashMap::from([(apart.inputs[0], inputs[0])]);
    for node in apart.eval_order()? {
        let node = apart.node(node);
        if node.id == apart.inputs[0].node {
            continue;
        }
        let from: TVec<OutletId> = node.inputs.iter().map(|input| placed[input]).collect();
        let to = model.wire_node(&node.name, node.op.clone(), &from)?;
        placed.extend(to.into_iter().enumerate().map(|(at, to)| (OutletId::new(node.id, at), to)));
    }
    Ok(apart.outputs.iter().map(|output| placed[output]).collect())
}

fn global_max_pool(
    _: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let axes = (2..model.outlet_fact(inputs[0])?.rank()).collect();
    model.wire_node(prefix, Reduction { axes, kind: ReductionKind::Max }, inputs)
}

fn global_average_pool(
    _: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let axes = (2..model.outlet_fact(inputs[0])?.rank()).collect();
    Ok(tvec!(mean(prefix, model, inputs[0], axes)?))
}

/// A pooling of floats.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct Pool {
    spec: PoolSpec,
    /// The element type of the indices, if they are an output.
    indices: Option<DatumType>,
}

/// Whether all elements are above the lowest value. Then tract's own implementation, which is
/// faster, gives the same.
fn above_lowest<T: Number>(input: &Tensor) -> TractResult<bool> {
    let input = input.try_as_plain_ram()?;
    Ok(input.as_slice::<T>()?.iter().fold(true, |all, value| all & (*value > T::LOWEST)))
}

impl Pool {
    fn max_of<T: Number>(&self, input: &Tensor) -> TractResult<TVec<TValue>> {
        let shape: TVec<TDim> = input.shape().iter().map(|dim| dim.to_dim()).collect();
        let geometry = self.spec.compute_geo(&shape)?;
        let geometry = geometry.to_concrete(input.shape())?;
        let input = input.try_as_plain_ram()?;
        let from = input.as_slice::<T>()?;
        let mut output = Tensor::zero_dt(T::datum_type(), &geometry.output_shape.shape)?;
        let mut places = vec![0i64; output.len()];
        let step = geometry.patch.spec.output_inner_stride as i64;
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
                    let mut max: Option<(isize, T)> = None;
                    for offset in window.valid_offsets() {
                        let Some(value) =
                            base.checked_add_signed(offset).and_then(|at| from.get(at))
                        else {
                            continue;
                        };
                        // The first of equals, and the first NaN.
                        let greater = max.is_none_or(|(_, max)| {
                            *value > max || max.is_number() && !value.is_number()
                        });
                        if greater {
                            max = Some((offset, *value));
                        }
                    }
                    let (offset, max) = max.unwrap_or((0, T::LOWEST));
                    let place = place.wrapping_add_signed(window.output_offset);
                    if let Some((to, index)) = to.get_mut(place).zip(places.get_mut(place)) {
                        *to = max;
                        *index = offset as i64 / step;
                    }
                }
            }
        });
        let shape = output.shape().to_vec();
        let mut outputs = tvec!(output.into_tvalue());
        if let Some(dtype) = self.indices {
            let places = Tensor::from_shape(&shape, &places)?;
            outputs.push(places.cast_to_dt(dtype)?.into_owned().into_tvalue());
        }
        Ok(outputs)
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
            DatumType::F16 => above_lowest::<f16>(input)?,
            DatumType::F32 => above_lowest::<f32>(input)?,
            DatumType::F64 => above_lowest::<f64>(input)?,
            _ => false,
        };
        if usual {
            return MaxPool::new(self.spec.clone(), self.indices).eval(ctx, inputs);
        }
        match input.datum_type() {
            DatumType::F16 => self.max_of::<f16>(input),
            DatumType::F32 => self.max_of::<f32>(input),
            DatumType::F64 => self.max_of::<f64>(input),
            other => bail!("element type {other:?} is not implemented"),
        }
    }
}

impl TypedOp for Pool {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        MaxPool::new(self.spec.clone(), self.indices).output_facts(inputs)
    }

    as_op!();
}

/// Replaces a MaxPool of tract's by one that keeps NaN.
pub(crate) fn keep_nan(
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<TypedModelPatch>> {
    let Some(MaxPool { pool_spec, with_index_outputs }) = node.op_as() else {
        return Ok(None);
    };
    if !model.outlet_fact(node.inputs[0])?.datum_type.is_float() {
        return Ok(None);
    }
    let op = Pool { spec: pool_spec.clone(), indices: *with_index_outputs };
    TypedModelPatch::replace_single_op(model, node, &node.inputs, op).map(Some)
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, counting, tensor};

    const NAN: f32 = f32::NAN;

    #[test]
    fn global_pools_are_over_all_dimensions_after_the_channels() {
        let data = || tensor(&[1, 2, 3], &[-1f32, -2.0, -6.0, 1.0, NAN, 3.0]);
        case("GlobalMaxPool").input(data()).gives(tensor(&[1, 2, 1], &[-1f32, NAN]));
        case("GlobalAveragePool").input(data()).gives(tensor(&[1, 2, 1], &[-3f32, NAN]));
        let cube = case("GlobalAveragePool").input(counting(&[1, 2, 2, 2]));
        cube.gives(tensor(&[1, 2, 1, 1], &[1.5f32, 5.5]));
    }

    #[test]
    fn max_pool_ignores_its_padding_and_keeps_nan() {
        let pool = || {
            let case = case("MaxPool").ints("kernel_shape", &[2]).ints("pads", &[1, 1]);
            case.input(tensor(&[1, 1, 4], &[-3f32, -1.0, NAN, -2.0])).first_at_run_time()
        };
        pool().gives(tensor(&[1, 1, 5], &[-3f32, -1.0, NAN, NAN, -2.0]));
        pool().ints("strides", &[2]).gives(tensor(&[1, 1, 3], &[-3f32, NAN, -2.0]));
    }

    #[test]
    fn max_pool_of_constants_keeps_nan() {
        let node = case("MaxPool").ints("kernel_shape", &[2]);
        node.input(tensor(&[1, 1, 2], &[NAN, 1f32])).gives(tensor(&[1, 1, 1], &[NAN]));
    }

    #[test]
    fn max_pool_with_indices_keeps_nan() {
        let node = case("MaxPool").ints("kernel_shape", &[2]).outputs(2).first_at_run_time();
        let node = node.input(tensor(&[1, 1, 2], &[NAN, 1f32]));
        node.gives_all(&[tensor(&[1, 1, 1], &[NAN]), tensor(&[1, 1, 1], &[0i64])]);
    }

    #[test]
    fn max_pool_gives_the_first_index_and_may_round_up() {
        let node = case("MaxPool").ints("kernel_shape", &[2]).ints("strides", &[2]);
        let node = node.int("ceil_mode", 1).outputs(2);
        let node = node.input(tensor(&[1, 2, 3], &[5f32, 5.0, 1.0, 2.0, 3.0, 4.0]));
        let indices = tensor(&[1, 2, 2], &[0i64, 2, 4, 5]);
        node.gives_all(&[tensor(&[1, 2, 2], &[5f32, 1.0, 3.0, 4.0]), indices]);
        let bytes =
            case("MaxPool").ints("kernel_shape", &[2]).input(tensor(&[1, 1, 2], &[200u8, 100]));
        bytes.gives(tensor(&[1, 1, 1], &[200u8]));
        case("MaxPool").ints("kernel_shape", &[4]).input(counting(&[1, 1, 3])).fails("4");
    }

    #[test]
    fn average_pool_counts_padding_if_requested() {
        let pool = || {
            let case = case("AveragePool").ints("kernel_shape", &[2]).ints("pads", &[1, 1]);
            case.input(tensor(&[1, 1, 2], &[2f32, 4.0]))
        };
        pool().gives(tensor(&[1, 1, 3], &[2f32, 3.0, 4.0]));
        pool().int("count_include_pad", 1).gives(tensor(&[1, 1, 3], &[1f32, 3.0, 2.0]));
        let same = case("AveragePool").ints("kernel_shape", &[2]).text("auto_pad", "SAME_LOWER");
        same.input(tensor(&[1, 1, 2], &[2f32, 4.0])).gives(tensor(&[1, 1, 2], &[2f32, 3.0]));
    }
}
