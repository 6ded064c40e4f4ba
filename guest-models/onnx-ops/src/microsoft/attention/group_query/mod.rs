//! GroupQueryAttention: causal attention of groups of query heads that share keys and values, which
//! are added to a cache. The cache grows with each call, or has room for later tokens at its end.

mod attributes;
mod cache;
mod compute;
mod lengths;
mod sizes;

use belljar_operators::MICROSOFT;
use tract_onnx::tract_hir::internal::*;

use crate::framework::assumptions::at_most;
use crate::framework::errors::ensure;
use crate::framework::facts::{InputFact, OutputFact, known_shapes, optional, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{Bits, dims};
use crate::microsoft::attention::grouped::Groups;

pub(crate) const OPERATORS: &[Registration] =
    &[own("GroupQueryAttention", |_, node| built(attributes::group_query(node)?, node))
        .of(MICROSOFT)];

// The positions of the inputs.
const PAST_KEY: usize = 3;
const PAST_VALUE: usize = 4;
const LENGTHS: usize = 5;
const TOTAL: usize = 6;
const COS: usize = 7;
const SIN: usize = 8;
const POSITIONS: usize = 9;
const BIAS: usize = 10;
const SINK: usize = 11;
const KEY_SCALE: usize = 12;
const VALUE_SCALE: usize = 13;
const QUERY_NORM: usize = 14;
const KEY_NORM: usize = 15;
const QUERY_LENGTHS: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
struct GroupQuery {
    groups: Groups,
    scale: Bits,
    softcap: Bits,
    causal: bool,
    /// How many keys a query attends to, up to its own.
    window: Option<usize>,
    /// Whether the caches only hold the last tokens, of which a window is needed.
    windowed: bool,
    /// How quantized caches are stored, and whether each element of a head has its own scale.
    bits: Option<cache::Bits>,
    per_channel: bool,
    rotates: bool,
    interleaved: bool,
    /// Whether a score of zero without a value takes part in each softmax.
    smooth: bool,
    shown: Shown,
    /// The epsilons of the normalizations of queries and keys.
    epsilons: [Bits; 2],
}

/// What the output `output_qk` has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Nothing,
    Scores,
    Weights,
}

impl Operator for GroupQuery {
    fn name(&self) -> &'static str {
        "GroupQueryAttention"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let query = required(inputs, 0)?;
        ensure!(query.rank() == 3, "query has {} dimensions, expected 3", query.rank());
        let dtype = query.dtype;
        for past in [PAST_KEY, PAST_VALUE].into_iter().filter_map(|at| optional(inputs, at)) {
            self.check_cache(past.dtype, dtype)?;
        }
        if let Some(shapes) = known_shapes(inputs) {
            let sizes = self.sizes(&shapes)?;
            let lengths = optional(inputs, LENGTHS).and_then(|input| input.value.as_deref());
            let total = optional(inputs, TOTAL).and_then(|input| input.value.as_deref());
            if let (Some(lengths), Some(total)) = (lengths, total) {
                let queries =
                    optional(inputs, QUERY_LENGTHS).and_then(|input| input.value.as_deref());
                if queries.is_some() || optional(inputs, QUERY_LENGTHS).is_none() {
                    self.plan(&sizes, lengths, total, queries)?;
                }
            }
        }
        let all = query.shape[2].as_i64().and_then(|all| usize::try_from(all).ok());
        let packed = optional(inputs, 1).is_none();
        let parts = if packed { self.groups.packed() } else { self.groups.heads };
        let width = all.map(|all| all / parts);
        let total = total_length(inputs)?;
        let (batch, tokens) = (query.shape[0].clone(), query.shape[1].clone());
        let present = match (optional(inputs, PAST_KEY), &total) {
            (None, _) => Some(tokens.clone()),
            (Some(past), _) if past.rank() != 4 => None,
            (Some(past), _) if self.windowed => Some(past.shape[2].clone()),
            (Some(past), Some(total)) => longer(&past.shape[2], total),
            (Some(past), None) => self.grown(&past.shape[2], inputs),
        };
        let total = total.or_else(|| present.clone());
        let cache = tvec!(
            Some(batch.clone()),
            Some(self.groups.kv_heads.to_dim()),
            present,
            width.map(|width| self.bits.map_or(width, |bits| bits.stored(width)).to_dim())
        );
        let stored = self.bits.map_or(dtype, cache::Bits::dtype);
        let output = tvec!(
            Some(batch.clone()),
            Some(tokens.clone()),
            width.map(|width| (self.groups.heads * width).to_dim())
        );
        let shown = tvec!(Some(batch), Some(self.groups.heads.to_dim()), Some(tokens), total);
        Ok(tvec!((dtype, output), (stored, cache.clone()), (stored, cache), (dtype, shown)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        self.attend(inputs)
    }
}

impl GroupQuery {
    /// The length of a cache that grows, if it is likely to. An open dimension is that of a cache
    /// without room for later tokens; if it is not, its shape differs from the plan's in a run.
    fn grown(&self, past: &TDim, inputs: &[Option<InputFact>]) -> Option<TDim> {
        let new = optional(inputs, 1).or(optional(inputs, 0))?.shape.get(1)?;
        let padded = optional(inputs, QUERY_LENGTHS).is_some();
        let grows = match past.as_i64() {
            Some(held) => held == 0 && !padded,
            None => true,
        };
        grows.then(|| past.clone() + new)
    }
}

/// The total sequence length, if it is known before the model runs.
fn total_length(inputs: &[Option<InputFact>]) -> TractResult<Option<TDim>> {
    let Some(value) = optional(inputs, TOTAL).and_then(|total| total.value.as_deref()) else {
        return Ok(None);
    };
    Ok(dims(value)?.into_iter().next())
}

/// The longer of two lengths, if it is known which one is.
fn longer(past: &TDim, total: &TDim) -> Option<TDim> {
    let whole = at_most(past, total).ok()?;
    Some(if whole { total.clone() } else { past.clone() })
}

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::Tensor;

