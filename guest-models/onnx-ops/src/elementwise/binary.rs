//! Operators of two operands, element by element.

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::tract_core::ops::binary::{BinMiniOp, TypedBinOp};
use tract_onnx::tract_core::ops::cast::{cast, wire_cast};
use tract_onnx::tract_core::ops::change_axes::wire_rank_broadcast;
use tract_onnx::tract_core::ops::math::square;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::ops::binary::Nary;

use super::numbers::{Number, by_number};
use super::{Built, Ours};

/// Applies a function that may refuse to all pairs of elements.
fn pairs<T: Number>(
    c: &mut Tensor,
    a: &Tensor,
    b: &Tensor,
    function: impl Fn(T, T) -> Option<T>,
) -> TractResult<()> {
    let a = a.to_plain_array_view::<T>()?;
    let b = b.to_plain_array_view::<T>()?;
    let mut refused = false;
    let mut one = |c: &mut T, a: T, b: T| match function(a, b) {
        Some(result) => *c = result,
        None => {
            *c = a;
            refused = true;
        }
    };
    let mut c = c.try_as_plain_ram_mut()?;
    if a.shape() == c.shape() && (b.len() == 1 || b.shape() == c.shape()) {
        // What networks are made of: no need to go through coordinates.
        let (Some(a), Some(b)) = (a.as_slice(), b.as_slice()) else { bail!("not in order") };
        let c = c.as_slice_mut::<T>()?;
        match b {
            [b] => c.iter_mut().zip(a).for_each(|(c, a)| one(c, *a, *b)),
            b => c.iter_mut().zip(a).zip(b).for_each(|((c, a), b)| one(c, *a, *b)),
        }
    } else {
        let mut c = c.to_array_view_mut::<T>()?;
        let each = tract_ndarray::Zip::from(&mut c).and_broadcast(&a).and_broadcast(&b);
        each.for_each(|c, a, b| one(c, *a, *b));
    }
    ensure!(!refused, REFUSED);
    Ok(())
}

/// The same, with the results in the place of the first operands.
fn pairs_in_place<T: Number>(
    a: &mut Tensor,
    b: &Tensor,
    function: impl Fn(T, T) -> Option<T>,
) -> TractResult<()> {
    let b = b.to_plain_array_view::<T>()?;
    let mut refused = false;
    let mut one = |a: &mut T, b: T| match function(*a, b) {
        Some(result) => *a = result,
        None => refused = true,
    };
    let mut a = a.try_as_plain_ram_mut()?;
    if let Some([b]) = b.as_slice() {
        a.as_slice_mut::<T>()?.iter_mut().for_each(|a| one(a, *b));
    } else {
        let mut a = a.to_array_view_mut::<T>()?;
        tract_ndarray::Zip::from(&mut a).and_broadcast(&b).for_each(|a, b| one(a, *b));
    }
    ensure!(!refused, REFUSED);
    Ok(())
}

const REFUSED: &str = "a division by zero, or what else has no result in integers";

/// An operator whose results have the type of its operands.
macro_rules! binary {
    ($(#[$doc:meta])* $Op:ident, $commutes:expr, |$a:ident, $b:ident| $result:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Hash, PartialEq, Eq)]
        pub(crate) struct $Op;

        impl BinMiniOp for $Op {
            fn name(&self) -> &'static str {
                stringify!($Op)
            }

            fn result_datum_type(&self, a: DatumType, b: DatumType) -> TractResult<DatumType> {
                self.operating_datum_type(a, b)
            }

            fn is_commutative(&self) -> bool {
                $commutes
            }

            fn eval_in_a(&self, a: &mut Tensor, b: &Tensor) -> TractResult<()> {
                fn run<T: Number>(a: &mut Tensor, b: &Tensor) -> TractResult<()> {
                    pairs_in_place::<T>(a, b, |$a: T, $b: T| $result)
                }
                by_number!(run(a.datum_type())(a, b))
            }

            fn eval_out_of_place(&self, c: &mut Tensor, a: &Tensor, b: &Tensor) -> TractResult<()> {
                fn run<T: Number>(c: &mut Tensor, a: &Tensor, b: &Tensor) -> TractResult<()> {
                    pairs::<T>(c, a, b, |$a: T, $b: T| $result)
                }
                by_number!(run(a.datum_type())(c, a, b))
            }
        }
    };
}

binary!(
    /// The greater one; NaN if one is.
    Max, true, |a, b| Some(a.greater(b))
);
binary!(
    /// The lesser one; NaN if one is.
    Min, true, |a, b| Some(a.lesser(b))
);
binary!(
    /// A product of which nothing is left out: tract takes what is times zero for zero, and the
    /// square of a root for the number itself.
    Times, true, |a, b| Some(a.times(b))
);
binary!(
    /// A division, and no product with a rounded inverse.
    Div, false, |a, b| a.divide(b)
);
binary!(
    /// The remainder with the sign of the divisor.
    Mod, false, |a, b| a.remainder(b, false)
);
binary!(
    /// The remainder with the sign of the dividend.
    Remainder, false, |a, b| a.remainder(b, true)
);

