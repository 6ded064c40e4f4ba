//! QLinearMatMul (ONNX, operator set 10) and QLinearConv (10): exact sums of integer products,
//! scaled and rounded once to the nearest even.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::{advance, strides, volume};
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{
    InputFact, OutputFact, known_shapes, optional, required, unknown_dims, with_dims,
};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{floats, ints, rounded, shapes};
use crate::framework::upstream::BuildResult;
use crate::nn::window_spec::WindowSpec;

pub(crate) const OPERATORS: &[Registration] =
    &[own("QLinearMatMul", |_, node| built(MatMul, node)), own("QLinearConv", build_q_linear_conv)];

/// Builds QLinearConv of ONNX, and that of `com.microsoft`, which may have its channels last.
pub(crate) fn build_q_linear_conv(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let groups = node.get_attr_opt("group")?.unwrap_or(1);
    let channels_last = node.get_attr_opt::<i64>("channels_last")?.unwrap_or(0) != 0;
    built(Conv { spec: WindowSpec::of(node)?, groups, channels_last }, node)
}

/// The one number of a tensor.
fn one(tensor: &Tensor) -> TractResult<f64> {
    let [value] = *floats(tensor)? else {
        bail!("expected one scale and one zero point, found {}", tensor.len())
    };
    Ok(value)
}

/// Integers minus their zero point, of which there is one, or one for each row.
fn subtract_zero_point(tensor: &Tensor, zero: &Tensor, row: usize) -> TractResult<Vec<i32>> {
    let zeros = ints(zero)?;
    let rows = if zeros.len() == 1 { usize::MAX } else { row.max(1) };
    let known = zeros.len() == 1 || zeros.len() * row == tensor.len();
    ensure!(known, "{} zero points do not match the scales", zeros.len());
    let values = ints(tensor)?.into_iter().enumerate();
    Ok(values.map(|(at, value)| (value - zeros[at / rows]) as i32).collect())
}

/// The factor between sums and results. Scales are multiplied in their own type.
fn factor(x: f64, w: f64, y: f64, dtype: DatumType) -> TractResult<f64> {
    let factor = rounded(dtype, rounded(dtype, x * w) / y);
    let sound = [x, w, y].iter().all(|scale| scale.is_finite() && *scale > 0.0);
    ensure!(sound && factor.is_finite(), "the scales {x}, {w} and {y} give no usable factor");
    Ok(factor)
}

/// Rounds sums to the element type of the results.
fn quantized(
    sums: impl Iterator<Item = f64>,
    zero: &Tensor,
    shape: &[usize],
) -> TractResult<Tensor> {
    let dtype = zero.datum_type();
    let zero = one(zero)?;
    let (min, max) = if dtype == i8::datum_type() { (-128.0, 127.0) } else { (0.0, 255.0) };
    let round = |sum: f64| (sum.round_ties_even() + zero).clamp(min, max) as i64;
    let values: Vec<i64> = sums.map(round).collect();
    Ok(Tensor::from_shape(shape, &values)?.cast_to_dt(dtype)?.into_owned())
}

/// The largest number of products whose sum fits 32 bits.
const MAX_PRODUCTS: usize = 1 << 14;

#[derive(Clone, Debug, PartialEq, Eq)]
struct MatMul;

/// The shape of a product, and that of its rows and columns.
fn product(a: &[usize], b: &[usize]) -> TractResult<(Vec<usize>, [usize; 3])> {
    let ([a_batch @ .., rows, deep], [b_batch @ .., of, columns]) = (a, b) else {
        bail!("multiplying the shapes {a:?} and {b:?} is not implemented")
    };
    ensure!(deep == of, "matrices of the shapes {a:?} and {b:?} cannot be multiplied");
    let rank = a_batch.len().max(b_batch.len());
    let dim =
        |batch: &[usize], at: usize| (at + batch.len()).checked_sub(rank).map_or(1, |at| batch[at]);
    let mut shape = Vec::with_capacity(rank + 2);
    for at in 0..rank {
        let (a_dim, b_dim) = (dim(a_batch, at), dim(b_batch, at));
        ensure!(
            a_dim == b_dim || a_dim == 1 || b_dim == 1,
            "matrices of the shapes {a:?} and {b:?} cannot be multiplied"
        );
        shape.push(if a_dim == 1 { b_dim } else { a_dim });
    }
    shape.extend([*rows, *columns]);
    volume(&shape)?;
    Ok((shape, [*rows, *deep, *columns]))
}

