//! Products with weights that are quantized in blocks, which stay packed: the host restores them in
//! registers. The weights are those of MatMulNBits, or of a DequantizeLinear before a product.

use belljar_abi::kernel::{BlockGemm as Request, Gemm, PANEL_COLUMNS, PANEL_GRAIN};
use onnx_ops::framework::operator::quantized;
use onnx_ops::framework::quantized::Quantized;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::{TypedModel, TypedNode};

use super::gemm::NativeGemm;
use super::narrow::{Constant, reshaped};
use super::operator::{address, optional};
use super::{floats, plain_shape};

/// Weights in blocks along the steps of a product.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct BlockWeights {
    bits: usize,
    /// Steps of a block.
    block: usize,
    steps: usize,
    columns: usize,
    weights: Weights,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
enum Weights {
    /// Those of MatMulNBits: for each column, its blocks in order, each a whole number of bytes.
    Rows { bytes: Arc<Tensor>, scales: Constant, zeros: Option<Arc<Tensor>> },
    /// Those of DequantizeLinear, one in each byte.
    Bytes {
        codes: Arc<Tensor>,
        /// Whether they are in two's complement.
        signed: bool,
        /// The strides of a step and a column.
        strides: [usize; 2],
        scales: Arc<Tensor>,
        zeros: Option<Arc<Tensor>>,
        /// The strides of a block and a column in the scales and zero points.
        of_blocks: [usize; 2],
    },
    /// In the layout of the host.
    Packed { words: Arc<Tensor>, scales: Arc<Tensor>, zeros: Option<Arc<Tensor>> },
}

impl BlockWeights {
    /// The weights that an outlet restores, for this product.
    pub(super) fn restored(
        model: &TypedModel,
        outlet: OutletId,
        product: &Gemm,
    ) -> TractResult<Option<BlockWeights>> {
        let node = model.node(reshaped(model, outlet).node);
        let Some((Quantized::Weights { bits, signed, axis, block }, places)) = quantized(&*node.op)
        else {
            return Ok(None);
        };
        let konst = |at: usize| -> TractResult<Option<Arc<Tensor>>> {
            let Some(place) = places.get(at).copied().flatten() else { return Ok(None) };
            Ok(model.outlet_fact(node.inputs[place])?.konst.clone())
        };
        let (Some(codes), Some(scales), zeros) = (konst(0)?, konst(1)?, konst(2)?) else {
            return Ok(None);
        };
        let (steps, columns) = (product.k as usize, product.n as usize);
        let [rows, row] = *codes.shape() else { return Ok(None) };
        // The axis of the steps.
        let strides = [product.b_step_stride as usize, product.b_column_stride as usize];
        let along = match strides {
            [step, 1] if (rows, row, step) == (steps, columns, columns) => 0,
            [1, column] if (rows, row, column) == (columns, steps, steps) => 1,
            _ => return Ok(None),
        };
        let axis = if axis < 0 { axis + 2 } else { axis };
        let per_word = 32 / bits;
        let whole = steps.next_multiple_of(per_word);
        let of_scales = (scales.shape(), block);
        let blocks = if block == 0 { 1 } else { steps.div_ceil(block) };
        let (block, of_blocks) = match of_scales {
            ([] | [1], 0) => (whole, [0, 0]),
            ([each], 0) if *each == columns && axis == 1 - along => (whole, [0, 1]),
            ([a, b], 1..) if axis == 0 && along == 0 && (*a, *b) == (blocks, columns) => {
                (block, [columns, 1])
            }
            ([a, b], 1..) if axis == 1 && along == 1 && (*a, *b) == (columns, blocks) => {
                (block, [1, blocks])
            }
            _ => return Ok(None),
        };
        let fits = block.is_multiple_of(per_word)
            && block <= u32::MAX as usize
            && floats(&scales).is_some()
            && zeros.is_some() == places.get(2).copied().flatten().is_some()
            && zeros.as_ref().is_none_or(|zeros| zeros.len() == scales.len())
            && codes.is_plain()
            && codes.as_bytes().len() == codes.len();
        let weights = Weights::Bytes { codes, signed, strides, scales, zeros, of_blocks };
        Ok(fits.then_some(BlockWeights { bits, block, steps, columns, weights }))
    }

