//! GatherBlockQuantized (com.microsoft): Gather of weights that are quantized in blocks along an
//! axis. Only the slices that are gathered are dequantized.

use belljar_abi::{DType, codes};
use belljar_operators::MICROSOFT;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::{code, expect_shape};
use crate::framework::axes::resolve;
use crate::framework::dims;
use crate::framework::element_type::ElementType;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, concrete, optional, required, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::ints;
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] =
    &[own("GatherBlockQuantized", |_, node| build(node)).of(MICROSOFT)];

fn build(node: &NodeProto) -> BuildResult {
    let int = |name: &str, default: i64| -> TractResult<i64> {
        Ok(node.get_attr_opt::<i64>(name)?.unwrap_or(default))
    };
    let small = match ElementType::of_attribute(node, "data")? {
        Some(ElementType::Small(dtype)) => Some(dtype),
        _ => None,
    };
    let block = usize::try_from(int("block_size", 128)?)?;
    let bits = match small {
        None => int("bits", 4)?,
        Some(_) => 8,
    };
    ensure!([2, 4, 8].contains(&bits), "weights of {bits} bits are not implemented; use 2, 4 or 8");
    let float = small.is_some_and(|dtype| ![DType::I4, DType::U4].contains(&dtype));
    ensure!(
        block.is_power_of_two() && block >= 16 || block == 0 && float,
        "a \"block_size\" of {block} is not a power of two from 16"
    );
    let has_zeros = node.input.get(3).is_some_and(|name| !name.is_empty());
    ensure!(!float || !has_zeros, "floats have no zero points");
    let (gather, quantize) = (int("gather_axis", 0)?, int("quantize_axis", 1)?);
    built(GatherBlockQuantized { small, float, bits: bits as usize, block, gather, quantize }, node)
}

#[derive(Debug)]
struct GatherBlockQuantized {
    /// The type of the data, if their tensor has their codes.
    small: Option<DType>,
    /// Whether they are floats, which have no zero points.
    float: bool,
    bits: usize,
    /// The length of a block, or 0 for whole axes.
    block: usize,
    gather: i64,
    quantize: i64,
}

/// How the elements map to the tensors.
struct Layout {
    gather: usize,
    quantize: usize,
    block: usize,
    /// The shape of the elements, of which a byte may have several.
    shape: TVec<usize>,
    scales: TVec<usize>,
}

impl GatherBlockQuantized {
    /// Elements in a byte.
    fn in_byte(&self) -> usize {
        8 / self.bits
    }

    fn layout(&self, data: &[usize], scales: &[usize]) -> TractResult<Layout> {
        let rank = data.len();
        let (gather, quantize) = (resolve(self.gather, rank)?, resolve(self.quantize, rank)?);
        let mut shape: TVec<usize> = data.into();
        if self.small.is_none() {
            ensure!(gather == 0, "bytes are only gathered along axis 0, not along {gather}");
            ensure!(
                self.bits == 8 || gather != quantize,
                "packed data are quantized along the axis {gather} that they are gathered along"
            );
            let last = shape.last_mut().or_user_error("the data have no dimensions")?;
            *last *= self.in_byte();
        }
        let block = if self.block == 0 { shape[quantize].max(1) } else { self.block };
        let mut expected = shape.clone();
        expected[quantize] = shape[quantize].div_ceil(block);
        let fits = scales.len() == rank
            && scales.iter().zip(&expected).enumerate().all(|(axis, (found, expected))| {
                found == expected || self.float && axis != quantize && *found == 1
            });
        ensure!(fits, "expected scales of the shape {expected:?}, found {scales:?}");
        Ok(Layout { gather, quantize, block, shape, scales: scales.into() })
    }

    /// The bytes of zero points have the shape of the scales, or a packed last dimension.
    fn check_zeros(&self, layout: &Layout, zeros: &[TDim]) -> TractResult<()> {
        let mut expected: Vec<TDim> = layout.scales.iter().map(|size| size.to_dim()).collect();
        if let (None, Some(last)) = (self.small, layout.scales.last()) {
            expected[layout.scales.len() - 1] = last.div_ceil(self.in_byte()).to_dim();
        }
        expect_shape(zeros, &expected, "zero points")
    }
}

