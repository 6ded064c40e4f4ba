//! Operators over windows that tract does not have: LpPool (operator sets 2 to 22), MaxUnpool (9)
//! and Col2Im (18).

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::{advance, sizes, strides, volume};
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, concrete, optional, required, unknown_dims};
use crate::framework::numbers::{Number, by_number};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{floats, from_floats, ints};
use crate::framework::upstream::BuildResult;
use crate::nn::window_spec::WindowSpec;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Windows {
    LpPool { spec: WindowSpec, p: i64 },
    MaxUnpool { spec: WindowSpec },
    Col2Im { spec: WindowSpec },
}

pub(crate) const OPERATORS: &[Registration] = &[
    own("LpPool", build_lp_pool),
    own("MaxUnpool", |_, node| built(Windows::MaxUnpool { spec: WindowSpec::of(node)? }, node)),
    own("Col2Im", |_, node| built(Windows::Col2Im { spec: WindowSpec::of(node)? }, node)),
];

fn build_lp_pool(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let p = node.get_attr_opt("p")?.unwrap_or(2);
    built(Windows::LpPool { spec: WindowSpec::of(node)?, p }, node)
}

impl Windows {
    fn pooled(spec: &WindowSpec, shape: &[usize]) -> TractResult<Vec<usize>> {
        let axes = spec.kernel.len();
        ensure!(
            shape.len() == axes + 2,
            "the kernel has {axes} dimensions, but the input has {} dimensions including batch and channels",
            shape.len()
        );
        let mut to = shape[..2].to_vec();
        for axis in 0..axes {
            to.push(spec.count(&spec.kernel, axis, shape[axis + 2])?.0);
        }
        volume(&to)?;
        Ok(to)
    }

    fn lp_pool(spec: &WindowSpec, p: i64, data: &Tensor) -> TractResult<Tensor> {
        let shape = data.shape();
        let to = Windows::pooled(spec, shape)?;
        let (axes, values) = (spec.kernel.len(), floats(data)?);
        let before: Vec<usize> = (0..axes)
            .map(|axis| Ok(spec.count(&spec.kernel, axis, shape[axis + 2])?.1))
            .collect::<TractResult<_>>()?;
        let strides = strides(shape);
        let mut results = Vec::with_capacity(volume(&to)?);
        let mut at = vec![0; to.len()];
        let p = p as f64;
        for _ in 0..volume(&to)? {
            let mut sum = 0.0;
            let mut within = vec![0; axes];
            for _ in 0..spec.kernel.iter().product::<usize>() {
                let mut from = Some(at[0] * strides[0] + at[1] * strides[1]);
                for axis in 0..axes {
                    let place =
                        at[axis + 2] * spec.stride(axis) + within[axis] * spec.dilation(axis);
                    let place = place.checked_sub(before[axis]);
                    let place = place.filter(|place| *place < shape[axis + 2]);
                    from = from.zip(place).map(|(from, place)| from + place * strides[axis + 2]);
                }
                if let Some(value) = from.map(|from| values[from].abs()) {
                    sum += if p == 2.0 { value * value } else { value.powf(p) };
                }
                advance(&mut within, &spec.kernel);
            }
            results.push(if p == 2.0 { sum.sqrt() } else { sum.powf(1.0 / p) });
            advance(&mut at, &to);
        }
        from_floats(data.datum_type(), &to, &results)
    }

    fn unpooled(spec: &WindowSpec, shape: &[usize]) -> TractResult<Vec<usize>> {
        let axes = spec.kernel.len();
        ensure!(
            shape.len() == axes + 2,
            "the kernel has {axes} dimensions, but the input has {} dimensions including batch and channels",
            shape.len()
        );
        let mut to = shape[..2].to_vec();
        for axis in 0..axes {
            let size =
                shape[axis + 2].checked_sub(1).or_user_error("cannot unpool an empty dimension")?;
            let size = size * spec.stride(axis) + spec.kernel[axis];
            let size = size.checked_sub(spec.pad(axis) + spec.pad(axis + axes));
            to.push(size.or_user_error("the pads are larger than the output")?);
        }
        volume(&to)?;
        Ok(to)
    }

    /// Checks an output shape that is given. ONNX describes indices as positions in this shape; its
    /// test case has them in the shape that follows from the attributes.
    fn check_unpooled(shape: Option<&[i64]>, to: &[usize]) -> TractResult<()> {
        let Some(shape) = shape else { return Ok(()) };
        let mut pairs = shape.iter().zip(to);
        ensure!(
            shape.len() == to.len() && pairs.all(|(a, b)| *a == *b as i64),
            "the output shape {shape:?} is not {to:?}, as the attributes say, which is not implemented"
        );
        Ok(())
    }

