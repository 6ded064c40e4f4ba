//! DynamicQuantizeMatMul, MatMulIntegerToFloat and MatMulInteger16: integer products of matrices.
//! The first two scale the sums to floats.

use std::sync::Arc;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::parameters::{Dynamic, check_one, scale, scales, zero, zeros};
use crate::framework::dims::volume;
use crate::framework::errors::ensure;
use crate::framework::facts::{InputFact, OutputFact, concrete, optional, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;
use crate::quantization::integers::{
    ByteProduct, Bytes, Columns, Rights, check_columns, check_depth, right_shape,
};
use crate::quantization::packed::Packed;
use crate::quantization::shapes::{Product, product_dims};

pub(crate) const OPERATORS: &[Registration] = &[
    own("DynamicQuantizeMatMul", build).of(belljar_operators::MICROSOFT),
    own("MatMulIntegerToFloat", build).of(belljar_operators::MICROSOFT),
    own("MatMulInteger16", |_, node| built(Wide, node)).of(belljar_operators::MICROSOFT),
];

fn build(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    built(ToFloat { dynamic: node.op_type == "DynamicQuantizeMatMul", packed: None }, node)
}

/// A product of bytes that are scaled to floats. The left operand is quantized first, or given as
/// bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ToFloat {
    dynamic: bool,
    packed: Option<Packed>,
}

impl ToFloat {
    /// The positions of the right operand's scale and zero point, and of the bias.
    fn places(&self) -> (usize, usize, usize) {
        if self.dynamic { (2, 3, 4) } else { (3, 5, 6) }
    }
}

