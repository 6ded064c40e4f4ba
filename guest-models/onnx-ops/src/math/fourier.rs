//! DFT (ONNX, operator sets 17 and 20) and STFT (17) of any length, along an axis that may be an
//! input. Even lengths are halved, odd ones summed as they are defined, in 64 bits.

use std::f64::consts::TAU;

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::tract_hir::internal::*;

use super::own::{
    Known, Own, Said, built, concrete, floats, from_floats, ints, needed, optional, sizes, unknown,
    volume,
};
use super::resolve;

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("DFT", |context, node| {
        let flag = |name| Ok::<_, TractError>(node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0);
        let axis = match context.onnx_operator_set_version {
            ..20 => Some(node.get_attr_opt("axis")?.unwrap_or(1)),
            _ => None,
        };
        built(Dft { axis, inverse: flag("inverse")?, onesided: flag("onesided")? }, node)
    });
    registry.insert("STFT", |_, node| {
        let onesided = node.get_attr_opt::<i64>("onesided")?.unwrap_or(1) != 0;
        built(Stft { onesided }, node)
    });
}

type Complex = [f64; 2];

fn times([a, b]: Complex, [c, d]: Complex) -> Complex {
    [a * c - b * d, a * d + b * c]
}

/// The numbers on the circle that a transform of this length is made with.
fn circle(length: usize, inverse: bool) -> Vec<Complex> {
    let sign = if inverse { 1.0 } else { -1.0 };
    let angle = |at: usize| sign * TAU * at as f64 / length as f64;
    (0..length).map(|at| [angle(at).cos(), angle(at).sin()]).collect()
}

/// The transform of a signal. The circle is that of a length which is `stride` times its own.
fn transformed(signal: &[Complex], circle: &[Complex], stride: usize) -> Vec<Complex> {
    let length = signal.len();
    if length > 1 && length % 2 == 0 {
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
    /// The axis, where it is no input.
    axis: Option<i64>,
    inverse: bool,
    onesided: bool,
}

/// The one integer of a tensor.
fn one(list: &[i64]) -> TractResult<i64> {
    let [value] = *list else { bail!("{} numbers in the place of one", list.len()) };
    Ok(value)
}

impl Dft {
    /// Whether a real signal is made of half of its spectrum.
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
        ensure!(axis + 1 < shape.len() && [1, 2].contains(&parts), "signals of {shape:?}");
        let whole = !self.onesided || self.inverse || parts == 1;
        ensure!(whole, "one side of the spectrum of a complex signal is not implemented");
        let default = match self.real() {
            true => 2 * shape[axis].saturating_sub(1) as i64,
            false => shape[axis] as i64,
        };
        let length = sizes(&[length.unwrap_or(default)])?[0];
        ensure!(length > 0, "a transform of no length");
        let mut to = shape.to_vec();
        to[axis] = if self.onesided && !self.inverse { length / 2 + 1 } else { length };
        to[shape.len() - 1] = if self.real() { 1 } else { 2 };
        volume(&to)?;
        Ok((to, axis, length))
    }

    /// As much of a signal as is transformed, the rest of it zeros; half of a spectrum completed.
    fn taken(&self, signal: &mut Vec<Complex>, length: usize) {
        if !self.real() {
            signal.resize(length, [0.0; 2]);
            return;
        }
        signal.resize(length / 2 + 1, [0.0; 2]);
        // What has no counterpart is real.
        signal[0][1] = 0.0;
        if length % 2 == 0 {
            signal[length / 2][1] = 0.0;
        }
        for at in length / 2 + 1..length {
            let [re, im] = signal[length - at];
            signal.push([re, -im]);
        }
        signal.truncate(length);
    }
}

impl Own for Dft {
    fn name(&self) -> &'static str {
        "DFT"
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let data = needed(inputs, 0)?;
        let late = || Ok(tvec!(unknown(data.dtype, data.rank())));
        let Some(shape) = concrete(&data.shape) else { return late() };
        let value = |at| optional(inputs, at).map(Known::ints).transpose();
        let (length, axis) = match (value(1)?, value(2)?) {
            (Some(None), _) | (_, Some(None)) => return late(),
            (length, axis) => (length.flatten(), axis.flatten()),
        };
        let length = length.as_deref().map(one).transpose()?;
        let axis = axis.as_deref().map(one).transpose()?;
        let (to, ..) = self.sizes(&shape, length, axis)?;
        Ok(tvec!((data.dtype, to.into_iter().map(|dim| Some(dim.to_dim())).collect())))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *needed(inputs, 0)?;
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
        let [batch, samples, parts @ (1 | 2)] = *shape else { bail!("signals of {shape:?}") };
        ensure!(!self.onesided || parts == 1, "one side of the spectrum of complex signals");
        let length = match (window, length) {
            (window, Some(length)) => {
                let length = sizes(&[length])?[0];
                let fits = window.is_none_or(|window| window == length);
                ensure!(fits, "a window of {window:?} for frames of {length} is not implemented");
                length
            }
            (Some(window), None) => window,
            (None, None) => bail!("frames of unknown length"),
        };
        let step = sizes(&[step])?[0];
        ensure!(step > 0 && length > 0, "frames of {length}, every {step}");
        ensure!(length <= samples, "frames of {length} of {samples} samples");
        let bins = if self.onesided { length / 2 + 1 } else { length };
        let to = vec![batch, (samples - length) / step + 1, bins, 2];
        volume(&to)?;
        Ok((to, step, length))
    }
}

impl Own for Stft {
    fn name(&self) -> &'static str {
        "STFT"
    }

    fn outputs(&self, inputs: &[Option<Known>]) -> TractResult<TVec<Said>> {
        let data = needed(inputs, 0)?;
        let late = || Ok(tvec!(unknown(data.dtype, 4)));
        let (Some(shape), Some(step)) = (concrete(&data.shape), needed(inputs, 1)?.ints()?) else {
            return late();
        };
        let window = match optional(inputs, 2) {
            None => None,
            Some(window) => match concrete(&window.shape) {
                Some(shape) => Some(shape.iter().product()),
                None => return late(),
            },
        };
        let length = match optional(inputs, 3).map(Known::ints).transpose()? {
            None => None,
            Some(None) => return late(),
            Some(Some(length)) => Some(one(&length)?),
        };
        let (to, ..) = self.sizes(&shape, one(&step)?, window, length)?;
        Ok(tvec!((data.dtype, to.into_iter().map(|dim| Some(dim.to_dim())).collect())))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *needed(inputs, 0)?;
        let shape = data.shape();
        let window = optional(inputs, 2).map(|window| floats(window)).transpose()?;
        let length = optional(inputs, 3).map(|length| one(&ints(length)?)).transpose()?;
        let step = one(&ints(needed(inputs, 1)?)?)?;
        let (to, step, length) = self.sizes(shape, step, window.as_ref().map(Vec::len), length)?;
        let (values, parts) = (floats(data)?, shape[2]);
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
