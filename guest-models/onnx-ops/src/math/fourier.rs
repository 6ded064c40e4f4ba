//! DFT (ONNX, operator sets 17 and 20) and STFT (17) of any length, along an axis that may be an
//! input. Even lengths are halved, odd ones summed as they are defined, in 64 bits.

use std::f64::consts::TAU;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::framework::axes::resolve;
use crate::framework::dims::{sizes, volume};
use crate::framework::errors::{bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, concrete, optional, required, unknown_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};
use crate::framework::tensors::{floats, from_floats, ints};
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] = &[
    own("DFT", build_dft_17).until(19),
    own("DFT", build_dft_20).since(20),
    own("STFT", build_stft),
];

/// DFT with its axis in an attribute.
fn build_dft_17(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    build_dft(node, Some(node.get_attr_opt("axis")?.unwrap_or(1)))
}

/// DFT with its axis as an input.
fn build_dft_20(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    build_dft(node, None)
}

fn build_dft(node: &NodeProto, axis: Option<i64>) -> BuildResult {
    let flag = |name| Ok::<_, TractError>(node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0);
    built(Dft { axis, inverse: flag("inverse")?, onesided: flag("onesided")? }, node)
}

fn build_stft(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let onesided = node.get_attr_opt::<i64>("onesided")?.unwrap_or(1) != 0;
    built(Stft { onesided }, node)
}

type Complex = [f64; 2];

fn times([a, b]: Complex, [c, d]: Complex) -> Complex {
    [a * c - b * d, a * d + b * c]
}

/// The roots of unity for a transform of this length.
fn circle(length: usize, inverse: bool) -> Vec<Complex> {
    let sign = if inverse { 1.0 } else { -1.0 };
    let angle = |at: usize| sign * TAU * at as f64 / length as f64;
    (0..length).map(|at| [angle(at).cos(), angle(at).sin()]).collect()
}