    fn max_unpool(
        spec: &WindowSpec,
        data: &Tensor,
        indices: &Tensor,
        shape: Option<&Tensor>,
    ) -> TractResult<Tensor> {
        ensure!(
            indices.shape() == data.shape(),
            "indices cannot have the shape {:?}",
            indices.shape()
        );
        let to = Windows::unpooled(spec, data.shape())?;
        Windows::check_unpooled(shape.map(ints).transpose()?.as_deref(), &to)?;
        let mut results = vec![0.0; volume(&to)?];
        for (value, index) in floats(data)?.into_iter().zip(ints(indices)?) {
            let at = usize::try_from(index).ok().and_then(|at| results.get_mut(at));
            *at.or_user_error(format_args!("the index {index} is outside of the output"))? = value;
        }
        from_floats(data.datum_type(), &to, &results)
    }

    /// The shape of the image, and the number of windows along each of its axes.
    fn image(
        spec: &WindowSpec,
        data: &[usize],
        image: &[i64],
        block: &[i64],
    ) -> TractResult<(Vec<usize>, Vec<usize>)> {
        let (image, block) = (sizes(image)?, sizes(block)?);
        let axes = image.len();
        ensure!(
            axes > 0 && block.len() == axes && block.iter().all(|size| *size > 0),
            "an image of {image:?} with blocks of {block:?} is not possible"
        );
        for (what, list) in [("strides", &spec.strides), ("dilations", &spec.dilations)] {
            ensure!(
                list.is_empty() || list.len() == axes,
                "{} {what} do not match the image",
                list.len()
            );
        }
        ensure!(
            spec.pads.is_empty() || spec.pads.len() == 2 * axes,
            "{} pads do not match the image",
            spec.pads.len()
        );
        let [batch, columns, places] = data else {
            bail!("the input has {} dimensions, expected 3", data.len())
        };
        let counts: Vec<usize> = (0..axes)
            .map(|axis| Ok(spec.count(&block, axis, image[axis])?.0))
            .collect::<TractResult<_>>()?;
        let (part, all) = (volume(&block)?, volume(&counts)?);
        ensure!(
            columns % part == 0 && *places == all,
            "the input's shape {data:?} does not match {all} blocks of {part} elements"
        );
        let mut to = vec![*batch, columns / part];
        to.extend(&image);
        volume(&to)?;
        Ok((to, counts))
    }
}

/// Adds each column to its block.
fn add_columns<T: Number>(
    spec: &WindowSpec,
    data: &Tensor,
    to: &[usize],
    counts: &[usize],
    block: &[usize],
) -> TractResult<Tensor> {
    let mut output = Tensor::zero_dt(T::datum_type(), to)?;
    let from = data.try_as_plain_ram()?;
    let from = from.as_slice::<T>()?;
    let strides = strides(to);
    let axes = block.len();
    {
        let mut plain = output.try_as_plain_ram_mut()?;
        let values = plain.as_slice_mut::<T>()?;
        let mut at = 0;
        for (sample, channel) in (0..to[0]).flat_map(|n| (0..to[1]).map(move |c| (n, c))) {
            let mut within = vec![0; axes];
            for _ in 0..block.iter().product::<usize>() {
                let mut window = vec![0; axes];
                for _ in 0..counts.iter().product::<usize>() {
                    let mut place = Some(sample * strides[0] + channel * strides[1]);
                    for axis in 0..axes {
                        let step =
                            window[axis] * spec.stride(axis) + within[axis] * spec.dilation(axis);
                        let step = step.checked_sub(spec.pad(axis)).filter(|at| *at < to[axis + 2]);
                        place = place.zip(step).map(|(place, at)| place + at * strides[axis + 2]);
                    }
                    if let Some(place) = place {
                        values[place] = values[place].plus(from[at]);
                    }
                    at += 1;
                    advance(&mut window, counts);
                }
                advance(&mut within, block);
            }
        }
    }
    Ok(output)
}

