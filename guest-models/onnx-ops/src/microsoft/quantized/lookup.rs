//! QLinearSigmoid, QLinearLeakyRelu, QLinearConcat and QLinearWhere: each byte of the result is a
//! function of one byte, so the function is computed once for each of the 256.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::parameters::{check_one, divisor, quantized, range, scale, zero};
use crate::framework::axes::resolve;
use crate::framework::dims::volume;
use crate::framework::errors::ensure;
use crate::framework::facts::{
    InputFact, OutputFact, known_shapes, like, optional, required, unknown_dims, with_dims,
};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{Bits, from_bytes, shapes};
use crate::quantization::shapes::{Broadcast, broadcast_dims};

pub(crate) const OPERATORS: &[Registration] = &[
    own("QLinearSigmoid", |_, node| built(Function::Sigmoid, node))
        .of(belljar_operators::MICROSOFT),
    own("QLinearLeakyRelu", |_, node| {
        built(Function::LeakyRelu { alpha: Bits::of(node, "alpha", 0.01)? }, node)
    })
    .of(belljar_operators::MICROSOFT),
    own("QLinearConcat", |_, node| built(Concat::of(node)?, node)).of(belljar_operators::MICROSOFT),
    own("QLinearWhere", |_, node| built(Where, node)).of(belljar_operators::MICROSOFT),
];

/// The parameters of quantized numbers.
#[derive(Clone, Copy, PartialEq)]
struct Quantization {
    scale: f32,
    zero: i32,
}

impl Quantization {
    /// Those of an operand.
    fn from(inputs: &[Option<&Tensor>], at: usize) -> TractResult<Quantization> {
        let (scale, zero) =
            (scale(required(inputs, at)?)?, zero(optional(inputs, at + 1).copied())?);
        Ok(Quantization { scale, zero })
    }

    /// Those of the result.
    fn to(inputs: &[Option<&Tensor>], at: usize) -> TractResult<Quantization> {
        divisor(required(inputs, at)?)?;
        Quantization::from(inputs, at)
    }

    /// The bytes of a function's results, by the bytes of its numbers.
    fn table(
        self,
        to: Quantization,
        dtype: DatumType,
        function: impl Fn(f32) -> f32,
    ) -> TractResult<Vec<u8>> {
        let range = range(dtype)?;
        let result = |byte: u8| {
            let value =
                if dtype == i8::datum_type() { i32::from(byte as i8) } else { i32::from(byte) };
            let number = function(self.scale * (value - self.zero) as f32);
            // Of a negative number, the byte in two's complement.
            quantized(number / to.scale, to.zero, range) as u8
        };
        Ok((0..=u8::MAX).map(result).collect())
    }
}

