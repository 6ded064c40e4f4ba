//! MelWeightMatrix (ONNX, operator set 17): triangles that map the frequencies of a spectrum to mels.
//! tract computes them in float32, in which a frequency can fall into the wrong bin, and returns from
//! mels to frequencies by another factor than it leaves them.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::algebra::output_type;
use crate::framework::dims::{sizes, volume};
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, required, unknown_dims, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{floats, from_floats, ints};
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] = &[own("MelWeightMatrix", build)];

fn build(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    built(MelWeightMatrix { dtype: output_type(node)? }, node)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct MelWeightMatrix {
    dtype: DatumType,
}

fn one(tensor: &Tensor) -> TractResult<i64> {
    let [number] = *ints(tensor)? else { bail!("expected one number, found {}", tensor.len()) };
    Ok(number)
}

/// The numbers of frequencies and of mels.
fn shape(mels: &Tensor, length: &Tensor) -> TractResult<[usize; 2]> {
    let [mels, length] = *sizes(&[one(mels)?, one(length)?])? else { bail!("expected two sizes") };
    let shape = [length / 2 + 1, mels];
    volume(&shape)?;
    Ok(shape)
}

/// The first frequency, the middle and the end of each triangle, one after the other.
fn places(mels: usize, length: i64, rate: i64, edges: [f64; 2]) -> TractResult<Vec<usize>> {
    let [low, high] = edges.map(|hertz| 2595.0 * (1.0 + hertz / 700.0).log10());
    let step = (high - low) / (mels + 2) as f64;
    let place = |at: usize| {
        let hertz = 700.0 * (10f64.powf((at as f64 * step + low) / 2595.0) - 1.0);
        let place = ((length + 1) as f64 * hertz / rate as f64).floor();
        ensure!(
            place >= 0.0 && place <= (length / 2) as f64,
            "the edges {} and {} are not between 0 and half of the sample rate {rate}",
            edges[0],
            edges[1]
        );
        Ok(place as usize)
    };
    (0..mels + 2).map(place).collect()
}

impl Operator for MelWeightMatrix {
    fn name(&self) -> &'static str {
        "MelWeightMatrix"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        Ok(tvec!(match (&required(inputs, 0)?.value, &required(inputs, 1)?.value) {
            (Some(mels), Some(length)) => {
                with_dims(self.dtype, shape(mels, length)?.map(|size| size.to_dim()))
            }
            _ => unknown_dims(self.dtype, 2),
        }))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let given = |at| required(inputs, at).copied();
        let hertz = |at| {
            let [hertz] = *floats(given(at)?)? else { bail!("expected one frequency") };
            Ok(hertz)
        };
        let shape = shape(given(0)?, given(1)?)?;
        let (length, rate) = (one(given(1)?)?, one(given(2)?)?);
        ensure!(rate > 0, "a sample rate of {rate} is not possible");
        let [_, mels] = shape;
        let places = places(mels, length, rate, [hertz(3)?, hertz(4)?])?;
        let mut weights = vec![0.0; volume(&shape)?];
        for (mel, triangle) in places.windows(3).enumerate().take(mels) {
            let [first, middle, end] = *triangle else { continue };
            if first == middle {
                weights[middle * mels + mel] = 1.0;
            }
            let rising = middle.saturating_sub(first) as f64;
            for at in first..=middle {
                if first < middle {
                    weights[at * mels + mel] = (at - first) as f64 / rising;
                }
            }
            let falling = end.saturating_sub(middle) as f64;
            for at in middle..end {
                weights[at * mels + mel] = (end - at) as f64 / falling;
            }
        }
        Ok(tvec!(from_floats(self.dtype, &shape, &weights)?))
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::{Datum, Tensor};

    use crate::testing::{Case, case, scalar, tensor};

    fn mel<T: Datum + Clone>(mels: i64, length: i64, rate: i64, low: T, high: T) -> Case {
        let case = case("MelWeightMatrix").input(scalar(mels)).input(scalar(length));
        case.input(scalar(rate)).input(scalar(low)).input(scalar(high))
    }

    /// Two triangles over nine frequencies. The frequencies that are evenly spaced in mels are 0, 2,
    /// 4 and 6, rounded as in the specification.
    fn expected<T: Datum + Copy>(number: fn(f64) -> T) -> Tensor {
        let first = [0f64, 0.5, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0];
        let second = [0f64, 0.0, 0.0, 0.5, 1.0, 0.5, 0.0, 0.0, 0.0];
        let columns = first.iter().zip(&second).flat_map(|(a, b)| [number(*a), number(*b)]);
        tensor(&[9, 2], &columns.collect::<Vec<T>>())
    }

    #[test]
    fn mel_weight_matrix_has_triangles_between_evenly_spaced_mels() {
        let mels = |mel: f64| 2595.0 * (1.0 + mel / 700.0).log10();
        let hertz = |mel: f64| 700.0 * (10f64.powf(mel / 2595.0) - 1.0);
        let place = |at: f64| (17.0 * hertz(at / 4.0 * mels(4.0)) / 8.0).floor();
        assert_eq!([0.0, 1.0, 2.0, 3.0].map(place), [0.0, 2.0, 4.0, 6.0]);
        mel(2, 16, 8, 0f32, 4.0).gives(expected(|x| x as f32));
        mel(2, 16, 8, 0f64, 4.0).int("output_datatype", 11).gives(expected(|x| x));
        mel(2, 16, 8, 0f32, 4.0).int("output_datatype", 6).gives(expected(|x| x as i32));
    }

    #[test]
    fn mel_weight_matrix_puts_the_frequencies_of_speech_into_their_bins() {
        // The sums of the columns of ONNX's reference implementation, computed in float64.
        let sums =
            [7.5, 9.500000000000002, 12.499999999999998, 15.5, 20.0, 26.0, 33.49999999999999, 42.5];
        let weights = mel(8, 512, 16000, 20f64, 8000.0).int("output_datatype", 11);
        let weights = weights.outputs_at_run_time().remove(0);
        let weights = weights.to_plain_array_view::<f64>().unwrap();
        for (mel, sum) in sums.iter().enumerate() {
            let found: f64 = (0..257).map(|at| weights[[at, mel]]).sum();
            assert!((found - sum).abs() < 1e-12, "column {mel}: {found}, expected {sum}");
        }
    }

    #[test]
    fn mel_weight_matrix_refuses_edges_beyond_the_spectrum() {
        mel(2, 16, 8, 0f32, 400.0).fails("400");
        mel(2, 16, 8, -4f32, 4.0).fails("-4");
        mel(2, 16, 0, 0f32, 4.0).fails("0");
        mel(-1, 16, 8, 0f32, 4.0).fails("-1");
        mel(2, -3, 8, 0f32, 4.0).fails("-3");
        mel(2, i64::MAX, 8, 0f32, 4.0).fails("9223372036854775807");
        mel(2, 16, 8, f32::NAN, 4.0).fails("NaN");
    }
}
