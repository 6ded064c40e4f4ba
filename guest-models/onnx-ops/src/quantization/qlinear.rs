//! QLinearMatMul (ONNX, operator set 10), QLinearConv and ConvInteger (10): exact sums of integer
//! products. The first two are scaled and rounded once to the nearest even.

use std::sync::Arc;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::integers::{
    ByteProduct, Bytes, Columns, Rights, Rounding, check_depth, of_bytes, right_shape,
};
use super::native::{self, Convolution, Finish};
use super::packed::Packed;
use super::shapes::{Product, product_dims};
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

pub(crate) const OPERATORS: &[Registration] = &[
    own("QLinearMatMul", |_, node| built(MatMul { packed: None }, node)),
    own("QLinearConv", build_q_linear_conv),
    own("ConvInteger", build_conv_integer),
];

/// Builds QLinearConv of ONNX, and that of `com.microsoft`, which may have its channels last.
pub(crate) fn build_q_linear_conv(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let channels_last = node.get_attr_opt::<i64>("channels_last")?.unwrap_or(0) != 0;
    built(Conv { channels_last, ..Conv::of(node, true)? }, node)
}

fn build_conv_integer(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    built(Conv::of(node, false)?, node)
}

/// The one number of a tensor.
fn one(tensor: &Tensor) -> TractResult<f64> {
    let [value] = *floats(tensor)? else {
        bail!("expected one scale and one zero point, found {}", tensor.len())
    };
    Ok(value)
}

/// The zero points of a tensor as integers. Without one they are zero.
fn zeros(tensor: Option<&Tensor>) -> TractResult<Vec<i32>> {
    tensor.map_or(Ok(vec![0]), |tensor| Ok(Bytes::of(tensor)?.to_vec()))
}

