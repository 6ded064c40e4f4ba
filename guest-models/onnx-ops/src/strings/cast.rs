//! Cast from and to strings. What ONNX leaves undefined is refused, and so are numbers that
//! implementations write differently.

use std::str::FromStr;

use tract_onnx::tract_hir::internal::*;

use super::{from_strings, strings};
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, like, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::synthetic;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Cast {
    to: DatumType,
}

pub(crate) const OPERATORS: &[Registration] =
    &[own(synthetic::TEXT_CAST, |_, node| built(Cast { to: node.get_attr("to")? }, node))];

/// The numbers of this type that texts stand for.
pub(crate) fn from_texts(texts: &Tensor, to: DatumType) -> TractResult<Tensor> {
    let mut made = Cast { to }.compute(&[Some(texts)])?;
    made.pop().or_user_error("it has no output")
}

/// Parses a number in the forms that ONNX lists.
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
        _ => bail!("a text is not a number"),
    }
}

fn whole<T: FromStr>(text: &str) -> TractResult<T> {
    match text.parse() {
        Ok(number) => Ok(number),
        Err(_) => bail!("a text is not an integer of the output type"),
    }
}

fn parsed<T: Datum + Copy>(
    tensor: &Tensor,
    parse: impl Fn(&str) -> TractResult<T>,
) -> TractResult<Tensor> {
    let numbers = strings(tensor)?.iter().map(|text| parse(text));
    Tensor::from_shape(tensor.shape(), &numbers.collect::<TractResult<Vec<T>>>()?)
}

/// The shortest string that parses to the same number, if it has no exponent, a point, and few
/// enough digits that all implementations write it this way.
fn written(text: String, digits: usize, size: f64) -> TractResult<String> {
    let count = text.trim_start_matches(['-', '0', '.']).bytes().filter(u8::is_ascii_digit).count();
    let plain = text.contains('.') && count <= digits && (1e-4..1e6).contains(&size.abs());
    ensure!(plain, "implementations disagree on how to write the number {text}");
    Ok(text)
}

impl Operator for Cast {
    // "Cast" is that of numbers, which accepts all of them.
    fn name(&self) -> &'static str {
        "CastString"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        use DatumType as D;
        let input = required(inputs, 0)?;
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
        let tensor = *required(inputs, 0)?;
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
                _ => Ok(crate::framework::tensors::ints(tensor)?
                    .iter()
                    .map(i64::to_string)
                    .collect()),
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

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, texts};

    /// The number of the type of strings in ONNX.
    const STRING: i64 = 8;

    #[test]
    fn numbers_are_read_in_every_form_that_onnx_names() {
        let floats = texts(&["1.5", "-2e-3", "+.5", "INF", "-inf", "NaN", "1e400"]);
        let expected =
            [1.5f32, -2e-3, 0.5, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::INFINITY];
        case("BelljarTextCast").int("to", 1).input(floats).gives(row(&expected));
        let wide = texts(&["-9223372036854775808", "4294967296"]);
        case("BelljarTextCast").int("to", 7).input(wide).gives(row(&[i64::MIN, 1 << 32]));
    }

    #[test]
    fn strings_that_are_not_numbers_of_the_type_are_refused() {
        for (to, text) in [(1, "1.5x"), (1, ""), (1, "0x10"), (7, "1.5"), (6, "4294967296")] {
            case("BelljarTextCast").int("to", to).input(texts(&[text])).fails("");
        }
    }

    #[test]
    fn integers_are_written_whole() {
        let wide = row(&[i64::MIN, 0, 1 << 40]);
        let expected = texts(&["-9223372036854775808", "0", "1099511627776"]);
        case("BelljarTextCast").int("to", STRING).input(wide).gives(expected);
        let unsigned = row(&[u64::MAX]);
        let expected = texts(&["18446744073709551615"]);
        case("BelljarTextCast").int("to", STRING).input(unsigned).gives(expected);
        let floats = case("BelljarTextCast").int("to", STRING).input(row(&[1.5f32, -0.25]));
        floats.gives(texts(&["1.5", "-0.25"]));
    }
}
