//! The declared types of values, and the types that carry small ones.

use belljar_abi::DType;
use belljar_operators::{STORED, Types};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{TypeProto, ValueInfoProto, type_proto};

/// The small element type that is carried as codes, if this is one.
pub(super) fn dtype(types: Types) -> Option<DType> {
    let number = types.number().filter(|_| STORED.has(types))?;
    u32::try_from(number).ok().and_then(DType::from_onnx)
}

/// The element type in which tract carries the codes of a small type.
pub(super) fn carrier(dtype: DType) -> DataType {
    if dtype == DType::BF16 { DataType::Uint16 } else { DataType::Uint8 }
}

fn tensor_type(value: &ValueInfoProto) -> Option<&type_proto::Tensor> {
    let type_proto::Value::TensorType(tensor) = value.r#type.as_ref()?.value.as_ref()?;
    Some(tensor)
}

pub(super) fn declared(value: &ValueInfoProto) -> Option<Types> {
    Types::of(tensor_type(value)?.elem_type)
}

/// Declares the type of a value that has none.
pub(super) fn declare(value: &mut ValueInfoProto, types: Types) {
    let tensor = type_proto::Tensor { elem_type: types.number().unwrap_or_default(), shape: None };
    let value_type = type_proto::Value::TensorType(tensor);
    value.r#type = Some(TypeProto { value: Some(value_type), ..TypeProto::default() });
}

/// Declares a value of a small type with the type that carries it.
pub(super) fn retype(value: &mut ValueInfoProto) {
    let Some(dtype) = declared(value).and_then(dtype) else { return };
    let value = value.r#type.as_mut().and_then(|value| value.value.as_mut());
    if let Some(type_proto::Value::TensorType(tensor)) = value {
        tensor.elem_type = carrier(dtype) as i32;
    }
}