    use crate::microsoft::attention::cases;
    use crate::testing::{Case, counting, microsoft, row, scalar, tensor};

    #[test]
    fn group_query_attention_gives_what_onnxruntime_and_numpy_give() {
        cases::check(include_str!("../cases/group_query.txt"));
    }

    /// Two heads of queries and one of keys, of two elements.
    fn heads() -> Case {
        microsoft("GroupQueryAttention").int("num_heads", 2).int("kv_num_heads", 1)
    }

    fn new(batch: usize, tokens: usize) -> Case {
        let case = heads().input(counting(&[batch, tokens, 4]));
        case.input(counting(&[batch, tokens, 2])).input(counting(&[batch, tokens, 2]))
    }

    fn lengths(case: Case, lengths: &[i32], total: i32) -> Case {
        case.input(row(lengths)).input(row(&[total]))
    }

    /// Tokens after a cache of some rows.
    fn after(rows: usize, tokens: usize, length: i32, total: i32) -> Case {
        let past = || counting(&[1, 1, rows, 2]);
        lengths(new(1, tokens).input(past()).input(past()), &[length], total)
    }

    fn first(lengths_less_one: &[i32], total: i32) -> Case {
        lengths(new(lengths_less_one.len(), 3).missing().missing(), lengths_less_one, total)
    }

    #[test]
    fn lengths_outside_of_the_cache_are_refused() {
        first(&[3], 3).fails("seqlens_k[0] is 3");
        first(&[2, -1], 3).fails("seqlens_k[1] is -1");
        first(&[i32::MIN], 3).fails("seqlens_k[0]");
        first(&[1], 2).fails("total_sequence_length is 2");
        first(&[2], 4).fails("total_sequence_length is 4");
        first(&[2], 0).fails("total_sequence_length is 0");
        first(&[2], -3).fails("total_sequence_length is -3");
        first(&[2], i32::MAX).fails("total_sequence_length");
        after(2, 1, 3, 4).fails("total_sequence_length is 4");
        after(2, 1, 3, 3).fails("seqlens_k[0] is 3");
        after(4, 2, 0, 5).fails("seqlens_k[0] is 0");
    }

    #[test]
    fn several_entries_with_several_tokens_need_their_numbers() {
        let past = || counting(&[2, 1, 3, 2]);
        let case = new(2, 2).input(past()).input(past());
        let case = lengths(case, &[3, 3], 4);
        case.clone().fails("query_seqlens");
        let mut given = case;
        for _ in 7..16 {
            given = given.missing();
        }
        given.clone().input(row(&[3, 1])).fails("query_seqlens[0] is 3");
        given.clone().input(row(&[2, -1])).fails("query_seqlens[1] is -1");
        given.clone().input(row(&[1, 2])).fails("do not fit");
        given.int("causal", 0).input(row(&[2, 2])).fails("causal");
    }

