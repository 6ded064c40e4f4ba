//! QLinearMatMul (ONNX, operator set 10) and QLinearConv (10): products of integers, whose sums are
//! exact, scaled and rounded once at the end, to the nearest even.

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::tract_hir::internal::*;

use super::own::{
    Known, Own, Said, advance, built, floats, ints, known_shapes, needed, optional, rounded,
    shapes, sized, strides, unknown, volume,
};
use super::windows::Lie;

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("QLinearMatMul", |_, node| built(MatMul, node));
    registry.insert("QLinearConv", |_, node| {
        let groups = node.get_attr_opt("group")?.unwrap_or(1);
        built(Conv { lie: Lie::of(node)?, groups }, node)
    });
}

/// The one number of a tensor.
fn one(tensor: &Tensor) -> TractResult<f64> {
    let [value] = *floats(tensor)? else { bail!("{} scales or zero points", tensor.len()) };
    Ok(value)
}

/// Integers less their zero point, of which there is one, or one for each row.
fn centred(tensor: &Tensor, zero: &Tensor, row: usize) -> TractResult<Vec<i32>> {
    let zeros = ints(zero)?;
    let rows = if zeros.len() == 1 { usize::MAX } else { row.max(1) };
    let known = zeros.len() == 1 || zeros.len() * row == tensor.len();
    ensure!(known, "{} zero points", zeros.len());
    let values = ints(tensor)?.into_iter().enumerate();
    Ok(values.map(|(at, value)| (value - zeros[at / rows]) as i32).collect())
}

/// The factor between sums and results. Scales are multiplied in their own type.
fn factor(x: f64, w: f64, y: f64, dtype: DatumType) -> TractResult<f64> {
    let factor = rounded(dtype, rounded(dtype, x * w) / y);
    let sound = [x, w, y].iter().all(|scale| scale.is_finite() && *scale > 0.0);
    ensure!(sound && factor.is_finite(), "scales of {x}, {w} and {y}");
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
    let (least, most) = if dtype == i8::datum_type() { (-128.0, 127.0) } else { (0.0, 255.0) };
    let round = |sum: f64| (sum.round_ties_even() + zero).clamp(least, most) as i64;
    let values: Vec<i64> = sums.map(round).collect();
    Ok(Tensor::from_shape(shape, &values)?.cast_to_dt(dtype)?.into_owned())
}

/// How many products 32 bits hold the sum of.
const PRODUCTS: usize = 1 << 14;

#[derive(Clone, Debug, PartialEq, Eq)]
struct MatMul;

/// The shape of a product, and that of its rows and columns.
fn product(a: &[usize], b: &[usize]) -> TractResult<(Vec<usize>, [usize; 3])> {
    let ([a_batch @ .., rows, deep], [b_batch @ .., of, columns]) = (a, b) else {
        bail!("a product of {a:?} and {b:?} is not implemented")
    };
    ensure!(deep == of, "a product of {a:?} and {b:?}");
    let rank = a_batch.len().max(b_batch.len());
    let dim =
        |batch: &[usize], at: usize| (at + batch.len()).checked_sub(rank).map_or(1, |at| batch[at]);
    let mut shape = Vec::with_capacity(rank + 2);
    for at in 0..rank {
        let (a_dim, b_dim) = (dim(a_batch, at), dim(b_batch, at));
        ensure!(a_dim == b_dim || a_dim == 1 || b_dim == 1, "a product of {a:?} and {b:?}");
        shape.push(if a_dim == 1 { b_dim } else { a_dim });
    }
    shape.extend([*rows, *columns]);
    volume(&shape)?;
    Ok((shape, [*rows, *deep, *columns]))
}

/// Where in a tensor the matrix of a place in the batch begins.
fn matrix(place: &[usize], shape: &[usize]) -> usize {
    let batch = &shape[..shape.len() - 2];
    let strides = strides(shape);
    let place = &place[place.len() - batch.len()..];
    let each = place.iter().zip(batch).zip(&strides);
    each.map(|((at, size), stride)| if *size == 1 { 0 } else { at * stride }).sum()
}

