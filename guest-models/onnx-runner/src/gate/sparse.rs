//! Sparse initializers, which become dense ones before anything else sees them. Their dense form is
//! part of the sandbox's memory, as that of any other initializer.

use belljar_abi::DType;
use belljar_operators::{F8E8M0, STORED, Types};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, SparseTensorProto, TensorProto};

use super::tensors;
use super::text::{list, shown};

/// Replaces the sparse initializers of a graph and of the graphs inside it.
pub(super) fn densify(graph: &mut GraphProto) -> Result<(), String> {
    for sparse in std::mem::take(&mut graph.sparse_initializer) {
        let name = sparse.values.as_ref().map(|values| values.name.clone()).unwrap_or_default();
        let dense = dense(sparse);
        let dense =
            dense.map_err(|why| format!("the sparse initializer {} {why}", shown(&name)))?;
        graph.initializer.push(dense);
    }
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        // The protobuf decoder limits the nesting.
        attribute.g.iter_mut().chain(&mut attribute.graphs).try_for_each(densify)?;
    }
    Ok(())
}

fn dense(sparse: SparseTensorProto) -> Result<TensorProto, String> {
    let values = sparse.values.ok_or("has no values")?;
    let dtype = tensors::check(&values)?;
    if values.name.is_empty() {
        return Err("has no name".into());
    }
    if dtype == F8E8M0 {
        return Err("has an element type without a zero".into());
    }
    let [count] = *values.dims else {
        return Err(format!("has values of the dimensions {}, expected one", list(&values.dims)));
    };
    let elements = tensors::elements(&sparse.dims)?;
    let places = places(sparse.indices.as_ref(), count, &sparse.dims)?;
    let mut dense = TensorProto {
        name: values.name.clone(),
        data_type: values.data_type,
        dims: sparse.dims,
        ..TensorProto::default()
    };
    if values.data_type == DataType::String as i32 {
        let mut texts = reserved(elements, Vec::new())?;
        for (place, text) in places.into_iter().zip(values.string_data) {
            texts[place] = text;
        }
        dense.string_data = texts;
        return Ok(dense);
    }
    let bytes = bytes(&values, dtype)?;
    let size = size(dtype, values.data_type);
    let total = elements.checked_mul(size).ok_or("has too many elements")?;
    let mut all = reserved(total, 0u8)?;
    for (place, value) in places.into_iter().zip(bytes.chunks_exact(size)) {
        all[place * size..][..size].copy_from_slice(value);
    }
    dense.raw_data = match u32::try_from(values.data_type).ok().and_then(DType::from_onnx) {
        Some(small) if STORED.has(dtype) => tensors::packed(small, &all),
        _ => all,
    };
    Ok(dense)
}

/// A list of equal values, if there is memory for it.
fn reserved<T: Clone>(count: usize, value: T) -> Result<Vec<T>, String> {
    let mut all = Vec::new();
    let fits = all.try_reserve_exact(count);
    fits.map_err(|_| format!("has {count} elements when it is dense, too many for the sandbox"))?;
    all.resize(count, value);
    Ok(all)
}

/// The size of an element: of raw data, or of a code.
fn size(dtype: Types, number: i32) -> usize {
    match DataType::try_from(number) {
        _ if STORED.has(dtype) && number != DataType::Bfloat16 as i32 => 1,
        Ok(DataType::Double | DataType::Int64 | DataType::Uint64) => 8,
        Ok(DataType::Float | DataType::Int32 | DataType::Uint32) => 4,
        Ok(DataType::Float16 | DataType::Bfloat16 | DataType::Int16 | DataType::Uint16) => 2,
        _ => 1,
    }
}

/// The elements of a tensor that has been checked, as raw data or codes.
fn bytes(tensor: &TensorProto, dtype: Types) -> Result<Vec<u8>, String> {
    if STORED.has(dtype) {
        return tensors::codes(tensor);
    }
    if !tensor.raw_data.is_empty() {
        return Ok(tensor.raw_data.to_vec());
    }
    let width = size(dtype, tensor.data_type);
    // ONNX stores narrow integers as 32-bit ones; the rest of each is its sign.
    let narrow =
        tensor.int32_data.iter().flat_map(|value| value.to_le_bytes().into_iter().take(width));
    let unsigned =
        tensor.uint64_data.iter().flat_map(|value| value.to_le_bytes().into_iter().take(width));
    let floats = tensor.float_data.iter().flat_map(|value| value.to_le_bytes());
    let doubles = tensor.double_data.iter().flat_map(|value| value.to_le_bytes());
    let wide = tensor.int64_data.iter().flat_map(|value| value.to_le_bytes());
    // Only one of the fields has data.
    Ok(floats.chain(doubles).chain(wide).chain(narrow).chain(unsigned).collect())
}

/// The flat index of each value. They must ascend.
fn places(indices: Option<&TensorProto>, count: i64, dims: &[i64]) -> Result<Vec<usize>, String> {
    let indices = indices.ok_or("has no indices")?;
    if indices.data_type != DataType::Int64 as i32 {
        return Err("has indices of another element type than int64".into());
    }
    let dtype = tensors::check(indices).map_err(|why| format!("has indices that {why}"))?;
    let bytes = bytes(indices, dtype)?;
    let numbers = bytes.chunks_exact(8).filter_map(|bytes| bytes.try_into().ok());
    let numbers: Vec<i64> = numbers.map(i64::from_le_bytes).collect();
    let rank = dims.len() as i64;
    let width = match *indices.dims {
        [found] if found == count => None,
        [found, width] if found == count && width == rank => Some(dims.len()),
        _ => {
            return Err(format!(
                "has indices of the dimensions {} for {count} values in {rank} dimensions",
                list(&indices.dims)
            ));
        }
    };
    let total = tensors::elements(dims)?;
    let outside = |index: i64| format!("has the index {index}, which is outside of {}", list(dims));
    let flat = |position: &[i64]| {
        let mut place = 0;
        for (index, size) in position.iter().zip(dims) {
            if !(0..*size).contains(index) {
                return Err(outside(*index));
            }
            // The product of all sizes fits.
            place = place * *size as usize + *index as usize;
        }
        Ok(place)
    };
    let places: Vec<usize> = match width {
        None => {
            let place = |index: &i64| {
                usize::try_from(*index).ok().filter(|at| *at < total).ok_or_else(|| outside(*index))
            };
            numbers.iter().map(place).collect::<Result<_, _>>()?
        }
        // Without dimensions, each value is the only one.
        Some(0) => vec![0; usize::try_from(count).unwrap_or(0)],
        Some(width) => numbers.chunks_exact(width).map(flat).collect::<Result<_, _>>()?,
    };
    if places.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err("has indices that do not ascend".into());
    }
    Ok(places)
}
