//! MelWeightMatrix (ONNX, since operator set 17), in 64 bits. tract needs constants, and has another
//! base of the scale.

use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::{sizes, volume};
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, required, unknown_dims, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{floats, from_floats, ints};

pub(crate) const OPERATORS: &[Registration] =
    &[own("MelWeightMatrix", |_, node| built(MelWeightMatrix, node))];

#[derive(Clone, Debug, PartialEq, Eq)]
struct MelWeightMatrix;

/// The one number of a tensor.
fn one<T: Copy>(list: &[T]) -> TractResult<T> {
    let [value] = *list else { bail!("expected one number, found {}", list.len()) };
    Ok(value)
}

/// The numbers of spectrogram bins and of bands.
fn shape(bands: i64, length: i64) -> TractResult<[usize; 2]> {
    ensure!(bands > 0 && length > 0, "{bands} bands of a transform of {length} are not possible");
    let [bands, length] = *sizes(&[bands, length])? else { bail!("the sizes are missing") };
    let shape = [length / 2 + 1, bands];
    volume(&shape)?;
    volume(&[bands, 2])?;
    Ok(shape)
}

impl Operator for MelWeightMatrix {
    fn name(&self) -> &'static str {
        "MelWeightMatrix"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let value = |at| Ok::<_, TractError>(required(inputs, at)?.ints()?);
        Ok(tvec!(match (value(0)?, value(1)?) {
            (Some(bands), Some(length)) => {
                let shape = shape(one(&bands)?, one(&length)?)?;
                with_dims(f32::datum_type(), shape.map(|dim| dim.to_dim()))
            }
            _ => unknown_dims(f32::datum_type(), 2),
        }))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let whole = |at| one(&ints(required(inputs, at)?)?);
        let number = |at| one(&floats(required(inputs, at)?)?);
        let length = whole(1)?;
        let [bins, bands] = shape(whole(0)?, length)?;
        let rate = whole(2)?;
        ensure!(rate > 0, "the sample rate {rate} is not positive");
        let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
        let (low, high) = (mel(number(3)?), mel(number(4)?));
        let step = (high - low) / (bands + 2) as f64;
        // The first bin, the middle and the end of the triangle of each band.
        let mut edges = Vec::with_capacity(bands + 2);
        for at in 0..bands + 2 {
            let hertz = 700.0 * (10f64.powf((low + at as f64 * step) / 2595.0) - 1.0);
            let bin = ((length + 1) as f64 * hertz / rate as f64).floor();
            let last = if at > bands { bins } else { bins - 1 };
            ensure!(
                (0.0..=last as f64).contains(&bin)
                    && edges.last().is_none_or(|edge| *edge <= bin as usize),
                "a band at {hertz} Hz is not within the spectrum of a sample rate of {rate}"
            );
            edges.push(bin as usize);
        }
        let mut weights = vec![0.0; bins * bands];
        for (band, edge) in edges.windows(3).enumerate() {
            let [start, middle, end] = [edge[0], edge[1], edge[2]];
            let part = |of: usize, whole: usize| of as f64 / whole as f64;
            for bin in start..middle {
                weights[bin * bands + band] = part(bin - start, middle - start);
            }
            weights[middle * bands + band] = 1.0;
            for bin in middle..end {
                weights[bin * bands + band] = part(end - bin, end - middle);
            }
        }
        Ok(tvec!(from_floats(f32::datum_type(), &[bins, bands], &weights)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, scalar, tensor};

    fn matrix(bands: i64, length: i64, rate: i64, low: f32, high: f32) -> Case {
        let case = case("MelWeightMatrix").input(scalar(bands)).input(scalar(length));
        case.input(scalar(rate)).input(scalar(low)).input(scalar(high))
    }

    #[test]
    fn mel_weight_matrix_has_triangles_between_evenly_spaced_mels() {
        // Bins of frequencies that are evenly spaced in mels, rounded as in the specification.
        let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
        let hertz = |mel: f64| 700.0 * (10f64.powf(mel / 2595.0) - 1.0);
        let place = |at: f64| (17.0 * hertz(at / 4.0 * mel(4.0)) / 8.0).floor();
        assert_eq!([0.0, 1.0, 2.0, 3.0].map(place), [0.0, 2.0, 4.0, 6.0]);
        let first = [0f32, 0.5, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0];
        let second = [0f32, 0.0, 0.0, 0.5, 1.0, 0.5, 0.0, 0.0, 0.0];
        let columns: Vec<f32> = first.iter().zip(&second).flat_map(|(a, b)| [*a, *b]).collect();
        matrix(2, 16, 8, 0.0, 4.0).gives_within(tensor(&[9, 2], &columns), 1e-6);
    }

    #[test]
    fn band_that_covers_one_bin_has_a_weight_of_one() {
        let outputs = matrix(8, 16, 8192, 0.0, 4096.0).outputs_at_run_time();
        let weights = outputs[0].to_plain_array_view::<f32>().unwrap().into_owned();
        for band in 0..8 {
            let column = (0..9).map(|bin| weights[[bin, band]]);
            assert_eq!(column.sum::<f32>(), 1.0, "band {band}");
        }
    }

    #[test]
    fn mel_weight_matrix_refuses_frequencies_outside_of_the_spectrum() {
        matrix(2, 16, 8, 0.0, 40.0).fails("Hz");
        matrix(2, 16, 8, 4.0, 0.0).fails("Hz");
        matrix(2, 16, 0, 0.0, 4.0).fails("rate 0");
        matrix(0, 16, 8, 0.0, 4.0).fails("0 bands");
    }
}