impl Own for MatMul {
    fn name(&self) -> &'static str {
        "QLinearMatMul"
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let dtype = needed(inputs, 7)?.dtype;
        let (a, b) = (needed(inputs, 0)?, needed(inputs, 3)?);
        Ok(tvec!(match known_shapes(inputs) {
            Some(shapes) => {
                let (shape, _) = product(needed(&shapes, 0)?, needed(&shapes, 3)?)?;
                sized(dtype, shape.into_iter().map(|dim| dim.to_dim()))
            }
            None => unknown(dtype, a.rank().max(b.rank())),
        }))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let given = |at| needed(inputs, at).copied();
        let (a, b) = (given(0)?, given(3)?);
        let (shape, [rows, deep, columns]) = product(a.shape(), b.shape())?;
        let dtype = given(1)?.datum_type();
        let factor = factor(one(given(1)?)?, one(given(4)?)?, one(given(6)?)?, dtype)?;
        for zero in [given(2)?, given(5)?] {
            ensure!(zero.len() == 1, "{} zero points are not implemented", zero.len());
        }
        ensure!(deep <= PRODUCTS, "sums of {deep} products are not implemented");
        let (left, right) = (centred(a, given(2)?, 1)?, centred(b, given(5)?, 1)?);
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
    lie: Lie,
    groups: usize,
}

impl Conv {
    /// The shape of the result, and how much is before each axis.
    fn sizes(&self, shapes: &[Option<Vec<usize>>]) -> TractResult<(Vec<usize>, Vec<usize>)> {
        let (x, w) = (needed(shapes, 0)?, needed(shapes, 3)?);
        let ([batch, channels, image @ ..], [outputs, of, kernel @ ..]) = (&**x, &**w) else {
            bail!("images of {x:?} and weights of {w:?}")
        };
        let groups = self.groups;
        let grouped =
            groups > 0 && of.checked_mul(groups) == Some(*channels) && outputs % groups == 0;
        let fits = image.len() == kernel.len() && !image.is_empty() && !kernel.contains(&0);
        ensure!(grouped && fits, "weights of {w:?} in {groups} groups for images of {x:?}");
        let said = self.lie.kernel.is_empty() || self.lie.kernel == kernel;
        ensure!(said, "a kernel of {kernel:?}, said is {:?}", self.lie.kernel);
        ensure!(volume(&w[1..])? <= PRODUCTS, "kernels of {w:?} are not implemented");
        let (mut to, mut before) = (vec![*batch, *outputs], vec![]);
        for (axis, size) in image.iter().enumerate() {
            let (count, pad) = self.lie.count(kernel, axis, *size)?;
            to.push(count);
            before.push(pad);
        }
        if let Some(bias) = optional(shapes, 8) {
            ensure!(**bias == [*outputs], "a bias of {bias:?} for {outputs} channels");
        }
        volume(&to)?;
        Ok((to, before))
    }

    /// Adds what one place of the kernel makes of one channel.
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
        let (stride, width) = (self.lie.stride(last), image[last]);
        let shift = within[last] * self.lie.dilation(last);
        for row in sums.chunks_mut(to[last].max(1)) {
            let mut start = Some(0);
            for axis in 0..last {
                let place =
                    at[axis] * self.lie.stride(axis) + within[axis] * self.lie.dilation(axis);
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

impl Own for Conv {
    fn name(&self) -> &'static str {
        "QLinearConv"
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let dtype = needed(inputs, 7)?.dtype;
        Ok(tvec!(match known_shapes(inputs) {
            Some(shapes) => {
                sized(dtype, self.sizes(&shapes)?.0.into_iter().map(|dim| dim.to_dim()))
            }
            None => unknown(dtype, needed(inputs, 0)?.rank()),
        }))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let given = |at| needed(inputs, at).copied();
        let (to, before) = self.sizes(&shapes(inputs))?;
        let (x, w) = (given(0)?, given(3)?);
        let (image, kernel) = (&x.shape()[2..], &w.shape()[2..]);
        let (area, places) = (image.iter().product::<usize>(), kernel.iter().product::<usize>());
        let (outputs, of) = (w.shape()[0], w.shape()[1]);
        ensure!(given(2)?.len() == 1, "{} zero points of images", given(2)?.len());
        let scales = floats(given(4)?)?;
        ensure!([1, outputs].contains(&scales.len()), "{} scales of weights", scales.len());
        let zeros = given(5)?.len();
        ensure!(zeros == scales.len(), "{zeros} zero points for {} scales", scales.len());
        let (x_scale, y_scale) = (one(given(1)?)?, one(given(6)?)?);
        let factor = |scale: &f64| factor(x_scale, *scale, y_scale, f32::datum_type());
        let factors: Vec<f64> = scales.iter().map(factor).collect::<TractResult<_>>()?;
        let pixels = centred(x, given(2)?, 1)?;
        let weights = centred(w, given(5)?, of * places)?;
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
        Ok(tvec!(quantized(results.into_iter(), given(7)?, &to)?))
    }
}
