//! Products and convolutions with a transposition, a factor or an activation.

use super::microsoft;
use crate::entry::Values::{Float, Floats, Int, Ints, Text};
use crate::entry::{Attribute, Check, Operator, attr, flag, must, t};
use crate::types::REALS;

const CONV: &[Attribute] = &[
    attr("kernel_shape", Ints(1, 1 << 16)),
    attr("strides", Ints(1, 1 << 16)),
    attr("dilations", Ints(1, 1 << 16)),
    attr("pads", Ints(0, 1 << 16)),
    attr("auto_pad", Text(&["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])),
    attr("group", Int(1, 1 << 20)),
    attr(
        "activation",
        Text(&["", "Relu", "Tanh", "Sigmoid", "LeakyRelu", "Clip", "HardSigmoid", "HardSwish"]),
    ),
    attr("activation_params", Floats),
];

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
    microsoft("FusedMatMul", &[t(REALS), t(REALS)])
        .with(&[flag("transA"), flag("transB"), flag("transBatchA"), flag("transBatchB"), attr("alpha", Float)]),
    microsoft("FusedConv", &[t(REALS), t(REALS), t(REALS), t(REALS)]).optional(2).with(CONV)
        .check(Check::Windows),
    microsoft("FusedGemm", &[t(REALS), t(REALS), t(REALS)]).optional(1)
        .with(&[attr("alpha", Float), attr("beta", Float), flag("transA"), flag("transB"),
            must("activation", Text(&["Relu", "Sigmoid", "Softplus", "Softsign", "Tanh", "Celu", "Elu", "LeakyRelu",
                "ThresholdedRelu", "HardSigmoid", "Selu"])),
            attr("activation_alpha", Float), attr("activation_beta", Float), attr("activation_gamma", Float)]),
];