/// The factor between sums and results. Scales are multiplied in their own type.
fn factor(x: f64, w: f64, y: f64, dtype: DatumType) -> TractResult<f64> {
    let factor = rounded(dtype, rounded(dtype, x * w) / y);
    let sound = [x, w, y].iter().all(|scale| scale.is_finite() && *scale > 0.0);
    ensure!(sound && factor.is_finite(), "the scales {x}, {w} and {y} give no usable factor");
    Ok(factor)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct MatMul {
    packed: Option<Packed>,
}

impl Operator for MatMul {
    fn name(&self) -> &'static str {
        "QLinearMatMul"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let dtype = required(inputs, 7)?.dtype;
        let (a, b) = (required(inputs, 0)?, required(inputs, 3)?);
        if let Some(shapes) = known_shapes(inputs) {
            let b = required(&shapes, 3)?;
            Columns::of(required(&shapes, 4)?, b, "scales")?;
            Columns::of(required(&shapes, 5)?, b, "zero points")?;
        }
        Ok(tvec!((dtype, product_dims(&a.shape, &b.shape)?)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let given = |at| required(inputs, at).copied();
        let (a, packed) = (given(0)?, self.packed.as_ref());
        let b_shape = right_shape(inputs, 3, packed)?;
        let sizes = Product::of(a.shape(), b_shape)?;
        let dtype = given(1)?.datum_type();
        let (a_scale, y_scale) = (one(given(1)?)?, one(given(6)?)?);
        let scales = floats(given(4)?)?;
        let factor = |scale: &f64| factor(a_scale, *scale, y_scale, dtype);
        let factors: Vec<f64> = scales.iter().map(factor).collect::<TractResult<_>>()?;
        let by_scale = Columns::of(given(4)?.shape(), b_shape, "scales")?;
        let by_zero = Columns::of(given(5)?.shape(), b_shape, "zero points")?;
        let (left_zeros, right_zeros) = (zeros(Some(given(2)?))?, zeros(Some(given(5)?))?);
        ensure!(
            left_zeros.len() == 1,
            "expected one zero point, found {}: more are not implemented",
            left_zeros.len()
        );
        let rounding = Rounding::of(given(7)?)?;
        let [rows, depth, columns] = sizes.sizes();
        check_depth(depth)?;
        let (left, right) = (Bytes::of(a)?, Rights::of(inputs, 3, packed, false)?);
        let mut results = Vec::with_capacity(volume(&sizes.shape)?);
        for (one, other) in &sizes.pairs {
            let product = ByteProduct {
                left: left.slice(one * rows * depth, rows * depth),
                left_zeros: &left_zeros,
                right: right.matrix(*other, depth * columns),
                right_zeros: by_zero.part(&right_zeros, *other, columns),
                sizes: sizes.sizes(),
            };
            results.extend(product.bytes(by_scale.part(&factors, *other, columns), rounding)?);
        }
        Ok(tvec!(of_bytes(rounding.signed, &sizes.shape, &results)?))
    }

    fn packed(
        &self,
        constants: &[Option<&Arc<Tensor>>],
    ) -> Option<(Arc<dyn Operator>, Vec<usize>)> {
        let packed = Packed::of(constants.get(3).copied().flatten(), false)?;
        Some((Arc::new(MatMul { packed: Some(packed) }), vec![3]))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Conv {
    /// Whether it is QLinearConv, and not ConvInteger.
    linear: bool,
    spec: WindowSpec,
    groups: usize,
    /// Whether the last dimension of images is that of their channels, and not the second.
    channels_last: bool,
}

impl Conv {
    fn of(node: &NodeProto, linear: bool) -> TractResult<Conv> {
        let groups = node.get_attr_opt("group")?.unwrap_or(1);
        Ok(Conv { linear, spec: WindowSpec::of(node)?, groups, channels_last: false })
    }

    /// The positions of the weights, and of both zero points.
    fn places(&self) -> (usize, usize, usize) {
        if self.linear { (3, 2, 5) } else { (1, 2, 3) }
    }

    /// The shape of the output with its channels second, and the padding before each axis.
    fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<(Vec<usize>, Vec<usize>)> {
        let (mut x, w) = (required(shapes, 0)?.clone(), required(shapes, self.places().0)?);
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
        if self.linear {
            check_depth(volume(&w[1..])?)?;
        }
        let (mut to, mut before) = (vec![*batch, *outputs], vec![]);
        for (axis, size) in image.iter().enumerate() {
            let (count, pad) = self.spec.count(kernel, axis, *size)?;
            to.push(count);
            before.push(pad);
        }
        let (_, x_zero, w_zeros) = self.places();
        let count = |at: usize| optional(shapes, at).map_or(1, |shape| shape.iter().product());
        let (x_zero, w_zeros): (usize, usize) = (count(x_zero), count(w_zeros));
        ensure!(x_zero == 1, "expected one zero point for the image, found {x_zero}");
        ensure!(
            w_zeros == 1 || w_zeros == *outputs,
            "{w_zeros} zero points do not match {outputs} output channels"
        );
        if let Some(bias) = optional(shapes, 8).filter(|_| self.linear) {
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
                        *sum = sum.wrapping_add(weight * value);
                    }
                }
            }
            advance(&mut at, &to[..last]);
        }
    }
}

/// A convolution whose sizes and zero points were checked.
struct Sizes<'t> {
    image: &'t [usize],
    kernel: &'t [usize],
    to: &'t [usize],
    before: &'t [usize],
    x: Bytes<'t>,
    x_zero: i32,
    w: Bytes<'t>,
    w_zeros: &'t [i32],
}

impl Sizes<'_> {
    /// The convolution for the host, if it has at most two dimensions.
    fn native(&self, conv: &Conv) -> Option<Convolution<'_>> {
        let rank = self.image.len();
        if rank > 2 || self.to.contains(&0) {
            return None;
        }
        // One dimension is the second one.
        let two = |of: &dyn Fn(usize) -> usize, missing: usize| match rank {
            1 => [missing, of(0)],
            _ => [of(0), of(1)],
        };
        let channels = self.w.len() / self.kernel.iter().product::<usize>().max(1);
        let channels_out = self.to[1] / conv.groups;
        Some(Convolution {
            image: self.x,
            image_zero: self.x_zero,
            weights: self.w,
            weight_zeros: self.w_zeros,
            batch: self.to[0],
            groups: conv.groups,
            channels: [channels / self.to[1], channels_out],
            from: two(&|axis| self.image[axis], 1),
            to: two(&|axis| self.to[axis + 2], 1),
            kernel: two(&|axis| self.kernel[axis], 1),
            strides: two(&|axis| conv.spec.stride(axis), 1),
            dilations: two(&|axis| conv.spec.dilation(axis), 1),
            before: two(&|axis| self.before[axis], 0),
        })
    }

    /// The sums without the host.
    fn sums(&self, conv: &Conv) -> Vec<i32> {
        let (area, places) =
            (self.image.iter().product::<usize>(), self.kernel.iter().product::<usize>());
        let (batch, outputs) = (self.to[0], self.to[1]);
        let of = self.w.len() / (outputs * places).max(1);
        let pixels: Vec<i32> =
            self.x.to_vec().into_iter().map(|value| value - self.x_zero).collect();
        let plane = self.to[2..].iter().product::<usize>();
        let mut all = vec![0i32; batch * outputs * plane];
        for (at, sums) in all.chunks_mut(plane.max(1)).enumerate() {
            let (one, output) = (at / outputs, at % outputs);
            let group = output / (outputs / conv.groups);
            let zero = self.w_zeros[output % self.w_zeros.len()];
            for channel in 0..of {
                let from = ((one * conv.groups + group) * of + channel) * area;
                let mut within = vec![0; self.kernel.len()];
                for place in 0..places {
                    let weight = self.w.get((output * of + channel) * places + place) - zero;
                    let pixels = &pixels[from..from + area];
                    let (image, within_) = ((pixels, self.image), (&within[..], self.before));
                    conv.add(sums, &self.to[2..], image, within_, weight);
                    advance(&mut within, self.kernel);
                }
            }
        }
        all
    }
}

