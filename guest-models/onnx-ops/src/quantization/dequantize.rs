//! DequantizeLinear of weights, which a plan keeps as they are if they are large: each run
//! dequantizes them, a row at a time and without coordinates.

use belljar_abi::{DType, codes};
use tract_onnx::tract_hir::internal::*;

use super::quantize_any::Layout;
use crate::framework::dims::advance;
use crate::framework::element_type::ElementType;

/// The float32 of each element, or `None` for other elements than integers of at most 16 bits and
/// small types. The difference of an element and its zero point is exact, so the product with the
/// scale is rounded once.
pub(super) fn to_f32(
    elements: ElementType,
    x: &Tensor,
    layout: &Layout,
    scales: &[f64],
    zeros: &[f64],
) -> TractResult<Option<Tensor>> {
    let parameters: Vec<(f32, f32)> =
        scales.iter().zip(zeros).map(|(scale, zero)| (*scale as f32, *zero as f32)).collect();
    let parameters = &*parameters;
    Ok(Some(match elements {
        ElementType::Plain(DatumType::I8) => rows(x, layout, parameters, |x: i8| x.into())?,
        ElementType::Plain(DatumType::U8) => rows(x, layout, parameters, |x: u8| x.into())?,
        ElementType::Plain(DatumType::I16) => rows(x, layout, parameters, |x: i16| x.into())?,
        ElementType::Plain(DatumType::U16) => rows(x, layout, parameters, |x: u16| x.into())?,
        ElementType::Small(DType::U4) => rows(x, layout, parameters, |x: u8| (x & 15).into())?,
        ElementType::Small(DType::I4) => {
            rows(x, layout, parameters, |x: u8| ((x << 4) as i8 >> 4).into())?
        }
        ElementType::Small(dtype) if dtype != DType::BF16 => {
            let meant: Vec<f32> = (0..256).map(|code| codes::decode(dtype, code)).collect();
            rows(x, layout, parameters, |x: u8| meant[usize::from(x)])?
        }
        _ => return Ok(None),
    }))
}

