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

/// Lets the host compute a request. The addresses in it must be those of tensors or slices that live
/// until after the call.
pub(super) fn compute_request(request: &Kernel) {
    let words = request.encode();
    // SAFETY: a live slice. The host checks that the addresses in it are within this memory, and
    // writes only to the output, which the caller owns.
    unsafe { compute(words.as_ptr(), words.len() as u32) };
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

    /// The element type of the output.
    fn output_type(&self) -> DatumType {
        f32::datum_type()
    }

    /// The operator with its constants in the layout of the host, if they are not yet. Until the
    /// plan is complete, a packed copy would be in memory together with the constant.
    fn packed(&self) -> Option<Self> {
        None
    }

    /// Puts the addresses of the tensors into a request that `sized` has made. Constants are packed.
    fn place(&self, request: &mut Kernel, inputs: &[TValue], output: u32);
}

/// An operator that the host computes. It has one output.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct NativeOp<N> {
    native: N,
    /// The shape of the output.
    output: ShapeFact,
    /// For the sizes that the model was prepared with, which are the only ones without symbols.
    example: Sized,
}

/// The request without addresses for inputs of some shapes.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct Sized {
    shapes: TVec<TVec<usize>>,
    request: Kernel,
    output: TVec<usize>,
}

impl<N: Native> NativeOp<N> {
    /// The operator for inputs of these shapes. `None` if the host does not compute it for them,
    /// or for the example if there are symbols.
    pub(super) fn new(native: N, inputs: &[&[TDim]], output: &[TDim]) -> Option<NativeOp<N>> {
        let sizes = |dims: &[TDim]| dims.iter().map(size).collect::<Option<TVec<usize>>>();
        let shapes: TVec<TVec<usize>> =
            inputs.iter().map(|dims| sizes(dims)).collect::<Option<_>>()?;
        let borrowed: Vec<&[usize]> = shapes.iter().map(|shape| &**shape).collect();
        let (request, made) = native.sized(&borrowed)?;
        if made != sizes(output)? {
            return None;
        }
        let example = Sized { shapes, request, output: made };
        Some(NativeOp { native, output: ShapeFact::from_dims(output), example })
    }

    /// The operator before it was made one of the plan.
    pub(super) fn native(&self) -> &N {
        &self.native
    }

    /// Packs its constants.
    pub(super) fn pack(&mut self) {
        if let Some(packed) = self.native.packed() {
            self.native = packed;
        }
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
        let example = &self.example;
        let same = |(shape, input): (&TVec<usize>, &TValue)| **shape == *input.shape();
        let (mut request, shape) = if example.shapes.iter().zip(&inputs).all(same) {
            (example.request.clone(), example.output.clone())
        } else {
            let shapes: TVec<&[usize]> = inputs.iter().map(|input| input.shape()).collect();
            self.native.sized(&shapes).ok_or_else(|| Unplanned::error(N::NAME))?
        };
        // SAFETY: the host writes every element of an output, or traps.
        let mut output = unsafe { Tensor::uninitialized_dt(self.native.output_type(), &shape)? };
        let address = output.as_bytes_mut().as_mut_ptr() as u32;
        // Only an operator that is computed while the model is optimised is not packed.
        let packed = self.native.packed();
        let native = packed.as_ref().unwrap_or(&self.native);
        native.place(&mut request, &inputs, address);
        compute_request(&request);
        Ok(tvec!(output.into_tvalue()))
    }

    op_out_of_plan!();
}

impl<N: Native> TypedOp for NativeOp<N> {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.native.output_type().fact(self.output.clone())))
    }

    fn cost(&self, inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        let shapes: Option<TVec<&[usize]>> =
            inputs.iter().map(|fact| fact.shape.as_concrete()).collect();
        let request = shapes.and_then(|shapes| self.native.sized(&shapes));
        let count = request.map(|(request, _)| request).and_then(|request| request.multiply_adds());
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