impl Operator for Conv {
    fn name(&self) -> &'static str {
        if self.linear { "QLinearConv" } else { "ConvInteger" }
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let dtype = if self.linear { required(inputs, 7)?.dtype } else { i32::datum_type() };
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
        let (w_at, x_zero_at, w_zero_at) = self.places();
        let (x, w) = (given(0)?, given(w_at)?);
        let moved;
        let x = if self.channels_last {
            let mut order: Vec<usize> = (0..x.rank()).collect();
            order[1..].rotate_right(1);
            moved = x.clone().permute_axes(&order)?;
            &moved
        } else {
            x
        };
        let outputs = w.shape()[0];
        let [x_zero] = *zeros(optional(inputs, x_zero_at).copied())? else {
            bail!("expected one zero point for the image")
        };
        let w_zeros = zeros(optional(inputs, w_zero_at).copied())?;
        let sizes = Sizes {
            image: &x.shape()[2..],
            kernel: &w.shape()[2..],
            to: &to,
            before: &before,
            x: Bytes::of(x)?,
            x_zero,
            w: Bytes::of(w)?,
            w_zeros: &w_zeros,
        };
        let count = volume(&to)?;
        let native = |finish: Finish<'_>| {
            sizes.native(self).is_some_and(|convolution| native::convolution(&convolution, finish))
        };
        if !self.linear {
            let mut sums = vec![0; count];
            if !native(Finish::Sums(&mut sums)) {
                sums = sizes.sums(self);
            }
            return Ok(tvec!(Tensor::from_shape(&to, &sums)?));
        }
        let scales = floats(given(4)?)?;
        ensure!(
            [1, outputs].contains(&scales.len()),
            "{} weight scales do not match the output channels",
            scales.len()
        );
        let matching = w_zeros.len() == 1 || w_zeros.len() == scales.len();
        ensure!(matching, "{} zero points do not match {} scales", w_zeros.len(), scales.len());
        let (x_scale, y_scale) = (one(given(1)?)?, one(given(6)?)?);
        let factor = |scale: &f64| factor(x_scale, *scale, y_scale, f32::datum_type());
        let factors: Vec<f64> = scales.iter().map(factor).collect::<TractResult<_>>()?;
        let bias: Option<Vec<i32>> = match optional(inputs, 8).copied() {
            Some(bias) => Some(ints(bias)?.into_iter().map(|bias| bias as i32).collect()),
            None => None,
        };
        let rounding = Rounding::of(given(7)?)?;
        let mut results = vec![0; count];
        let finish = Finish::Bytes {
            factors: &factors,
            bias: bias.as_deref(),
            rounding,
            results: &mut results,
        };
        if !native(finish) {
            let plane = to[2..].iter().product::<usize>().max(1);
            for (at, (result, sum)) in results.iter_mut().zip(sizes.sums(self)).enumerate() {
                let output = at / plane % outputs;
                let bias = bias.as_ref().map_or(0, |bias| bias[output]);
                let sum = (i64::from(sum) + i64::from(bias)) as f64;
                *result = rounding.byte(sum * factors[output % factors.len()]);
            }
        }
        let mut result = of_bytes(rounding.signed, &to, &results)?;
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