macro_rules! of_some {
    ($(#[$doc:meta])* $Op:ident, [$($type:ident),*], $function:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Hash, PartialEq, Eq)]
        struct $Op;

        impl BinMiniOp for $Op {
            fn name(&self) -> &'static str {
                stringify!($Op)
            }

            fn result_datum_type(&self, a: DatumType, b: DatumType) -> TractResult<DatumType> {
                self.operating_datum_type(a, b)
            }

            fn is_commutative(&self) -> bool {
                false
            }

            fn eval_in_a(&self, a: &mut Tensor, b: &Tensor) -> TractResult<()> {
                let from = a.clone();
                self.eval_out_of_place(a, &from, b)
            }

            fn eval_out_of_place(&self, c: &mut Tensor, a: &Tensor, b: &Tensor) -> TractResult<()> {
                $(if a.datum_type() == $type::datum_type() {
                    #[allow(unused_comparisons)]
                    let function: fn($type, $type) -> Option<$type> = $function;
                    return pairs::<$type>(c, a, b, function);
                })*
                bail!("{:?} is not implemented here", a.datum_type())
            }
        }
    };
}

/// Shifts of every type of integers: what is shifted beyond all bits, or by less than nothing, is
/// what the sign alone makes.
macro_rules! shifts {
    ($($type:ident),*) => {
        of_some!(
            /// Bits that are shifted out are gone, however far.
            ShiftLeft, [$($type),*],
            |a, b| Some(u32::try_from(b).ok().and_then(|b| a.checked_shl(b)).unwrap_or(0))
        );
        of_some!(
            /// The same to the other side; the sign moves in.
            ShiftRight, [$($type),*],
            |a, b| {
                let sign = if a < 0 { !0 } else { 0 };
                Some(u32::try_from(b).ok().and_then(|b| a.checked_shr(b)).unwrap_or(sign))
            }
        );
    };
}

shifts!(i8, i16, i32, i64, u8, u16, u32, u64);

of_some!(
    /// Powers of numbers.
    PowFloat, [f32, f64], |a, b| Some(a.powf(b))
);
of_some!(
    /// Powers of integers, none of them negative.
    PowInt, [i64], |a, b| Some(a.wrapping_pow(u32::try_from(b).ok()?))
);

/// Puts an operator of two operands into a model, which are broadcast.
pub(super) fn wire(
    name: &str,
    model: &mut TypedModel,
    op: impl BinMiniOp,
    inputs: &[OutletId],
) -> TractResult<OutletId> {
    let wires = wire_rank_broadcast(name, model, inputs)?;
    Ok(model.wire_node(name, TypedBinOp(Box::new(op), None), &wires)?[0])
}

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("Max", |_, _| Ok((Box::new(Nary(Box::new(Max), false)), vec![])));
    registry.insert("Min", |_, _| Ok((Box::new(Nary(Box::new(Min), false)), vec![])));
    registry.insert("Mod", |_, node| {
        let of_dividend = node.get_attr_opt::<i64>("fmod")? == Some(1);
        Ok((if of_dividend { Remainder.into_hir() } else { Mod.into_hir() }, vec![]))
    });
    registry.insert("BitShift", |_, node| {
        let right = node.get_attr_opt("direction")? == Some("RIGHT");
        Ok((if right { ShiftRight.into_hir() } else { ShiftLeft.into_hir() }, vec![]))
    });
    registry.insert("Mean", mean);
    registry.insert("Equal", |context, node| Ours::build(context, node, equal));
}

/// Truth values are compared as numbers: tract takes no others.
fn equal(
    ours: &Ours,
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
    ours.original.as_ref().wire(prefix, model, &inputs)
}

/// A sum, divided at the end.
fn mean(context: &tract_onnx::model::ParsingContext, node: &tract_onnx::pb::NodeProto) -> Built {
    let _ = context;
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
            sum = model.wire_node(&name, tract_onnx::tract_core::ops::math::add(), &wires)?[0];
        }
        let count = super::scalar(model, format!("{prefix}.count"), self.0 as f32, sum)?;
        Ok(tvec!(wire(prefix, model, Div, &[sum, count])?))
    }
}

/// Powers, whose operands are broadcast.
pub(super) fn pow_builder(
    context: &tract_onnx::model::ParsingContext,
    node: &tract_onnx::pb::NodeProto,
) -> Built {
    Ours::build(context, node, |_, prefix, model, inputs| power(prefix, model, inputs))
}

pub(super) fn power(
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let base = model.outlet_fact(inputs[0])?.datum_type;
    let exponent = model.outlet_fact(inputs[1])?;
    let two = exponent.konst.as_ref().is_some_and(|konst| {
        konst.len() == 1 && konst.cast_to_scalar::<f64>().is_ok_and(|exponent| exponent == 2.0)
    });
    let wider = exponent.rank() > model.outlet_fact(inputs[0])?.rank();
    if two && !wider && base.is_float() {
        return model.wire_node(prefix, square(), &inputs[..1]);
    }
    let exponent = exponent.datum_type;
    let integers = base.is_integer() && exponent.is_integer();
    let operating = match (base, exponent) {
        _ if integers => DatumType::I64,
        (DatumType::F32, DatumType::F32 | DatumType::F16) => DatumType::F32,
        _ => DatumType::F64,
    };
    if integers && (base == DatumType::U64 || exponent == DatumType::U64) {
        bail!("powers of unsigned integers of 64 bits are not implemented");
    }
    let wires = wire_cast(prefix, model, inputs, operating)?;
    let name = format!("{prefix}.pow");
    let power = match operating {
        DatumType::I64 => wire(&name, model, PowInt, &wires)?,
        _ => wire(&name, model, PowFloat, &wires)?,
    };
    model.wire_node(prefix, cast(base), &[power])
}
