//! Operators on windows that tract does not have: LpPool (operator sets 2 to 22), MaxUnpool (9) and
//! Col2Im (18).

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::numbers::{Number, by_number};
use super::own::{
    Known, Own, Said, advance, built, concrete, floats, from_floats, ints, needed, sizes, strides,
    unknown, volume,
};

/// How windows lie, as attributes say; empty lists are the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lie {
    pub(super) kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    pads: Vec<usize>,
    auto: String,
}

impl Lie {
    pub(super) fn of(node: &NodeProto) -> TractResult<Lie> {
        let list = |name| Ok::<_, TractError>(node.get_attr_opt_vec::<usize>(name)?);
        Ok(Lie {
            kernel: list("kernel_shape")?.unwrap_or_default(),
            strides: list("strides")?.unwrap_or_default(),
            dilations: list("dilations")?.unwrap_or_default(),
            pads: list("pads")?.unwrap_or_default(),
            auto: node.get_attr_opt::<&str>("auto_pad")?.unwrap_or("NOTSET").to_owned(),
        })
    }

    pub(super) fn stride(&self, axis: usize) -> usize {
        self.strides.get(axis).copied().unwrap_or(1)
    }

    pub(super) fn dilation(&self, axis: usize) -> usize {
        self.dilations.get(axis).copied().unwrap_or(1)
    }

    /// How far a window reaches along an axis.
    fn reach(&self, kernel: &[usize], axis: usize) -> usize {
        (kernel[axis] - 1) * self.dilation(axis) + 1
    }

    pub(super) fn pad(&self, at: usize) -> usize {
        self.pads.get(at).copied().unwrap_or(0)
    }

    /// How many windows there are along an axis of this size, and how much is before the first.
    pub(super) fn count(
        &self,
        kernel: &[usize],
        axis: usize,
        size: usize,
    ) -> TractResult<(usize, usize)> {
        let (stride, reach) = (self.stride(axis), self.reach(kernel, axis));
        if self.auto.starts_with("SAME") {
            // Of elements between windows some leave out those at one end, and some at the other.
            ensure!(stride <= reach, "auto_pad with strides beyond the windows is not implemented");
            let count = size.div_ceil(stride);
            let missing = (count.saturating_sub(1) * stride + reach).saturating_sub(size);
            let before = if self.auto == "SAME_LOWER" { missing.div_ceil(2) } else { missing / 2 };
            return Ok((count, before));
        }
        let (before, behind) = match &*self.auto {
            "VALID" => (0, 0),
            _ => (self.pad(axis), self.pad(axis + kernel.len())),
        };
        let padded = size + before + behind;
        ensure!(reach <= padded, "a window {reach} wide does not fit {padded}");
        Ok(((padded - reach) / stride + 1, before))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Windows {
    LpPool { lie: Lie, p: i64 },
    MaxUnpool { lie: Lie },
    Col2Im { lie: Lie },
}

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("LpPool", |_, node| {
        let p = node.get_attr_opt("p")?.unwrap_or(2);
        built(Windows::LpPool { lie: Lie::of(node)?, p }, node)
    });
    registry.insert("MaxUnpool", |_, node| built(Windows::MaxUnpool { lie: Lie::of(node)? }, node));
    registry.insert("Col2Im", |_, node| built(Windows::Col2Im { lie: Lie::of(node)? }, node));
}

impl Windows {
    fn pooled(lie: &Lie, shape: &[usize]) -> TractResult<Vec<usize>> {
        let axes = lie.kernel.len();
        ensure!(shape.len() == axes + 2, "windows of {axes} dimensions over {}", shape.len());
        let mut to = shape[..2].to_vec();
        for axis in 0..axes {
            to.push(lie.count(&lie.kernel, axis, shape[axis + 2])?.0);
        }
        volume(&to)?;
        Ok(to)
    }

    fn lp_pool(lie: &Lie, p: i64, data: &Tensor) -> TractResult<Tensor> {
        let shape = data.shape();
        let to = Windows::pooled(lie, shape)?;
        let (axes, values) = (lie.kernel.len(), floats(data)?);
        let before: Vec<usize> = (0..axes)
            .map(|axis| Ok(lie.count(&lie.kernel, axis, shape[axis + 2])?.1))
            .collect::<TractResult<_>>()?;
        let strides = strides(shape);
        let mut results = Vec::with_capacity(volume(&to)?);
        let mut at = vec![0; to.len()];
        let p = p as f64;
        for _ in 0..volume(&to)? {
            let mut sum = 0.0;
            let mut within = vec![0; axes];
            for _ in 0..lie.kernel.iter().product::<usize>() {
                let mut from = Some(at[0] * strides[0] + at[1] * strides[1]);
                for axis in 0..axes {
                    let place = at[axis + 2] * lie.stride(axis) + within[axis] * lie.dilation(axis);
                    let place = place.checked_sub(before[axis]);
                    let place = place.filter(|place| *place < shape[axis + 2]);
                    from = from.zip(place).map(|(from, place)| from + place * strides[axis + 2]);
                }
                if let Some(value) = from.map(|from| values[from].abs()) {
                    sum += if p == 2.0 { value * value } else { value.powf(p) };
                }
                advance(&mut within, &lie.kernel);
            }
            results.push(if p == 2.0 { sum.sqrt() } else { sum.powf(1.0 / p) });
            advance(&mut at, &to);
        }
        from_floats(data.datum_type(), &to, &results)
    }

