//! Arithmetic that works for every numeric element type.

use tract_onnx::tract_hir::internal::*;

/// A number of any element type.
pub(crate) trait Number: Datum + Copy + PartialOrd {
    /// The lowest value.
    const LOWEST: Self;
    /// The highest value.
    const HIGHEST: Self;

    fn divide(self, by: Self) -> Option<Self>;
    /// The remainder with the sign of the divisor, or of the dividend.
    fn remainder(self, by: Self, of_dividend: bool) -> Option<Self>;
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;

    #[allow(clippy::eq_op)]
    fn is_number(self) -> bool {
        self == self
    }

    /// The greater value, or NaN if one of them is NaN.
    fn nan_max(self, other: Self) -> Self {
        if !self.is_number() || self > other { self } else { other }
    }

    /// The lesser value, or NaN if one of them is NaN.
    fn nan_min(self, other: Self) -> Self {
        if !self.is_number() || self < other { self } else { other }
    }
}

macro_rules! integer {
    ($($type:ty),*) => { $(
        impl Number for $type {
            const LOWEST: Self = <$type>::MIN;
            const HIGHEST: Self = <$type>::MAX;

            fn divide(self, by: Self) -> Option<Self> {
                (by != 0).then(|| self.wrapping_div(by))
            }

            #[allow(unused_comparisons)]
            fn remainder(self, by: Self, of_dividend: bool) -> Option<Self> {
                if by == 0 {
                    return None;
                }
                let rest = self.wrapping_rem(by);
                let other_sign = rest != 0 && (rest < 0) != (by < 0);
                Some(if other_sign && !of_dividend { rest.wrapping_add(by) } else { rest })
            }

            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            fn times(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
        }
    )* };
}

integer!(i8, i16, i32, i64, u8, u16, u32, u64);

macro_rules! float {
    ($($type:ty),*) => { $(
        impl Number for $type {
            const LOWEST: Self = <$type>::NEG_INFINITY;
            const HIGHEST: Self = <$type>::INFINITY;

            fn divide(self, by: Self) -> Option<Self> {
                Some(self / by)
            }

            fn remainder(self, by: Self, of_dividend: bool) -> Option<Self> {
                let rest = self % by;
                Some(if of_dividend {
                    rest
                } else if rest == Self::from(0i8) {
                    rest.copysign(by)
                } else if (rest < Self::from(0i8)) != (by < Self::from(0i8)) && rest.is_number() {
                    rest + by
                } else {
                    rest
                })
            }

            fn plus(self, other: Self) -> Self {
                self + other
            }

            fn times(self, other: Self) -> Self {
                self * other
            }
        }
    )* };
}

float!(f16, f32, f64);

/// Calls a generic function with the Rust type of an element type.
macro_rules! by_number {
    ($function:ident($dtype:expr)($($argument:expr),*)) => {
        match $dtype {
            DatumType::F16 => $function::<f16>($($argument),*),
            DatumType::F32 => $function::<f32>($($argument),*),
            DatumType::F64 => $function::<f64>($($argument),*),
            DatumType::I8 => $function::<i8>($($argument),*),
            DatumType::I16 => $function::<i16>($($argument),*),
            DatumType::I32 => $function::<i32>($($argument),*),
            DatumType::I64 => $function::<i64>($($argument),*),
            DatumType::U8 => $function::<u8>($($argument),*),
            DatumType::U16 => $function::<u16>($($argument),*),
            DatumType::U32 => $function::<u32>($($argument),*),
            DatumType::U64 => $function::<u64>($($argument),*),
            other => $crate::framework::errors::bail!("element type {other:?} is not implemented"),
        }
    };
}
pub(crate) use by_number;
