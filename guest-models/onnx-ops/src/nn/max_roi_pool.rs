//! MaxRoiPool (ONNX, since operator set 1): the maximum of each bin of a region, whose corners are
//! rounded to pixels.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::volume;
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, known_shapes, required, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{Bits, floats, from_floats, shapes};
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] = &[own("MaxRoiPool", |_, node| build(node))];

fn build(node: &NodeProto) -> BuildResult {
    let shape: Vec<usize> = node.get_attr_vec("pooled_shape")?;
    let [height, width] = *shape else {
        bail!("pooled_shape has {} numbers, expected 2", shape.len())
    };
    built(
        MaxRoiPool { pooled: [height, width], scale: Bits::of(node, "spatial_scale", 1.0)? },
        node,
    )
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct MaxRoiPool {
    /// Height and width of the output.
    pooled: [usize; 2],
    scale: Bits,
}

/// The part of an axis that a region covers.
struct Side {
    start: i64,
    /// The size of a bin.
    bin: f64,
}

impl Side {
    /// The pixels of a bin, within an axis of this size.
    fn bin(&self, at: usize, size: usize) -> std::ops::Range<usize> {
        let place = |edge: f64| (edge as i64).saturating_add(self.start).clamp(0, size as i64);
        let start = place((at as f64 * self.bin).floor());
        let end = place(((at + 1) as f64 * self.bin).ceil());
        start as usize..end.max(start) as usize
    }
}

impl MaxRoiPool {
    fn check(&self, x: &[usize], rois: &[usize]) -> TractResult<()> {
        let (regions, image) = (rois.len() == 2 && rois[1] == 5, x.len() == 4);
        ensure!(image, "expected an image with batch and channels, found the shape {x:?}");
        ensure!(regions, "rois have the shape {rois:?}, expected five numbers for each region");
        volume(&[rois[0], x[1], self.pooled[0], self.pooled[1]])?;
        Ok(())
    }

    /// A side of a region, from its first to its last pixel.
    fn side(&self, first: f64, last: f64, axis: usize) -> TractResult<Side> {
        // In 32 bits, as the corners are given.
        let pixel = |corner: f64| f64::from(corner as f32 * self.scale.get()).round();
        let (first, last) = (pixel(first), pixel(last));
        let near = first.abs() < 1e9 && last.abs() < 1e9;
        ensure!(near, "a region from {first} to {last} is out of range");
        let size = (last - first + 1.0).max(1.0);
        Ok(Side { start: first as i64, bin: size / self.pooled[axis] as f64 })
    }
}

impl Operator for MaxRoiPool {
    fn name(&self) -> &'static str {
        "MaxRoiPool"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let (x, rois) = (required(inputs, 0)?, required(inputs, 1)?);
        if let Some(shapes) = known_shapes(inputs) {
            self.check(required(&shapes, 0)?, required(&shapes, 1)?)?;
        }
        ensure!(
            x.rank() == 4 && rois.rank() == 2,
            "expected an image of 4 dimensions and rois of 2, found {} and {}",
            x.rank(),
            rois.rank()
        );
        let [height, width] = self.pooled.map(|size| size.to_dim());
        Ok(tvec!(with_dims(x.dtype, [rois.shape[0].clone(), x.shape[1].clone(), height, width])))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let shapes = shapes(inputs);
        let (x, rois) = (required(&shapes, 0)?, required(&shapes, 1)?);
        self.check(x, rois)?;
        let (data, corners) = (floats(required(inputs, 0)?)?, floats(required(inputs, 1)?)?);
        let (channels, height, width) = (x[1], x[2], x[3]);
        let to = [rois[0], channels, self.pooled[0], self.pooled[1]];
        let mut results = Vec::with_capacity(volume(&to)?);
        for roi in corners.chunks_exact(5) {
            let batch = (roi[0] >= 0.0 && roi[0] < x[0] as f64).then_some(roi[0] as usize);
            let batch = batch.or_user_error(format_args!(
                "a region is in sample {}, but there are {} samples",
                roi[0], x[0]
            ))?;
            let (across, down) = (self.side(roi[1], roi[3], 1)?, self.side(roi[2], roi[4], 0)?);
            for channel in 0..channels {
                let plane = (batch * channels + channel) * height * width;
                for (row, column) in
                    (0..to[2]).flat_map(|row| (0..to[3]).map(move |column| (row, column)))
                {
                    let (rows, columns) = (down.bin(row, height), across.bin(column, width));
                    let line = |at: usize| &data[plane + at * width..][columns.clone()];
                    let values = rows.flat_map(line).copied();
                    // A bin without pixels is zero.
                    results.push(values.reduce(greater).unwrap_or(0.0));
                }
            }
        }
        let dtype = required(inputs, 0)?.datum_type();
        Ok(tvec!(from_floats(dtype, &to, &results)?))
    }
}

fn greater(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, counting, tensor};

    fn pool(roi: [f32; 5]) -> Case {
        let case = case("MaxRoiPool").ints("pooled_shape", &[2, 2]);
        case.input(counting(&[1, 1, 4, 4])).input(tensor(&[1, 5], &roi))
    }

    #[test]
    fn max_roi_pool_takes_the_maximum_of_each_bin() {
        let expected = |values: [f32; 4]| tensor(&[1, 1, 2, 2], &values);
        pool([0.0, 0.0, 0.0, 3.0, 3.0]).gives(expected([5.0, 7.0, 13.0, 15.0]));
        // Bins of one and a half pixels share one.
        pool([0.0, 1.0, 0.0, 3.0, 2.0]).gives(expected([6.0, 7.0, 10.0, 11.0]));
        // Outside of the image there is nothing.
        pool([0.0, 2.0, 2.0, 5.0, 3.0]).gives(expected([11.0, 0.0, 15.0, 0.0]));
        let half = pool([0.0, 0.0, 0.0, 6.0, 6.0]).float("spatial_scale", 0.5);
        half.gives(expected([5.0, 7.0, 13.0, 15.0]));
    }

    #[test]
    fn max_roi_pool_refuses_other_samples_and_shapes() {
        pool([1.0, 0.0, 0.0, 3.0, 3.0]).fails("sample 1");
        pool([0.0, f32::NAN, 0.0, 3.0, 3.0]).fails("NaN");
        let case = case("MaxRoiPool").ints("pooled_shape", &[1, 1]).input(counting(&[1, 1, 2, 2]));
        case.input(tensor(&[1, 4], &[0f32; 4])).fails("4");
    }
}
