//! Operators of old versions, which only broadcast if an attribute is set.

use crate::entry::Values::{Float, Int, Ints, Text};
use crate::entry::{Attribute, Check, Operator, attr, flag, must, only, op, t};
use crate::types::{FLOATS, NUMBERS};

const BROADCAST: &[Attribute] = &[flag("broadcast"), attr("axis", Int(0, 31))];

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
    op("Add", 1, &[t(NUMBERS), t(NUMBERS)]).until(6).with(BROADCAST),
    op("Sub", 1, &[t(NUMBERS), t(NUMBERS)]).until(6).with(BROADCAST),
    op("Mul", 1, &[t(NUMBERS), t(NUMBERS)]).until(6).with(BROADCAST),
    op("Div", 1, &[t(NUMBERS), t(NUMBERS)]).until(6).with(BROADCAST),
    op("Pow", 1, &[t(FLOATS), t(FLOATS)]).until(6).with(BROADCAST),
    op("PRelu", 1, &[t(FLOATS), t(FLOATS)]).until(6),
    op("Gemm", 1, &[t(FLOATS), t(FLOATS), t(FLOATS)]).until(6)
        .with(&[attr("alpha", Float), attr("beta", Float), flag("transA"), flag("transB"), flag("broadcast")]),
    op("BatchNormalization", 1, &[t(FLOATS), t(FLOATS), t(FLOATS), t(FLOATS), t(FLOATS)]).until(6)
        .with(&[attr("epsilon", Float), attr("momentum", Float), must("is_test", Int(1, 1)), only("spatial", 1)]),
    // Whether padding counts was not said then.
    op("AveragePool", 1, &[t(FLOATS)]).until(6).check(Check::Pooling)
        .with(&[must("kernel_shape", Ints(1, 1 << 16)), attr("strides", Ints(1, 1 << 16)), attr("pads", Ints(0, 0)),
            attr("auto_pad", Text(&["NOTSET", "VALID"]))]),
];