impl Operator for Windows {
    fn name(&self) -> &'static str {
        match self {
            Windows::LpPool { .. } => "LpPool",
            Windows::MaxUnpool { .. } => "MaxUnpool",
            Windows::Col2Im { .. } => "Col2Im",
        }
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let data = required(inputs, 0)?;
        let dims = match (self, concrete(&data.shape)) {
            (Windows::LpPool { spec, .. }, Some(shape)) => Some(Windows::pooled(spec, &shape)?),
            (Windows::MaxUnpool { spec }, Some(shape)) => {
                let to = Windows::unpooled(spec, &shape)?;
                let given = optional(inputs, 2).map(InputFact::ints).transpose()?.flatten();
                Windows::check_unpooled(given.as_deref(), &to)?;
                Some(to)
            }
            (Windows::Col2Im { spec }, Some(shape)) => {
                match (required(inputs, 1)?.ints()?, required(inputs, 2)?.ints()?) {
                    (Some(image), Some(block)) => {
                        Some(Windows::image(spec, &shape, &image, &block)?.0)
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        let rank = match self {
            Windows::Col2Im { .. } => {
                let axes = required(inputs, 1)?.shape.first().and_then(|dim| dim.as_i64());
                2 + usize::try_from(
                    axes.or_user_error("the number of dimensions of the image must be known")?,
                )?
            }
            _ => data.rank(),
        };
        Ok(tvec!(match dims {
            Some(dims) => {
                (data.dtype, dims.into_iter().map(|dim| Some(dim.to_dim())).collect())
            }
            None => unknown_dims(data.dtype, rank),
        }))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *required(inputs, 0)?;
        Ok(tvec!(match self {
            Windows::LpPool { spec, p } => Windows::lp_pool(spec, *p, data)?,
            Windows::MaxUnpool { spec } => {
                let shape = optional(inputs, 2).copied();
                Windows::max_unpool(spec, data, required(inputs, 1)?, shape)?
            }
            Windows::Col2Im { spec } => {
                let block = ints(required(inputs, 2)?)?;
                let image = ints(required(inputs, 1)?)?;
                let (to, counts) = Windows::image(spec, data.shape(), &image, &block)?;
                let block = sizes(&block)?;
                by_number!(add_columns(data.datum_type())(spec, data, &to, &counts, &block))?
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, tensor};

    #[test]
    fn lp_pool_has_norms_of_windows() {
        let pool = || {
            let case = case("LpPool").ints("kernel_shape", &[2]).ints("strides", &[2]);
            case.input(tensor(&[1, 1, 4], &[3f32, -4.0, f32::NAN, 0.0]))
        };
        pool().gives(tensor(&[1, 1, 2], &[5f32, f32::NAN]));
        pool().int("p", 1).gives(tensor(&[1, 1, 2], &[7f32, f32::NAN]));
        let cubes = (27f64 + 64.0).cbrt() as f32;
        pool().int("p", 3).gives_near(tensor(&[1, 1, 2], &[cubes, f32::NAN]), 1e-6);
        pool().ints("pads", &[1, 1]).gives(tensor(&[1, 1, 3], &[3f32, f32::NAN, 0.0]));
        pool().ints("kernel_shape", &[5]).fails("5");
    }

    #[test]
    fn max_unpool_restores_values_and_fills_zeros() {
        let unpool = |indices: [i64; 2]| {
            let case = case("MaxUnpool").ints("kernel_shape", &[2]).ints("strides", &[2]);
            case.input(tensor(&[1, 1, 2], &[5f32, 7.0])).input(tensor(&[1, 1, 2], &indices))
        };
        unpool([1, 2]).gives(tensor(&[1, 1, 4], &[0f32, 5.0, 7.0, 0.0]));
        let shaped = |size: i64| unpool([1, 2]).input(row(&[1, 1, size]));
        shaped(4).gives(tensor(&[1, 1, 4], &[0f32, 5.0, 7.0, 0.0]));
        shaped(5).fails("5");
        unpool([1, 4]).fails("4");
        unpool([-1, 2]).fails("-1");
    }

    #[test]
    fn col2im_sums_overlapping_blocks() {
        let col = |image: i64| {
            let case =
                case("Col2Im").input(tensor(&[1, 2, 3], &[1f32, 2.0, 3.0, 10.0, 20.0, 30.0]));
            case.input(row(&[image])).input(row(&[2i64]))
        };
        col(4).gives(tensor(&[1, 1, 4], &[1f32, 12.0, 23.0, 30.0]));
        // The first and the last element are in the padding.
        col(2).ints("pads", &[1, 1]).gives(tensor(&[1, 1, 2], &[12f32, 23.0]));
        col(5).fails("");
    }
}