/// The offset of a matrix in a batch.
fn matrix(place: &[usize], shape: &[usize]) -> usize {
    let batch = &shape[..shape.len() - 2];
    let strides = strides(shape);
    let place = &place[place.len() - batch.len()..];
    let each = place.iter().zip(batch).zip(&strides);
    each.map(|((at, size), stride)| if *size == 1 { 0 } else { at * stride }).sum()
}

impl Operator for MatMul {
    fn name(&self) -> &'static str {
        "QLinearMatMul"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let dtype = required(inputs, 7)?.dtype;
        let (a, b) = (required(inputs, 0)?, required(inputs, 3)?);
        Ok(tvec!(match known_shapes(inputs) {
            Some(shapes) => {
                let (shape, _) = product(required(&shapes, 0)?, required(&shapes, 3)?)?;
                with_dims(dtype, shape.into_iter().map(|dim| dim.to_dim()))
            }
            None => unknown_dims(dtype, a.rank().max(b.rank())),
        }))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let given = |at| required(inputs, at).copied();
        let (a, b) = (given(0)?, given(3)?);
        let (shape, [rows, deep, columns]) = product(a.shape(), b.shape())?;
        let dtype = given(1)?.datum_type();
        let factor = factor(one(given(1)?)?, one(given(4)?)?, one(given(6)?)?, dtype)?;
        for zero in [given(2)?, given(5)?] {
            ensure!(
                zero.len() == 1,
                "expected one zero point, found {}: more are not implemented",
                zero.len()
            );
        }
        ensure!(
            deep <= MAX_PRODUCTS,
            "sums of more products than fit ({deep}) are not implemented"
        );
        let (left, right) =
            (subtract_zero_point(a, given(2)?, 1)?, subtract_zero_point(b, given(5)?, 1)?);
        let batch = &shape[..shape.len() - 2];
        let mut sums = vec![0i32; volume(&shape)?];
        let mut place = vec![0; batch.len()];
        for result in sums.chunks_mut((rows * columns).max(1)) {
            let left = &left[matrix(&place, a.shape())..];
            let right = &right[matrix(&place, b.shape())..];
            for (row, to) in result.chunks_mut(columns.max(1)).enumerate() {
                for at in 0..deep {
                    let factor = left[row * deep + at];
                    let from = &right[at * columns..][..columns];
                    to.iter_mut().zip(from).for_each(|(to, value)| *to += factor * value);
                }
            }
            advance(&mut place, batch);
        }
        let scaled = sums.into_iter().map(|sum| f64::from(sum) * factor);
        Ok(tvec!(quantized(scaled, given(7)?, &shape)?))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Conv {
    spec: WindowSpec,
    groups: usize,
    /// Whether the last dimension of images is that of their channels, and not the second.
    channels_last: bool,
}

impl Conv {
    /// The shape of the output with its channels second, and the padding before each axis.
    fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<(Vec<usize>, Vec<usize>)> {
        let (mut x, w) = (required(shapes, 0)?.clone(), required(shapes, 3)?);
        if self.channels_last && x.len() > 2 {
            x[1..].rotate_right(1);
        }
        let ([batch, channels, image @ ..], [outputs, of, kernel @ ..]) = (&*x, &**w) else {
            bail!("the image's shape {x:?} does not match the weights' shape {w:?}")
        };
        let groups = self.groups;
        let grouped =
            groups > 0 && of.checked_mul(groups) == Some(*channels) && outputs % groups == 0;
        let fits = image.len() == kernel.len() && !image.is_empty() && !kernel.contains(&0);
        ensure!(
            grouped && fits,
            "weights of the shape {w:?} in {groups} groups do not match an image of the shape {x:?}"
        );
        let matches = self.spec.kernel.is_empty() || self.spec.kernel == kernel;
        ensure!(
            matches,
            "the weights have a kernel of {kernel:?}, but kernel_shape says {:?}",
            self.spec.kernel
        );
        ensure!(
            volume(&w[1..])? <= MAX_PRODUCTS,
            "weights of the shape {w:?} are too large to sum exactly, which is not implemented"
        );
        let (mut to, mut before) = (vec![*batch, *outputs], vec![]);
        for (axis, size) in image.iter().enumerate() {
            let (count, pad) = self.spec.count(kernel, axis, *size)?;
            to.push(count);
            before.push(pad);
        }
        if let Some(bias) = optional(shapes, 8) {
            ensure!(
                **bias == [*outputs],
                "the bias has the shape {bias:?}, expected one value for each of {outputs} channels"
            );
        }
        volume(&to)?;
        Ok((to, before))
    }

