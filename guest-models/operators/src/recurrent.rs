//! Recurrent layers, with the usual activations.

use crate::entry::Values::{Int, Text, Texts};
use crate::entry::{Attribute, Operator, Output, any, attr, flag, only, op, t};
use crate::types::{I32, REALS};

const DIRECTION: Attribute = attr("direction", Text(&["forward", "reverse", "bidirectional"]));
const HIDDEN: Attribute = attr("hidden_size", Int(1, 1 << 20));
const LAYOUT: Attribute = flag("layout");
const SEQUENCE: &[Output] = &[Output::Like('T'), Output::Like('T')];

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
    op("RNN", 7, &[t(REALS), t(REALS), t(REALS), t(REALS), any(I32), t(REALS)]).optional(3).to(SEQUENCE).fewest(0)
        .with(&[DIRECTION, HIDDEN, LAYOUT, attr("activations", Texts(&["Tanh"]))]),
    op("GRU", 7, &[t(REALS), t(REALS), t(REALS), t(REALS), any(I32), t(REALS)]).optional(3).to(SEQUENCE).fewest(0)
        .with(&[DIRECTION, HIDDEN, LAYOUT, flag("linear_before_reset"),
            attr("activations", Texts(&["Sigmoid", "Tanh"]))]),
    op("LSTM", 7, &[t(REALS), t(REALS), t(REALS), t(REALS), any(I32), t(REALS), t(REALS), t(REALS)]).optional(5)
        .to(&[Output::Like('T'), Output::Like('T'), Output::Like('T')]).fewest(0)
        .with(&[DIRECTION, HIDDEN, LAYOUT, only("input_forget", 0),
            attr("activations", Texts(&["Sigmoid", "Tanh", "Tanh"]))]),
];