    #[test]
    fn shapes_that_do_not_match_are_refused() {
        let total = |case: Case| lengths(case, &[2], 3);
        let query = |channels: usize| heads().input(counting(&[1, 3, channels]));
        let key = |shape: &[usize]| counting(shape);
        total(query(5).missing().missing().missing().missing()).fails("5 channels");
        let case = query(4).input(key(&[1, 3, 2])).missing().missing().missing();
        total(case).fails("key and value");
        for shape in [&[1, 3, 4][..], &[2, 3, 2], &[1, 3]] {
            let case = query(4).input(key(shape)).input(key(shape)).missing().missing();
            total(case).fails("key and value");
        }
        let case = query(4).input(key(&[1, 2, 2])).input(key(&[1, 2, 2])).missing().missing();
        total(case).fails("3 queries and 2 keys");
        for shape in [&[1, 1, 2, 3][..], &[1, 2, 2, 2], &[2, 1, 2, 2], &[1, 1, 2]] {
            let case = new(1, 1).input(key(shape)).input(key(shape));
            total(case).fails("past_key");
        }
        total(new(1, 3).input(key(&[1, 1, 0, 2])).missing()).fails("past_key");
        lengths(new(1, 3).missing().missing(), &[2, 2], 3).fails("seqlens_k");
        let case = new(1, 3).missing().missing().input(row(&[2]));
        case.input(row(&[3, 3])).fails("total_sequence_length");
    }

    #[test]
    fn optional_inputs_that_do_not_match_are_refused() {
        let tables = |rows: usize| {
            let case = first(&[2], 3).int("do_rotary", 1);
            case.input(counting(&[rows, 1])).input(counting(&[rows, 1]))
        };
        let positions = |values: [i64; 3]| tensor(&[1, 3], &values);
        tables(2).fails("position 2 ");
        tables(3).input(positions([1, 0, 0])).fails("position 3 ");
        tables(3).input(positions([-1, 0, 0])).fails("position -1 ");
        tables(3).input(row(&[1i64, 0, 0])).fails("position_ids");
        first(&[2], 3).int("do_rotary", 1).fails("cos_cache");
        first(&[2], 3).input(counting(&[3, 1])).fails("cos_cache");
        first(&[2], 3).input(counting(&[3, 2])).input(counting(&[3, 2])).fails("2 columns");
        let bias =
            |shape: &[usize]| first(&[2], 3).missing().missing().missing().input(counting(shape));
        bias(&[1, 2, 3, 4]).fails("4 columns");
        bias(&[2, 2, 3, 3]).fails("attention_bias");
        bias(&[1, 3, 3, 3]).fails("attention_bias");
        bias(&[1, 1, 1, 3]).fails("attention_bias");
        let sink = first(&[2], 3).missing().missing().missing().missing();
        sink.clone().input(row(&[0f32; 3])).fails("head_sink");
        let scales = sink.missing();
        scales.clone().input(row(&[1f32])).fails("k_scale");
        scales.missing().missing().input(row(&[1f32; 2])).fails("q_norm_weight");
    }

    #[test]
    fn attributes_that_are_not_implemented_are_refused_by_name() {
        first(&[2], 3).int("local_window_size", 0).fails("local_window_size is 0");
        first(&[2], 3).int("local_window_size", 2).int("causal", 0).fails("local_window_size");
        first(&[2], 3).int("kv_num_heads", 0).fails("kv_num_heads is 0");
        first(&[2], 3).int("num_heads", -1).fails("num_heads is -1");
        first(&[2], 3).int("kv_num_heads", 3).fails("multiple");
        first(&[2], 3).int("qk_output", 1).fails("qk_output is 1");
        first(&[2], 3).outputs(4).fails("qk_output is 0");
        first(&[2], 3).float("q_norm_epsilon", 0.0).fails("epsilon");
    }

    #[test]
    fn windowed_and_quantized_caches_give_what_onnxruntime_and_numpy_give() {
        cases::check(include_str!("../cases/group_query_caches.txt"));
    }

