//! MatMulNBits (com.microsoft): a product with weights of 2, 4 or 8 bits, quantized in blocks along the
//! dimension that is summed. A few rows of the weights are unpacked at a time, never all of them.

mod checks;
mod weights;

use belljar_operators::MICROSOFT;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use self::weights::{Weights, Zeros, product};
use crate::framework::dims;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, optional, required};
use crate::framework::operator::{Operator, built};
use crate::framework::quantized::Quantized;
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;

pub(in crate::microsoft) use self::weights::{TOGETHER, UNPACKED, dots};

pub(crate) const OPERATORS: &[Registration] =
    &[own("MatMulNBits", |_, node| build(node)).of(MICROSOFT)];

/// The positions of the inputs.
const A: usize = 0;
const B: usize = 1;
const SCALES: usize = 2;
const ZERO_POINTS: usize = 3;
const GROUPS: usize = 4;
const BIAS: usize = 5;

fn build(node: &NodeProto) -> BuildResult {
    let size = |name: &str, default: Option<i64>| -> TractResult<usize> {
        let size = node.get_attr_opt::<i64>(name)?.or(default);
        let size = size.and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0);
        size.or_user_error(format_args!("the attribute {name:?} is missing or not positive"))
    };
    let (depth, columns) = (size("K", None)?, size("N", None)?);
    let (block, bits) = (size("block_size", None)?, size("bits", Some(4))?);
    ensure!([2, 4, 8].contains(&bits), "weights of {bits} bits are not implemented; use 2, 4 or 8");
    ensure!(
        block.is_power_of_two() && block >= 16,
        "a \"block_size\" of {block} is not a power of two from 16"
    );
    let grouped = node.input.get(GROUPS).is_some_and(|name| !name.is_empty());
    built(MatMulNBits { depth, columns, block, bits, grouped }, node)
}

#[derive(Debug)]
struct MatMulNBits {
    /// The length of the rows that are multiplied.
    depth: usize,
    columns: usize,
    block: usize,
    bits: usize,
    grouped: bool,
}

impl MatMulNBits {
    /// The number of blocks of a row.
    fn blocks(&self) -> usize {
        self.depth.div_ceil(self.block)
    }

    /// The bytes of a block.
    fn blob(&self) -> usize {
        self.block * self.bits / 8
    }

    /// The bytes of the zero points of a row, if they are packed.
    fn packed_zeros(&self) -> usize {
        (self.blocks() * self.bits).div_ceil(8)
    }
}

