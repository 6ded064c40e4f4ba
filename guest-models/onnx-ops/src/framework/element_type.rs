//! Conversions from and to small element types, which are carried as their codes (gate/carry.rs),
//! as ONNX's documentation of Cast has them.

use belljar_abi::DType;
use belljar_abi::codes::{self, Beyond, Round};
use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::Built;
use super::own::{Known, Own, Said, built, needed};
use crate::gate;

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert(gate::CAST, build);
}

/// An element type of ONNX: one of tract's, or a small one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Elements {
    Plain(DatumType),
    Small(DType),
}

impl Elements {
    /// What the gate said of a type, if it did.
    pub(super) fn said(node: &NodeProto, name: &str) -> TractResult<Option<Elements>> {
        let Some(number) = node.get_attr_opt::<i64>(&format!("type_{name}"))? else {
            return Ok(None);
        };
        let dtype = u32::try_from(number).ok().and_then(DType::from_onnx);
        let dtype = dtype.with_context(|| format!("the element type {number}"))?;
        if codes::bits(dtype).is_some() {
            return Ok(Some(Elements::Small(dtype)));
        }
        let plain = crate::run::to_tract(dtype);
        Ok(Some(Elements::Plain(plain.with_context(|| format!("the element type {dtype}"))?)))
    }

    pub(super) fn needed(node: &NodeProto, name: &str) -> TractResult<Elements> {
        Elements::said(node, name)?.with_context(|| format!("the type of {name} is not said"))
    }

    /// The type of the tensors that it is carried in.
    pub(super) fn carrier(self) -> DatumType {
        match self {
            Elements::Plain(dtype) => dtype,
            Elements::Small(DType::BF16) => DatumType::U16,
            Elements::Small(_) => DatumType::U8,
        }
    }

    /// What numbers beyond the range of this type become.
    pub(super) fn beyond(self, saturate: bool) -> Beyond {
        let overflows = !saturate || self == Elements::Small(DType::BF16);
        if overflows { Beyond::Overflow } else { Beyond::Saturate }
    }
}

/// The numbers that the codes of a tensor mean.
pub(super) fn decoded(dtype: DType, tensor: &Tensor) -> TractResult<Vec<f32>> {
    let tensor = tensor.try_as_plain_ram()?;
    if dtype == DType::BF16 {
        let codes = tensor.as_slice::<u16>()?;
        return Ok(codes.iter().map(|code| codes::decode(dtype, *code)).collect());
    }
    let meant: Vec<f32> = (0..256).map(|code| codes::decode(dtype, code)).collect();
    Ok(tensor.as_slice::<u8>()?.iter().map(|code| meant[usize::from(*code)]).collect())
}

/// A tensor of codes.
pub(super) fn encoded(
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

/// The numbers of a tensor, so that each is rounded once only on its way to a smaller type: of
/// integers beyond 2^53 the bits that do not fit are summed up in the last one.
pub(super) fn numbers(elements: Elements, tensor: &Tensor) -> TractResult<Vec<f64>> {
    let dtype = match elements {
        Elements::Small(dtype) => {
            return Ok(decoded(dtype, tensor)?.into_iter().map(f64::from).collect());
        }
        Elements::Plain(dtype) => dtype,
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
        other => bail!("{other:?} is not implemented here"),
    })
}

/// Of more than 53 bits those behind are one.
fn sticky(value: u64) -> f64 {
    let extra = 11u32.saturating_sub(value.leading_zeros());
    let lost = value & ((1 << extra) - 1) != 0;
    ((value >> extra | u64::from(lost)) << extra) as f64
}

/// The lowest bits of a tensor of integers.
fn low_bits(tensor: &Tensor) -> TractResult<Vec<u16>> {
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
        other => bail!("{other:?} is no integer"),
    })
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Cast {
    from: Elements,
    to: Elements,
    saturate: bool,
    round: Round,
}

fn build(_: &ParsingContext, node: &NodeProto) -> Built {
    let round = match node.get_attr_opt::<&str>("round_mode")? {
        None | Some("up") => Round::Up,
        Some("down") => Round::Down,
        Some("nearest") => Round::Nearest,
        Some(other) => bail!("the rounding {other:?}"),
    };
    let op = Cast {
        from: Elements::needed(node, "from")?,
        to: Elements::needed(node, "to")?,
        saturate: node.get_attr_opt::<i64>("saturate")?.unwrap_or(1) != 0,
        round,
    };
    built(op, node)
}

impl Own for Cast {
    fn name(&self) -> &'static str {
        "CastSmall"
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let input = needed(inputs, 0)?;
        ensure!(input.dtype == self.from.carrier(), "it is given {:?}", input.dtype);
        let dims = input.shape.iter().cloned().map(Some).collect();
        Ok(tvec![(self.to.carrier(), dims)])
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let input = needed(inputs, 0)?;
        let made = match (self.from, self.to) {
            (_, Elements::Small(to)) => self.narrowed(to, input)?,
            (Elements::Small(from), Elements::Plain(to)) => widened(from, to, input)?,
            (Elements::Plain(_), Elements::Plain(to)) => input.cast_to_dt(to)?.into_owned(),
        };
        Ok(tvec![made])
    }
}

impl Cast {
    fn narrowed(&self, to: DType, input: &Tensor) -> TractResult<Tensor> {
        let shape = input.shape();
        let of_integer = match self.from {
            Elements::Small(from) => codes::is_integer(from),
            Elements::Plain(from) => from.is_integer() || from == DatumType::Bool,
        };
        if self.from == self.to {
            return Ok(input.clone());
        }
        // Integers lose their higher bits; floats are cut towards zero first.
        if codes::is_integer(to)
            && of_integer
            && let Elements::Plain(_) = self.from
        {
            let mask = codes::bits(to).map_or(0, |bits| (1u16 << bits) - 1);
            let low = low_bits(input)?;
            return encoded(to, shape, low.into_iter().map(|low| low & mask));
        }
        let numbers = numbers(self.from, input)?;
        let beyond = self.to.beyond(self.saturate);
        if to == DType::F8E8M0 {
            let positive = numbers.iter().all(|number| *number >= 0.0 || number.is_nan());
            ensure!(positive, "ONNX does not say which float8e8m0 a negative number becomes");
            let code = |number| codes::encode_e8m0(number, beyond, self.round);
            return encoded(to, shape, numbers.into_iter().map(code));
        }
        encoded(to, shape, numbers.into_iter().map(|number| codes::encode(to, number, beyond)))
    }
}

/// Codes in one of tract's types, which has room for them; or else as ONNX converts to it.
fn widened(from: DType, to: DatumType, input: &Tensor) -> TractResult<Tensor> {
    let numbers = decoded(from, input)?;
    if to == DatumType::Bool {
        let truths: Vec<bool> = numbers.iter().map(|number| *number != 0.0).collect();
        return Tensor::from_shape(input.shape(), &truths);
    }
    if codes::is_integer(from) {
        // By way of an integer: what is negative keeps its bits in an unsigned type.
        let integers: Vec<i64> = numbers.iter().map(|number| *number as i64).collect();
        return Ok(Tensor::from_shape(input.shape(), &integers)?.cast_to_dt(to)?.into_owned());
    }
    Ok(Tensor::from_shape(input.shape(), &numbers)?.cast_to_dt(to)?.into_owned())
}
