//! MatMulBnb4: a product with weights of 4 bits in blocks, each of which is one of 16 numbers (FP4 or
//! NF4) times the largest size in its block. The weights stay in 4 bits: one row at a time is
//! decoded.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::volume;
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, concrete, optional, required};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] =
    &[own("MatMulBnb4", build).of(belljar_operators::MICROSOFT)];

/// The numbers of FP4: a sign, then 0, 1/192, 2/3, 1, 1/3, 1/2, 1/6 and 1/4.
const FP4: [f32; 16] = [
    0.0,
    1.0 / 192.0,
    2.0 / 3.0,
    1.0,
    1.0 / 3.0,
    0.5,
    1.0 / 6.0,
    0.25,
    -0.0,
    -1.0 / 192.0,
    -2.0 / 3.0,
    -1.0,
    -1.0 / 3.0,
    -0.5,
    -1.0 / 6.0,
    -0.25,
];

/// The numbers of NF4: quantiles of the normal distribution (arXiv:2305.14314, appendix E).
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_04,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

fn build(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let size = |name: &str| -> TractResult<usize> {
        let size: i64 = node.get_attr(name)?;
        match usize::try_from(size).ok().filter(|size| *size > 0) {
            Some(size) => Ok(size),
            None => bail!("{name} is {size}, but must be positive"),
        }
    };
    let block = size("block_size")?;
    ensure!(
        block >= 16 && block.is_power_of_two(),
        "block_size is {block}, but must be a power of two that is at least 16"
    );
    let normal = match node.get_attr::<i64>("quant_type")? {
        0 => false,
        1 => true,
        other => bail!("quant_type is {other}, but must be 0 (FP4) or 1 (NF4)"),
    };
    let (outputs, inputs) = (size("N")?, size("K")?);
    volume(&[outputs, inputs])?;
    let transposed = node.get_attr_opt::<i64>("transB")?.unwrap_or(1) != 0;
    built(Bnb4 { outputs, inputs, block, normal, transposed }, node)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Bnb4 {
    outputs: usize,
    inputs: usize,
    block: usize,
    /// Whether the numbers are those of NF4, and not of FP4.
    normal: bool,
    /// Whether the product is with the transposed weights, as in a linear layer.
    transposed: bool,
}

impl Bnb4 {
    /// The sizes of rows of the left operand and of the result.
    fn widths(&self) -> (usize, usize) {
        if self.transposed { (self.inputs, self.outputs) } else { (self.outputs, self.inputs) }
    }

    fn check(&self, at: usize, shape: &[usize]) -> TractResult<()> {
        let count = self.outputs * self.inputs;
        let (what, wanted) = match at {
            1 => ("the weights", count.div_ceil(2)),
            _ => ("absmax", count.div_ceil(self.block)),
        };
        let found: usize = shape.iter().product();
        ensure!(found == wanted, "{what} has {found} elements, expected {wanted}");
        Ok(())
    }

    /// Decodes a row of the weights.
    fn decode(&self, codes: &[u8], sizes: &[f32], row: usize, to: &mut [f32]) {
        let numbers = if self.normal { &NF4 } else { &FP4 };
        for (at, to) in (row * self.inputs..).zip(to) {
            // The first of two elements is in the upper half of their byte.
            let shift = if at % 2 == 0 { 4 } else { 0 };
            let code = codes[at / 2] >> shift & 0xf;
            *to = numbers[usize::from(code)] * sizes[at / self.block];
        }
    }
}

impl Operator for Bnb4 {
    fn name(&self) -> &'static str {
        "MatMulBnb4"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let a = required(inputs, 0)?;
        let (from, to) = self.widths();
        let Some((last, batch)) = a.shape.split_last() else {
            bail!("the first operand has no dimensions")
        };
        ensure!(
            last.as_i64().is_none_or(|last| last == from as i64),
            "rows of {last} elements do not match weights for {from}"
        );
        for at in [1, 2] {
            if let Some(shape) = optional(inputs, at).and_then(|input| concrete(&input.shape)) {
                self.check(at, &shape)?;
            }
        }
        let dims = batch.iter().cloned().chain([to.to_dim()]).map(Some);
        Ok(tvec!((a.dtype, dims.collect())))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let a = *required(inputs, 0)?;
        let (codes, sizes) = (*required(inputs, 1)?, *required(inputs, 2)?);
        self.check(1, codes.shape())?;
        self.check(2, sizes.shape())?;
        let (from, to) = self.widths();
        ensure!(
            a.shape().last() == Some(&from),
            "a first operand of the shape {:?} does not match weights for {from}",
            a.shape()
        );
        let mut shape = a.shape().to_vec();
        shape[a.rank() - 1] = to;
        let mut results = vec![0f32; volume(&shape)?];
        let (a, codes, sizes) =
            (a.try_as_plain_ram()?, codes.try_as_plain_ram()?, sizes.try_as_plain_ram()?);
        let (a, codes, sizes) =
            (a.as_slice::<f32>()?, codes.as_slice::<u8>()?, sizes.as_slice::<f32>()?);
        let mut weights = vec![0f32; self.inputs];
        for row in 0..self.outputs {
            self.decode(codes, sizes, row, &mut weights);
            for (a, results) in a.chunks(from).zip(results.chunks_mut(to)) {
                if self.transposed {
                    results[row] = dot(a, &weights);
                } else {
                    let each = results.iter_mut().zip(&weights);
                    each.for_each(|(result, weight)| *result += a[row] * weight);
                }
            }
        }
        Ok(tvec!(Tensor::from_shape(&shape, &results)?))
    }
}

