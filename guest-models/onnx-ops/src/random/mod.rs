//! Operators that draw random numbers. All numbers come from `framework/randomness.rs`.

pub(crate) mod bernoulli;
pub(crate) mod dropout;
pub(crate) mod fill;
pub(crate) mod multinomial;
pub(crate) mod tensors;
#[cfg(test)]
mod tests;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::volume;
use crate::framework::randomness::{Distribution, Source};
use crate::framework::registration::Registration;

/// The operators of this family.
pub(crate) const OPERATORS: &[&[Registration]] =
    &[bernoulli::OPERATORS, dropout::OPERATORS, multinomial::OPERATORS, tensors::OPERATORS];

/// The numbers of a node whose own seed, if it has one, is a float.
fn source(node: &NodeProto, what: Distribution) -> TractResult<Source> {
    let seed = node.get_attr_opt::<f32>("seed")?;
    Ok(Source::of(node, what, seed.map(|seed| seed.to_bits().into())))
}

/// A tensor of elements that are computed `N` at a time.
fn filled<T: Datum + Copy, const N: usize>(
    shape: &[usize],
    each: impl Fn(usize) -> [T; N],
) -> TractResult<Tensor> {
    volume(shape)?;
    let mut tensor = Tensor::zero_dt(T::datum_type(), shape)?;
    let mut plain = tensor.try_as_plain_ram_mut()?;
    for (at, elements) in plain.as_slice_mut::<T>()?.chunks_mut(N).enumerate() {
        for (element, value) in elements.iter_mut().zip(each(at)) {
            *element = value;
        }
    }
    Ok(tensor)
}
