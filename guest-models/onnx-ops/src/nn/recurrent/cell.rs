//! One step of an RNN, GRU or LSTM for one sample.

use super::activation::Activation;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    Rnn,
    Gru { linear_before_reset: bool },
    Lstm,
}

impl Cell {
    /// The number of gates, including the candidate.
    pub(super) fn gates(self) -> usize {
        match self {
            Cell::Rnn => 1,
            Cell::Gru { .. } => 3,
            Cell::Lstm => 4,
        }
    }

    /// The functions of the gates and states, unless a node names others.
    pub(super) fn activations(self) -> &'static [Activation] {
        match self {
            Cell::Rnn => &[Activation::Tanh],
            Cell::Gru { .. } => &[Activation::Sigmoid, Activation::Tanh],
            Cell::Lstm => &[Activation::Sigmoid, Activation::Tanh, Activation::Tanh],
        }
    }
}

/// The functions of one direction, and the bound of what they read.
pub(super) struct Functions<'f> {
    pub(super) activations: &'f [Activation],
    pub(super) clip: f64,
    /// Whether an LSTM's forget gate is what its input gate leaves.
    pub(super) coupled: bool,
}

impl Functions<'_> {
    fn at(&self, which: usize, x: f64) -> f64 {
        self.activations[which].at(x.clamp(-self.clip, self.clip))
    }
}

/// The weights of one direction.
pub(super) struct Weights<'w> {
    pub(super) inputs: &'w [f64],
    pub(super) hidden: &'w [f64],
    /// The biases of the input, then those of the state.
    pub(super) biases: Option<&'w [f64]>,
    /// The peephole weights of an LSTM, for the input, output and forget gate.
    pub(super) peepholes: Option<&'w [f64]>,
}

impl Weights<'_> {
    /// The product of an input with a row of the input weights.
    fn of_input(&self, row: usize, x: &[f64]) -> f64 {
        dot(&self.inputs[row * x.len()..], x) + self.biases.map_or(0.0, |biases| biases[row])
    }

    /// The product of a state with a row of the recurrent weights.
    fn of_state(&self, row: usize, h: &[f64]) -> f64 {
        let bias = self.biases.map_or(0.0, |biases| biases[biases.len() / 2 + row]);
        dot(&self.hidden[row * h.len()..], h) + bias
    }

    fn peep(&self, gate: usize, at: usize, hidden: usize, cell: f64) -> f64 {
        self.peepholes.map_or(0.0, |peepholes| peepholes[gate * hidden + at] * cell)
    }
}

impl Cell {
    /// The next state, and the next cells of an LSTM.
    pub(super) fn step(
        self,
        functions: &Functions<'_>,
        weights: &Weights<'_>,
        x: &[f64],
        h: &mut [f64],
        c: &mut [f64],
    ) {
        let size = h.len();
        let before = h.to_vec();
        let sum = |row: usize| weights.of_input(row, x) + weights.of_state(row, &before);
        let gate = |x: f64| functions.at(0, x);
        match self {
            Cell::Rnn => h.iter_mut().enumerate().for_each(|(at, h)| *h = gate(sum(at))),
            Cell::Gru { linear_before_reset } => {
                let reset: Vec<f64> = (0..size).map(|at| gate(sum(size + at))).collect();
                let kept: Vec<f64> = reset.iter().zip(&before).map(|(r, h)| r * h).collect();
                for (at, h) in h.iter_mut().enumerate() {
                    let (update, row) = (gate(sum(at)), 2 * size + at);
                    let state = match linear_before_reset {
                        true => reset[at] * weights.of_state(row, &before),
                        false => weights.of_state(row, &kept),
                    };
                    let fresh = functions.at(1, weights.of_input(row, x) + state);
                    *h = (1.0 - update) * fresh + update * before[at];
                }
            }
            Cell::Lstm => {
                for at in 0..size {
                    let of_gate = |which: usize| sum(which * size + at);
                    let peep = |which: usize, cell: f64| weights.peep(which, at, size, cell);
                    let input = gate(of_gate(0) + peep(0, c[at]));
                    let forget = match functions.coupled {
                        true => 1.0 - input,
                        false => gate(of_gate(2) + peep(2, c[at])),
                    };
                    c[at] = forget * c[at] + input * functions.at(1, of_gate(3));
                    let output = gate(of_gate(1) + peep(1, c[at]));
                    h[at] = output * functions.at(2, c[at]);
                }
            }
        }
    }
}

fn dot(weights: &[f64], values: &[f64]) -> f64 {
    weights.iter().zip(values).map(|(weight, value)| weight * value).sum()
}