    /// Adds the products of one kernel position and one channel.
    fn add(
        &self,
        sums: &mut [i32],
        to: &[usize],
        (plane, image): (&[i32], &[usize]),
        (within, before): (&[usize], &[usize]),
        weight: i32,
    ) {
        let last = image.len() - 1;
        let from = strides(image);
        let mut at = vec![0; last];
        let (stride, width) = (self.spec.stride(last), image[last]);
        let shift = within[last] * self.spec.dilation(last);
        for row in sums.chunks_mut(to[last].max(1)) {
            let mut start = Some(0);
            for axis in 0..last {
                let place =
                    at[axis] * self.spec.stride(axis) + within[axis] * self.spec.dilation(axis);
                let place = place.checked_sub(before[axis]).filter(|place| *place < image[axis]);
                start = start.zip(place).map(|(start, place)| start + place * from[axis]);
            }
            if let Some(start) = start {
                let line = &plane[start..start + width];
                for (column, sum) in row.iter_mut().enumerate() {
                    if let Some(value) = (column * stride + shift)
                        .checked_sub(before[last])
                        .and_then(|x| line.get(x))
                    {
                        *sum += weight * value;
                    }
                }
            }
            advance(&mut at, &to[..last]);
        }
    }
}

impl Operator for Conv {
    fn name(&self) -> &'static str {
        "QLinearConv"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let dtype = required(inputs, 7)?.dtype;
        Ok(tvec!(match known_shapes(inputs) {
            Some(shapes) => {
                let mut shape = self.sizes(&shapes)?.0;
                if self.channels_last {
                    shape[1..].rotate_left(1);
                }
                with_dims(dtype, shape.into_iter().map(|dim| dim.to_dim()))
            }
            None => unknown_dims(dtype, required(inputs, 0)?.rank()),
        }))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let given = |at| required(inputs, at).copied();
        let (to, before) = self.sizes(&shapes(inputs))?;
        let (x, w) = (given(0)?, given(3)?);
        let moved;
        let x = if self.channels_last {
            let mut order: Vec<usize> = (0..x.rank()).collect();
            order[1..].rotate_right(1);
            moved = x.clone().permute_axes(&order)?;
            &moved
        } else {
            x
        };
        let (image, kernel) = (&x.shape()[2..], &w.shape()[2..]);
        let (area, places) = (image.iter().product::<usize>(), kernel.iter().product::<usize>());
        let (outputs, of) = (w.shape()[0], w.shape()[1]);
        ensure!(
            given(2)?.len() == 1,
            "expected one zero point for the image, found {}",
            given(2)?.len()
        );
        let scales = floats(given(4)?)?;
        ensure!(
            [1, outputs].contains(&scales.len()),
            "{} weight scales do not match the output channels",
            scales.len()
        );
        let zeros = given(5)?.len();
        let matching = zeros == 1 || zeros == scales.len();
        ensure!(matching, "{zeros} zero points do not match {} scales", scales.len());
        let (x_scale, y_scale) = (one(given(1)?)?, one(given(6)?)?);
        let factor = |scale: &f64| factor(x_scale, *scale, y_scale, f32::datum_type());
        let factors: Vec<f64> = scales.iter().map(factor).collect::<TractResult<_>>()?;
        let pixels = subtract_zero_point(x, given(2)?, 1)?;
        let weights = subtract_zero_point(w, given(5)?, of * places)?;
        let bias = optional(inputs, 8).map(|bias| ints(bias)).transpose()?;
        let plane = to[2..].iter().product::<usize>();
        let mut results = Vec::with_capacity(volume(&to)?);
        for (one, output) in (0..to[0]).flat_map(|one| (0..outputs).map(move |o| (one, o))) {
            let mut sums = vec![0i32; plane];
            let group = output / (outputs / self.groups);
            for channel in 0..of {
                let from = ((one * self.groups + group) * of + channel) * area;
                let mut within = vec![0; kernel.len()];
                for place in 0..places {
                    let weight = weights[(output * of + channel) * places + place];
                    let pixels = &pixels[from..from + area];
                    self.add(&mut sums, &to[2..], (pixels, image), (&within, &before), weight);
                    advance(&mut within, kernel);
                }
            }
            let factor = factors[output % factors.len()];
            let bias = bias.as_ref().map_or(0, |bias| bias[output]);
            let scaled = sums.into_iter().map(|sum| (i64::from(sum) + bias) as f64 * factor);
            results.extend(scaled);
        }
        let mut result = quantized(results.into_iter(), given(7)?, &to)?;
        if self.channels_last {
            let mut order: Vec<usize> = (0..to.len()).collect();
            order[1..].rotate_left(1);
            result = result.permute_axes(&order)?;
        }
        Ok(tvec!(result))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, row, scalar, tensor};

