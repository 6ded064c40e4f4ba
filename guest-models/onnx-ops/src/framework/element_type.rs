//! Element types of ONNX: those that tract has, and small ones that are carried as their codes
//! (gate/carry.rs of the guest).

use belljar_abi::DType;
use belljar_abi::codes::{self, Beyond};
use belljar_abi::narrow::Narrow;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::{OrUserError, bail};

/// An element type of ONNX: one that tract has, or a small one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ElementType {
    Plain(DatumType),
    Small(DType),
}

impl ElementType {
    /// The element type that the gate has put into an attribute.
    pub(crate) fn of_attribute(node: &NodeProto, name: &str) -> TractResult<Option<ElementType>> {
        let Some(number) = node.get_attr_opt::<i64>(&format!("type_{name}"))? else {
            return Ok(None);
        };
        let number = u32::try_from(number).ok();
        ElementType::of(number.or_user_error("an element type has a negative number")?).map(Some)
    }

    /// The element type with this number in ONNX.
    pub(crate) fn of(number: u32) -> TractResult<ElementType> {
        let dtype = DType::from_onnx(number);
        let dtype = dtype.or_user_error(format_args!("the element type {number} is unknown"))?;
        if codes::bits(dtype).is_some() {
            return Ok(ElementType::Small(dtype));
        }
        let plain = crate::framework::dtypes::to_tract(dtype);
        Ok(ElementType::Plain(
            plain.or_user_error(format_args!("the element type {dtype} is not implemented"))?,
        ))
    }

    pub(crate) fn required(node: &NodeProto, name: &str) -> TractResult<ElementType> {
        ElementType::of_attribute(node, name)?
            .or_user_error(format_args!("the element type of {name} is missing"))
    }

    /// The element type of the tensors that carry it.
    pub(crate) fn carrier(self) -> DatumType {
        match self {
            ElementType::Plain(dtype) => dtype,
            ElementType::Small(DType::BF16) => DatumType::U16,
            ElementType::Small(_) => DatumType::U8,
        }
    }

    /// How numbers that are out of range are converted.
    pub(crate) fn beyond(self, saturate: bool) -> Beyond {
        let overflows = !saturate || self == ElementType::Small(DType::BF16);
        if overflows { Beyond::Overflow } else { Beyond::Saturate }
    }
}

/// The values of a tensor of codes.
pub(crate) fn decode_elements(dtype: DType, tensor: &Tensor) -> TractResult<Vec<f32>> {
    let tensor = tensor.try_as_plain_ram()?;
    if dtype == DType::BF16 {
        let codes = tensor.as_slice::<u16>()?;
        return Ok(codes.iter().map(|code| codes::decode(dtype, *code)).collect());
    }
    let meant: Vec<f32> = (0..256).map(|code| codes::decode(dtype, code)).collect();
    Ok(tensor.as_slice::<u8>()?.iter().map(|code| meant[usize::from(*code)]).collect())
}

/// A tensor of codes.
pub(crate) fn encode_elements(
    dtype: DType,
    shape: &[usize],
    codes: impl Iterator<Item = u16>,
) -> TractResult<Tensor> {
    if dtype == DType::BF16 {
        return Tensor::from_shape(shape, &codes.collect::<Vec<u16>>());
    }
    // Codes of these types fit a byte.
    Tensor::from_shape(shape, &codes.map(|code| code as u8).collect::<Vec<u8>>())
}

/// The elements of a tensor as 64-bit floats that can be rounded once to a smaller type: for
/// integers above 2^53 the last bit is set if any lost bit is.
pub(crate) fn element_values(elements: ElementType, tensor: &Tensor) -> TractResult<Vec<f64>> {
    let dtype = match elements {
        ElementType::Small(dtype) => {
            return Ok(decode_elements(dtype, tensor)?.into_iter().map(f64::from).collect());
        }
        ElementType::Plain(dtype) => dtype,
    };
    let plain = tensor.try_as_plain_ram()?;
    macro_rules! wide {
        ($type:ty, $convert:expr) => {
            plain.as_slice::<$type>()?.iter().map($convert).collect()
        };
    }
    Ok(match dtype {
        DatumType::F16 => wide!(f16, |value| f64::from(*value)),
        DatumType::F32 => wide!(f32, |value| f64::from(*value)),
        DatumType::F64 => wide!(f64, |value| *value),
        DatumType::I8 => wide!(i8, |value| f64::from(*value)),
        DatumType::I16 => wide!(i16, |value| f64::from(*value)),
        DatumType::I32 => wide!(i32, |value| f64::from(*value)),
        DatumType::U8 => wide!(u8, |value| f64::from(*value)),
        DatumType::U16 => wide!(u16, |value| f64::from(*value)),
        DatumType::U32 => wide!(u32, |value| f64::from(*value)),
        DatumType::U64 => wide!(u64, |value| sticky(*value)),
        DatumType::I64 => wide!(i64, |value| {
            let magnitude = sticky(value.unsigned_abs());
            if *value < 0 { -magnitude } else { magnitude }
        }),
        DatumType::Bool => wide!(bool, |value| f64::from(u8::from(*value))),
        other => bail!("element type {other:?} is not implemented"),
    })
}

/// Rounds to 53 bits. The last bit is set if any lost bit is.
fn sticky(value: u64) -> f64 {
    let extra = 11u32.saturating_sub(value.leading_zeros());
    let lost = value & ((1 << extra) - 1) != 0;
    ((value >> extra | u64::from(lost)) << extra) as f64
}

/// The lowest bits of a tensor of integers.
pub(crate) fn low_bits(tensor: &Tensor) -> TractResult<Vec<u16>> {
    let plain = tensor.try_as_plain_ram()?;
    macro_rules! low {
        ($type:ty) => {
            plain.as_slice::<$type>()?.iter().map(|value| *value as u16).collect()
        };
    }
    Ok(match tensor.datum_type() {
        DatumType::I8 => low!(i8),
        DatumType::I16 => low!(i16),
        DatumType::I32 => low!(i32),
        DatumType::I64 => low!(i64),
        DatumType::U8 => low!(u8),
        DatumType::U16 => low!(u16),
        DatumType::U32 => low!(u32),
        DatumType::U64 => low!(u64),
        DatumType::Bool => low!(bool),
        other => bail!("{other:?} is not an integer type"),
    })
}

/// The float16 nearest to a number.
pub(crate) fn to_f16(number: f64) -> f16 {
    f16::from_bits(Narrow::F16.encode_f64(number))
}
