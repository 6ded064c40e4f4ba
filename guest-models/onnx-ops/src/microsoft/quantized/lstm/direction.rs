//! The cells of one direction.

use tract_onnx::tract_hir::internal::*;

use crate::elementwise::approximations::{sigmoid, tanh};
use crate::framework::errors::bail;
use crate::framework::native;
use crate::microsoft::quantized::parameters::Dynamic;
use crate::quantization::integers::{ByteProduct, Bytes, Right};

/// A function of the sums of gates and of cells, with ONNX's default parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activation {
    Sigmoid,
    Tanh,
    Relu,
    HardSigmoid,
    Softsign,
}

impl Activation {
    pub(super) fn of(name: &str) -> TractResult<Activation> {
        let known = [
            ("Sigmoid", Activation::Sigmoid),
            ("Tanh", Activation::Tanh),
            ("Relu", Activation::Relu),
            ("HardSigmoid", Activation::HardSigmoid),
            ("Softsign", Activation::Softsign),
        ];
        let found = known.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let Some((_, found)) = found else {
            bail!(
                "the activation {name:?} is not implemented; use Sigmoid, Tanh, Relu, HardSigmoid \
                 or Softsign"
            )
        };
        Ok(found)
    }

    fn at(self, x: f32) -> f32 {
        match self {
            Activation::Sigmoid => sigmoid(x),
            Activation::Tanh => tanh(x),
            Activation::Relu if x < 0.0 => 0.0,
            Activation::Relu => x,
            Activation::HardSigmoid => (0.2 * x + 0.5).clamp(0.0, 1.0),
            Activation::Softsign => x / (1.0 + x.abs()),
        }
    }
}

/// Weights of one direction.
pub(super) struct Weights<'w> {
    pub(super) values: Right<'w>,
    pub(super) scales: &'w [f32],
    pub(super) zeros: &'w [i32],
}

impl Weights<'_> {
    /// The products of rows of floats with the weights, plus a bias for each column.
    pub(super) fn times(
        &self,
        rows: &[f32],
        bias: Option<&[f32]>,
        sizes: [usize; 3],
    ) -> TractResult<Vec<f32>> {
        let rows = Dynamic::of(rows)?;
        let product = ByteProduct {
            left: Bytes::Unsigned(&rows.values),
            left_zeros: &[rows.zero],
            right: self.values,
            right_zeros: self.zeros,
            sizes,
        };
        let scales: Vec<f32> = self.scales.iter().map(|scale| rows.scale * scale).collect();
        product.floats(&scales, bias)
    }
}

/// The weights of one direction, and the parameters of its cells.
pub(super) struct Direction<'w> {
    pub(super) activations: [Activation; 3],
    pub(super) clip: f32,
    pub(super) coupled: bool,
    pub(super) inputs: Weights<'w>,
    pub(super) states: Weights<'w>,
    /// The biases of inputs and states together.
    pub(super) bias: Vec<f32>,
    pub(super) peepholes: Option<&'w [f32]>,
}

impl Direction<'_> {
    /// Whether the host's kernels compute its steps.
    pub(super) fn is_native(&self) -> bool {
        let usual = [Activation::Sigmoid, Activation::Tanh, Activation::Tanh];
        native::enabled()
            && self.activations == usual
            && self.clip.is_infinite()
            && !self.coupled
            && self.peepholes.is_none()
    }

    /// Advances the state and the cell of one sequence from the sums of its gates, which are in the
    /// order input, output, forget, candidate.
    pub(super) fn step(&self, gates: &[f32], h: &mut [f32], c: &mut [f32]) {
        let size = h.len();
        for at in 0..size {
            let gate = |which: usize| gates[which * size + at] + self.bias[which * size + at];
            let peep = |which: usize, cell: f32| {
                self.peepholes.map_or(0.0, |weights| weights[which * size + at] * cell)
            };
            let [of_gates, of_candidate, of_cell] = self.activations;
            let activated =
                |function: Activation, x: f32| function.at(x.clamp(-self.clip, self.clip));
            let input = activated(of_gates, gate(0) + peep(0, c[at]));
            let forget = match self.coupled {
                true => 1.0 - input,
                false => activated(of_gates, gate(2) + peep(2, c[at])),
            };
            c[at] = forget * c[at] + input * activated(of_candidate, gate(3));
            let output = activated(of_gates, gate(1) + peep(1, c[at]));
            h[at] = output * activated(of_cell, c[at]);
        }
    }
}