    #[test]
    fn caches_of_windows_that_do_not_match_are_refused() {
        let window = |case: Case, size: i64| {
            case.int("sliding_window_cache", 1).int("local_window_size", size)
        };
        window(first(&[2], 3), -1).fails("local_window_size is -1");
        window(first(&[2], 3), 2).fails("past_key is missing");
        window(after(2, 1, 4, 5), 3).fails("past_key has 2 rows");
        window(after(2, 1, 4, 5), 2).outputs(4).int("qk_output", 1).fails("qk_output is 1");
        window(after(2, 1, 5, 5), 2).fails("seqlens_k[0] is 5");
        let past = || counting(&[1, 1, 2, 2]);
        let cached = heads().input(counting(&[1, 1, 4])).input(counting(&[1, 0, 2]));
        let cached = cached.input(counting(&[1, 0, 2])).input(past()).input(past());
        window(lengths(cached, &[1], 2), 2).fails("key has no tokens");
    }

    #[test]
    fn quantized_caches_that_do_not_match_are_refused() {
        let quantized = |case: Case, kind: &str, bits: i64| {
            let case = case.text("k_quant_type", kind).text("v_quant_type", kind);
            case.int("kv_cache_bit_width", bits)
        };
        quantized(first(&[2], 3), "PER_TENSOR", 8).fails("past_key is missing");
        quantized(first(&[2], 3), "PER_TENSOR", 0).fails("kv_cache_bit_width is 0");
        quantized(first(&[2], 3), "NONE", 8).fails("kv_cache_bit_width is 8");
        first(&[2], 3).text("k_quant_type", "PER_TENSOR").fails("k_quant_type");
        quantized(after(2, 1, 2, 3), "PER_TENSOR", 8).fails("past_value are of F32");
        let cache = |kind: &str, scales: &[usize]| {
            let past = || tensor(&[1, 1, 2, 2], &[0i8; 4]);
            let mut case = lengths(new(1, 1).input(past()).input(past()), &[2], 3);
            for _ in 7..12 {
                case = case.missing();
            }
            quantized(case, kind, 8).input(counting(scales)).input(counting(scales))
        };
        cache("PER_TENSOR", &[2]).fails("k_scale has the shape [2]");
        cache("PER_CHANNEL", &[1]).fails("k_scale has the shape [1]");
        cache("PER_CHANNEL", &[1, 2]).fails("k_scale has the shape [1, 2]");
        cache("PER_CHANNEL", &[1, 1, 2]).int("kv_cache_bit_width", 4).fails("past_value are of I8");
    }

    #[test]
    fn plan_with_open_dimensions_expects_a_cache_that_grows() {
        let zeros = |shape: &[usize]| tensor(shape, &vec![0f32; shape.iter().product()]);
        let case = heads().input(zeros(&[1, 1, 4])).input(zeros(&[1, 1, 2])).outputs(3);
        let case = case.input(tensor(&[1, 1, 2], &[6f32, 3.0]));
        let case = case.input(zeros(&[1, 1, 2, 2])).input(zeros(&[1, 1, 2, 2]));
        let values = tensor(&[1, 1, 3, 2], &[0f32, 0.0, 0.0, 0.0, 6.0, 3.0]);
        let outputs = [tensor(&[1, 1, 4], &[2f32, 1.0, 2.0, 1.0]), zeros(&[1, 1, 3, 2]), values];
        let open = [(3, 2, "P"), (4, 2, "P")];
        let shapes = ["1,1,4", "1,1,1+P,2", "1,1,1+P,2"];
        lengths(case, &[2], 3).gives_open(&open, &shapes, &outputs, 1e-6);
    }

    #[test]
    fn cache_in_parts_gives_what_a_whole_prompt_gives() {
        let ones = |shape: &[usize]| tensor(shape, &vec![1f32; shape.iter().product()]);
        let equal: Tensor = ones(&[1, 1, 4]);
        let step = heads().input(ones(&[1, 1, 4])).input(ones(&[1, 1, 2])).input(ones(&[1, 1, 2]));
        let step = step.input(ones(&[1, 1, 6, 2])).input(ones(&[1, 1, 6, 2]));
        step.input(row(&[5])).input(scalar(6)).gives_within(equal, 1e-6);
    }
}
