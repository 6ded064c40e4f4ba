//! The tract operator for all native kernels; they only differ in their request to the host.
//!
//! The shapes of a plan are concrete, or some dimensions are symbols. A request is made from the
//! shapes of the tensors of a run in either case, by the code that also decides, when the model is
//! prepared, whether the host can compute the operator. With concrete shapes it is made only once.

use std::fmt::Debug;
use std::hash::Hash;

use belljar_abi::kernel::Kernel;
use tract_onnx::tract_core::internal::*;

use onnx_ops::framework::assumptions::size;

use super::symbols::Unplanned;

#[link(wasm_import_module = "belljar")]
unsafe extern "C" {
    /// Computes the request. Traps if it is invalid.
    fn compute(request: *const u32, words: u32);
}

/// An operator that the host computes, for tensors of any sizes.
pub(super) trait Native:
    Clone + Debug + Hash + PartialEq + Eq + Send + Sync + 'static
{
    /// The name of the operator in a plan.
    const NAME: &'static str;

    /// The request for inputs of these shapes, without addresses, and the shape of the output.
    /// `None` if the host does not compute it for these sizes.
    fn sized(&self, shapes: &[&[usize]]) -> Option<(Kernel, TVec<usize>)>;

    /// Puts the addresses of the tensors into a request that `sized` has made.
    fn place(&self, request: &mut Kernel, inputs: &[TValue], output: u32);
}

/// An operator that the host computes. It has one output.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct NativeOp<N> {
    native: N,
    /// The shape of the output.
    output: ShapeFact,
    /// The request without addresses, if all shapes are concrete.
    fixed: Option<(Kernel, TVec<usize>)>,
}

impl<N: Native> NativeOp<N> {
    /// The operator for inputs of these shapes. `None` if the host does not compute it for them,
    /// or for the example if there are symbols.
    pub(super) fn new(native: N, inputs: &[&[TDim]], output: &[TDim]) -> Option<NativeOp<N>> {
        let sizes = |dims: &[TDim]| dims.iter().map(size).collect::<Option<TVec<usize>>>();
        let shapes: Vec<TVec<usize>> =
            inputs.iter().map(|dims| sizes(dims)).collect::<Option<_>>()?;
        let shapes: Vec<&[usize]> = shapes.iter().map(|shape| &**shape).collect();
        let (request, made) = native.sized(&shapes)?;
        if made != sizes(output)? {
            return None;
        }
        let output = ShapeFact::from_dims(output);
        let concrete = |dims: &&[TDim]| dims.iter().all(|dim| dim.as_i64().is_some());
        let fixed = output.is_concrete() && inputs.iter().all(concrete);
        Some(NativeOp { native, output, fixed: fixed.then_some((request, made)) })
    }
}

impl<N: Native> Op for NativeOp<N> {
    fn name(&self) -> StaticName {
        N::NAME.into()
    }

    op_as_typed_op!();
}

impl<N: Native> EvalOp for NativeOp<N> {
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (mut request, shape) = match &self.fixed {
            Some(fixed) => fixed.clone(),
            None => {
                let shapes: TVec<&[usize]> = inputs.iter().map(|input| input.shape()).collect();
                self.native.sized(&shapes).ok_or_else(|| Unplanned::error(N::NAME))?
            }
        };
        // SAFETY: the host writes every element of an output, or traps.
        let mut output = unsafe { Tensor::uninitialized_dt(f32::datum_type(), &shape)? };
        let address = output.as_bytes_mut().as_mut_ptr() as u32;
        self.native.place(&mut request, &inputs, address);
        let words = request.encode();
        // SAFETY: a live slice. The addresses in it are those of tensors that live until after the
        // call, and the host checks that they are within this memory.
        unsafe { compute(words.as_ptr(), words.len() as u32) };
        Ok(tvec!(output.into_tvalue()))
    }

    op_out_of_plan!();
}

impl<N: Native> TypedOp for NativeOp<N> {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(self.output.clone())))
    }

    fn cost(&self, inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        let shapes: Option<TVec<&[usize]>> =
            inputs.iter().map(|fact| fact.shape.as_concrete()).collect();
        let request = match (&self.fixed, shapes) {
            (Some((request, _)), _) => Some(request.clone()),
            (None, Some(shapes)) => self.native.sized(&shapes).map(|(request, _)| request),
            (None, None) => None,
        };
        let count = request.and_then(|request| request.multiply_adds());
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
