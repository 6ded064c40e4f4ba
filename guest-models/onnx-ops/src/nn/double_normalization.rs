//! LayerNormalization, RMSNormalization, GroupNormalization and LRN (ONNX) of float64, computed in
//! float64. tract computes the first three in float32 and has no LRN of float64.

use tract_onnx::tract_hir::internal::*;

use crate::framework::axes::resolve;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, like, optional, required, with_dims};
use crate::framework::operator::{Operator, wire_operator};
use crate::framework::tensors::Bits;
use crate::framework::wrapped::Wrapped;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// Each slice from an axis on has the mean 0 and the variance 1.
    Layer { axis: i64, epsilon: Bits },
    /// The mean of the squares of each slice from an axis on is 1.
    Rms { axis: i64, epsilon: Bits },
    /// Each group of channels of a sample has the mean 0 and the variance 1.
    Group { groups: usize, epsilon: Bits },
    /// Each element is divided by a power of the sum of squares of the channels around it.
    Local { size: usize, alpha: Bits, beta: Bits, bias: Bits },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Normalization(Kind);

/// Whether this is a tensor of float64, which the functions below normalize.
pub(super) fn is_double(model: &TypedModel, input: OutletId) -> TractResult<bool> {
    Ok(model.outlet_fact(input)?.datum_type == f64::datum_type())
}

/// Adds the node of an operator to a model.
pub(super) fn wire_double(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let float = |name, default| Bits::of(&op.node, name, default);
    let (axis, epsilon) = (op.int("axis", -1)?, float("epsilon", 1e-5)?);
    let size = |name| usize::try_from(op.int(name, 1)?.max(1)).map_err(TractError::from);
    let kind = match &*op.node.op_type {
        "LayerNormalization" => Kind::Layer { axis, epsilon },
        "RMSNormalization" => Kind::Rms { axis, epsilon },
        "GroupNormalization" => Kind::Group { groups: size("num_groups")?, epsilon },
        _ => Kind::Local {
            size: size("size")?,
            alpha: float("alpha", 0.0001)?,
            beta: float("beta", 0.75)?,
            bias: float("bias", 1.0)?,
        },
    };
    wire_operator(Normalization(kind), &op.node, prefix, model, inputs)
}

impl Normalization {
    /// Subtracts the mean of each row, if that is asked for, and divides by the root of the mean
    /// square. Returns the means and the inverse roots.
    fn normalize(
        values: &mut [f64],
        width: usize,
        centered: bool,
        epsilon: f64,
    ) -> (Vec<f32>, Vec<f32>) {
        let (mut means, mut inverses) = (vec![], vec![]);
        for row in values.chunks_mut(width.max(1)) {
            let count = row.len() as f64;
            let mean = if centered { row.iter().sum::<f64>() / count } else { 0.0 };
            row.iter_mut().for_each(|x| *x -= mean);
            let square = row.iter().map(|x| *x * *x).sum::<f64>() / count;
            let deviation = (square + epsilon).sqrt();
            row.iter_mut().for_each(|x| *x /= deviation);
            means.push(mean as f32);
            inverses.push(deviation.recip() as f32);
        }
        (means, inverses)
    }
}

/// Multiplies with a tensor that is broadcast, and adds another one.
fn scale(values: &mut Tensor, scale: &Tensor, bias: Option<&Tensor>) -> TractResult<()> {
    let shape: TVec<usize> = values.shape().into();
    let fits = "the scale or the bias does not fit the input";
    let mut values = values.try_as_plain_ram_mut()?;
    let mut values = values.to_array_view_mut::<f64>()?;
    let scale = scale.to_plain_array_view::<f64>()?;
    values *= &scale.broadcast(&*shape).or_user_error(fits)?;
    if let Some(bias) = bias {
        let bias = bias.to_plain_array_view::<f64>()?;
        values += &bias.broadcast(&*shape).or_user_error(fits)?;
    }
    Ok(())
}

/// A tensor with a number for each channel, which is the second of these dimensions.
fn by_channel(tensor: &Tensor, rank: usize) -> TractResult<Tensor> {
    let mut shape = tvec![1; rank];
    shape[1] = tensor.len();
    tensor.clone().into_shape(&shape)
}

fn local(x: &Tensor, size: usize, [alpha, beta, bias]: [f64; 3]) -> TractResult<Tensor> {
    let plain = x.try_as_plain_ram()?;
    let values = plain.as_slice::<f64>()?;
    let channels = x.shape()[1];
    let inner: usize = x.shape()[2..].iter().product();
    let result = values.iter().enumerate().map(|(at, value)| {
        let channel = at / inner % channels;
        let first = channel.saturating_sub((size - 1) / 2);
        let last = (channel + size / 2).min(channels - 1);
        let start = at - channel * inner;
        let squares = (first..=last).map(|channel| values[start + channel * inner].powi(2));
        value / (bias + alpha / size as f64 * squares.sum::<f64>()).powf(beta)
    });
    Tensor::from_shape(x.shape(), &result.collect::<Vec<f64>>())
}

