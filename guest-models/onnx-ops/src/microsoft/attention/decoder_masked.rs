//! DecoderMaskedMultiHeadAttention: MultiHeadAttention of one query, to given keys (cross attention) or
//! to a cache of fixed size, to which its own key is added. The rows of the cache are in the order of
//! the tokens, as onnxruntime has them on the CPU.

use belljar_operators::MICROSOFT;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::multi_head::{self, MultiHead};
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, optional, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::ints;

pub(crate) const OPERATORS: &[Registration] =
    &[own("DecoderMaskedMultiHeadAttention", |_, node| built(decoder(node)?, node)).of(MICROSOFT)];

// The positions of the inputs.
const MASK: usize = 3;
const SCORE_BIAS: usize = 4;
const PAST_KEY: usize = 5;
const PAST_VALUE: usize = 6;
const PAST_LENGTH: usize = 7;
const BEAM_WIDTH: usize = 8;
const BEAMS: usize = 9;
const BIAS: usize = 10;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Decoder {
    attention: MultiHead,
}

fn decoder(node: &NodeProto) -> TractResult<Decoder> {
    let named = |at: usize| node.input.get(at).is_some_and(|name| !name.is_empty());
    let shared = node.get_attr_opt::<i64>("past_present_share_buffer")?.unwrap_or(0) != 0;
    ensure!(
        shared == named(PAST_KEY) && shared == named(PAST_LENGTH),
        "past_present_share_buffer is {}. Set it to 1 together with past_key, past_value and \
         past_sequence_length, and to 0 without them",
        u8::from(shared)
    );
    let shows = node.get_attr_opt::<i64>("output_qk")?.unwrap_or(0) != 0;
    let attention = multi_head::multi_head(node, "mask_index")?;
    ensure!(shows || !attention.shows, "the output qk is used, but output_qk is 0. Set it to 1");
    Ok(Decoder { attention })
}

impl Decoder {
    /// The inputs of a MultiHeadAttention.
    fn inputs<T: Clone>(&self, inputs: &[Option<T>]) -> Vec<Option<T>> {
        let order = [0, 1, 2, BIAS, MASK, SCORE_BIAS, PAST_KEY, PAST_VALUE, PAST_LENGTH, BEAMS];
        order.into_iter().map(|at| optional(inputs, at).cloned()).collect()
    }
}

impl Operator for Decoder {
    fn name(&self) -> &'static str {
        "DecoderMaskedMultiHeadAttention"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let query = required(inputs, 0)?;
        ensure!(query.rank() == 3, "query has {} dimensions, expected 3", query.rank());
        let tokens = &query.shape[1];
        ensure!(
            tokens.as_i64().is_none_or(|tokens| tokens == 1),
            "query has {tokens} tokens, expected one"
        );
        let (key, value) = (optional(inputs, 1), optional(inputs, 2));
        let (Some(key), Some(_)) = (key, value) else {
            bail!(
                "key or value is missing, and packed queries, keys and values are not \
                 implemented. Give all three as inputs of their own"
            )
        };
        let cached = optional(inputs, PAST_KEY).is_some();
        ensure!(
            key.rank() == if cached { 3 } else { 4 },
            "key has {} dimensions, expected 3 with past_key, and 4 without it",
            key.rank()
        );
        if let Some(mask) = optional(inputs, MASK) {
            ensure!(mask.rank() == 2, "mask_index has {} dimensions, expected 2", mask.rank());
        }
        self.attention.outputs(&self.inputs(inputs))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let tokens = required(inputs, 0)?.shape()[1];
        ensure!(tokens == 1, "query has {tokens} tokens, expected one");
        if let Some(width) = optional(inputs, BEAM_WIDTH) {
            let width = ints(width)?;
            ensure!(
                width == [1],
                "beam_width is {width:?}, but only searches without beams (1) are \
                implemented"
            );
        }
        self.attention.compute(&self.inputs(inputs))
    }
}

#[cfg(test)]
mod tests {
    use crate::microsoft::attention::cases;
    use crate::testing::{Case, counting, microsoft, row, tensor};

    #[test]
    fn decoder_masked_attention_gives_what_onnxruntime_and_numpy_give() {
        cases::check(include_str!("cases/decoder_masked.txt"));
    }

    /// One query of two heads of one element.
    fn query() -> Case {
        microsoft("DecoderMaskedMultiHeadAttention").int("num_heads", 2).input(counting(&[1, 1, 2]))
    }

    /// A query with its key after some tokens, in a cache of four.
    fn cached(past: i32) -> Case {
        let case = query().int("past_present_share_buffer", 1).outputs(3);
        let case = case.input(counting(&[1, 1, 2])).input(counting(&[1, 1, 2])).missing().missing();
        case.input(counting(&[1, 2, 4, 1])).input(counting(&[1, 2, 4, 1])).input(row(&[past]))
    }

    #[test]
    fn queries_and_keys_that_do_not_match_are_refused() {
        query().fails("key or value is missing");
        query().input(counting(&[1, 3, 2])).input(counting(&[1, 3, 2])).fails("key has 3");
        let two = microsoft("DecoderMaskedMultiHeadAttention").int("num_heads", 2);
        let two = two.input(counting(&[1, 2, 2])).input(counting(&[1, 2, 3, 1]));
        two.input(counting(&[1, 2, 3, 1])).fails("query has 2 tokens");
        let cross = || query().input(counting(&[1, 2, 3, 1])).input(counting(&[1, 2, 3, 1]));
        cross().int("past_present_share_buffer", 1).fails("past_present_share_buffer is 1");
        cross().outputs(4).without_output(1).without_output(2).fails("output_qk is 0");
        cross().input(tensor(&[1, 4], &[1; 4])).fails("mask_index has the shape [1, 4]");
    }

    #[test]
    fn caches_and_beams_that_do_not_match_are_refused() {
        cached(4).fails("past_sequence_length is 4");
        cached(-1).fails("past_sequence_length is -1");
        cached(1).int("past_present_share_buffer", 0).fails("past_present_share_buffer is 0");
        cached(1).input(row(&[2])).fails("beam_width is [2]");
        let beams = tensor(&[1, 1, 4], &[0; 4]);
        cached(1).missing().input(beams).fails("cache_indirection");
    }
}