fn rows<T: Datum + Copy>(
    x: &Tensor,
    layout: &Layout,
    parameters: &[(f32, f32)],
    value: impl Fn(T) -> f32,
) -> TractResult<Tensor> {
    let mut output = Tensor::zero::<f32>(x.shape())?;
    let plain = x.try_as_plain_ram()?;
    let mut made = output.try_as_plain_ram_mut()?;
    let (from, to) = (plain.as_slice::<T>()?, made.as_slice_mut::<f32>()?);
    let Some((width, outer)) = x.shape().split_last() else {
        let (scale, zero) = parameters[0];
        from.iter().zip(to).for_each(|(from, to)| *to = (value(*from) - zero) * scale);
        return Ok(output);
    };
    let last = outer.len();
    let (step, block) = (layout.steps[last], layout.block[last]);
    let mut place: TVec<usize> = tvec![0; last];
    for (from, to) in from.chunks((*width).max(1)).zip(to.chunks_mut((*width).max(1))) {
        let axes = place.iter().zip(&layout.steps).zip(&layout.block);
        let first: usize = axes.map(|((at, step), block)| at / block * step).sum();
        if step == 1 && block == 1 {
            for ((from, to), (scale, zero)) in from.iter().zip(to).zip(&parameters[first..]) {
                *to = (value(*from) - zero) * scale;
            }
        } else {
            let block = if step == 0 { *width } else { block }.max(1);
            for (at, (from, to)) in from.chunks(block).zip(to.chunks_mut(block)).enumerate() {
                let (scale, zero) = parameters[first + at * step];
                from.iter().zip(to).for_each(|(from, to)| *to = (value(*from) - zero) * scale);
            }
        }
        advance(&mut place, outer);
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::DatumType::F32;
    use tract_onnx::prelude::Tensor;

    use crate::testing::{Graph, case, counting, graph, row, scalar, tensor};

    const FLOAT: i64 = 1;
    const INT4: i64 = 22;
    const UINT4: i64 = 21;
    const E5M2: i64 = 19;
    const E8M0: i64 = 24;

    fn node(from: i64, scale: i64) -> crate::testing::Case {
        case("BelljarDequantize").int("type_x", from).int("type_scale", scale).int("type_to", FLOAT)
    }

    #[test]
    fn each_row_has_the_parameters_of_its_blocks() {
        // Blocks of two along the first axis; the last has one row.
        let codes = tensor(&[3, 2], &[1u8, 2, 3, 4, 5, 6]);
        let blocks = node(UINT4, FLOAT).int("type_zero", UINT4).int("axis", 0).int("block_size", 2);
        let blocks = blocks.input(codes.clone()).input(tensor(&[2, 2], &[1f32, 10.0, 0.5, 2.0]));
        let expected = [1f32, 10.0, 3.0, 30.0, 1.5, 10.0];
        blocks.input(tensor(&[2, 2], &[0u8, 1, 2, 1])).gives(tensor(&[3, 2], &expected));
        // Along the last axis.
        let blocks = node(INT4, FLOAT).int("axis", -1).int("block_size", 2);
        let blocks = blocks.input(tensor(&[2, 3], &[1u8, 15, 8, 7, 0, 9]));
        let blocks = blocks.input(tensor(&[2, 2], &[1f32, 10.0, 0.5, 2.0]));
        blocks.gives(tensor(&[2, 3], &[1f32, -1.0, -80.0, 3.5, 0.0, -14.0]));
        let rows = node(UINT4, FLOAT).int("axis", 0).input(codes.clone());
        let expected = [1f32, 2.0, 6.0, 8.0, 15.0, 18.0];
        rows.input(row(&[1f32, 2.0, 3.0])).gives(tensor(&[3, 2], &expected));
        let columns = node(UINT4, FLOAT).int("axis", 1).input(codes.clone());
        let expected = [1f32, 4.0, 3.0, 8.0, 5.0, 12.0];
        columns.input(row(&[1f32, 2.0])).gives(tensor(&[3, 2], &expected));
        let whole = node(UINT4, FLOAT).input(codes).input(scalar(2f32));
        whole.gives(tensor(&[3, 2], &[2f32, 4.0, 6.0, 8.0, 10.0, 12.0]));
        node(UINT4, FLOAT).input(scalar(3u8)).input(scalar(2f32)).gives(scalar(6f32));
        let none = node(UINT4, FLOAT).input(tensor::<u8>(&[0, 3], &[])).input(scalar(2f32));
        none.gives(tensor::<f32>(&[0, 3], &[]));
    }

    #[test]
    fn small_floats_are_scaled_by_powers_of_two() {
        // -1.5 of float8e5m2, and 2^-3 and 2^127 of float8e8m0.
        let node = node(E5M2, E8M0).int("axis", 0).input(tensor(&[2], &[0xbeu8, 0x3c]));
        node.input(row(&[124u8, 254])).gives(row(&[-0.1875f32, 2f32.powi(127)]));
    }

    /// A product with quantized weights, which are large enough for tract not to fold them.
    fn product(weights: &Tensor) -> Graph {
        let graph = graph(&[("x", F32)], &["y"]).constant("w", weights);
        let graph = graph.constant("scale", &scalar(0.5f32)).constant("zero", &scalar(3i8));
        let graph = graph.node("DequantizeLinear", &["w", "scale", "zero"], "wide");
        graph.node("MatMul", &["x", "wide"], "y")
    }

    #[test]
    fn large_quantized_weights_stay_narrow_in_a_plan() {
        let (deep, columns) = (1024, 1100);
        let codes: Vec<i8> = (0..deep * columns).map(|at| (at % 251) as u8 as i8).collect();
        let weights = tensor(&[deep, columns], &codes);
        let x = || counting(&[1, deep]);
        let kept = product(&weights).planned_constants(&[x()]);
        assert!((codes.len()..codes.len() + 1024).contains(&kept), "{kept} bytes of constants");
        let output = product(&weights).outputs(vec![x()]).remove(0);
        let first: f64 =
            (0..deep).map(|at| at as f64 * (f64::from(codes[at * columns]) - 3.0) * 0.5).sum();
        let found = f64::from(output.to_plain_array_view::<f32>().unwrap()[[0, 0]]);
        assert!((found - first).abs() <= 1e-5 * first.abs(), "{found}, expected {first}");
    }
}