impl Operator for ToFloat {
    fn name(&self) -> &'static str {
        if self.dynamic { "DynamicQuantizeMatMul" } else { "MatMulIntegerToFloat" }
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (a, b) = (required(inputs, 0)?, required(inputs, 1)?);
        let dims = product_dims(&a.shape, &b.shape)?;
        if let Some(depth) = a.shape.last().and_then(TDim::as_i64) {
            check_depth(usize::try_from(depth)?)?;
        }
        let (scale, zero, bias) = self.places();
        if !self.dynamic {
            check_one(inputs, 2, "the scale of the first operand")?;
            check_one(inputs, 4, "the zero point of the first operand")?;
        }
        required(inputs, scale)?;
        check_columns(inputs, scale, 1, "scales")?;
        check_columns(inputs, zero, 1, "zero points")?;
        if let Some(bias) = optional(inputs, bias).and_then(|bias| concrete(&bias.shape))
            && let Some(columns) = b.shape.last().and_then(TDim::as_i64)
        {
            check_bias(&bias, usize::try_from(columns)?)?;
        }
        Ok(tvec!((f32::datum_type(), dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (a, packed) = (*required(inputs, 0)?, self.packed.as_ref());
        let b_shape = right_shape(inputs, 1, packed)?;
        let sizes = Product::of(a.shape(), b_shape)?;
        let (scale_at, zero_at, bias_at) = self.places();
        let dynamic;
        let (left, left_zero, left_scale) = if self.dynamic {
            dynamic = Dynamic::of(a.try_as_plain_ram()?.as_slice()?)?;
            (Bytes::Unsigned(&dynamic.values), dynamic.zero, dynamic.scale)
        } else {
            let zero = zero(optional(inputs, 4).copied())?;
            (Bytes::of(a)?, zero, scale(required(inputs, 2)?)?)
        };
        let given = *required(inputs, scale_at)?;
        let (right_scales, by_scale) =
            (scales(given)?, Columns::of(given.shape(), b_shape, "scales")?);
        let given = optional(inputs, zero_at).copied();
        let by_zero = Columns::of(given.map_or(&[], Tensor::shape), b_shape, "zero points")?;
        let right_zeros = zeros(given)?;
        let bias = optional(inputs, bias_at).copied();
        if let Some(bias) = bias {
            check_bias(bias.shape(), sizes.columns)?;
        }
        let bias: Option<&[f32]> = match bias {
            Some(bias) => Some(bias.try_as_plain_ram()?.as_slice()?),
            None => None,
        };
        let [rows, depth, columns] = sizes.sizes();
        let right = Rights::of(inputs, 1, packed, false)?;
        let mut results = Vec::with_capacity(volume(&sizes.shape)?);
        for (one, other) in &sizes.pairs {
            let product = ByteProduct {
                left: left.slice(one * rows * depth, rows * depth),
                left_zeros: &[left_zero],
                right: right.matrix(*other, depth * columns),
                right_zeros: by_zero.part(&right_zeros, *other, columns),
                sizes: sizes.sizes(),
            };
            let scales = by_scale.part(&right_scales, *other, columns);
            let scales: Vec<f32> = scales.iter().map(|scale| left_scale * scale).collect();
            check_depth(depth)?;
            results.extend(product.floats(&scales, bias)?);
        }
        Ok(tvec!(Tensor::from_shape(&sizes.shape, &results)?))
    }

    fn packed(
        &self,
        constants: &[Option<&Arc<Tensor>>],
    ) -> Option<(Arc<dyn Operator>, Vec<usize>)> {
        let packed = Packed::of(constants.get(1).copied().flatten(), false)?;
        Some((Arc::new(ToFloat { packed: Some(packed), ..self.clone() }), vec![1]))
    }
}

fn check_bias(shape: &[usize], columns: usize) -> TractResult<()> {
    ensure!(
        *shape == [columns],
        "the bias has the shape {shape:?}, expected one number for each of the {columns} columns"
    );
    Ok(())
}

/// A product of 16-bit integers in 32 bits, where it wraps around.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wide;

impl Operator for Wide {
    fn name(&self) -> &'static str {
        "MatMulInteger16"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (a, b) = (required(inputs, 0)?, required(inputs, 1)?);
        Ok(tvec!((i32::datum_type(), product_dims(&a.shape, &b.shape)?)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (a, b) = (*required(inputs, 0)?, *required(inputs, 1)?);
        let sizes = Product::of(a.shape(), b.shape())?;
        let (a, b) = (a.try_as_plain_ram()?, b.try_as_plain_ram()?);
        let (a, b) = (a.as_slice::<i16>()?, b.as_slice::<i16>()?);
        let [rows, depth, columns] = sizes.sizes();
        let mut sums = vec![0i32; volume(&sizes.shape)?];
        let matrices = sums.chunks_mut((rows * columns).max(1)).zip(&sizes.pairs);
        for (sums, (left, right)) in matrices {
            let right = &b[right * depth * columns..][..depth * columns];
            for (row, sums) in sums.chunks_mut(columns.max(1)).enumerate() {
                let left = &a[(left * rows + row) * depth..][..depth];
                for (factor, right) in left.iter().zip(right.chunks(columns.max(1))) {
                    for (sum, value) in sums.iter_mut().zip(right) {
                        *sum = sum.wrapping_add(i32::from(*factor) * i32::from(*value));
                    }
                }
            }
        }
        Ok(tvec!(Tensor::from_shape(&sizes.shape, &sums)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, microsoft, row, scalar, tensor};

    /// From -1 to 1.55 in steps of 0.01, so that its zero point is 100.
    fn left() -> tract_onnx::prelude::Tensor {
        tensor(&[2, 2], &[-1f32, 1.55, 0.0, 0.5])
    }

    #[test]
    fn dynamic_quantize_mat_mul_scales_each_column() {
        let node = || {
            let case = microsoft("DynamicQuantizeMatMul").input(left());
            case.input(tensor(&[2, 2], &[1i8, -2, 3, 4]))
        };
        // [[-100, 155], [0, 50]] · [[1, -2], [3, 4]] = [[365, 820], [150, 200]]
        let one = node().input(scalar(0.5f32));
        one.gives_near(tensor(&[2, 2], &[1.825f32, 4.1, 0.75, 1.0]), 1e-6);
        let each = node().input(row(&[0.5f32, 1.0])).input(row(&[1i8, 0])).input(row(&[1f32, 0.0]));
        each.gives_near(tensor(&[2, 2], &[1f32 + 1.55, 8.2, 1.5, 2.0]), 1e-6);
        node().input(row(&[0.5f32, 1.0, 2.0])).fails("3");
        node().input(scalar(0.5f32)).missing().input(row(&[1f32])).fails("1");
        let node = microsoft("DynamicQuantizeMatMul").input(row(&[f32::INFINITY]));
        node.input(tensor(&[1, 1], &[1u8])).input(scalar(1f32)).fails("finite");
    }

    #[test]
    fn dynamic_quantize_mat_mul_has_parameters_for_each_matrix_of_a_batch() {
        let node = microsoft("DynamicQuantizeMatMul").input(tensor(&[1, 1], &[2.55f32]));
        let node = node.input(tensor(&[2, 1, 1], &[10u8, 20]));
        let node =
            node.input(tensor(&[2, 1, 1], &[1f32, 2.0])).input(tensor(&[2, 1, 1], &[1u8, 2]));
        node.gives_near(tensor(&[2, 1, 1], &[22.95f32, 91.8]), 1e-6);
    }

    fn to_float() -> Case {
        let case = microsoft("MatMulIntegerToFloat").input(tensor(&[1, 2], &[255u8, 0]));
        case.input(tensor(&[2, 2], &[-128i8, 127, 1, 2]))
    }

    #[test]
    fn mat_mul_integer_to_float_is_exact_before_it_scales() {
        let scaled = to_float().input(scalar(0.5f32)).input(row(&[2f32, 4.0]));
        scaled.clone().gives(tensor(&[1, 2], &[-32640f32, 64770.0]));
        let zeros = scaled.input(scalar(5u8)).input(scalar(1i8)).input(row(&[0.5f32, -1.0]));
        // [250, -5] · [[-129, 126], [0, 1]] = [-32250, 31495]
        zeros.gives(tensor(&[1, 2], &[-32249.5f32, 62989.0]));
        to_float().input(row(&[1f32, 1.0])).input(scalar(1f32)).fails("first operand");
        to_float().input(scalar(f32::NAN)).input(scalar(1f32)).fails("NaN");
        let unfit = microsoft("MatMulIntegerToFloat").input(tensor(&[1, 3], &[0u8; 3]));
        let unfit = unfit.input(tensor(&[2, 2], &[0u8; 4])).input(scalar(1f32));
        unfit.input(scalar(1f32)).fails("[1, 3]");
    }

    #[test]
    fn mat_mul_integer_16_sums_in_32_bits() {
        let node = microsoft("MatMulInteger16").input(tensor(&[2, 2], &[-32768i16, 1, 2, 3]));
        let node = node.input(tensor(&[2, 1], &[32767i16, -5]));
        node.gives(tensor(&[2, 1], &[-32768 * 32767 - 5, 65534 - 15]));
    }
}