impl Operator for Normalization {
    fn name(&self) -> &'static str {
        match self.0 {
            Kind::Layer { .. } => "LayerNormalization",
            Kind::Rms { .. } => "RMSNormalization",
            Kind::Group { .. } => "GroupNormalization",
            Kind::Local { .. } => "LRN",
        }
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let x = required(inputs, 0)?;
        let Kind::Layer { axis, .. } = self.0 else { return Ok(tvec!(like(x))) };
        let kept = resolve(axis, x.rank())?;
        let dims = x.shape.iter().enumerate();
        let dims = dims.map(|(axis, dim)| if axis < kept { dim.clone() } else { 1.to_dim() });
        let moments = with_dims(f32::datum_type(), dims);
        Ok(tvec!(like(x), moments.clone(), moments))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let x = *required(inputs, 0)?;
        let rank = x.rank();
        if let Kind::Local { size, alpha, beta, bias } = &self.0 {
            let factors = [alpha, beta, bias].map(|bits| f64::from(bits.get()));
            return Ok(tvec!(local(x, *size, factors)?));
        }
        let mut result = x.clone();
        let (width, centered, epsilon, kept) = match self.0 {
            Kind::Layer { axis, epsilon } | Kind::Rms { axis, epsilon } => {
                let axis = resolve(axis, rank)?;
                let width: usize = x.shape()[axis..].iter().product();
                (width, matches!(self.0, Kind::Layer { .. }), epsilon, axis)
            }
            Kind::Group { groups, epsilon } => {
                let [_, channels, inner @ ..] = x.shape() else {
                    bail!("expected a tensor with channels, found {rank} dimensions")
                };
                let fits = groups > 0 && channels % groups == 0;
                ensure!(fits, "{channels} channels cannot be divided into {groups} groups");
                let width = channels / groups * inner.iter().product::<usize>();
                (width, true, epsilon, rank)
            }
            Kind::Local { .. } => bail!("internal error: not a normalization of slices"),
        };
        let mut plain = result.try_as_plain_ram_mut()?;
        let values = plain.as_slice_mut::<f64>()?;
        let epsilon = f64::from(epsilon.get());
        let (means, inverses) = Normalization::normalize(values, width, centered, epsilon);
        let (by, bias) = (*required(inputs, 1)?, optional(inputs, 2).copied());
        if let Kind::Group { .. } = self.0 {
            let bias = bias.map(|bias| by_channel(bias, rank)).transpose()?;
            scale(&mut result, &by_channel(by, rank)?, bias.as_ref())?;
            return Ok(tvec!(result));
        }
        scale(&mut result, by, bias)?;
        if !centered {
            return Ok(tvec!(result));
        }
        let mut shape = x.shape().to_vec();
        shape[kept..].fill(1);
        let moments = [means, inverses].map(|numbers| Tensor::from_shape(&shape, &numbers));
        let [means, inverses] = moments;
        Ok(tvec!(result, means?, inverses?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, tensor};

    /// Near 10⁸, where float32 has steps of 8.
    const FAR: f64 = 1e8;

    #[test]
    fn layer_normalization_of_float64_is_computed_in_float64() {
        let norm = || {
            let case = case("LayerNormalization").float("epsilon", 0.0);
            let data = [FAR + 1.0, FAR + 3.0, 10.0, 30.0];
            case.input(tensor(&[2, 2], &data)).input(row(&[1f64, 2.0]))
        };
        norm().gives_near(tensor(&[2, 2], &[-1f64, 2.0, -1.0, 2.0]), 1e-14);
        let outputs = norm().input(row(&[0.5f64, 0.0])).outputs(3);
        let means = tensor(&[2, 1], &[(FAR + 2.0) as f32, 20.0]);
        let inverses = tensor(&[2, 1], &[1f32, 0.1]);
        let expected = tensor(&[2, 2], &[-0.5f64, 2.0, -0.5, 2.0]);
        outputs.gives_all_near(&[expected, means, inverses], 1e-7);
        norm().int("axis", 2).fails("2");
        norm().input(row(&[1f64, 2.0, 3.0])).fails("");
    }

    #[test]
    fn rms_normalization_of_float64_is_computed_in_float64() {
        let norm = case("RMSNormalization").float("epsilon", 0.25);
        let norm = norm.input(tensor(&[1, 2], &[1f64, 7.0])).input(row(&[1f64, 2.0]));
        let root = 25.25f64.sqrt();
        norm.gives_near(tensor(&[1, 2], &[1.0 / root, 14.0 / root]), 1e-14);
    }

    #[test]
    fn group_normalization_of_float64_is_computed_in_float64() {
        let norm = |groups| {
            let norm = case("GroupNormalization").int("num_groups", groups).float("epsilon", 0.0);
            let data = [FAR + 1.0, FAR + 1.0, FAR + 3.0, FAR + 3.0];
            let norm = norm.input(tensor(&[1, 2, 2], &data));
            norm.input(row(&[1f64, 10.0])).input(row(&[0f64, 5.0]))
        };
        norm(1).gives_near(tensor(&[1, 2, 2], &[-1f64, -1.0, 15.0, 15.0]), 1e-14);
        norm(3).fails("3");
    }

    #[test]
    fn lrn_of_float64_is_computed_in_float64() {
        let node = case("LRN").int("size", 3).float("alpha", 3.0).float("beta", 0.5);
        let node = node.float("bias", 2.0).input(tensor(&[1, 3, 1], &[1f64, 2.0, -3.0]));
        // The sums are 5, 14 and 13, to which 2 is added.
        let expected = [1.0 / 7f64.sqrt(), 2.0 / 4.0, -3.0 / 15f64.sqrt()];
        node.gives_near(tensor(&[1, 3, 1], &expected), 1e-14);
    }
}
