//! Operators that work element by element.

pub(crate) mod activations;
pub(crate) mod approximations;
pub(crate) mod arithmetic;
pub(crate) mod binary;
pub(crate) mod broadcast_6;
mod double;
mod double_steps;
pub(crate) mod functions;
mod integer_shrink;
pub(crate) mod narrow_cast;
pub(crate) mod swish;

use crate::framework::registration::{Registration, upstream};

pub use binary::{Div, Max, Min};
pub use functions::Function;
pub use narrow_cast::NarrowCast;

/// The operators of this family.
pub(crate) const OPERATORS: &[&[Registration]] = &[
    activations::OPERATORS,
    arithmetic::OPERATORS,
    double_steps::OPERATORS,
    functions::OPERATORS,
    integer_shrink::OPERATORS,
    swish::OPERATORS,
    broadcast_6::OPERATORS,
    UPSTREAM,
];

/// The operators that tract computes according to the specification.
const UPSTREAM: &[Registration] = &[
    upstream("Abs"),
    upstream("Acos"),
    upstream("Add").since(7),
    upstream("And"),
    upstream("Asin"),
    upstream("Atan"),
    upstream("BitwiseAnd"),
    upstream("BitwiseNot"),
    upstream("BitwiseOr"),
    upstream("BitwiseXor"),
    upstream("Ceil"),
    upstream("Cos"),
    upstream("Cosh"),
    upstream("Exp"),
    upstream("Floor"),
    upstream("Greater"),
    upstream("GreaterOrEqual"),
    upstream("Less"),
    upstream("LessOrEqual"),
    upstream("Log"),
    upstream("Mul").since(7),
    upstream("Neg"),
    upstream("Not"),
    upstream("Or"),
    upstream("PRelu").since(7),
    upstream("Reciprocal"),
    upstream("Sign"),
    upstream("Sin"),
    upstream("Sinh"),
    upstream("Softsign"),
    upstream("Sqrt"),
    upstream("Sub").since(7),
    upstream("Sum"),
    upstream("Tan"),
    upstream("ThresholdedRelu"),
    upstream("Where"),
    upstream("Xor"),
];

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, row, scalar, tensor};

    const NAN: f32 = f32::NAN;
    const INF: f32 = f32::INFINITY;

    /// Asserts that a function of float32 is what this one is in float64, to a few units in the
    /// last place, and that of float64 as well. NaN stays NaN.
    fn follows(case: Case, numbers: &[f64], function: fn(f64) -> f64) {
        let mut numbers = numbers.to_vec();
        numbers.push(f64::NAN);
        let single: Vec<f32> = numbers.iter().map(|x| *x as f32).collect();
        let expected: Vec<f32> = single.iter().map(|x| function(f64::from(*x)) as f32).collect();
        case.clone().input(row(&single)).gives_near(row(&expected), 1e-6);
        let expected: Vec<f64> = numbers.iter().map(|x| function(*x)).collect();
        case.input(row(&numbers)).gives_near(row(&expected), 1e-14);
    }

    #[test]
    fn functions_are_accurate_near_zero_and_for_large_numbers() {
        let inf = f64::INFINITY;
        follows(case("Acos"), &[-1.0, 0.5, 1.0, 1.5], f64::acos);
        follows(case("Acosh"), &[1.0, 1.5, 1e30, inf, 0.5], f64::acosh);
        follows(case("Asin"), &[-1.0, 1e-20, 0.5, 1.5], f64::asin);
        follows(case("Asinh"), &[-1e30, -1e-20, 1e-5, 2.0, inf], f64::asinh);
        follows(case("Atan"), &[-inf, -1e-20, 2.0, 1e30], f64::atan);
        follows(case("Cos"), &[0.0, 1.0, 1e5, inf], f64::cos);
        follows(case("Cosh"), &[0.0, -5.0, 88.5, inf], f64::cosh);
        follows(case("Exp"), &[-inf, -87.0, -1e-5, 0.0, 88.0, inf], f64::exp);
        follows(case("Log"), &[1e-40, 0.0, 1.0, 1e30, inf, -1.0], f64::ln);
        follows(case("Reciprocal"), &[-0.0, 0.0, 3.0, inf], |x| 1.0 / x);
        follows(case("Sin"), &[1e-20, 1.0, 1e5, inf], f64::sin);
        follows(case("Sinh"), &[1e-20, -1e-5, 5.0, 88.5, -inf], f64::sinh);
        follows(case("Sqrt"), &[-0.0, 1e-40, 2.0, inf, -1.0], f64::sqrt);
        follows(case("Tan"), &[1e-20, 1.0, 1e5], f64::tan);
        follows(case("Softsign"), &[-2.0, 1e-20, 0.5, 1e30], |x| x / (1.0 + x.abs()));
    }

    #[test]
    fn rounding_functions_keep_nan_and_zeros() {
        let numbers = || row(&[-1.5f32, -0.5, 0.5, 2.5, NAN, -INF, 1e10]);
        case("Ceil").input(numbers()).gives(row(&[-1f32, -0.0, 1.0, 3.0, NAN, -INF, 1e10]));
        case("Floor").input(numbers()).gives(row(&[-2f32, -1.0, 0.0, 2.0, NAN, -INF, 1e10]));
        case("Round").input(numbers()).gives(row(&[-2f32, -0.0, 0.0, 2.0, NAN, -INF, 1e10]));
    }

    #[test]
    fn signs_are_of_every_type() {
        let wide = 1i64 << 40;
        case("Abs").input(row(&[-wide, wide])).gives(row(&[wide, wide]));
        case("Abs").input(row(&[200u8])).gives(row(&[200u8]));
        case("Abs").input(row(&[-0f32, NAN, -INF])).gives(row(&[0f32, NAN, INF]));
        case("Neg").input(row(&[-wide, wide])).gives(row(&[wide, -wide]));
        // As constants, tract would merge -0 and 0.
        let zero = case("Neg").input(row(&[0f32, NAN])).first_at_run_time();
        zero.gives(row(&[-0f32, NAN]));
        case("Sign").input(row(&[-wide, 0, wide])).gives(row(&[-1i64, 0, 1]));
        case("Sign").input(row(&[-INF, 0.0, 1e-40])).gives(row(&[-1f32, 0.0, 1.0]));
        case("Sign").input(row(&[200u8, 0])).gives(row(&[1u8, 0]));
    }

    #[test]
    fn comparisons_of_nan_are_false() {
        let (a, b) = (|| row(&[NAN, 1f32, 1.0, -0.0]), || row(&[1f32, NAN, 1.0, 0.0]));
        let of = |case: Case| case.input(a()).input(b());
        of(case("Greater")).gives(row(&[false; 4]));
        of(case("Less")).gives(row(&[false; 4]));
        of(case("GreaterOrEqual")).gives(row(&[false, false, true, true]));
        of(case("LessOrEqual")).gives(row(&[false, false, true, true]));
    }

    #[test]
    fn comparisons_keep_64_bits() {
        let wide = (1i64 << 53) + 1;
        let of = |case: Case| case.input(row(&[wide, wide - 1])).input(row(&[wide - 1, wide]));
        of(case("Greater")).gives(row(&[true, false]));
        of(case("Less")).gives(row(&[false, true]));
        of(case("GreaterOrEqual")).gives(row(&[true, false]));
        of(case("LessOrEqual")).gives(row(&[false, true]));
        let unsigned = case("Less").input(row(&[1u64])).input(row(&[u64::MAX]));
        unsigned.gives(row(&[true]));
    }

    #[test]
    fn logic_broadcasts() {
        let of =
            |case: Case| case.input(tensor(&[2, 1], &[true, false])).input(row(&[true, false]));
        let gives = |case: Case, expected: [bool; 4]| of(case).gives(tensor(&[2, 2], &expected));
        gives(case("And"), [true, false, false, false]);
        gives(case("Or"), [true, true, true, false]);
        gives(case("Xor"), [false, true, true, false]);
        case("Not").input(row(&[true, false])).gives(row(&[false, true]));
        let bits = |case: Case| case.input(row(&[0b1100u64 << 40])).input(row(&[0b1010u64 << 40]));
        bits(case("BitwiseAnd")).gives(row(&[0b1000u64 << 40]));
        bits(case("BitwiseOr")).gives(row(&[0b1110u64 << 40]));
        bits(case("BitwiseXor")).gives(row(&[0b0110u64 << 40]));
        case("BitwiseNot").input(row(&[0i8, -1, 5])).gives(row(&[-1i8, 0, -6]));
    }

    #[test]
    fn is_nan_and_is_inf_tell_numbers_apart() {
        let numbers = || row(&[NAN, INF, -INF, 1.0]);
        case("IsNaN").input(numbers()).gives(row(&[true, false, false, false]));
        case("IsInf").input(numbers()).gives(row(&[false, true, true, false]));
        let positive = case("IsInf").int("detect_negative", 0).input(numbers());
        positive.gives(row(&[false, true, false, false]));
        let negative = case("IsInf").int("detect_positive", 0).input(numbers());
        negative.gives(row(&[false, false, true, false]));
    }

    #[test]
    fn rectifiers_have_default_attributes() {
        let numbers = || row(&[-2f32, NAN, 0.5, 3.0]);
        case("LeakyRelu").input(numbers()).gives_near(row(&[-0.02f32, NAN, 0.5, 3.0]), 1e-6);
        let steep = case("LeakyRelu").float("alpha", 2.0).input(numbers());
        steep.gives(row(&[-4f32, NAN, 0.5, 3.0]));
        // By its definition, what is not greater than alpha is 0, as NaN is.
        case("ThresholdedRelu").input(numbers()).gives(row(&[0f32, 0.0, 0.0, 3.0]));
        let low = case("ThresholdedRelu").float("alpha", -2.0).input(numbers());
        low.gives(row(&[0f32, 0.0, 0.5, 3.0]));
        // Here too, NaN is neither below nor above.
        case("Shrink").input(numbers()).gives(row(&[-2f32, 0.0, 0.0, 3.0]));
        let soft = case("Shrink").float("bias", 1.5).float("lambd", 1.5).input(numbers());
        soft.gives(row(&[-0.5f32, 0.0, 0.0, 1.5]));
    }

    #[test]
    fn prelu_of_integers_multiplies_negative_ones() {
        let slopes = case("PRelu").input(tensor(&[2, 2], &[-3i64, 5, -1, -(1 << 40)]));
        slopes.input(row(&[2i64, -1])).gives(tensor(&[2, 2], &[-6i64, 5, -2, 1 << 40]));
        case("PRelu").input(row(&[7u32])).input(row(&[2u32])).gives(row(&[7u32]));
    }

    #[test]
    fn sum_and_where_broadcast_and_keep_what_they_are_given() {
        let sum = case("Sum").input(tensor(&[2, 1], &[1f32, NAN])).input(row(&[10f32, 20.0]));
        sum.input(scalar(100f32)).gives(tensor(&[2, 2], &[111f32, 121.0, NAN, NAN]));
        let choice = || case("Where").input(tensor(&[2, 1], &[true, false]));
        let wide = 1i64 << 40;
        choice()
            .input(row(&[wide, 1]))
            .input(scalar(-wide))
            .gives(tensor(&[2, 2], &[wide, 1, -wide, -wide]));
        choice()
            .input(row(&[NAN, 1.0]))
            .input(scalar(2f32))
            .gives(tensor(&[2, 2], &[NAN, 1.0, 2.0, 2.0]));
    }
}
