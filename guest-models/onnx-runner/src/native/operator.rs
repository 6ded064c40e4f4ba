//! The tract operator for all native kernels; they only differ in their request to the host.

use std::fmt::Debug;
use std::hash::Hash;

use belljar_abi::kernel::Kernel;
use tract_onnx::tract_core::internal::*;

#[link(wasm_import_module = "belljar")]
unsafe extern "C" {
    /// Computes the request. Traps if it is invalid.
    fn compute(request: *const u32, words: u32);
}

/// A request to the host, without the addresses of tensors that are only known at run time.
pub(super) trait Native:
    Clone + Debug + Hash + PartialEq + Eq + Send + Sync + 'static
{
    /// The name of the operator in a plan.
    const NAME: &'static str;

    /// The complete request, for these inputs and an output at this address.
    fn request(&self, inputs: &[TValue], output: u32) -> Kernel;

    /// The number of multiply-adds, where they are the measure of the work.
    fn multiply_adds(&self) -> Option<u64> {
        None
    }
}

/// An operator that the host computes. It has one output.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct NativeOp<N> {
    pub(super) native: N,
    /// The shape of the output.
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
        let address = output.as_bytes_mut().as_mut_ptr() as u32;
        let words = self.native.request(&inputs, address).encode();
        // SAFETY: a live slice. The addresses in it are those of tensors that live until after the
        // call, and the host checks that they are within this memory.
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

/// The address of a tensor's elements.
pub(super) fn address(tensor: &Tensor) -> u32 {
    tensor.as_bytes().as_ptr() as u32
}

/// The address of a tensor's elements, or 0 without a tensor.
pub(super) fn optional(tensor: Option<&Arc<Tensor>>) -> u32 {
    tensor.map_or(0, |tensor| address(tensor))
}
