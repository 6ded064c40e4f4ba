//! Cast from texts and to them. What ONNX calls undefined is refused, and so are numbers that
//! implementations write in different ways.

use std::str::FromStr;

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::tract_hir::internal::*;

use super::super::own::{Known, Own, Said, built, like, needed};
use super::{from_strings, strings};
use crate::gate;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Cast {
    to: DatumType,
}

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert(gate::TEXT_CAST, |_, node| built(Cast { to: node.get_attr("to")? }, node));
}

/// A number from a text, in the forms that ONNX names.
fn float<T: FromStr>(text: &str, infinity: T, less: T, nan: T) -> TractResult<T> {
    match &*text.to_ascii_uppercase() {
        "INF" | "+INF" => return Ok(infinity),
        "-INF" => return Ok(less),
        "NAN" => return Ok(nan),
        _ => {}
    }
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent = exponent.map(|exponent| exponent.strip_prefix(['+', '-']).unwrap_or(exponent));
    let sound = digits(whole)
        && digits(part)
        && !(whole.is_empty() && part.is_empty())
        && exponent.is_none_or(|exponent| !exponent.is_empty() && digits(exponent));
    match text.parse() {
        Ok(number) if sound => Ok(number),
        _ => bail!("a text that is no number has no value"),
    }
}

fn whole<T: FromStr>(text: &str) -> TractResult<T> {
    match text.parse() {
        Ok(number) => Ok(number),
        Err(_) => bail!("a text that is no integer of its type has no value"),
    }
}

fn parsed<T: Datum + Copy>(
    tensor: &Tensor,
    parse: impl Fn(&str) -> TractResult<T>,
) -> TractResult<Tensor> {
    let numbers = strings(tensor)?.iter().map(|text| parse(text));
    Tensor::from_shape(tensor.shape(), &numbers.collect::<TractResult<Vec<T>>>()?)
}

/// The shortest text of a number that means it again, where it has no exponent, a point, and so few
/// digits that everybody writes it in this way.
fn written(text: String, digits: usize, size: f64) -> TractResult<String> {
    let count = text.trim_start_matches(['-', '0', '.']).bytes().filter(u8::is_ascii_digit).count();
    let plain = text.contains('.') && count <= digits && (1e-4..1e6).contains(&size.abs());
    ensure!(plain, "the number {text} is not written in one way everywhere");
    Ok(text)
}

impl Own for Cast {
    fn name(&self) -> &'static str {
        "Cast"
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        use DatumType as D;
        let input = needed(inputs, 0)?;
        let known = match (input.dtype, self.to) {
            (D::String, to) => {
                [D::F32, D::F64, D::String].contains(&to) || to.is_integer() && to != D::Bool
            }
            (from, D::String) => [D::F32, D::F64].contains(&from) || from.is_integer(),
            _ => false,
        };
        let (from, to) = (input.dtype, self.to);
        ensure!(known && from != D::Bool, "Cast from {from:?} to {to:?} is not implemented");
        let (_, dims) = like(input);
        Ok(tvec!((self.to, dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        use DatumType as D;
        let tensor = *needed(inputs, 0)?;
        let shape = tensor.shape();
        if self.to == D::String {
            let plain = tensor.try_as_plain_ram()?;
            let texts: TractResult<Vec<String>> = match tensor.datum_type() {
                D::String => return Ok(tvec!(tensor.clone())),
                D::F32 => {
                    let each = plain.as_slice::<f32>()?.iter();
                    each.map(|value| written(value.to_string(), 8, f64::from(*value))).collect()
                }
                D::F64 => {
                    let each = plain.as_slice::<f64>()?.iter();
                    each.map(|value| written(value.to_string(), 15, *value)).collect()
                }
                D::U64 => Ok(plain.as_slice::<u64>()?.iter().map(u64::to_string).collect()),
                _ => Ok(super::super::own::ints(tensor)?.iter().map(i64::to_string).collect()),
            };
            return Ok(tvec!(from_strings(shape, texts?)?));
        }
        Ok(tvec!(match self.to {
            D::F32 => {
                parsed(tensor, |text| float(text, f32::INFINITY, f32::NEG_INFINITY, f32::NAN))?
            }
            D::F64 => {
                parsed(tensor, |text| float(text, f64::INFINITY, f64::NEG_INFINITY, f64::NAN))?
            }
            D::I8 => parsed(tensor, whole::<i8>)?,
            D::I16 => parsed(tensor, whole::<i16>)?,
            D::I32 => parsed(tensor, whole::<i32>)?,
            D::I64 => parsed(tensor, whole::<i64>)?,
            D::U8 => parsed(tensor, whole::<u8>)?,
            D::U16 => parsed(tensor, whole::<u16>)?,
            D::U32 => parsed(tensor, whole::<u32>)?,
            D::U64 => parsed(tensor, whole::<u64>)?,
            other => bail!("Cast from texts to {other:?} is not implemented"),
        }))
    }
}
