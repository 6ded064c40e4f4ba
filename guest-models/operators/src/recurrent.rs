//! Recurrent layers.

use crate::entry::Values::{AnyTexts, Float, Floats, Int, Text};
use crate::entry::{Attribute, Operator, Output, any, attr, flag, op, t};
use crate::types::{I32, REALS};

const DIRECTION: Attribute = attr("direction", Text(&["forward", "reverse", "bidirectional"]));
const HIDDEN: Attribute = attr("hidden_size", Int(1, 1 << 20));
const LAYOUT: Attribute = flag("layout");
const ACTIVATIONS: Attribute = attr("activations", AnyTexts);
const ALPHA: Attribute = attr("activation_alpha", Floats);
const BETA: Attribute = attr("activation_beta", Floats);
const CLIP: Attribute = attr("clip", Float);
const SEQUENCE: &[Output] = &[Output::Like('T'), Output::Like('T')];

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
    op("RNN", 7, &[t(REALS), t(REALS), t(REALS), t(REALS), any(I32), t(REALS)]).optional(3).to(SEQUENCE).fewest(0)
        .with(&[DIRECTION, HIDDEN, LAYOUT, ACTIVATIONS, ALPHA, BETA, CLIP]),
    op("GRU", 7, &[t(REALS), t(REALS), t(REALS), t(REALS), any(I32), t(REALS)]).optional(3).to(SEQUENCE).fewest(0)
        .with(&[DIRECTION, HIDDEN, LAYOUT, flag("linear_before_reset"),
            ACTIVATIONS, ALPHA, BETA, CLIP]),
    op("LSTM", 7, &[t(REALS), t(REALS), t(REALS), t(REALS), any(I32), t(REALS), t(REALS), t(REALS)]).optional(5)
        .to(&[Output::Like('T'), Output::Like('T'), Output::Like('T')]).fewest(0)
        .with(&[DIRECTION, HIDDEN, LAYOUT, flag("input_forget"),
            ACTIVATIONS, ALPHA, BETA, CLIP]),
];
