//! Cast (ONNX) between the element types that tract has, and from and to small element types, which
//! are carried as their codes (gate/carry.rs), as ONNX's documentation of Cast has them.

use belljar_abi::DType;
use belljar_abi::codes::{self, Round};
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_hir::internal::*;

use crate::framework::element_type::{
    ElementType, decode_elements, element_values, encode_elements, low_bits, to_f16,
};
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::synthetic;
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] =
    &[own("Cast", |_, node| Ok((expand(PlainCast { to: node.get_attr("to")? }), vec![])))];

#[derive(Clone, Debug)]
struct PlainCast {
    to: DatumType,
}

impl Expansion for PlainCast {
    fn name(&self) -> StaticName {
        "Cast".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].datum_type, self.to)?;
        s.equals(&outputs[0].shape, &inputs[0].shape)
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, cast(self.to), inputs)
    }
}

/// Operators that the gate puts into a graph.
pub(crate) const SYNTHETIC: &[Registration] = &[own(synthetic::CAST, build)];

#[derive(Clone, Debug, PartialEq, Eq)]
struct Cast {
    from: ElementType,
    to: ElementType,
    saturate: bool,
    round: Round,
}

fn build(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let round = match node.get_attr_opt::<&str>("round_mode")? {
        None | Some("up") => Round::Up,
        Some("down") => Round::Down,
        Some("nearest") => Round::Nearest,
        Some(other) => bail!("the rounding mode {other:?} is not implemented"),
    };
    let (from, to) = (ElementType::required(node, "from")?, ElementType::required(node, "to")?);
    if let Some(built) = crate::elementwise::narrow_cast::between(from, to) {
        return built;
    }
    let op =
        Cast { from, to, saturate: node.get_attr_opt::<i64>("saturate")?.unwrap_or(1) != 0, round };
    built(op, node)
}

impl Operator for Cast {
    fn name(&self) -> &'static str {
        "CastSmall"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let input = required(inputs, 0)?;
        ensure!(
            input.dtype == self.from.carrier(),
            "unexpected input element type {:?}",
            input.dtype
        );
        let dims = input.shape.iter().cloned().map(Some).collect();
        Ok(tvec![(self.to.carrier(), dims)])
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let input = required(inputs, 0)?;
        let made = match (self.from, self.to) {
            (_, ElementType::Small(to)) => self.narrowed(to, input)?,
            // tract would convert through float32 and round twice.
            (from, ElementType::Plain(DatumType::F16)) => {
                let numbers =
                    element_values(from, input)?.into_iter().map(to_f16).collect::<Vec<f16>>();
                Tensor::from_shape(input.shape(), &numbers)?
            }
            (ElementType::Small(from), ElementType::Plain(to)) => widened(from, to, input)?,
            (ElementType::Plain(_), ElementType::Plain(to)) => input.cast_to_dt(to)?.into_owned(),
        };
        Ok(tvec![made])
    }
}

impl Cast {
    fn narrowed(&self, to: DType, input: &Tensor) -> TractResult<Tensor> {
        let shape = input.shape();
        let of_integer = match self.from {
            ElementType::Small(from) => codes::is_integer(from),
            ElementType::Plain(from) => from.is_integer() || from == DatumType::Bool,
        };
        if self.from == self.to {
            return Ok(input.clone());
        }
        // Integers lose their higher bits; floats are truncated first.
        if codes::is_integer(to)
            && of_integer
            && let ElementType::Plain(_) = self.from
        {
            let mask = codes::bits(to).map_or(0, |bits| (1u16 << bits) - 1);
            let low = low_bits(input)?;
            return encode_elements(to, shape, low.into_iter().map(|low| low & mask));
        }
        let numbers = element_values(self.from, input)?;
        let beyond = self.to.beyond(self.saturate);
        if to == DType::F8E8M0 {
            let positive = numbers.iter().all(|number| *number >= 0.0 || number.is_nan());
            ensure!(positive, "ONNX does not say which float8e8m0 a negative number becomes");
            let code = |number| codes::encode_e8m0(number, beyond, self.round);
            return encode_elements(to, shape, numbers.into_iter().map(code));
        }
        encode_elements(
            to,
            shape,
            numbers.into_iter().map(|number| codes::encode(to, number, beyond)),
        )
    }
}