/// Checks that scales and zero points are one number each.
fn check_each_one(inputs: &[Option<InputFact>], scales: &[usize]) -> TractResult<()> {
    scales.iter().try_for_each(|at| {
        check_one(inputs, *at, "a scale")?;
        check_one(inputs, at + 1, "a zero point")
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Sigmoid,
    LeakyRelu { alpha: Bits },
}

impl Operator for Function {
    fn name(&self) -> &'static str {
        match self {
            Function::Sigmoid => "QLinearSigmoid",
            Function::LeakyRelu { .. } => "QLinearLeakyRelu",
        }
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        check_each_one(inputs, &[1, 3])?;
        Ok(tvec!(like(required(inputs, 0)?)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let x = *required(inputs, 0)?;
        let (from, to) = (Quantization::from(inputs, 1)?, Quantization::to(inputs, 3)?);
        let table = from.table(to, x.datum_type(), |x| match self {
            Function::Sigmoid => (1.0 / (1.0 + (-f64::from(x)).exp())) as f32,
            Function::LeakyRelu { alpha } => {
                if x >= 0.0 {
                    x
                } else {
                    alpha.get() * x
                }
            }
        })?;
        let bytes: Vec<u8> = x.as_bytes().iter().map(|byte| table[usize::from(*byte)]).collect();
        Ok(tvec!(from_bytes(x.datum_type(), x.shape(), &bytes)?))
    }
}

/// A concatenation of tensors with different parameters: after those of the result come a tensor,
/// its scale and its zero point, and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Concat {
    axis: i64,
    count: usize,
}

impl Concat {
    fn of(node: &NodeProto) -> TractResult<Concat> {
        let count = node.input.len().saturating_sub(2);
        ensure!(
            count > 0 && count.is_multiple_of(3),
            "{count} inputs after the first two are not tensors with a scale and a zero point each"
        );
        Ok(Concat { axis: node.get_attr("axis")?, count: count / 3 })
    }

    fn places(&self) -> impl Iterator<Item = usize> {
        (0..self.count).map(|at| 2 + 3 * at)
    }

    /// The axis, and the shape of the result.
    fn shape(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<(usize, Vec<usize>)> {
        let first = required(shapes, 2)?;
        let axis = resolve(self.axis, first.len())?;
        let mut whole = first.clone();
        whole[axis] = 0;
        for at in self.places() {
            let other = required(shapes, at)?;
            let fits = other.len() == first.len()
                && (0..first.len()).all(|dim| dim == axis || other[dim] == first[dim]);
            ensure!(
                fits,
                "tensors of the shapes {first:?} and {other:?} cannot be joined along axis {axis}"
            );
            whole[axis] += other[axis];
        }
        volume(&whole)?;
        Ok((axis, whole))
    }
}

impl Operator for Concat {
    fn name(&self) -> &'static str {
        "QLinearConcat"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let dtype = required(inputs, 1)?.dtype;
        check_each_one(inputs, &[0])?;
        for at in self.places() {
            for (at, wanted) in [(at, dtype), (at + 1, f32::datum_type()), (at + 2, dtype)] {
                let found = required(inputs, at)?.dtype;
                ensure!(
                    found == wanted,
                    "input {at} has the element type {found:?}, expected {wanted:?}"
                );
            }
            check_each_one(inputs, &[at + 1])?;
        }
        let first = required(inputs, 2)?;
        let axis = resolve(self.axis, first.rank())?;
        Ok(tvec!(match known_shapes(inputs) {
            Some(shapes) => {
                with_dims(dtype, self.shape(&shapes)?.1.into_iter().map(|size| size.to_dim()))
            }
            None => {
                let mut dims = unknown_dims(dtype, first.rank());
                for at in self.places() {
                    let other = required(inputs, at)?;
                    ensure!(
                        other.rank() == first.rank(),
                        "tensors of {} and {} dimensions cannot be joined",
                        first.rank(),
                        other.rank()
                    );
                    for (dim, size) in dims.1.iter_mut().zip(&other.shape) {
                        dim.get_or_insert(size.clone());
                    }
                }
                let sizes = self.places().map(|at| Ok(required(inputs, at)?.shape[axis].clone()));
                dims.1[axis] = Some(sizes.sum::<TractResult<TDim>>()?);
                dims
            }
        }))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let (axis, shape) = self.shape(&shapes(inputs))?;
        let dtype = required(inputs, 1)?.datum_type();
        let to = Quantization::to(inputs, 0)?;
        let mut parts = Vec::with_capacity(self.count);
        for at in self.places() {
            let tensor = *required(inputs, at)?;
            let from = Quantization::from(inputs, at + 1)?;
            let table = if from == to { None } else { Some(from.table(to, dtype, |x| x)?) };
            let length: usize = tensor.shape()[axis..].iter().product();
            parts.push((tensor.as_bytes(), table, length));
        }
        let mut bytes = Vec::with_capacity(volume(&shape)?);
        for at in 0..shape[..axis].iter().product::<usize>() {
            for (part, table, length) in &parts {
                let part = &part[at * length..][..*length];
                match table {
                    Some(table) => bytes.extend(part.iter().map(|byte| table[usize::from(*byte)])),
                    None => bytes.extend_from_slice(part),
                }
            }
        }
        Ok(tvec!(from_bytes(dtype, &shape, &bytes)?))
    }
}

/// A choice between the elements of two tensors with different parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Where;

impl Operator for Where {
    fn name(&self) -> &'static str {
        "QLinearWhere"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        check_each_one(inputs, &[2, 5, 7])?;
        let (condition, x, y) = (required(inputs, 0)?, required(inputs, 1)?, required(inputs, 4)?);
        let dims = broadcast_dims(&[&condition.shape, &x.shape, &y.shape])?;
        Ok(tvec!((x.dtype, dims)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let given = |at| required(inputs, at).copied();
        let (condition, x, y) = (given(0)?, given(1)?, given(4)?);
        let dtype = x.datum_type();
        let to = Quantization::to(inputs, 7)?;
        let table = |at| {
            let from = Quantization::from(inputs, at)?;
            if from == to {
                // The same parameters: nothing is rounded.
                return Ok((0..=u8::MAX).collect());
            }
            from.table(to, dtype, |x| x)
        };
        let (x_table, y_table) = (table(2)?, table(5)?);
        let broadcast = Broadcast::of(&[condition.shape(), x.shape(), y.shape()])?;
        let condition = condition.try_as_plain_ram()?;
        let condition = condition.as_slice::<bool>()?;
        let (x, y) = (x.as_bytes(), y.as_bytes());
        let mut bytes = Vec::with_capacity(broadcast.count);
        broadcast.each(|places| {
            bytes.push(match condition[places[0]] {
                true => x_table[usize::from(x[places[1]])],
                false => y_table[usize::from(y[places[2]])],
            });
        });
        Ok(tvec!(from_bytes(dtype, &broadcast.shape, &bytes)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{microsoft, row, scalar, tensor};

    #[test]
    fn q_linear_sigmoid_and_leaky_relu_quantize_again() {
        let node = microsoft("QLinearSigmoid").input(row(&[0u8, 10, 14])).input(scalar(0.5f32));
        // Of -5, 0 and 2.
        let node = node.input(scalar(10u8)).input(scalar(1f32 / 256.0)).input(scalar(0u8));
        node.gives(row(&[2u8, 128, 225]));
        let node = microsoft("QLinearLeakyRelu").float("alpha", 0.25);
        let node = node.input(row(&[-128i8, -4, 127])).input(scalar(1f32)).missing();
        node.clone().input(scalar(2f32)).gives(row(&[-16i8, 0, 64]));
        node.input(scalar(0f32)).fails("0");
    }

    #[test]
    fn q_linear_concat_joins_tensors_of_different_scales() {
        let node = || microsoft("QLinearConcat").input(scalar(0.5f32)).input(scalar(10u8));
        let both = |first| {
            let node = node().input(first).input(scalar(0.5f32)).input(scalar(10u8));
            node.input(tensor(&[2, 1], &[5u8, 200])).input(scalar(1f32)).input(scalar(3u8))
        };
        let first = || tensor(&[2, 2], &[1u8, 2, 3, 4]);
        both(first()).int("axis", -1).gives(tensor(&[2, 3], &[1u8, 2, 14, 3, 4, 255]));
        both(first()).int("axis", 0).fails("axis 0");
        both(row(&[1u8])).int("axis", 0).fails("");
        node().int("axis", 0).input(row(&[1u8])).input(scalar(0.5f32)).fails("2");
    }

    #[test]
    fn q_linear_where_chooses_between_tensors_of_different_scales() {
        let node = microsoft("QLinearWhere").input(tensor(&[2, 1], &[true, false]));
        let node = node.input(row(&[10i8, 20])).input(scalar(1f32)).input(scalar(0i8));
        let node = node.input(scalar(-8i8)).input(scalar(0.25f32)).input(scalar(-4i8));
        let node = node.input(scalar(0.5f32)).input(scalar(1i8));
        node.gives(tensor(&[2, 2], &[21i8, 41, -1, -1]));
    }
}
