//! Max, Min, Div, Pow, Mod, BitShift, Mean and Equal (ONNX). Div and Pow before version 7 are in
//! `broadcast_6.rs`.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::cast::{cast, wire_cast};
use tract_onnx::tract_core::ops::change_axes::wire_rank_broadcast;
use tract_onnx::tract_core::ops::math::{add, mul, square};
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::ops::binary::Nary;

use super::binary::{Div, Max, Min, Mod, PowFloat, PowInt, Remainder, ShiftLeft, ShiftRight, wire};
use crate::framework::errors::bail;
use crate::framework::native;
use crate::framework::registration::{Registration, own, wrapped};
use crate::framework::upstream::BuildResult;
use crate::framework::wiring::constant_like;
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] = &[
    own("Max", |_, _| Ok((Box::new(Nary(Box::new(Max), false)), vec![]))),
    own("Min", |_, _| Ok((Box::new(Nary(Box::new(Min), false)), vec![]))),
    own("Div", |_, _| Ok((Div.into_hir(), vec![]))).since(7),
    wrapped("Pow", POW).since(7),
    own("Mod", build_mod),
    own("BitShift", build_bit_shift),
    own("Mean", mean),
    wrapped("Equal", Wrapping::new(equal)),
];

fn build_mod(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let of_dividend = node.get_attr_opt::<i64>("fmod")? == Some(1);
    Ok((if of_dividend { Remainder.into_hir() } else { Mod.into_hir() }, vec![]))
}

fn build_bit_shift(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let right = node.get_attr_opt("direction")? == Some("RIGHT");
    Ok((if right { ShiftRight.into_hir() } else { ShiftLeft.into_hir() }, vec![]))
}

/// Booleans are compared as numbers, since tract compares only numbers.
fn equal(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let mut inputs: TVec<OutletId> = inputs.into();
    for (at, input) in inputs.iter_mut().enumerate() {
        if model.outlet_fact(*input)?.datum_type == bool::datum_type() {
            let name = format!("{prefix}.number_{at}");
            *input = model.wire_node(name, cast(u8::datum_type()), &[*input])?[0];
        }
    }
    op.original.as_ref().wire(prefix, model, &inputs)
}

/// A sum, divided at the end.
fn mean(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let count = node.input.len();
    Ok((expand(Mean(count)), vec![]))
}

#[derive(Clone, Debug)]
struct Mean(usize);

impl Expansion for Mean {
    fn name(&self) -> StaticName {
        "Mean".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        s.given_all(inputs.iter().map(|i| &i.shape), move |s, shapes: Vec<TVec<TDim>>| {
            let shape = tract_onnx::tract_core::broadcast::multi_broadcast(&shapes)?;
            s.equals(&outputs[0].shape, ShapeFactoid::from(shape))
        })
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let mut sum = inputs[0];
        for (at, input) in inputs.iter().enumerate().skip(1) {
            let name = format!("{prefix}.sum-{at}");
            let wires = wire_rank_broadcast(&name, model, &[sum, *input])?;
            sum = model.wire_node(&name, add(), &wires)?[0];
        }
        let count = constant_like(model, format!("{prefix}.count"), self.0 as f32, sum)?;
        Ok(tvec!(wire(prefix, model, Div, &[sum, count])?))
    }
}

/// Powers, whose operands are broadcast.
const POW: Wrapping = Wrapping::new(|_, prefix, model, inputs| power(prefix, model, inputs));

