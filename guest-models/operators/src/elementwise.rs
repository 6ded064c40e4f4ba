//! Elementwise operators, including selections, comparisons and conversions.

use crate::entry::Values::{Float, Int, Text, Type};
use crate::entry::{Operator, Output, any, attr, flag, must, op, t, u};
use crate::types::{
    BF16, BOOL, FLOAT8, INTEGERS, NUMBERS, PLAIN, REALS, SIGNED, STORED, STRING, UNSIGNED,
    WIDE_INTEGERS,
};

const TRUTH: &[Output] = &[Output::Is(BOOL)];

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
    op("Abs", 6, &[t(NUMBERS.or(BF16))]),
    op("Neg", 6, &[t(REALS.or(SIGNED))]),
    op("Sign", 9, &[t(NUMBERS.or(BF16))]),
    op("Ceil", 6, &[t(REALS)]),
    op("Floor", 6, &[t(REALS)]),
    op("Round", 11, &[t(REALS)]),
    op("Reciprocal", 6, &[t(REALS)]),
    op("Sqrt", 6, &[t(REALS)]),
    op("Exp", 6, &[t(REALS)]),
    op("Log", 6, &[t(REALS)]),
    op("Erf", 9, &[t(REALS)]),
    op("Sin", 7, &[t(REALS)]),
    op("Cos", 7, &[t(REALS)]),
    op("Tan", 7, &[t(REALS)]),
    op("Asin", 7, &[t(REALS)]),
    op("Acos", 7, &[t(REALS)]),
    op("Atan", 7, &[t(REALS)]),
    op("Sinh", 9, &[t(REALS)]),
    op("Cosh", 9, &[t(REALS)]),
    op("Asinh", 9, &[t(REALS)]),
    op("Acosh", 9, &[t(REALS)]),
    op("Atanh", 9, &[t(REALS)]),
    op("Tanh", 6, &[t(REALS)]),
    op("Sigmoid", 6, &[t(REALS)]),
    op("Relu", 6, &[t(REALS.or(SIGNED))]),
    op("LeakyRelu", 6, &[t(REALS)]).with(&[attr("alpha", Float)]),
    op("ThresholdedRelu", 10, &[t(REALS)]).with(&[attr("alpha", Float)]),
    op("PRelu", 7, &[t(REALS.or(WIDE_INTEGERS)), t(REALS.or(WIDE_INTEGERS))]),
    op("Elu", 6, &[t(REALS)]).with(&[attr("alpha", Float)]),
    op("Selu", 6, &[t(REALS)]).with(&[attr("alpha", Float), attr("gamma", Float)]),
    op("Celu", 12, &[t(REALS)]).with(&[attr("alpha", Float)]),
    op("Softplus", 1, &[t(REALS)]),
    op("Softsign", 1, &[t(REALS)]),
    op("HardSigmoid", 6, &[t(REALS)]).with(&[attr("alpha", Float), attr("beta", Float)]),
    op("HardSwish", 14, &[t(REALS)]),
    op("Mish", 18, &[t(REALS)]),
    op("Gelu", 20, &[t(REALS)]).with(&[attr("approximate", Text(&["none", "tanh"]))]),
    op("Shrink", 9, &[t(REALS.or(INTEGERS))]).with(&[attr("bias", Float), attr("lambd", Float)]),
    op("Clip", 6, &[t(REALS)]).until(10).with(&[attr("min", Float), attr("max", Float)]),
    op("Clip", 11, &[t(NUMBERS.or(BF16)), t(NUMBERS.or(BF16)), t(NUMBERS.or(BF16))]).optional(2),
    op("IsNaN", 9, &[t(REALS.or(FLOAT8))]).to(TRUTH),
    op("IsInf", 10, &[t(REALS.or(FLOAT8))]).to(TRUTH)
        .with(&[flag("detect_negative"), flag("detect_positive")]),

    op("Add", 7, &[t(NUMBERS.or(BF16)), t(NUMBERS.or(BF16))]),
    op("Sub", 7, &[t(NUMBERS.or(BF16)), t(NUMBERS.or(BF16))]),
    op("Mul", 7, &[t(NUMBERS.or(BF16)), t(NUMBERS.or(BF16))]),
    op("Div", 7, &[t(NUMBERS.or(BF16)), t(NUMBERS.or(BF16))]),
    op("Pow", 7, &[t(NUMBERS.or(BF16)), u(NUMBERS.or(BF16))]),
    op("Mod", 10, &[t(NUMBERS.or(BF16)), t(NUMBERS.or(BF16))]).with(&[flag("fmod")]),
    op("Sum", 6, &[t(REALS)]).many(),
    op("Mean", 6, &[t(REALS)]).many(),
    op("Max", 6, &[t(NUMBERS.or(BF16))]).many(),
    op("Min", 6, &[t(NUMBERS.or(BF16))]).many(),
    op("BitShift", 11, &[t(UNSIGNED), t(UNSIGNED)]).until(27).with(&[must("direction", Text(&["LEFT", "RIGHT"]))]),
    op("BitShift", 28, &[t(INTEGERS), t(INTEGERS)]).with(&[must("direction", Text(&["LEFT", "RIGHT"]))]),
    op("BitwiseAnd", 18, &[t(INTEGERS), t(INTEGERS)]),
    op("BitwiseOr", 18, &[t(INTEGERS), t(INTEGERS)]),
    op("BitwiseXor", 18, &[t(INTEGERS), t(INTEGERS)]),
    op("BitwiseNot", 18, &[t(INTEGERS)]),
    op("And", 7, &[t(BOOL), t(BOOL)]),
    op("Or", 7, &[t(BOOL), t(BOOL)]),
    op("Xor", 7, &[t(BOOL), t(BOOL)]),
    op("Not", 1, &[t(BOOL)]),
    op("Equal", 7, &[t(PLAIN.or(STRING).or(BF16)), t(PLAIN.or(STRING).or(BF16))]).to(TRUTH),
    op("Greater", 7, &[t(NUMBERS.or(BF16)), t(NUMBERS.or(BF16))]).to(TRUTH),
    op("GreaterOrEqual", 12, &[t(NUMBERS.or(BF16)), t(NUMBERS.or(BF16))]).to(TRUTH),
    op("Less", 7, &[t(NUMBERS.or(BF16)), t(NUMBERS.or(BF16))]).to(TRUTH),
    op("LessOrEqual", 12, &[t(NUMBERS.or(BF16)), t(NUMBERS.or(BF16))]).to(TRUTH),
    op("Where", 9, &[any(BOOL), t(PLAIN.or(STRING).or(STORED)), t(PLAIN.or(STRING).or(STORED))]),

    op("Cast", 6, &[any(PLAIN.or(STORED).or(STRING))]).to(&[Output::Attr("to", PLAIN.or(STORED).or(STRING))])
        .with(&[must("to", Type(PLAIN.or(STORED).or(STRING))), flag("saturate"), attr("round_mode", Text(&["up", "down", "nearest"]))]),
    op("CastLike", 15, &[any(PLAIN.or(STORED).or(STRING)), t(PLAIN.or(STORED).or(STRING))])
        .with(&[flag("saturate"), attr("round_mode", Text(&["up", "down", "nearest"]))]),
    op("Identity", 1, &[t(PLAIN.or(STRING).or(STORED))]),
    // Up to version 9 the mask has the type of the data; tract's masks are booleans, so they cannot
    // be outputs in these versions.
    op("Dropout", 7, &[t(REALS)]).until(11).to(&[Output::Like('T'), Output::Is(BOOL)]).fewest(1).with(&[attr("ratio", Float)]),
    op("Dropout", 12, &[t(REALS.or(FLOAT8)), any(REALS.or(FLOAT8)), any(BOOL)]).optional(2)
        .to(&[Output::Like('T'), Output::Is(BOOL)]).fewest(1).with(&[attr("seed", Int(i64::MIN, i64::MAX))]),
];