impl Operator for GatherBlockQuantized {
    fn name(&self) -> &'static str {
        "GatherBlockQuantized"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let data = required(inputs, 0)?;
        let (indices, scales) = (required(inputs, 1)?, required(inputs, 2)?);
        let sizes = |input: &InputFact, what: &str| {
            let shape = concrete(&input.shape);
            shape.or_user_error(format_args!("the shape of the {what} is not fixed"))
        };
        let layout = self.layout(&sizes(data, "data")?, &sizes(scales, "scales")?)?;
        if let Some(zeros) = optional(inputs, 3) {
            self.check_zeros(&layout, &zeros.shape)?;
        }
        let mut dims: TVec<TDim> = layout.shape.iter().map(|size| size.to_dim()).collect();
        dims.remove(layout.gather);
        dims.insert_many(layout.gather, indices.shape.iter().cloned());
        Ok(tvec!(with_dims(scales.dtype, dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (data, scales) = (*required(inputs, 0)?, *required(inputs, 2)?);
        let layout = self.layout(data.shape(), scales.shape())?;
        let indices = *required(inputs, 1)?;
        let mut shape: TVec<usize> = layout.shape.clone();
        shape.remove(layout.gather);
        shape.insert_many(layout.gather, indices.shape().iter().copied());
        dims::volume(&shape)?;
        let mut output = Tensor::zero::<f32>(&shape)?;
        let bytes = data.try_as_plain_ram()?;
        let bytes = bytes.as_slice::<u8>()?;
        let scales = scales.try_as_plain_ram()?;
        let scales = scales.as_slice::<f32>()?;
        let zeros = optional(inputs, 3).map(|zeros| zeros.try_as_plain_ram()).transpose()?;
        let zeros = zeros.as_ref().map(|zeros| zeros.as_slice::<u8>()).transpose()?;

        // What each code means.
        let meant: Vec<f32> = (0..256u16)
            .map(|code| match self.small {
                Some(dtype) => codes::decode(dtype, code),
                None => f32::from(code),
            })
            .collect();
        let default = match self.small {
            None => (1u32 << (self.bits - 1)) as f32,
            Some(_) => 0.0,
        };
        let Layout { gather, quantize, block, .. } = layout;
        let rank = layout.shape.len();
        let outer: usize = layout.shape[..gather].iter().product();
        let inner: usize = layout.shape[gather + 1..].iter().product();
        let size = layout.shape[gather];
        let strides = dims::strides(&layout.scales);
        let steps: TVec<usize> = (0..rank)
            .map(
                |axis| if layout.scales[axis] == 1 && axis != quantize { 0 } else { strides[axis] },
            )
            .collect();
        let last = layout.scales.last().copied().unwrap_or(1);
        // Zero points of a row start at a byte.
        let zero = |at: usize| match zeros {
            None => default,
            Some(zeros) if self.small.is_some() => meant[usize::from(zeros[at])],
            Some(zeros) => {
                let row = &zeros[at / last * last.div_ceil(self.in_byte())..];
                f32::from(code(row, at % last, self.bits))
            }
        };
        let mut plain = output.try_as_plain_ram_mut()?;
        let values = plain.as_slice_mut::<f32>()?;
        if values.is_empty() {
            return Ok(tvec!(output));
        }
        let indices = ints(indices)?;
        let slices = values.chunks_exact_mut(inner);
        for (slice, to) in slices.enumerate() {
            let (start, index) = (slice / indices.len(), indices[slice % indices.len()]);
            let from_start = if index < 0 { index.saturating_add(size as i64) } else { index };
            // Other indices give zeros, unlike those of ONNX's Gather.
            let Some(index) = usize::try_from(from_start).ok().filter(|index| *index < size) else {
                continue;
            };
            if start >= outer {
                bail!("the output has more slices than the data");
            }
            let first = (start * size + index) * inner;
            let mut place: TVec<usize> = tvec![0; rank];
            let mut rest = first;
            for axis in (0..rank).rev() {
                place[axis] = rest % layout.shape[axis];
                rest /= layout.shape[axis];
            }
            for (at, to) in to.iter_mut().enumerate() {
                let scale: usize = (0..rank)
                    .map(|axis| {
                        let at = if axis == quantize { place[axis] / block } else { place[axis] };
                        at * steps[axis]
                    })
                    .sum();
                let element = first + at;
                let code = match self.small {
                    Some(_) => bytes[element],
                    None => code(bytes, element, self.bits),
                };
                *to = (meant[usize::from(code)] - zero(scale)) * scales[scale];
                dims::advance(&mut place, &layout.shape);
            }
        }
        Ok(tvec!(output))
    }
}

#[cfg(test)]
mod tests {
    use belljar_abi::DType;

    use crate::testing::{Case, microsoft, row, tensor};

    // The expected numbers are those of onnxruntime 1.32 and of numpy by the documentation, which
    // are equal.

    fn pattern(count: usize, step: usize, first: usize, modulus: usize) -> Vec<u8> {
        (0..count).map(|at| ((at * step + first) % modulus) as u8).collect()
    }

    fn scales(count: usize) -> Vec<f32> {
        pattern(count, 3, 1, 7).iter().map(|number| f32::from(number + 1) / 16.0).collect()
    }

    /// Some numbers of the only output.
    fn some(case: &Case, from: usize, count: usize) -> Vec<f32> {
        let outputs = case.outputs_at_run_time();
        let view = outputs[0].to_plain_array_view::<f32>().unwrap();
        view.iter().skip(from).take(count).copied().collect()
    }

    fn bytes(bits: i64, width: usize) -> Case {
        let node = microsoft("GatherBlockQuantized").int("block_size", 16).int("bits", bits);
        let node = node.input(tensor(&[4, width], &pattern(4 * width, 37, 11, 256)));
        node.input(tensor(&[2, 2], &[3i64, -4, 1, 4])).input(tensor(&[4, 2], &scales(8)))
    }

    #[test]
    fn bytes_of_two_numbers_are_unpacked_along_the_last_axis() {
        let node = bytes(4, 16);
        assert_eq!(some(&node, 0, 6), [1.125, 2.625, -3.0, -2.25, -1.125, -1.5]);
        // The index 4 is out of range, which gives zeros.
        assert_eq!(some(&node, 92, 5), [-1.75, -0.5, -0.5, 0.0, 0.0]);
        assert_eq!(some(&node, 96, 40), [0.0; 32]);
        let node = node.input(tensor(&[4, 1], &pattern(4, 29, 5, 256)));
        assert_eq!(some(&node, 0, 6), [-0.375, 1.125, -4.5, -3.75, -2.625, -3.0]);
        assert_eq!(some(&node, 92, 4), [-0.25, 1.0, 1.0, 1.5]);
        let node = bytes(8, 20).input(tensor(&[4, 2], &pattern(8, 29, 5, 256)));
        assert_eq!(some(&node, 35, 5), [6.125, 17.8125, 29.375, 40.9375, 52.5]);
    }

    #[test]
    fn bytes_of_four_numbers_are_unpacked_along_the_last_axis() {
        let node = bytes(2, 8);
        assert_eq!(some(&node, 0, 6), [0.375, -0.75, -0.75, 0.0, -0.75, 0.0]);
        assert_eq!(some(&node, 92, 5), [0.0, -0.25, 0.25, -0.5, 0.0]);
        let node = node.input(tensor(&[4, 1], &pattern(4, 29, 5, 256)));
        assert_eq!(some(&node, 0, 6), [1.125, 0.0, 0.0, 0.75, 0.0, 0.75]);
        assert_eq!(some(&node, 92, 5), [0.5, 0.25, 0.75, 0.0, 0.0]);
    }

    /// Codes of 4 bits in a byte each, as the gate passes them on.
    fn codes(dtype: DType, axis: i64) -> Case {
        let first = if dtype == DType::I4 { 11 } else { 3 };
        let node = microsoft("GatherBlockQuantized").int("block_size", 16);
        let node = node.int("type_data", dtype.to_onnx().into()).int("gather_axis", axis);
        let node = node.input(tensor(&[3, 20, 2], &pattern(120, 5, first, 16)));
        node.input(row(&[1i64, -1, 5])).input(tensor(&[3, 2, 2], &scales(12)))
    }

    #[test]
    fn integers_of_4_bits_are_gathered_along_any_axis() {
        let signed = |axis| codes(DType::I4, axis);
        assert_eq!(some(&signed(0), 0, 6), [1.3125, -1.5, -1.3125, 0.375, 3.0625, -0.75]);
        assert_eq!(some(&signed(2), 0, 6), [0.0, 0.0, 0.0, -1.875, -1.875, 0.0]);
        let unsigned = |axis| codes(DType::U4, axis);
        assert_eq!(some(&unsigned(0), 0, 6), [4.8125, 0.0, 2.1875, 1.875, 6.5625, 0.75]);
        assert_eq!(some(&unsigned(2), 0, 6), [2.5, 2.5, 0.0, 0.625, 0.625, 0.0]);
        for (node, first) in [(signed(0), 10), (unsigned(0), 2)] {
            let node = node.input(tensor(&[3, 2, 2], &pattern(12, 7, first, 16)));
            let expected = [-1.3125, -0.9375, -3.9375, 0.9375, 0.4375, -0.1875];
            assert_eq!(some(&node, 0, 6), expected);
        }
    }

    #[test]
    fn floats_of_8_bits_may_share_a_scale() {
        // 1.5, 0.5, -2 and 448.
        let data = tensor(&[2, 2], &[0x3cu8, 0x30, 0xc0, 0x7e]);
        let node = microsoft("GatherBlockQuantized").int("block_size", 0);
        let node = node.int("type_data", DType::F8E4M3FN.to_onnx().into()).input(data);
        let node = node.input(row(&[1i32, 0]));
        let scaled = |scales| node.clone().input(scales);
        let expected = |numbers: [f32; 4]| tensor(&[2, 2], &numbers);
        scaled(tensor(&[2, 1], &[2f32, 0.5])).gives(expected([-1.0, 224.0, 3.0, 1.0]));
        scaled(tensor(&[1, 1], &[2f32])).gives(expected([-4.0, 896.0, 3.0, 1.0]));
        scaled(tensor(&[1, 2], &[2f32, 2.0])).fails("expected scales");
        let zeros = scaled(tensor(&[1, 1], &[2f32])).input(tensor(&[1, 1], &[0u8]));
        zeros.fails("zero points");
    }

    #[test]
    fn parameters_of_other_shapes_are_refused() {
        bytes(4, 16).int("gather_axis", 1).fails("axis 0");
        bytes(4, 16).int("quantize_axis", 0).fails("quantized along the axis 0");
        bytes(4, 16).int("quantize_axis", 2).fails("2");
        bytes(4, 16).int("block_size", 32).fails("expected scales");
        bytes(4, 16).int("block_size", 20).fails("20");
        bytes(4, 16).int("block_size", 0).fails("0");
        bytes(3, 16).fails("3 bits");
        bytes(4, 16).input(tensor(&[4, 2], &[0u8; 8])).fails("expected zero points");
        // float8 has no such shape, and other types no scale for several rows.
        let shared = microsoft("GatherBlockQuantized").int("block_size", 16).int("bits", 8);
        let shared = shared.input(tensor(&[2, 16], &[0u8; 32])).input(row(&[0i64]));
        shared.input(tensor(&[1, 1], &[1f32])).fails("expected scales");
    }
}