pub(crate) fn power(
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let base = model.outlet_fact(inputs[0])?.datum_type;
    let exponent = model.outlet_fact(inputs[1])?;
    let known = exponent.konst.as_ref().filter(|konst| konst.len() == 1);
    let known = known.and_then(|konst| konst.cast_to_scalar::<f64>().ok());
    let wider = exponent.rank() > model.outlet_fact(inputs[0])?.rank();
    if known == Some(2.0) && !wider && base.is_float() {
        return model.wire_node(prefix, square(), &inputs[..1]);
    }
    // Its two roundings are at most one unit in the last place away. Without the host's kernels, the
    // bits stay those of the one rounding.
    if known == Some(3.0) && !wider && base == f32::datum_type() && native::enabled() {
        let squares = model.wire_node(format!("{prefix}.square"), square(), &inputs[..1])?;
        return model.wire_node(prefix, mul(), &[inputs[0], squares[0]]);
    }
    let exponent = exponent.datum_type;
    let integers = base.is_integer() && exponent.is_integer();
    let operating = match (base, exponent) {
        _ if integers => DatumType::I64,
        (DatumType::F32, DatumType::F32 | DatumType::F16) => DatumType::F32,
        _ => DatumType::F64,
    };
    if integers && (base == DatumType::U64 || exponent == DatumType::U64) {
        bail!("Pow of uint64 is not implemented");
    }
    let wires = wire_cast(prefix, model, inputs, operating)?;
    let name = format!("{prefix}.pow");
    let power = match operating {
        DatumType::I64 => wire(&name, model, PowInt, &wires)?,
        _ => wire(&name, model, PowFloat, &wires)?,
    };
    model.wire_node(prefix, cast(base), &[power])
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, scalar, tensor, texts};

    const NAN: f32 = f32::NAN;

    #[test]
    fn max_and_min_of_nan_are_nan_for_either_operand() {
        let (a, b) = (|| row(&[1f32, NAN, 3.0]), || row(&[NAN, 2f32, 4.0]));
        case("Max").input(a()).input(b()).gives(row(&[NAN, NAN, 4.0]));
        case("Min").input(a()).input(b()).gives(row(&[NAN, NAN, 3.0]));
    }

    #[test]
    fn max_and_min_take_one_or_three_broadcast_64_bit_inputs() {
        let wide = (1i64 << 53) + 1;
        let (column, one) = (|| tensor(&[2, 1], &[wide, -5]), || scalar(7i64));
        case("Max").input(column()).gives(column());
        let max = case("Max").input(column()).input(row(&[wide - 1, 3])).input(one());
        max.gives(tensor(&[2, 2], &[wide, wide, wide - 1, 7]));
        let min = case("Min").input(column()).input(row(&[wide - 1, 3])).input(one());
        min.gives(tensor(&[2, 2], &[7i64, 3, -5, -5]));
    }

    #[test]
    fn mod_has_the_sign_of_the_divisor() {
        let (a, b) = (row(&[-4i64, 7, 5, -(1 << 40)]), row(&[3i64, -3, 8, 7]));
        // -(2^40) = -157073889111 * 7 + 1
        case("Mod").input(a.clone()).input(b.clone()).gives(row(&[2i64, -2, 5, 5]));
        case("Mod").int("fmod", 1).input(a).input(b).gives(row(&[-1i64, 1, 5, -2]));
    }

    #[test]
    fn mod_of_floats_has_the_sign_of_the_dividend() {
        let case = case("Mod").int("fmod", 1).input(row(&[-4.5f32, 4.5, NAN, 1.0]));
        case.input(row(&[3f32, -3.0, 1.0, f32::INFINITY])).gives(row(&[-1.5f32, 1.5, NAN, 1.0]));
    }

    #[test]
    fn mod_by_zero_is_refused_for_integers() {
        case("Mod").input(row(&[1i32, 2])).input(row(&[1i32, 0])).fails("zero");
    }

    #[test]
    fn bit_shift_by_all_bits_and_more_is_zero() {
        let (bits, by) = (row(&[1u8, 0x81, 0xff, 0xff]), row(&[7u8, 1, 8, 200]));
        let left = case("BitShift").text("direction", "LEFT").input(bits.clone());
        left.input(by.clone()).gives(row(&[0x80u8, 2, 0, 0]));
        let right = case("BitShift").text("direction", "RIGHT").input(bits).input(by);
        right.gives(row(&[0u8, 0x40, 0, 0]));
    }

    #[test]
    fn bit_shift_reaches_the_upper_half_of_64_bits() {
        let left = case("BitShift").text("direction", "LEFT").input(row(&[1u64, 3]));
        left.input(scalar(40u64)).gives(row(&[1u64 << 40, 3 << 40]));
    }

    #[test]
    fn mean_is_of_broadcast_inputs() {
        let mean = case("Mean").input(tensor(&[2, 1], &[1f32, NAN])).input(row(&[4f32, 7.0]));
        mean.input(scalar(1f32)).gives(tensor(&[2, 2], &[2f32, 3.0, NAN, NAN]));
        case("Mean").input(row(&[3f32])).gives(row(&[3f32]));
    }

    #[test]
    fn equal_takes_booleans_strings_and_64_bit_integers() {
        let truths = case("Equal").input(row(&[true, false])).input(scalar(true));
        truths.gives(row(&[true, false]));
        let wide = (1i64 << 53) + 1;
        let integers = case("Equal").input(row(&[wide, wide])).input(row(&[wide, wide - 1]));
        integers.gives(row(&[true, false]));
        let texts = case("Equal").input(texts(&["a", "b"])).input(texts(&["a", "B"]));
        texts.gives(row(&[true, false]));
    }

    #[test]
    fn nan_equals_nothing_and_zeros_are_equal() {
        let case = case("Equal").input(row(&[NAN, 0.0, f32::INFINITY]));
        case.input(row(&[NAN, -0.0, f32::INFINITY])).gives(row(&[false, true, true]));
    }
}
