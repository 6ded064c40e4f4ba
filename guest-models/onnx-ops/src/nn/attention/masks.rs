//! Which keys a query attends to: masks, padded keys, causal attention and windows, as numbers that
//! are added to the scores.

use tract_onnx::tract_hir::internal::*;

use super::Attention;
use super::sizes::Sizes;
use crate::framework::errors::ensure;
use crate::framework::facts::{optional, required};
use crate::framework::tensors::{floats, ints};

/// What is added to the scores: zero, the value of a mask, or negative infinity.
pub(super) struct Bias {
    mask: Option<(Vec<f64>, [usize; 4], [usize; 4])>,
    /// The position of the first query among the keys, for each batch entry.
    offsets: Vec<i64>,
    /// The number of keys that are not padding, for each batch entry.
    lengths: Option<Vec<i64>>,
    back: Option<i64>,
    ahead: Option<i64>,
}

impl Bias {
    /// One bias for each key of a query.
    pub(super) fn row(&self, batch: usize, head: usize, query: usize, row: &mut [f64]) {
        let place = self.offsets[batch] + query as i64;
        let length = self.lengths.as_ref().map_or(i64::MAX, |lengths| lengths[batch]);
        for (key, bias) in row.iter_mut().enumerate() {
            *bias = match &self.mask {
                None => 0.0,
                Some((_, shape, _)) if key >= shape[3] => f64::NEG_INFINITY,
                Some((values, _, strides)) => {
                    let at = [batch, head, query, key];
                    values[at.iter().zip(strides).map(|(at, stride)| at * stride).sum::<usize>()]
                }
            };
            let key = key as i64;
            let hidden = key >= length
                || self.back.is_some_and(|back| place - key > back)
                || self.ahead.is_some_and(|ahead| key - place > ahead);
            if hidden {
                *bias += f64::NEG_INFINITY;
            }
        }
    }
}

/// A mask as numbers to add, with its shape in four dimensions and its strides, which are 0 along
/// broadcast dimensions.
fn mask(tensor: &Tensor, dtype: DatumType) -> TractResult<(Vec<f64>, [usize; 4], [usize; 4])> {
    let values = if tensor.datum_type() == bool::datum_type() {
        let plain = tensor.try_as_plain_ram()?;
        let seen = plain.as_slice::<bool>()?.iter();
        seen.map(|seen| if *seen { 0.0 } else { f64::NEG_INFINITY }).collect()
    } else {
        ensure!(
            tensor.datum_type() == dtype,
            "a mask of element type {:?} does not match {dtype:?}",
            tensor.datum_type()
        );
        floats(tensor)?
    };
    let (mut shape, mut strides) = ([1; 4], [0; 4]);
    let mut stride = 1;
    for (at, size) in tensor.shape().iter().rev().enumerate() {
        shape[3 - at] = *size;
        strides[3 - at] = if *size == 1 { 0 } else { stride };
        stride *= size;
    }
    Ok((values, shape, strides))
}

impl Attention {
    pub(super) fn bias(&self, inputs: &[Option<&Tensor>], s: &Sizes) -> TractResult<Bias> {
        let dtype = required(inputs, 0)?.datum_type();
        let mask = optional(inputs, 3).map(|tensor| mask(tensor, dtype)).transpose()?;
        let lengths = optional(inputs, 6).map(|lengths| ints(lengths)).transpose()?;
        if let Some(lengths) = &lengths {
            let held = mask.as_ref().map_or(s.keys, |(_, shape, _)| shape[3]) as i64;
            let within = lengths.iter().all(|length| (0..=held).contains(length));
            ensure!(within, "the sequence lengths {lengths:?} do not fit {held} keys");
        }
        let offsets = match &lengths {
            Some(lengths) => lengths.iter().map(|length| length - s.queries as i64).collect(),
            None => vec![s.past as i64; s.batch],
        };
        let [back, ahead] = self.windows.map(|window| window.map(|window| window as i64));
        // A causal query attends to no later keys.
        let ahead = if self.causal { Some(0) } else { ahead };
        Ok(Bias { mask, offsets, lengths, back, ahead })
    }
}
