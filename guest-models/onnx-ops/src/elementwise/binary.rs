//! Functions of two numbers that are applied to pairs of elements, for all types of numbers.

use tract_onnx::tract_core::ops::binary::{BinMiniOp, TypedBinOp};
use tract_onnx::tract_core::ops::change_axes::wire_rank_broadcast;
use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::{bail, ensure};
use crate::framework::numbers::{Number, by_number};

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
        // The common case in networks, without coordinates.
        let (Some(a), Some(b)) = (a.as_slice(), b.as_slice()) else {
            bail!("the values are not in order")
        };
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

const REFUSED: &str = "division by zero or overflow of integers";

/// An operator whose results have the type of its operands.
macro_rules! binary {
    ($(#[$doc:meta])* $Op:ident, $commutes:expr, |$a:ident, $b:ident| $result:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Hash, PartialEq, Eq)]
        pub struct $Op;

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
    /// The maximum. NaN if one operand is NaN.
    Max, true, |a, b| Some(a.nan_max(b))
);
binary!(
    /// The minimum. NaN if one operand is NaN.
    Min, true, |a, b| Some(a.nan_min(b))
);
binary!(
    /// A product that is never simplified: tract replaces a product with zero by zero, and the
    /// square of a root by the number itself.
    Times, true, |a, b| Some(a.times(b))
);
binary!(
    /// A true division, not a product with a rounded inverse.
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
        pub(crate) struct $Op;

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
                bail!("element type {:?} is not implemented", a.datum_type())
            }
        }
    };
}

/// Shifts of every integer type. Shifting by all bits or more, or by a negative amount, leaves only
/// the sign.
macro_rules! shifts {
    ($($type:ident),*) => {
        of_some!(
            /// Shifts to the left; bits that are shifted out are lost.
            ShiftLeft, [$($type),*],
            |a, b| Some(u32::try_from(b).ok().and_then(|b| a.checked_shl(b)).unwrap_or(0))
        );
        of_some!(
            /// Shifts to the right; the sign bit is shifted in.
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

/// Adds a binary operator to a model and broadcasts its operands.
pub(crate) fn wire(
    name: &str,
    model: &mut TypedModel,
    op: impl BinMiniOp,
    inputs: &[OutletId],
) -> TractResult<OutletId> {
    let wires = wire_rank_broadcast(name, model, inputs)?;
    Ok(model.wire_node(name, TypedBinOp(Box::new(op), None), &wires)?[0])
}
