//! Tensors and the types of values as they are in an ONNX file.

use tract_onnx::pb::{TensorProto, TypeProto, ValueInfoProto, type_proto};
use tract_onnx::tract_hir::internal::*;

use crate::framework::dtypes;

pub(super) fn value_info(name: &str, dtype: DatumType) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: element_type(dtype), shape: None };
    let value = Some(type_proto::Value::TensorType(tensor));
    let r#type = Some(TypeProto { value, ..TypeProto::default() });
    ValueInfoProto { name: name.into(), r#type, ..ValueInfoProto::default() }
}

/// The number of an element type in ONNX.
fn element_type(dtype: DatumType) -> i32 {
    let dtype = dtypes::from_tract(dtype).unwrap_or_else(|| panic!("{dtype:?} is not in ONNX"));
    dtype.to_onnx() as i32
}

pub(super) fn proto(name: &str, tensor: &Tensor) -> TensorProto {
    let dtype = tensor.datum_type();
    let mut proto = TensorProto {
        name: name.into(),
        dims: tensor.shape().iter().map(|dim| *dim as i64).collect(),
        data_type: element_type(dtype),
        ..TensorProto::default()
    };
    if dtype == DatumType::String {
        let view = tensor.to_plain_array_view::<String>().unwrap();
        proto.string_data = view.iter().map(|text| text.as_bytes().to_vec()).collect();
    } else {
        proto.raw_data = tensor.as_bytes().to_vec();
    }
    proto
}