/// The transform of a signal. `circle` holds the roots of unity for `stride` times its length.
fn transformed(signal: &[Complex], circle: &[Complex], stride: usize) -> Vec<Complex> {
    let length = signal.len();
    if length > 1 && length.is_multiple_of(2) {
        let half = |odd: usize| signal.iter().skip(odd).step_by(2).copied().collect::<Vec<_>>();
        let even = transformed(&half(0), circle, 2 * stride);
        let odd = transformed(&half(1), circle, 2 * stride);
        let mut result = vec![[0.0; 2]; length];
        for (at, (a, b)) in even.into_iter().zip(odd).enumerate() {
            let [c, d] = times(b, circle[at * stride]);
            result[at] = [a[0] + c, a[1] + d];
            result[at + length / 2] = [a[0] - c, a[1] - d];
        }
        return result;
    }
    let sum = |bin: usize| {
        signal.iter().enumerate().fold([0.0; 2], |[re, im], (at, value)| {
            let [c, d] =
                times(*value, circle[(at as u64 * bin as u64 % length as u64) as usize * stride]);
            [re + c, im + d]
        })
    };
    (0..length).map(sum).collect()
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Dft {
    /// The axis, if it is an attribute.
    axis: Option<i64>,
    inverse: bool,
    onesided: bool,
}

/// The one integer of a tensor.
fn one(list: &[i64]) -> TractResult<i64> {
    let [value] = *list else { bail!("expected one value, found {}", list.len()) };
    Ok(value)
}

impl Dft {
    /// Whether a real signal is computed from half of its spectrum.
    fn real(&self) -> bool {
        self.inverse && self.onesided
    }

    /// The shape of the result, the axis, and the length of the transform.
    fn sizes(
        &self,
        shape: &[usize],
        length: Option<i64>,
        axis: Option<i64>,
    ) -> TractResult<(Vec<usize>, usize, usize)> {
        let axis = resolve(axis.or(self.axis).unwrap_or(-2), shape.len())?;
        let parts = shape.last().copied().unwrap_or(0);
        ensure!(
            axis + 1 < shape.len() && [1, 2].contains(&parts),
            "a signal cannot have the shape {shape:?}"
        );
        let whole = !self.onesided || self.inverse || parts == 1;
        ensure!(whole, "one side of the spectrum of a complex signal is not implemented");
        let default = match self.real() {
            true => 2 * shape[axis].saturating_sub(1) as i64,
            false => shape[axis] as i64,
        };
        let length = sizes(&[length.unwrap_or(default)])?[0];
        ensure!(length > 0, "the transform length must be positive");
        let mut to = shape.to_vec();
        to[axis] = if self.onesided && !self.inverse { length / 2 + 1 } else { length };
        to[shape.len() - 1] = if self.real() { 1 } else { 2 };
        volume(&to)?;
        Ok((to, axis, length))
    }

    /// The signal, truncated or padded with zeros, or the completed half of a spectrum.
    fn taken(&self, signal: &mut Vec<Complex>, length: usize) {
        if !self.real() {
            signal.resize(length, [0.0; 2]);
            return;
        }
        signal.resize(length / 2 + 1, [0.0; 2]);
        // Elements without a counterpart are real.
        signal[0][1] = 0.0;
        if length.is_multiple_of(2) {
            signal[length / 2][1] = 0.0;
        }
        for at in length / 2 + 1..length {
            let [re, im] = signal[length - at];
            signal.push([re, -im]);
        }
        signal.truncate(length);
    }
}

impl Operator for Dft {
    fn name(&self) -> &'static str {
        "DFT"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let data = required(inputs, 0)?;
        let deferred = || Ok(tvec!(unknown_dims(data.dtype, data.rank())));
        let Some(shape) = concrete(&data.shape) else { return deferred() };
        let value = |at| optional(inputs, at).map(InputFact::ints).transpose();
        let (length, axis) = match (value(1)?, value(2)?) {
            (Some(None), _) | (_, Some(None)) => return deferred(),
            (length, axis) => (length.flatten(), axis.flatten()),
        };
        let length = length.as_deref().map(one).transpose()?;
        let axis = axis.as_deref().map(one).transpose()?;
        let (to, ..) = self.sizes(&shape, length, axis)?;
        Ok(tvec!((data.dtype, to.into_iter().map(|dim| Some(dim.to_dim())).collect())))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *required(inputs, 0)?;
        let value = |at| optional(inputs, at).map(|tensor| one(&ints(tensor)?)).transpose();
        let shape = data.shape();
        let (to, axis, length) = self.sizes(shape, value(1)?, value(2)?)?;
        let values = floats(data)?;
        let (from_parts, to_parts) = (shape[shape.len() - 1], to[to.len() - 1]);
        let inner: usize = shape[axis + 1..shape.len() - 1].iter().product();
        let outer: usize = shape[..axis].iter().product();
        let circle = circle(length, self.inverse);
        let norm = if self.inverse { length as f64 } else { 1.0 };
        let mut results = vec![0.0; volume(&to)?];
        for (block, offset) in (0..outer).flat_map(|b| (0..inner).map(move |at| (b, at))) {
            let element = |at: usize| {
                let place = ((block * shape[axis] + at) * inner + offset) * from_parts;
                [values[place], if from_parts == 2 { values[place + 1] } else { 0.0 }]
            };
            let mut signal: Vec<Complex> = (0..shape[axis]).map(element).collect();
            self.taken(&mut signal, length);
            let spectrum = transformed(&signal, &circle, 1);
            for (at, value) in spectrum.iter().take(to[axis]).enumerate() {
                let place = ((block * to[axis] + at) * inner + offset) * to_parts;
                for part in 0..to_parts {
                    results[place + part] = value[part] / norm;
                }
            }
        }
        Ok(tvec!(from_floats(data.datum_type(), &to, &results)?))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stft {
    onesided: bool,
}

impl Stft {
    /// The shape of the result, the step, and the length of a frame.
    fn sizes(
        &self,
        shape: &[usize],
        step: i64,
        window: Option<usize>,
        length: Option<i64>,
    ) -> TractResult<(Vec<usize>, usize, usize)> {
        let (batch, samples, parts) = match *shape {
            // A real signal may be without its last dimension.
            [batch, samples] => (batch, samples, 1),
            [batch, samples, parts @ (1 | 2)] => (batch, samples, parts),
            _ => bail!("a signal cannot have the shape {shape:?}"),
        };
        ensure!(!self.onesided || parts == 1, "one side of the spectrum of complex signals");
        let length = match (window, length) {
            (window, Some(length)) => {
                let length = sizes(&[length])?[0];
                let fits = window.is_none_or(|window| window == length);
                ensure!(
                    fits,
                    "a window of the shape {window:?} for frames of {length} is not implemented"
                );
                length
            }
            (Some(window), None) => window,
            (None, None) => samples,
        };
        let step = sizes(&[step])?[0];
        ensure!(step > 0 && length > 0, "frame length {length} and step {step} must be positive");
        ensure!(length <= samples, "a frame of {length} does not fit {samples} samples");
        let bins = if self.onesided { length / 2 + 1 } else { length };
        let to = vec![batch, (samples - length) / step + 1, bins, 2];
        volume(&to)?;
        Ok((to, step, length))
    }
}

impl Operator for Stft {
    fn name(&self) -> &'static str {
        "STFT"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let data = required(inputs, 0)?;
        let deferred = || Ok(tvec!(unknown_dims(data.dtype, 4)));
        let (Some(shape), Some(step)) = (concrete(&data.shape), required(inputs, 1)?.ints()?)
        else {
            return deferred();
        };
        let window = match optional(inputs, 2) {
            None => None,
            Some(window) => match concrete(&window.shape) {
                Some(shape) => Some(shape.iter().product()),
                None => return deferred(),
            },
        };
        let length = match optional(inputs, 3).map(InputFact::ints).transpose()? {
            None => None,
            Some(None) => return deferred(),
            Some(Some(length)) => Some(one(&length)?),
        };
        let (to, ..) = self.sizes(&shape, one(&step)?, window, length)?;
        Ok(tvec!((data.dtype, to.into_iter().map(|dim| Some(dim.to_dim())).collect())))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *required(inputs, 0)?;
        let shape = data.shape();
        let window = optional(inputs, 2).map(|window| floats(window)).transpose()?;
        let length = optional(inputs, 3).map(|length| one(&ints(length)?)).transpose()?;
        let step = one(&ints(required(inputs, 1)?)?)?;
        let (to, step, length) = self.sizes(shape, step, window.as_ref().map(Vec::len), length)?;
        let (values, parts) = (floats(data)?, shape.get(2).copied().unwrap_or(1));
        let circle = circle(length, false);
        let mut results = Vec::with_capacity(volume(&to)?);
        for (one, frame) in (0..to[0]).flat_map(|one| (0..to[1]).map(move |frame| (one, frame))) {
            let element = |at: usize| {
                let place = (one * shape[1] + frame * step + at) * parts;
                let weight = window.as_ref().map_or(1.0, |window| window[at]);
                let imaginary = if parts == 2 { values[place + 1] } else { 0.0 };
                [values[place] * weight, imaginary * weight]
            };
            let signal: Vec<Complex> = (0..length).map(element).collect();
            let spectrum = transformed(&signal, &circle, 1);
            results.extend(spectrum.into_iter().take(to[2]).flatten());
        }
        Ok(tvec!(from_floats(data.datum_type(), &to, &results)?))
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use tract_onnx::prelude::Tensor;

    use crate::testing::{case, row, scalar, tensor};

    /// Neither these numbers nor their transforms have zeros.
    const NUMBERS: [f64; 5] = [1.0, 2.5, -3.0, 0.25, 7.0];

    /// The discrete Fourier transform of numbers, as pairs.
    fn transform(numbers: &[f64], length: usize) -> Vec<(f64, f64)> {
        let number = |at: usize| numbers.get(at).copied().unwrap_or(0.0);
        let part = |k: usize| {
            let turn = |n: usize| -TAU * (k * n) as f64 / length as f64;
            let real = (0..length).map(|n| number(n) * turn(n).cos()).sum();
            (real, (0..length).map(|n| number(n) * turn(n).sin()).sum())
        };
        (0..length).map(part).collect()
    }

    fn flat(pairs: &[(f64, f64)]) -> Vec<f32> {
        pairs.iter().flat_map(|(real, imaginary)| [*real as f32, *imaginary as f32]).collect()
    }

    fn signal() -> Tensor {
        tensor(&[1, 5, 1], &NUMBERS.map(|number| number as f32))
    }

    #[test]
    fn dft_is_cut_or_padded_to_its_length() {
        for length in [3, 5, 7] {
            let expected = flat(&transform(&NUMBERS[..length.min(5)], length));
            let case = case("DFT").input(signal()).input(scalar(length as i64));
            case.gives_within(tensor(&[1, length, 2], &expected), 1e-5);
        }
    }

    #[test]
    fn dft_of_real_numbers_may_have_one_side() {
        // [1, 2, 3, 4] has the transform [10, -2 + 2i, -2, -2 - 2i].
        let numbers = || tensor(&[1, 4, 1], &[1f32, 2.0, 3.0, 4.0]);
        let expected = tensor(&[1, 3, 2], &[10f32, 0.0, -2.0, 2.0, -2.0, 0.0]);
        let node = |opset| case("DFT").opset(opset).int("onesided", 1).input(numbers());
        node(20).missing().input(scalar(-2i64)).gives_within(expected.clone(), 1e-6);
        node(20).gives_within(expected.clone(), 1e-6);
        node(17).int("axis", 1).gives_within(expected.clone(), 1e-6);
        node(17).gives_within(expected, 1e-6);
    }

    #[test]
    fn axis_of_dft_is_an_attribute_before_version_20() {
        // Along the first axis, each row has one number, which is its own transform.
        let numbers = || tensor(&[1, 2, 1], &[1f32, 3.0]);
        let node = |opset| case("DFT").opset(opset).int("axis", 0).input(numbers());
        node(19).gives_within(tensor(&[1, 2, 2], &[1f32, 0.0, 3.0, 0.0]), 1e-6);
        node(20).gives_within(tensor(&[1, 2, 2], &[4f32, 0.0, -2.0, 0.0]), 1e-6);
    }

    #[test]
    fn inverse_dft_divides_by_the_length() {
        let parts = tensor(&[1, 4, 2], &[10f32, 0.0, -2.0, 2.0, -2.0, 0.0, -2.0, -2.0]);
        let expected = tensor(&[1, 4, 2], &[1f32, 0.0, 2.0, 0.0, 3.0, 0.0, 4.0, 0.0]);
        case("DFT").int("inverse", 1).input(parts).gives_within(expected, 1e-6);
    }

    #[test]
    fn dft_refuses_an_axis_outside_of_the_signal() {
        case("DFT").input(signal()).missing().input(scalar(5i64)).fails("5");
        case("DFT").input(signal()).input(scalar(-1i64)).fails("-1");
    }

    #[test]
    fn stft_is_the_dft_of_each_windowed_frame() {
        let window = [0.5f32, 1.0, 0.25];
        let frames: Vec<f32> = [0, 2]
            .iter()
            .flat_map(|from| {
                let frame: Vec<f64> =
                    (0..3).map(|at| NUMBERS[from + at] * f64::from(window[at])).collect();
                flat(&transform(&frame, 3)[..2])
            })
            .collect();
        let node = |step: i64| case("STFT").input(signal()).input(scalar(step));
        node(2).input(row(&window)).gives_within(tensor(&[1, 2, 2, 2], &frames), 1e-6);
        let without = node(5).missing().input(scalar(5i64)).int("onesided", 0);
        let expected = tensor(&[1, 1, 5, 2], &flat(&transform(&NUMBERS, 5)));
        without.gives_within(expected, 1e-5);
    }

    #[test]
    fn stft_refuses_a_step_of_zero() {
        case("STFT").input(signal()).input(scalar(0i64)).input(row(&[1f32, 1.0])).fails("0");
    }

    #[test]
    fn stft_takes_signals_without_their_last_dimension() {
        let rows = |shape: &[usize]| tensor(shape, &[1f32, 2.5, -3.0, 0.25, 7.0, 1.0, 1.0, 1.0]);
        let node = |shape: &[usize]| case("STFT").input(rows(shape)).input(scalar(2i64));
        let window = || row(&[1f32, 0.5]);
        let expected = node(&[2, 4, 1]).input(window()).outputs_at_run_time();
        node(&[2, 4]).input(window()).gives(expected[0].clone());
        // One frame of the whole signal, without a window.
        let whole = node(&[2, 4, 1]).missing().input(scalar(4i64)).outputs_at_run_time();
        node(&[2, 4]).gives(whole[0].clone());
        node(&[8]).input(window()).fails("8");
    }
}
