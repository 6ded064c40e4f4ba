//! Operators of the domain `com.microsoft`: those of onnxruntime, which its optimiser, its quantisation
//! and exporters of language models write into models. A file of operators is also listed in `all`
//! of `table.rs`.

pub(crate) mod activations;
pub(crate) mod attention;
pub(crate) mod blocks;
pub(crate) mod fused;
pub(crate) mod normalization;
pub(crate) mod quantized;
mod refused;
pub(crate) mod small;

pub(crate) use refused::reason;

use crate::entry::{Input, MICROSOFT, NEWEST_MICROSOFT, Operator, op};

const fn microsoft(name: &'static str, inputs: &'static [Input]) -> Operator {
    Operator { domain: MICROSOFT, until: NEWEST_MICROSOFT, ..op(name, 1, inputs) }
}
