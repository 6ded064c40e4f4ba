//! Checks the tensors that are part of a model: all their data must be present, in a form that
//! tract reads as ONNX specifies.

use belljar_abi::{DType, codes as code};
use belljar_operators::{STORED, Types};
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::{AttributeProto, GraphProto, TensorProto};

use super::text::{name_of, shown};
use crate::weights::Weights;

/// Maximum number of dimensions of a tensor.
pub(crate) const MAX_DIMS: usize = 32;

/// Refuses a tensor that is incomplete or malformed; returns its element type.
pub(super) fn check(tensor: &TensorProto) -> Result<Types, String> {
    match Weights::has(tensor) {
        true => Types::of(tensor.data_type).ok_or_else(|| "has no element type".into()),
        false => check_with(tensor, tensor.raw_data.len()),
    }
}

/// Whether a tensor that has no raw data is complete with so many bytes of it.
pub(crate) fn is_complete_with(tensor: &TensorProto, raw: usize) -> bool {
    tensor.raw_data.is_empty() && raw > 0 && check_with(tensor, raw).is_ok()
}

fn check_with(tensor: &TensorProto, raw: usize) -> Result<Types, String> {
    if tensor.data_location == Some(DataLocation::External as i32)
        || !tensor.external_data.is_empty()
    {
        return Err(
            "keeps its data in another file, which was not granted; add [[filesystem]] for \
                    it to the model's policy (`belljar new-policy` writes the entry), or save the \
                    model as one file"
                .into(),
        );
    }
    if tensor.segment.is_some() {
        return Err("is one part of a larger tensor, which is not implemented".into());
    }
    let Some(dtype) = Types::of(tensor.data_type) else {
        return Err(format!(
            "has the element type {}, which is not implemented",
            name_of(tensor.data_type)
        ));
    };
    let elements = elements(&tensor.dims)?;
    if STORED.has(dtype) {
        if tensor.raw_data.is_empty() && raw > 0 {
            let size = code_size(dtype).ok_or("has codes that are not whole bytes")?;
            if fields(tensor) != 0 || elements.checked_mul(size) != Some(raw) {
                return Err("has data that do not match its dimensions".into());
            }
        } else {
            codes(tensor)?;
        }
        return Ok(dtype);
    }
    let (stored, size) = stored(tensor);
    let fields = fields(tensor);
    if raw > 0 {
        if fields != 0 {
            return Err("has both raw data and a data field; only one is allowed".into());
        }
        if size == 0 {
            return Err("has strings as raw bytes, which ONNX does not allow".into());
        }
        if elements.checked_mul(size) != Some(raw) {
            let (bytes, dims) = (raw, super::text::list(&tensor.dims));
            return Err(format!(
                "has {bytes} bytes of data, which do not match the dimensions {dims}"
            ));
        }
        return Ok(dtype);
    }
    if fields > 1 || (fields == 1 && stored == 0) {
        return Err("has its data in a field of another element type".into());
    }
    if stored != elements {
        let dims = super::text::list(&tensor.dims);
        return Err(format!(
            "has {stored} elements of data, which do not match the dimensions {dims}"
        ));
    }
    Ok(dtype)
}

/// The number of elements of these dimensions, if it fits a sandbox.
pub(super) fn elements(dims: &[i64]) -> Result<usize, String> {
    if dims.len() > MAX_DIMS {
        return Err(format!("has {} dimensions; the limit is {MAX_DIMS}", dims.len()));
    }
    let mut elements = 1usize;
    // A dimension above the limit is refused even if another one is zero.
    for dim in dims {
        let dim = u32::try_from(*dim).ok().filter(|dim| *dim < 1 << 31);
        let dim =
            dim.ok_or_else(|| format!("has invalid dimensions {}", super::text::list(dims)))?;
        elements = elements.checked_mul(dim as usize).ok_or("has too many elements")?;
    }
    Ok(elements)
}

/// The number of elements in the data field of this element type, and the size of one in raw data.
fn stored(tensor: &TensorProto) -> (usize, usize) {
    match DataType::try_from(tensor.data_type) {
        Ok(DataType::Float) => (tensor.float_data.len(), 4),
        Ok(DataType::Double) => (tensor.double_data.len(), 8),
        Ok(DataType::Int64) => (tensor.int64_data.len(), 8),
        Ok(DataType::Uint64) => (tensor.uint64_data.len(), 8),
        Ok(DataType::Uint32) => (tensor.uint64_data.len(), 4),
        Ok(DataType::Int32) => (tensor.int32_data.len(), 4),
        Ok(DataType::Float16 | DataType::Int16 | DataType::Uint16) => (tensor.int32_data.len(), 2),
        Ok(DataType::Bool | DataType::Int8 | DataType::Uint8) => (tensor.int32_data.len(), 1),
        Ok(DataType::String) => (tensor.string_data.len(), 0),
        _ => (0, 0),
    }
}