    fn unpooled(lie: &Lie, shape: &[usize]) -> TractResult<Vec<usize>> {
        let axes = lie.kernel.len();
        ensure!(shape.len() == axes + 2, "windows of {axes} dimensions over {}", shape.len());
        let mut to = shape[..2].to_vec();
        for axis in 0..axes {
            let size = shape[axis + 2].checked_sub(1).context("nothing to unpool")?;
            let size = size * lie.stride(axis) + lie.kernel[axis];
            let size = size.checked_sub(lie.pad(axis) + lie.pad(axis + axes));
            to.push(size.context("pads beyond what there is")?);
        }
        volume(&to)?;
        Ok(to)
    }

    fn max_unpool(lie: &Lie, data: &Tensor, indices: &Tensor) -> TractResult<Tensor> {
        ensure!(indices.shape() == data.shape(), "indices of {:?}", indices.shape());
        let to = Windows::unpooled(lie, data.shape())?;
        let mut results = vec![0.0; volume(&to)?];
        for (value, index) in floats(data)?.into_iter().zip(ints(indices)?) {
            let at = usize::try_from(index).ok().and_then(|at| results.get_mut(at));
            *at.with_context(|| format!("the index {index} is outside of the result"))? = value;
        }
        from_floats(data.datum_type(), &to, &results)
    }

    /// The shape of the image, and how many windows there are along each of its axes.
    fn image(
        lie: &Lie,
        data: &[usize],
        image: &[i64],
        block: &[i64],
    ) -> TractResult<(Vec<usize>, Vec<usize>)> {
        let (image, block) = (sizes(image)?, sizes(block)?);
        let axes = image.len();
        ensure!(
            axes > 0 && block.len() == axes && block.iter().all(|size| *size > 0),
            "an image of {image:?} with blocks of {block:?}"
        );
        for (what, list) in [("strides", &lie.strides), ("dilations", &lie.dilations)] {
            ensure!(list.is_empty() || list.len() == axes, "{} {what}", list.len());
        }
        ensure!(lie.pads.is_empty() || lie.pads.len() == 2 * axes, "{} pads", lie.pads.len());
        let [batch, columns, places] = data else { bail!("columns of {} dimensions", data.len()) };
        let counts: Vec<usize> = (0..axes)
            .map(|axis| Ok(lie.count(&block, axis, image[axis])?.0))
            .collect::<TractResult<_>>()?;
        let (part, all) = (volume(&block)?, volume(&counts)?);
        ensure!(
            columns % part == 0 && *places == all,
            "columns of {data:?}, where there are {all} blocks of {part}"
        );
        let mut to = vec![*batch, columns / part];
        to.extend(&image);
        volume(&to)?;
        Ok((to, counts))
    }
}

/// Adds every column where its block is.
fn add_columns<T: Number>(
    lie: &Lie,
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
                            window[axis] * lie.stride(axis) + within[axis] * lie.dilation(axis);
                        let step = step.checked_sub(lie.pad(axis)).filter(|at| *at < to[axis + 2]);
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

impl Own for Windows {
    fn name(&self) -> &'static str {
        match self {
            Windows::LpPool { .. } => "LpPool",
            Windows::MaxUnpool { .. } => "MaxUnpool",
            Windows::Col2Im { .. } => "Col2Im",
        }
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let data = needed(inputs, 0)?;
        let dims = match (self, concrete(&data.shape)) {
            (Windows::LpPool { lie, .. }, Some(shape)) => Some(Windows::pooled(lie, &shape)?),
            (Windows::MaxUnpool { lie }, Some(shape)) => Some(Windows::unpooled(lie, &shape)?),
            (Windows::Col2Im { lie }, Some(shape)) => {
                match (needed(inputs, 1)?.ints()?, needed(inputs, 2)?.ints()?) {
                    (Some(image), Some(block)) => {
                        Some(Windows::image(lie, &shape, &image, &block)?.0)
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        let rank = match self {
            Windows::Col2Im { .. } => {
                let axes = needed(inputs, 1)?.shape.first().and_then(|dim| dim.as_i64());
                2 + usize::try_from(axes.context("an image of unknown rank")?)?
            }
            _ => data.rank(),
        };
        Ok(tvec!(match dims {
            Some(dims) => {
                (data.dtype, dims.into_iter().map(|dim| Some(dim.to_dim())).collect())
            }
            None => unknown(data.dtype, rank),
        }))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *needed(inputs, 0)?;
        Ok(tvec!(match self {
            Windows::LpPool { lie, p } => Windows::lp_pool(lie, *p, data)?,
            Windows::MaxUnpool { lie } => Windows::max_unpool(lie, data, needed(inputs, 1)?)?,
            Windows::Col2Im { lie } => {
                let block = ints(needed(inputs, 2)?)?;
                let image = ints(needed(inputs, 1)?)?;
                let (to, counts) = Windows::image(lie, data.shape(), &image, &block)?;
                let block = sizes(&block)?;
                by_number!(add_columns(data.datum_type())(lie, data, &to, &counts, &block))?
            }
        }))
    }
}
