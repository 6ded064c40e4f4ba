//! Operators of ours as tract sees them: the same for all, but for what the host is asked.

use std::fmt::Debug;
use std::hash::Hash;

use belljar_abi::kernel::Kernel;
use tract_onnx::tract_core::internal::*;

#[link(wasm_import_module = "belljar")]
unsafe extern "C" {
    /// Computes what the request asks for. Traps if it is not acceptable.
    fn compute(request: *const u32, words: u32);
}

/// What the host is asked for, but for the addresses of tensors that only a run has.
pub(super) trait Native:
    Clone + Debug + Hash + PartialEq + Eq + Send + Sync + 'static
{
    /// As it is called in a plan.
    const NAME: &'static str;

    /// The whole request, for these inputs and an output at this address.
    fn request(&self, inputs: &[TValue], output: u32) -> Kernel;

    /// Multiplications with an addition, where that says how much work it is.
    fn multiply_adds(&self) -> Option<u64> {
        None
    }
}

/// An operator that the host computes. It has one output.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct NativeOp<N> {
    pub(super) native: N,
    /// The output's shape.
    pub(super) output: TVec<usize>,
}

impl<N: Native> Op for NativeOp<N> {
    fn name(&self) -> StaticName {
        N::NAME.into()
    }

    op_as_typed_op!();
}

impl<N: Native> EvalOp for NativeOp<N> {
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        // SAFETY: the host writes every element of an output, or traps.
        let mut output = unsafe { Tensor::uninitialized_dt(f32::datum_type(), &self.output)? };
        let place = output.as_bytes_mut().as_mut_ptr() as u32;
        let words = self.native.request(&inputs, place).encode();
        // SAFETY: a live slice. What it asks for was made from tensors that are alive until after
        // the call, and the host checks that it stays in this memory.
        unsafe { compute(words.as_ptr(), words.len() as u32) };
        Ok(tvec!(output.into_tvalue()))
    }

    op_out_of_plan!();
}

impl<N: Native> TypedOp for NativeOp<N> {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(&*self.output)))
    }

    fn cost(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        let count = self.native.multiply_adds();
        Ok(count.map(|count| (Cost::FMA(f32::datum_type()), count.to_dim())).into_iter().collect())
    }

    as_op!();
}

/// Where a tensor's elements are.
pub(super) fn address(tensor: &Tensor) -> u32 {
    tensor.as_bytes().as_ptr() as u32
}

/// Where a tensor's elements are, if there is one.
pub(super) fn optional(tensor: Option<&Arc<Tensor>>) -> u32 {
    tensor.map_or(0, |tensor| address(tensor))
}
