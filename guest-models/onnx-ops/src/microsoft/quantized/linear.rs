//! QuantizeLinear and DequantizeLinear of `com.microsoft`, for integers of 4, 8, 16 and 32 bits; and its
//! QLinearConv, which is that of ONNX, also with the channels last.

use belljar_abi::{DType, codes};
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::axes::resolve;
use crate::framework::element_type::ElementType;
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, concrete, optional, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::ints;
use crate::framework::upstream::BuildResult;
use crate::quantization::qlinear::build_q_linear_conv;

pub(crate) const OPERATORS: &[Registration] = &[
    own("QLinearConv", build_q_linear_conv).of(belljar_operators::MICROSOFT),
    own("QuantizeLinear", build).of(belljar_operators::MICROSOFT),
    own("DequantizeLinear", build).of(belljar_operators::MICROSOFT),
];

fn build(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let axis = node.get_attr_opt("axis")?.unwrap_or(1);
    let small = match ElementType::of_attribute(node, "codes")? {
        Some(ElementType::Small(dtype)) => {
            let known = [DType::I4, DType::U4].contains(&dtype);
            ensure!(known, "quantizing with {dtype:?} is not implemented; use int4 or uint4");
            Some(dtype)
        }
        _ => None,
    };
    built(Linear { quantize: node.op_type == "QuantizeLinear", axis, small }, node)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Linear {
    /// Whether it quantizes, and not dequantizes.
    quantize: bool,
    axis: i64,
    /// The type of the integers if they have 4 bits, so that tensors have their codes.
    small: Option<DType>,
}

impl Linear {
    /// How many elements in a row have the same parameters, of which there is this number.
    fn run(&self, x: &[usize], parameters: &[usize]) -> TractResult<(usize, usize)> {
        if parameters.iter().all(|size| *size == 1) {
            return Ok((usize::MAX, 1));
        }
        let [count] = *parameters else {
            bail!("the scales have the shape {parameters:?}, expected one number or one dimension")
        };
        let axis = resolve(self.axis, x.len())?;
        ensure!(count == x[axis], "{count} scales do not match an axis of {} elements", x[axis]);
        Ok((x[axis + 1..].iter().product::<usize>().max(1), count))
    }
}

impl Linear {
    /// The integers of a tensor.
    fn decoded(&self, tensor: &Tensor) -> TractResult<Vec<i64>> {
        let Some(dtype) = self.small else { return ints(tensor) };
        let plain = tensor.try_as_plain_ram()?;
        let bytes = plain.as_slice::<u8>()?.iter();
        Ok(bytes.map(|code| codes::decode(dtype, u16::from(*code)) as i64).collect())
    }

    fn range(&self, dtype: DatumType) -> TractResult<(f32, f32)> {
        match self.small {
            Some(DType::I4) => Ok((-8.0, 7.0)),
            Some(_) => Ok((0.0, 15.0)),
            None => range(dtype),
        }
    }
}

/// The range of an integer type that numbers are quantized to.
fn range(dtype: DatumType) -> TractResult<(f32, f32)> {
    Ok(match dtype {
        DatumType::U8 => (0.0, 255.0),
        DatumType::I8 => (-128.0, 127.0),
        DatumType::U16 => (0.0, 65535.0),
        DatumType::I16 => (-32768.0, 32767.0),
        other => bail!("quantizing to {other:?} is not implemented"),
    })
}

/// A tensor of an integer type that has the values.
fn integers(dtype: DatumType, shape: &[usize], values: &[f32]) -> TractResult<Tensor> {
    macro_rules! cast {
        ($type:ty) => {
            Tensor::from_shape(shape, &values.iter().map(|v| *v as $type).collect::<Vec<$type>>())
        };
    }
    match dtype {
        DatumType::U8 => cast!(u8),
        DatumType::I8 => cast!(i8),
        DatumType::U16 => cast!(u16),
        DatumType::I16 => cast!(i16),
        other => bail!("quantizing to {other:?} is not implemented"),
    }
}

impl Operator for Linear {
    fn name(&self) -> &'static str {
        if self.quantize { "QuantizeLinear" } else { "DequantizeLinear" }
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (x, scale) = (required(inputs, 0)?, required(inputs, 1)?);
        let zero = optional(inputs, 2);
        if let Some(zero) = zero {
            let one = |shape: &[TDim]| shape.iter().all(|dim| dim.is_one());
            ensure!(
                zero.shape == scale.shape || one(&zero.shape) && one(&scale.shape),
                "zero points and scales have different shapes: {:?} and {:?}",
                zero.shape,
                scale.shape
            );
        }
        if let (Some(x), Some(scale)) = (concrete(&x.shape), concrete(&scale.shape)) {
            self.run(&x, &scale)?;
        }
        let dtype = match (self.quantize, zero) {
            (true, Some(zero)) => zero.dtype,
            (true, None) => u8::datum_type(),
            (false, _) => f32::datum_type(),
        };
        Ok(tvec!((dtype, x.shape.iter().cloned().map(Some).collect())))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (x, scale) = (*required(inputs, 0)?, *required(inputs, 1)?);
        let (run, count) = self.run(x.shape(), scale.shape())?;
        let wide = scale.cast_to::<f32>()?;
        let scales = wide.try_as_plain_ram()?.as_slice::<f32>()?;
        let zero = optional(inputs, 2).copied();
        let zeros = zero.map_or(Ok(vec![0; count]), |zero| self.decoded(zero))?;
        ensure!(zeros.len() == count, "{} zero points do not match {count} scales", zeros.len());
        if !self.quantize {
            let values = self.decoded(x)?.into_iter().enumerate().map(|(at, value)| {
                let which = at / run % count;
                (value - zeros[which]) as f32 * scales[which]
            });
            let values: Vec<f32> = values.collect();
            return Ok(tvec!(Tensor::from_shape(x.shape(), &values)?));
        }
        if let Some(scale) = scales.iter().find(|scale| !scale.is_finite() || **scale <= 0.0) {
            bail!(
                "numbers cannot be quantized with the scale {scale}; it must be positive and finite"
            );
        }
        let dtype = zero.map_or(u8::datum_type(), Tensor::datum_type);
        let (min, max) = self.range(dtype)?;
        let x_values = x.try_as_plain_ram()?;
        let values = x_values.as_slice::<f32>()?.iter().enumerate().map(|(at, value)| {
            let which = at / run % count;
            let whole = (value / scales[which]).round_ties_even() + zeros[which] as f32;
            if whole.is_nan() { 0.0 } else { whole.clamp(min, max) }
        });
        let values: Vec<f32> = values.collect();
        if self.small.is_some() {
            let codes: Vec<u8> = values.iter().map(|value| *value as i8 as u8 & 15).collect();
            return Ok(tvec!(Tensor::from_shape(x.shape(), &codes)?));
        }
        Ok(tvec!(integers(dtype, x.shape(), &values)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{microsoft, row, scalar, tensor};

    #[test]
    fn quantize_linear_of_microsoft_has_16_bits_and_an_axis() {
        let node = || microsoft("QuantizeLinear").input(tensor(&[2, 2], &[2.5f32, 3.5, -7e9, 1.0]));
        node()
            .input(scalar(1f32))
            .input(scalar(-1i16))
            .gives(tensor(&[2, 2], &[1i16, 3, -32768, 0]));
        let each = node().int("axis", 0).input(row(&[1f32, 0.25])).input(row(&[0u16, 5]));
        each.gives(tensor(&[2, 2], &[2u16, 4, 0, 9]));
        node().input(row(&[1f32, 1.0, 1.0])).input(row(&[0u8; 3])).fails("3");
        node().input(scalar(0f32)).input(scalar(0u8)).fails("0");
        node().input(row(&[1f32, 1.0])).input(scalar(0u8)).fails("shapes");
    }

    #[test]
    fn dequantize_linear_of_microsoft_subtracts_before_it_scales() {
        let node = microsoft("DequantizeLinear").input(row(&[0u16, 65535]));
        node.input(scalar(0.5f32)).input(scalar(65535u16)).gives(row(&[-32767.5f32, 0.0]));
        let node = microsoft("DequantizeLinear").input(row(&[i32::MIN, 6])).input(scalar(0.5f32));
        node.input(scalar(2i32)).gives(row(&[-1_073_741_824f32, 2.0]));
        let node = microsoft("DequantizeLinear").input(tensor(&[1, 2], &[1i8, 2]));
        node.input(row(&[1f32, 10.0])).gives(tensor(&[1, 2], &[1f32, 20.0]));
    }

    #[test]
    fn integers_of_4_bits_are_read_and_written_as_codes() {
        use belljar_abi::DType;

        let number = |dtype: DType| i64::from(dtype.to_onnx());
        let quantize = |dtype, zero: u8| {
            let node = microsoft("QuantizeLinear").int("type_codes", number(dtype));
            let node = node.input(row(&[2.5f32, -3.0, -9e9, 9e9])).input(scalar(1f32));
            node.input(scalar(zero))
        };
        quantize(DType::I4, 0xf).gives(row(&[1u8, 0xc, 8, 7]));
        quantize(DType::U4, 9).gives(row(&[11u8, 6, 0, 15]));
        let dequantize = |dtype, zero: u8| {
            let node = microsoft("DequantizeLinear").int("type_codes", number(dtype));
            node.input(row(&[0xfu8, 7, 8])).input(scalar(0.5f32)).input(scalar(zero))
        };
        dequantize(DType::I4, 0xe).gives(row(&[0.5f32, 4.5, -3.0]));
        dequantize(DType::U4, 8).gives(row(&[3.5f32, -0.5, 0.0]));
        dequantize(DType::F8E4M3FN, 0).fails("int4");
    }

    #[test]
    fn q_linear_conv_of_microsoft_may_have_its_channels_last() {
        let node = |shape: &[usize]| {
            let case = microsoft("QLinearConv").input(tensor(shape, &[1u8, 2, 3, 4, 5, 6]));
            let case = case.input(scalar(1f32)).input(scalar(0u8));
            let case = case.input(tensor(&[1, 2, 2], &[1i8, 10, 2, -1])).input(row(&[1f32]));
            case.input(scalar(0i8)).input(scalar(1f32)).input(scalar(0u8))
        };
        // The channels are 1, 2, 3 and 4, 5, 6, or 1, 3, 5 and 2, 4, 6.
        node(&[1, 2, 3]).gives(tensor(&[1, 1, 2], &[24u8, 36]));
        node(&[1, 3, 2]).int("channels_last", 1).gives(tensor(&[1, 2, 1], &[31u8, 55]));
    }
}
