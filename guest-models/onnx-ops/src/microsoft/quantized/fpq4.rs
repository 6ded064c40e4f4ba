//! MatMulFpQ4: a product with weights of 4 bits in blocks of 32, each of which has its scale before
//! it. The weights stay in 4 bits: one column at a time is decoded.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::bnb4::dot;
use crate::framework::dims::{sizes, volume};
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, concrete, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::ints;
use crate::quantization::shapes::product_dims;

pub(crate) const OPERATORS: &[Registration] =
    &[own("MatMulFpQ4", |_, node| built(FpQ4::of(node)?, node)).of(belljar_operators::MICROSOFT)];

/// Elements in a block.
const BLOCK: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq)]
struct FpQ4 {
    /// Whether each block has a zero point behind its scale. Others have 8.
    zero_points: bool,
}

impl FpQ4 {
    fn of(node: &NodeProto) -> TractResult<FpQ4> {
        match node.get_attr::<i64>("blk_quant_type")? {
            0 => Ok(FpQ4 { zero_points: false }),
            1 => Ok(FpQ4 { zero_points: true }),
            other => bail!("blk_quant_type {other} is not implemented; expected 0 or 1"),
        }
    }

    /// The number of bytes of a block.
    fn block(&self) -> usize {
        size_of::<f32>() + usize::from(self.zero_points) + BLOCK / 2
    }

    /// The number of bytes of weights of this shape.
    fn bytes(&self, [depth, columns]: [usize; 2]) -> TractResult<usize> {
        volume(&[depth, columns])?;
        Ok(depth.div_ceil(BLOCK) * columns * self.block())
    }

    /// The shape of the weights: rows and columns.
    fn shape(shape: &[i64]) -> TractResult<[usize; 2]> {
        match *sizes(shape)? {
            [depth, columns] => Ok([depth, columns]),
            _ => bail!("the weights have the shape {shape:?}, expected two dimensions"),
        }
    }

    fn check_blob(&self, found: usize, shape: [usize; 2]) -> TractResult<()> {
        let wanted = self.bytes(shape)?;
        ensure!(found == wanted, "the weights have {found} bytes, expected {wanted}");
        Ok(())
    }

    /// Decodes a block of a column.
    fn decode(&self, block: &[u8], to: &mut [f32]) {
        let (head, codes) = block.split_at(block.len() - BLOCK / 2);
        let scale = f32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let zero = f32::from(head.get(4).copied().unwrap_or(8));
        for (at, to) in to.iter_mut().enumerate() {
            // The first half of a block is in the lower halves of its bytes.
            let byte = codes[at % (BLOCK / 2)];
            let code = if at < BLOCK / 2 { byte & 0xf } else { byte >> 4 };
            *to = (f32::from(code) - zero) * scale;
        }
    }
}

impl Operator for FpQ4 {
    fn name(&self) -> &'static str {
        "MatMulFpQ4"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (a, b, shape) = (required(inputs, 0)?, required(inputs, 1)?, required(inputs, 2)?);
        ensure!(a.rank() > 0, "the first operand has no dimensions");
        let Some(shape) = shape.ints()? else {
            let mut dims: TVec<Option<TDim>> = a.shape.iter().cloned().map(Some).collect();
            dims[a.rank() - 1] = None;
            return Ok(tvec!((a.dtype, dims)));
        };
        let shape = FpQ4::shape(&shape)?;
        if let Some(b) = concrete(&b.shape) {
            self.check_blob(b.iter().product(), shape)?;
        }
        let shape = shape.map(|size| size.to_dim());
        Ok(tvec!((a.dtype, product_dims(&a.shape, &shape)?)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (a, blob) = (*required(inputs, 0)?, *required(inputs, 1)?);
        let [depth, columns] = FpQ4::shape(&ints(required(inputs, 2)?)?)?;
        self.check_blob(blob.len(), [depth, columns])?;
        ensure!(
            a.shape().last() == Some(&depth),
            "a first operand of the shape {:?} does not match weights of {depth} rows",
            a.shape()
        );
        let mut shape = a.shape().to_vec();
        shape[a.rank() - 1] = columns;
        let mut results = vec![0f32; volume(&shape)?];
        let (a, blob) = (a.try_as_plain_ram()?, blob.try_as_plain_ram()?);
        let (a, blob) = (a.as_slice::<f32>()?, blob.as_slice::<u8>()?);
        if depth > 0 {
            let mut weights = vec![0f32; depth];
            let of_column = depth.div_ceil(BLOCK) * self.block();
            for (column, blocks) in blob.chunks(of_column).enumerate() {
                for (block, to) in blocks.chunks(self.block()).zip(weights.chunks_mut(BLOCK)) {
                    self.decode(block, to);
                }
                for (a, results) in a.chunks(depth).zip(results.chunks_mut(columns)) {
                    results[column] = dot(a, &weights);
                }
            }
        }
        Ok(tvec!(Tensor::from_shape(&shape, &results)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{microsoft, row, tensor};

    /// A block with ones at these places.
    fn block(scale: f32, zero: Option<u8>, ones: &[usize]) -> Vec<u8> {
        let code = zero.unwrap_or(8);
        let mut codes = [code | code << 4; 16];
        for at in ones {
            codes[at % 16] += if *at < 16 { 1 } else { 16 };
        }
        [&scale.to_le_bytes()[..], zero.as_slice(), &codes].concat()
    }

    #[test]
    fn mat_mul_fp_q4_has_a_scale_in_each_block() {
        let numbers: Vec<f32> = (0..33).map(|number| number as f32).collect();
        let node = |kind, blob: &[Vec<u8>]| {
            let case = microsoft("MatMulFpQ4").int("blk_quant_type", kind);
            case.input(tensor(&[1, 33], &numbers)).input(row(&blob.concat()))
        };
        // Columns of two blocks each; the second block has one element.
        let blob = [
            block(2.0, None, &[1, 17]),
            block(0.5, None, &[0]),
            block(1.0, None, &[31]),
            block(1.0, None, &[]),
        ];
        let shape = row(&[33i64, 2]);
        node(0, &blob).input(shape.clone()).gives(tensor(&[1, 2], &[52f32, 31.0]));
        node(0, &blob).input(row(&[32i64, 2])).fails("80");
        node(0, &blob[..3]).input(shape.clone()).fails("60");
        node(2, &blob).input(shape.clone()).fails("2");
        let blob = [3, 0].map(|zero| block(-1.0, Some(zero), &[3, 16]));
        node(1, &blob).input(row(&[33i64, 1])).gives(tensor(&[1, 1], &[-19f32]));
    }
}