    /// Columns and steps.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.columns, self.steps)
    }

    /// The bytes of the weights.
    pub(super) fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Rows { bytes: tensor, .. }
            | Weights::Bytes { codes: tensor, .. }
            | Weights::Packed { words: tensor, .. } => tensor.as_bytes().len(),
        }
    }

    /// The request for a product with these weights as its right operand.
    pub(super) fn request(&self, product: &Gemm) -> Option<Request> {
        let Gemm { m, n, k, a_row_stride, round_sum, round, low, high, .. } = *product;
        let fits = product.batch == 1 && (k == 1 || product.a_step_stride == 1);
        let (bits, block) = (self.bits as u32, self.block as u32);
        let request = Request {
            m,
            n,
            k,
            a_row_stride,
            bits,
            block,
            round_sum,
            round,
            low,
            high,
            ..Request::default()
        };
        fits.then_some(request)
    }

    /// The request with the addresses of the weights.
    pub(super) fn place(&self, request: &Request) -> Request {
        let Weights::Packed { words, scales, zeros } = &self.weights else { return *request };
        let (b, scales) = (address(words), address(scales));
        Request { b, scales, zeros: optional(zeros.as_ref()), ..*request }
    }

    /// The weights in the layout of the host.
    pub(super) fn packed(&self) -> Option<BlockWeights> {
        let (bits, steps, columns) = (self.bits, self.steps, self.columns);
        let (per_word, blocks) = (32 / bits, steps.div_ceil(self.block));
        let middle = 1u32 << (bits - 1);
        let mask = (1u32 << bits) - 1;
        let (words, scales, zeros) = match &self.weights {
            Weights::Packed { .. } => return None,
            Weights::Rows { bytes, scales, zeros } => {
                let row = blocks * self.block * bits / 8;
                let (bytes, _) = bytes.as_bytes().as_chunks::<4>();
                let words = packed_of(columns, steps.div_ceil(per_word), |word, column| {
                    u32::from_le_bytes(bytes[column * row / 4 + word])
                })?;
                let scales = scales.map(|_, scale| scale)?;
                let scales = floats(&scales.elements)?;
                let scales =
                    packed_of(columns, blocks, |block, column| scales[column * blocks + block])?;
                let code = |bytes: &[u8], at: usize| {
                    u32::from(bytes[at * bits / 8]) >> (at * bits % 8) & mask
                };
                let zeros = match zeros {
                    None => None,
                    Some(zeros) => Some(match floats(zeros) {
                        Some(zeros) => packed_of(columns, blocks, |block, column| {
                            zeros[column * blocks + block] as u8
                        })?,
                        None => packed_of(columns, blocks, |block, column| {
                            let row = (blocks * bits).div_ceil(8);
                            code(&zeros.as_bytes()[column * row..], block) as u8
                        })?,
                    }),
                };
                (words, scales, zeros)
            }
            Weights::Bytes { codes, signed, strides, scales, zeros, of_blocks } => {
                let codes = codes.as_bytes();
                // Two's complement with an offset of half the range.
                let flip = if *signed { middle } else { 0 };
                let number = |byte: u8| u32::from(byte) & mask ^ flip;
                let words = packed_of(columns, steps.div_ceil(per_word), |word, column| {
                    let each = word * per_word..steps.min((word + 1) * per_word);
                    let code = |step: usize| {
                        let code = number(codes[step * strides[0] + column * strides[1]]);
                        code << (step % per_word * bits)
                    };
                    each.map(code).fold(0, |word, code| word | code)
                })?;
                let scales = floats(scales)?;
                let at = |block: usize, column: usize| block * of_blocks[0] + column * of_blocks[1];
                let scales = packed_of(columns, blocks, |block, column| scales[at(block, column)])?;
                let zeros = match zeros {
                    Some(zeros) => {
                        let zeros = zeros.as_bytes();
                        Some(packed_of(columns, blocks, |block, column| {
                            number(zeros[at(block, column)]) as u8
                        })?)
                    }
                    None if *signed => None,
                    None => Some(packed_of(columns, blocks, |_, _| 0)?),
                };
                (words, scales, zeros)
            }
        };
        Some(BlockWeights { weights: Weights::Packed { words, scales, zeros }, ..self.clone() })
    }
}