    #[test]
    fn qlinear_matmul_rounds_ties_to_even_and_saturates() {
        let node = |y_scale: f32, y_zero: u8| {
            let case = case("QLinearMatMul").input(tensor(&[1, 2], &[3u8, 130]));
            let case = case.input(scalar(0.5f32)).input(scalar(1u8));
            let case = case.input(tensor(&[2, 2], &[1u8, 2, 0, 255]));
            case.input(scalar(1f32)).input(scalar(1u8)).input(scalar(y_scale)).input(scalar(y_zero))
        };
        // [2, 129] · [[0, 1], [-1, 254]] = [-129, 32768], times 0.5
        node(256.0, 100).gives(tensor(&[1, 2], &[100u8, 164]));
        node(1.0, 100).gives(tensor(&[1, 2], &[36u8, 255]));
    }

    #[test]
    fn qlinear_matmul_refuses_matrices_that_do_not_fit() {
        let case = case("QLinearMatMul").input(tensor(&[1, 2], &[1i8, 2]));
        let case = case.input(scalar(1f32)).input(scalar(0i8)).input(tensor(&[1, 2], &[1i8, 2]));
        let case = case.input(scalar(1f32)).input(scalar(0i8)).input(scalar(1f32));
        case.input(scalar(0i8)).fails("");
    }

    fn convolution(weights: &[i8]) -> Case {
        let case = case("QLinearConv").input(tensor(&[1, 1, 3], &[10u8, 20, 30]));
        let case = case.input(scalar(0.5f32)).input(scalar(10u8));
        case.input(tensor(&[2, 1, 2], weights))
    }

    #[test]
    fn qlinear_conv_has_scales_by_channel_and_pads_with_its_zero_point() {
        let case = convolution(&[1, 2, -1, 0]).ints("pads", &[1, 0]);
        let case = case.input(row(&[1f32, 0.5])).input(row(&[0i8, 0]));
        let case = case.input(scalar(1f32)).input(scalar(100u8)).input(row(&[2i32, -4]));
        // Centred pixels are 0, 0, 10, 20. Channel 0: (sum + 2) * 0.5, channel 1: (sum - 4) * 0.25.
        case.gives(tensor(&[1, 2, 3], &[101u8, 111, 126, 99, 99, 96]));
    }

    #[test]
    fn qlinear_conv_refuses_a_bias_of_another_size() {
        let case = convolution(&[1, 2, -1, 0]).input(scalar(1f32)).input(scalar(0i8));
        case.input(scalar(1f32)).input(scalar(100u8)).input(row(&[1i32])).fails("2");
    }
}