/// The product of two rows, in eight sums that are computed side by side.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest = a_chunks.remainder().iter().zip(b_chunks.remainder());
    let rest: f32 = rest.map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, microsoft, row, scalar, tensor};

    fn node(kind: i64, outputs: i64, inputs: i64) -> Case {
        let case = microsoft("MatMulBnb4").int("N", outputs).int("K", inputs);
        case.int("block_size", 16).int("quant_type", kind)
    }

    #[test]
    fn mat_mul_bnb4_decodes_the_upper_half_of_a_byte_first() {
        // The rows of the weights are 1, 2/3, 0 and -1, 1/4, 1/2, times 2.
        let fp4 = || node(0, 2, 3).input(tensor(&[2, 3], &[1f32, 3.0, 5.0, 0.0, 0.0, 1.0]));
        let codes = || row(&[0x32u8, 0x0b, 0x75]);
        let product = tensor(&[2, 2], &[6f32, 4.5, 0.0, 1.0]);
        fp4().input(codes()).input(row(&[2f32])).gives_near(product, 1e-6);
        let untransposed = node(0, 2, 3).int("transB", 0).input(row(&[1f32, 2.0]));
        let product = row(&[-2f32, 7.0 / 3.0, 2.0]);
        untransposed.input(codes()).input(row(&[2f32])).gives_near(product, 1e-6);
        fp4().input(row(&[0u8; 4])).input(row(&[2f32])).fails("4");
        fp4().input(codes()).input(row(&[2f32, 1.0])).fails("absmax");
        node(0, 2, 3).input(row(&[1f32])).input(codes()).input(row(&[2f32])).fails("1");
        node(0, 2, 3).input(scalar(1f32)).input(codes()).input(row(&[2f32])).fails("dimensions");
    }

    #[test]
    fn mat_mul_bnb4_has_a_factor_for_each_block() {
        // 17 numbers: 1 in the first block, and -1 in the second.
        let codes = [[0xffu8; 8].to_vec(), vec![0x00]].concat();
        let node = node(1, 1, 17).input(row(&[1f32; 17])).input(row(&codes));
        node.input(row(&[0.5f32, 3.0])).gives(row(&[5f32]));
    }
}
