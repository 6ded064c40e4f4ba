//! DequantizeLinear of bytes with one scale and one zero point.

use belljar_abi::kernel::{Dequantize as Request, Kernel};
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::{TypedModel, TypedNode};
use tract_onnx::tract_core::ops::quant::DequantizeLinearF32;

use super::operator::{Native, NativeOp, address};
use super::{elements, plain_shape_of};

/// Bytes as numbers.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct NativeDequantize {
    signed: bool,
    /// Bits of the scale.
    scale: u32,
    zero: i32,
}

impl Native for NativeDequantize {
    const NAME: &'static str = "NativeDequantize";

    fn sized(&self, shapes: &[&[usize]]) -> Option<(Kernel, TVec<usize>)> {
        let shape = *shapes.first()?;
        let request = Request {
            count: elements(shape)? as u32,
            signed: self.signed.into(),
            scale: self.scale,
            zero: self.zero.cast_unsigned(),
            ..Request::default()
        };
        Some((Kernel::Dequantize(request), shape.into()))
    }

    fn place(&self, request: &mut Kernel, inputs: &[TValue], output: u32) {
        if let Kernel::Dequantize(request) = request {
            *request = Request { input: address(&inputs[0]), output, ..*request };
        }
    }
}

/// Replaces the dequantization of bytes.
pub(super) fn replace(
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<TypedModelPatch>> {
    let (Some(op), [input]) = (node.op_as::<DequantizeLinearF32>(), &*node.inputs) else {
        return Ok(None);
    };
    let fact = model.outlet_fact(*input)?;
    let signed = match fact.datum_type {
        DatumType::U8 => false,
        DatumType::I8 => true,
        _ => return Ok(None),
    };
    let range = if signed { -128..128 } else { 0..256 };
    let Some(shape) = plain_shape_of(fact, fact.datum_type) else { return Ok(None) };
    if !range.contains(&op.zero_point) {
        return Ok(None);
    }
    let native = NativeDequantize { signed, scale: op.scale.to_bits(), zero: op.zero_point };
    let Some(op) = NativeOp::new(native, &[&shape], &shape) else { return Ok(None) };
    TypedModelPatch::replace_single_op(model, node, &[*input], op).map(Some)
}