/// Calls a function with each place in panels of columns, and the row and column there.
fn panels(columns: usize, rows: usize, mut each: impl FnMut(usize, usize, usize)) {
    for first in (0..columns).step_by(PANEL_COLUMNS) {
        let valid = PANEL_COLUMNS.min(columns - first);
        let width = valid.next_multiple_of(PANEL_GRAIN);
        for row in 0..rows {
            (0..valid).for_each(|at| each(first * rows + row * width + at, row, first + at));
        }
    }
}

fn packed_of<T: Datum + Copy>(
    columns: usize,
    rows: usize,
    element: impl Fn(usize, usize) -> T,
) -> Option<Arc<Tensor>> {
    let len = columns.next_multiple_of(PANEL_GRAIN) * rows;
    let mut tensor = Tensor::zero_dt(T::datum_type(), &[len]).ok()?;
    let mut view = tensor.try_as_plain_ram_mut().ok()?;
    let elements = view.as_slice_mut::<T>().ok()?;
    panels(columns, rows, |to, row, column| elements[to] = element(row, column));
    Some(tensor.into_arc_tensor())
}

/// Replaces a product with weights in rows of blocks.
pub(super) fn rewrite(
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<TypedModelPatch>> {
    let Some((Quantized::Product { depth, columns, block, bits }, places)) = quantized(&*node.op)
    else {
        return Ok(None);
    };
    let input = |at: usize| places.get(at).copied().flatten().map(|place| node.inputs[place]);
    let konst = |at: usize| -> TractResult<Option<Arc<Tensor>>> {
        let Some(outlet) = input(at) else { return Ok(None) };
        Ok(model.outlet_fact(outlet)?.konst.clone())
    };
    let constant = |at: usize| input(at).map(|outlet| Constant::at(model, outlet)).transpose();
    let (Some(a), Some(bytes)) = (input(0), konst(1)?) else { return Ok(None) };
    let Some(scales) = constant(2)?.flatten() else { return Ok(None) };
    let (zeros, bias) = (konst(3)?, konst(5)?);
    let shape = plain_shape(model.outlet_fact(a)?);
    let output = plain_shape(&node.outputs[0].fact);
    let (Some(shape), Some(output)) = (shape, output) else { return Ok(None) };
    let blocks = depth.div_ceil(block);
    let whole = |zero: &f32| zero.fract() == 0.0 && (0.0..256.0).contains(zero);
    let fits = bytes.is_plain()
        && bytes.as_bytes().len() == columns * blocks * block * bits / 8
        && scales.elements.len() == columns * blocks
        // What is present is constant.
        && zeros.is_some() == input(3).is_some()
        && bias.is_some() == input(5).is_some()
        && bias.as_ref().is_none_or(|bias| floats(bias).is_some())
        && zeros.as_ref().is_none_or(|zeros| match floats(zeros) {
            Some(zeros) => zeros.iter().all(whole),
            None => zeros.datum_type() == u8::datum_type() && zeros.is_plain(),
        });
    if !fits || shape.is_empty() {
        return Ok(None);
    }
    let weights = Weights::Rows { bytes, scales, zeros };
    let weights = BlockWeights { bits, block, steps: depth, columns, weights };
    let native = NativeGemm::of_blocks(weights, shape.len(), bias);
    native.fused(model, node, &[a], &[&shape], output, columns)
}