/// Converts codes to one of tract's element types.
fn widened(from: DType, to: DatumType, input: &Tensor) -> TractResult<Tensor> {
    let numbers = decode_elements(from, input)?;
    if to == DatumType::Bool {
        let truths: Vec<bool> = numbers.iter().map(|number| *number != 0.0).collect();
        return Tensor::from_shape(input.shape(), &truths);
    }
    if codes::is_integer(from) {
        // Through an integer, so that negative values keep their bits in an unsigned type.
        let integers: Vec<i64> = numbers.iter().map(|number| *number as i64).collect();
        return Ok(Tensor::from_shape(input.shape(), &integers)?.cast_to_dt(to)?.into_owned());
    }
    Ok(Tensor::from_shape(input.shape(), &numbers)?.cast_to_dt(to)?.into_owned())
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, row};

    const F32: i64 = 1;
    const E4M3FN: i64 = 17;
    const I64: i64 = 7;
    const INT4: i64 = 22;
    const BF16: i64 = 16;

    #[test]
    fn cast_truncates_floats_and_keeps_the_low_bits_of_integers() {
        let floats = || row(&[-1.9f32, 1.9, 3e10]);
        case("Cast").int("to", 7).input(floats()).gives(row(&[-1i64, 1, 30_000_001_024]));
        case("Cast")
            .int("to", 9)
            .input(row(&[0.1f32, 0.0, -0.0, f32::NAN]))
            .gives(row(&[true, false, false, true]));
        case("Cast").int("to", 6).input(row(&[(1i64 << 32) + 5, -1])).gives(row(&[5i32, -1]));
        case("Cast").int("to", 2).input(row(&[300i64, -1])).gives(row(&[44u8, 255]));
        case("Cast").int("to", 1).input(row(&[true, false])).gives(row(&[1f32, 0.0]));
        case("Cast")
            .int("to", 1)
            .input(row(&[1e300f64, -1e-300]))
            .gives(row(&[f32::INFINITY, -0.0]));
    }

    /// A conversion between element types by their numbers in ONNX.
    fn cast(from: i64, to: i64) -> Case {
        case("BelljarCast").int("type_from", from).int("type_to", to)
    }

    #[test]
    fn cast_to_float8_saturates_by_default() {
        let numbers = || row(&[1f32, 448.0, 1000.0, f32::NEG_INFINITY, f32::NAN]);
        let saturated = cast(F32, E4M3FN).input(numbers());
        saturated.gives(row(&[0x38u8, 0x7e, 0x7e, 0xfe, 0x7f]));
        let overflowing = cast(F32, E4M3FN).int("saturate", 0).input(numbers());
        overflowing.gives(row(&[0x38u8, 0x7e, 0x7f, 0xff, 0x7f]));
    }

    #[test]
    fn cast_to_float8_rounds_ties_to_even() {
        // Between 1 and 2, the steps are 1/8.
        let numbers = row(&[1.0625f32, 1.1875, 1.0626]);
        cast(F32, E4M3FN).input(numbers).gives(row(&[0x38u8, 0x3a, 0x39]));
    }

    #[test]
    fn cast_to_int4_keeps_the_low_bits_of_integers_and_truncates_floats() {
        let wide = row(&[17i64, -1, (1 << 40) + 7]);
        cast(I64, INT4).input(wide).gives(row(&[1u8, 15, 7]));
        cast(F32, INT4).input(row(&[-3.7f32, 3.7])).gives(row(&[0xdu8, 3]));
        cast(INT4, I64).input(row(&[0xfu8, 8, 7])).gives(row(&[-1i64, -8, 7]));
    }

    #[test]
    fn cast_from_bfloat16_is_exact_and_to_it_rounds_once() {
        let codes = row(&[0x3f80u16, 0xff80, 0x0001]);
        let expected = row(&[1f32, f32::NEG_INFINITY, f32::from_bits(1 << 16)]);
        cast(BF16, F32).input(codes).gives(expected);
        // 2^53 + 2^45 is a tie, and the last 1 breaks it; by way of float32 it would be lost.
        let wide = row(&[(1i64 << 53) + (1 << 45) + 1, (1 << 53) + (1 << 45)]);
        cast(I64, BF16).input(wide).gives(row(&[0x5a01u16, 0x5a00]));
    }
}