impl Operator for MatMulNBits {
    fn name(&self) -> &'static str {
        // Indices of groups may be invalid; all other integers are accepted (undecided.rs of the
        // guest).
        if self.grouped { "MatMulNBitsGrouped" } else { "MatMulNBits" }
    }

    fn quantized(&self) -> Option<Quantized> {
        let MatMulNBits { depth, columns, block, bits, grouped } = *self;
        (!grouped).then_some(Quantized::Product { depth, columns, block, bits })
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        self.check(inputs)?;
        let a = required(inputs, A)?;
        let mut dims: TVec<Option<TDim>> = a.shape.iter().cloned().map(Some).collect();
        if let Some(last) = dims.last_mut() {
            *last = Some(self.columns.to_dim());
        }
        Ok(tvec!((a.dtype, dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (a, b) = (*required(inputs, A)?, *required(inputs, B)?);
        let mut shape: TVec<usize> = a.shape().into();
        if let Some(last) = shape.last_mut() {
            *last = self.columns;
        }
        let mut output = Tensor::zero::<f32>(&shape)?;
        dims::volume(&shape)?;
        let mut plain = output.try_as_plain_ram_mut()?;
        let values = plain.as_slice_mut::<f32>()?;
        if let Some(bias) = optional(inputs, BIAS) {
            let bias = bias.try_as_plain_ram()?;
            let bias = bias.as_slice::<f32>()?;
            values.chunks_exact_mut(self.columns).for_each(|row| row.copy_from_slice(bias));
        }
        if b.len() == 0 || values.is_empty() {
            return Ok(tvec!(output));
        }
        let (a, b) = (a.try_as_plain_ram()?, b.try_as_plain_ram()?);
        let scales = required(inputs, SCALES)?.try_as_plain_ram()?;
        let zeros = optional(inputs, ZERO_POINTS).map(|zeros| zeros.try_as_plain_ram());
        let zeros = zeros.transpose()?;
        let zeros = match (&zeros, optional(inputs, ZERO_POINTS).map(|zeros| zeros.datum_type())) {
            (Some(view), Some(DatumType::U8)) => Zeros::Packed(view.as_slice::<u8>()?),
            (Some(view), Some(DatumType::F32)) => Zeros::Floats(view.as_slice::<f32>()?),
            (None, None) => Zeros::None,
            (_, dtype) => bail!("zero points of element type {dtype:?} are not implemented"),
        };
        let groups =
            optional(inputs, GROUPS).map(|groups| groups.try_as_plain_ram()).transpose()?;
        let groups = groups.as_ref().map(|groups| groups.as_slice::<i32>()).transpose()?;
        if let Some(groups) = groups {
            self.check_groups(groups.iter().map(|group| i64::from(*group)))?;
        }
        let scales = scales.as_slice::<f32>()?;
        let weights = Weights { op: self, bytes: b.as_slice::<u8>()?, scales, zeros, groups };
        product(a.as_slice::<f32>()?, &weights, values);
        Ok(tvec!(output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, microsoft, row, tensor};

    /// The numbers `(i · step + first) mod modulus`, which have no pattern that hides a mistake.
    fn pattern(count: usize, step: usize, first: usize, modulus: usize) -> Vec<usize> {
        (0..count).map(|at| (at * step + first) % modulus).collect()
    }

    fn floats(numbers: Vec<usize>, less: f32, divisor: f32) -> Vec<f32> {
        numbers.into_iter().map(|number| (number as f32 - less) / divisor).collect()
    }

    fn bytes(numbers: Vec<usize>) -> Vec<u8> {
        numbers.into_iter().map(|number| number as u8).collect()
    }

    /// A product of `rows` rows with weights whose zero points are of this kind.
    #[derive(Clone, Copy)]
    struct Product {
        bits: usize,
        block: usize,
        depth: usize,
        columns: usize,
        rows: usize,
        zeros: &'static str,
        grouped: bool,
    }

    fn plain(bits: usize, block: usize, [depth, columns, rows]: [usize; 3]) -> Product {
        Product { bits, block, depth, columns, rows, zeros: "", grouped: false }
    }

    impl Product {
        fn blocks(&self) -> usize {
            self.depth.div_ceil(self.block)
        }

        fn blob(&self) -> usize {
            self.block * self.bits / 8
        }

        fn packed(&self) -> usize {
            (self.blocks() * self.bits).div_ceil(8)
        }

        fn a(&self) -> Vec<f32> {
            floats(pattern(self.rows * self.depth, 7, 3, 11), 5.0, 4.0)
        }

        fn b(&self) -> Vec<u8> {
            bytes(pattern(self.columns * self.blocks() * self.blob(), 37, 11, 256))
        }

        fn scales(&self) -> Vec<f32> {
            floats(pattern(self.columns * self.blocks(), 3, 1, 7), -1.0, 16.0)
        }

        fn packed_zeros(&self) -> Vec<u8> {
            bytes(pattern(self.columns * self.packed(), 29, 5, 256))
        }

        fn float_zeros(&self) -> Vec<f32> {
            floats(pattern(self.columns * self.blocks(), 5, 2, 13), 0.0, 2.0)
        }

        fn groups(&self) -> Vec<i32> {
            pattern(self.depth, 5, 1, self.blocks()).iter().map(|group| *group as i32).collect()
        }

        fn node(&self) -> Case {
            let int = |size: usize| size as i64;
            let node = microsoft("MatMulNBits").int("K", int(self.depth));
            let node = node.int("N", int(self.columns)).int("bits", int(self.bits));
            node.int("block_size", int(self.block))
        }

        fn case(&self) -> Case {
            let shape = [self.columns, self.blocks()];
            let node = self.node().input(tensor(&[self.rows, self.depth], &self.a()));
            let node = node.input(tensor(&[shape[0], shape[1], self.blob()], &self.b()));
            let node = node.input(tensor(&shape, &self.scales()));
            let node = match self.zeros {
                "" => node.missing(),
                "packed" => {
                    node.input(tensor(&[self.columns, self.packed()], &self.packed_zeros()))
                }
                "row" => node.input(row(&self.packed_zeros())),
                _ => node.input(tensor(&shape, &self.float_zeros())),
            };
            if self.grouped { node.input(row(&self.groups())) } else { node.missing() }
        }

        /// The product in float64, by the documentation.
        fn expected(&self) -> Tensor {
            let code = |bytes: &[u8], bit: usize| {
                f64::from(bytes[bit / 8] >> (bit % 8) & (255 >> (8 - self.bits)) as u8)
            };
            let (a, b, scales) = (self.a(), self.b(), self.scales());
            let (packed, float_zeros) = (self.packed_zeros(), self.float_zeros());
            let mut expected = vec![];
            for row in 0..self.rows {
                for column in 0..self.columns {
                    let mut sum = 0.0;
                    for at in 0..self.depth {
                        let block = at / self.block;
                        let group = if self.grouped { self.groups()[at] as usize } else { block };
                        let blob = &b[(column * self.blocks() + block) * self.blob()..];
                        let zero = match self.zeros {
                            "" => f64::from(1 << (self.bits - 1)),
                            "float" => f64::from(float_zeros[column * self.blocks() + group]),
                            _ => code(&packed[column * self.packed()..], group * self.bits),
                        };
                        let weight = (code(blob, at % self.block * self.bits) - zero)
                            * f64::from(scales[column * self.blocks() + group]);
                        sum += weight * f64::from(a[row * self.depth + at]);
                    }
                    expected.push(sum as f32);
                }
            }
            tensor(&[self.rows, self.columns], &expected)
        }
    }

    #[test]
    fn weights_of_2_4_and_8_bits_are_multiplied_as_documented() {
        for bits in [2, 4, 8] {
            for zeros in ["", "packed", "float", "row"] {
                for (block, sizes) in [
                    (16, [40, 5, 3]),
                    (16, [33, 2, 1]),
                    (32, [64, 6, 1]),
                    (128, [256, 3, 2]),
                    (64, [1100, 4, 2]),
                    (2048, [2100, 5, 2]),
                ] {
                    let product = Product { zeros, ..plain(bits, block, sizes) };
                    product.case().gives_within(product.expected(), 1e-3);
                }
            }
        }
    }

    #[test]
    fn products_are_those_of_onnxruntime() {
        let packed = Product { zeros: "packed", ..plain(4, 32, [64, 6, 1]) };
        let expected = [-9.140625f32, 0.21875, 4.375, 10.0, -1.5, -15.28125];
        packed.case().gives(tensor(&[1, 6], &expected));
        let small = Product { zeros: "packed", ..plain(2, 32, [64, 6, 1]) };
        let expected = [0.9375f32, 0.359375, -1.578125, -3.75, -1.078125, 0.640625];
        small.case().gives(tensor(&[1, 6], &expected));
        let small = plain(2, 16, [48, 3, 2]);
        let expected = [1.3125f32, 0.046875, -3.1875, -1.0625, -1.609375, 1.609375];
        small.case().gives(tensor(&[2, 3], &expected));
        let float = Product { zeros: "float", ..plain(4, 16, [48, 3, 2]) };
        let expected = [-1.2890625f32, -2.96875, 4.6953125, 0.2109375, -1.5078125, 6.671875];
        float.case().gives(tensor(&[2, 3], &expected));
        let wide = Product { zeros: "packed", ..plain(8, 32, [64, 2, 2]) };
        let expected = [11.765625f32, -14.09375, -47.484375, 13.578125];
        wide.case().gives(tensor(&[2, 2], &expected));
    }

    #[test]
    fn groups_choose_scales_and_zero_points() {
        // onnxruntime chooses other zero points if they are packed, and the same without them.
        for zeros in ["", "packed", "float"] {
            let product = Product { zeros, grouped: true, ..plain(4, 16, [48, 3, 2]) };
            product.case().gives_within(product.expected(), 1e-4);
        }
    }

    #[test]
    fn bias_is_added_and_batches_keep_their_dimensions() {
        let product = plain(4, 16, [40, 5, 2]);
        let sum: Vec<f32> = {
            let expected = product.expected();
            let view = expected.to_plain_array_view::<f32>().unwrap();
            view.iter().enumerate().map(|(at, value)| value + (at % 5) as f32).collect()
        };
        let bias = row(&[0f32, 1.0, 2.0, 3.0, 4.0]);
        product.case().input(bias).gives_within(tensor(&[2, 5], &sum), 1e-4);
        let batch = product.node().input(tensor(&[2, 1, 40], &product.a()));
        let batch = batch.input(tensor(&[5, 3, 8], &product.b()));
        let expected = product.expected().into_shape(&[2, 1, 5]).unwrap();
        batch.input(row(&product.scales())).gives_within(expected, 1e-4);
    }

    #[test]
    fn omitted_weights_are_zero() {
        let product = plain(4, 16, [40, 5, 2]);
        for shape in [[0, 3, 8], [5, 0, 8], [5, 3, 0]] {
            let node = product.node().input(tensor(&[2, 40], &product.a()));
            let node = node.input(tensor::<u8>(&shape, &[])).input(tensor::<f32>(&[0, 3], &[]));
            node.clone().gives(tensor(&[2, 5], &[0f32; 10]));
            let bias = row(&[0f32, 1.0, 2.0, 3.0, 4.0]);
            let twice = [0f32, 1.0, 2.0, 3.0, 4.0, 0.0, 1.0, 2.0, 3.0, 4.0];
            node.missing().missing().input(bias).gives(tensor(&[2, 5], &twice));
        }
        let none = product.node().input(tensor::<f32>(&[0, 40], &[]));
        let none = none.input(tensor(&[5, 3, 8], &product.b())).input(row(&product.scales()));
        none.gives(tensor::<f32>(&[0, 5], &[]));
    }

    #[test]
    fn codes_beyond_the_end_of_a_row_do_not_count() {
        // One weight of zero in the last block, and codes that are infinite with its scale.
        for bits in [4, 8] {
            let product = plain(bits, 16, [17, 1, 1]);
            let zero: u8 = if bits == 4 { 0x88 } else { 0x80 };
            let mut codes = vec![zero; 2 * product.blob()];
            codes[product.blob() + 1..].fill(0xff);
            let node = product.node().input(tensor(&[1, 17], &[1f32; 17]));
            let node = node.input(tensor(&[1, 2, product.blob()], &codes));
            node.input(row(&[1f32, f32::MAX])).gives(tensor(&[1, 1], &[0f32]));
        }
    }

    #[test]
    fn sizes_that_do_not_match_are_refused() {
        let product = plain(4, 16, [40, 5, 1]);
        let with = |a: &[usize], b: &[usize], scales: &[usize]| {
            let ones = |shape: &[usize]| tensor(shape, &vec![1f32; shape.iter().product()]);
            let node = product.node().input(ones(a));
            node.input(tensor(b, &vec![0u8; b.iter().product()])).input(ones(scales))
        };
        with(&[1, 39], &[5, 3, 8], &[5, 3]).fails("39");
        with(&[1, 40], &[5, 3, 7], &[5, 3]).fails("expected weights");
        with(&[1, 40], &[5, 2, 8], &[5, 3]).fails("expected weights");
        with(&[1, 40], &[5, 24], &[5, 3]).fails("expected weights");
        with(&[1, 40], &[0, 2, 8], &[5, 3]).fails("expected weights");
        with(&[1, 40], &[5, 3, 8], &[5, 2]).fails("expected scales");
        with(&[1, 40], &[5, 3, 8], &[14]).fails("expected scales");
        with(&[], &[5, 3, 8], &[5, 3]).fails("no dimensions");
        let whole = || with(&[1, 40], &[5, 3, 8], &[5, 3]);
        whole().input(tensor(&[5, 3], &[0u8; 15])).fails("expected zero points");
        whole().input(tensor(&[5, 2], &[0f32; 10])).fails("expected zero points");
        whole().missing().input(row(&[0i32; 39])).fails("group indices");
        whole().missing().input(row(&[3i32; 40])).fails("the group index 3");
        whole().missing().input(row(&[-1i32; 40])).fails("the group index -1");
        whole().missing().missing().input(row(&[0f32; 4])).fails("expected a bias");
        whole().int("block_size", 24).fails("24");
        whole().int("bits", 5).fails("5 bits");
        whole().int("bits", 3).fails("3 bits");
        whole().int("N", 0).fails("\"N\"");
    }
}