/// The bytes of a code of a small type, if it has whole bytes.
fn code_size(types: Types) -> Option<usize> {
    let dtype = DType::from_onnx(u32::try_from(types.number()?).ok()?)?;
    let bits = code::bits(dtype)? as usize;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// The codes of a tensor of a small type, one per byte, or per two bytes for 16-bit types. ONNX
/// packs two 4-bit or four 2-bit elements into a byte, the first in the lowest bits.
pub(super) fn codes(tensor: &TensorProto) -> Result<Vec<u8>, String> {
    let dtype = u32::try_from(tensor.data_type).ok().and_then(DType::from_onnx);
    let Some((dtype, bits)) = dtype.and_then(|dtype| Some((dtype, code::bits(dtype)? as usize)))
    else {
        return Err(format!(
            "has the element type {}, which has no codes",
            name_of(tensor.data_type)
        ));
    };
    let elements = elements(&tensor.dims)?;
    let fields = fields(tensor);
    if fields > 1 || (fields == 1 && tensor.int32_data.is_empty()) {
        return Err("has its data in a field of another element type".into());
    }
    if fields == 1 && !tensor.raw_data.is_empty() {
        return Err("has both raw data and a data field; only one is allowed".into());
    }
    // The packed units: bytes, or pairs of bytes.
    let packed = if fields == 0 {
        tensor.raw_data.clone()
    } else {
        let unit = |number: &i32| match bits {
            16 => u16::try_from(*number).ok().map(|unit| unit.to_le_bytes().to_vec()),
            // Small signed integers may be stored as negative numbers.
            _ => u8::try_from(*number)
                .or(i8::try_from(*number).map(|n| n as u8))
                .ok()
                .map(|u| vec![u]),
        };
        let units = tensor.int32_data.iter().map(unit).collect::<Option<Vec<_>>>();
        units.ok_or("has numbers that are not valid codes")?.concat()
    };
    let wanted = elements.checked_mul(bits).map(|bits| bits.div_ceil(8));
    if wanted != Some(packed.len()) {
        let (bytes, dims) = (packed.len(), super::text::list(&tensor.dims));
        return Err(format!("has {bytes} bytes of data, which do not match the dimensions {dims}"));
    }
    if bits >= 8 {
        return Ok(packed);
    }
    let each = 8 / bits;
    let mask = (1u8 << bits) - 1;
    let apart = |byte: &u8| (0..each).map(|at| *byte >> (at * bits) & mask).collect::<Vec<_>>();
    let mut codes: Vec<u8> = packed.iter().flat_map(apart).collect();
    if codes.iter().skip(elements).any(|code| *code != 0) {
        return Err("has nonzero bits after its last element".into());
    }
    codes.truncate(elements);
    debug_assert!(code::are_codes(dtype, &codes));
    Ok(codes)
}

/// Packs codes as a tensor in a model stores them.
pub(super) fn packed(dtype: DType, codes: &[u8]) -> Vec<u8> {
    match code::bits(dtype) {
        Some(bits @ 1..8) => {
            let one = |byte: u8, (at, code): (usize, &u8)| byte | *code << (at * bits as usize);
            codes.chunks(8 / bits as usize).map(|c| c.iter().enumerate().fold(0, one)).collect()
        }
        _ => codes.to_vec(),
    }
}

/// The number of data fields that are not empty.
fn fields(tensor: &TensorProto) -> usize {
    [
        tensor.float_data.is_empty(),
        tensor.double_data.is_empty(),
        tensor.int32_data.is_empty(),
        tensor.int64_data.is_empty(),
        tensor.uint64_data.is_empty(),
        tensor.string_data.is_empty(),
    ]
    .iter()
    .filter(|empty| !**empty)
    .count()
}

/// Converts unsigned integers of 32 and 64 bits to raw data, because tract looks for them in other
/// fields than ONNX stores them in.
pub(super) fn make_raw(graph: &mut GraphProto) {
    for tensor in &mut graph.initializer {
        one_raw(tensor);
    }
    for node in &mut graph.node {
        node.attribute.iter_mut().for_each(attribute_raw);
    }
}

fn attribute_raw(attribute: &mut AttributeProto) {
    attribute.t.iter_mut().chain(&mut attribute.tensors).for_each(one_raw);
    // The protobuf decoder limits the nesting.
    attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(make_raw);
}

fn one_raw(tensor: &mut TensorProto) {
    let bytes: Option<Vec<u8>> = match DataType::try_from(tensor.data_type) {
        Ok(DataType::Uint64) => {
            Some(tensor.uint64_data.iter().flat_map(|value| value.to_le_bytes()).collect())
        }
        Ok(DataType::Uint32) => tensor
            .uint64_data
            .iter()
            .map(|value| u32::try_from(*value).ok().map(u32::to_le_bytes))
            .collect::<Option<Vec<_>>>()
            .map(|values| values.concat()),
        _ => None,
    };
    // Numbers that do not fit their type are left, and refused later.
    if let Some(bytes) = bytes.filter(|_| !tensor.uint64_data.is_empty()) {
        if tensor.raw_data.is_empty() {
            tensor.raw_data = bytes;
            tensor.uint64_data = Vec::new();
        }
    }
}

/// The message for a refused tensor.
pub(super) fn named(tensor: &TensorProto, why: &str) -> String {
    format!("the initializer {} {why}", shown(&tensor.name))
}
