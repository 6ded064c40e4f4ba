//! Recurrent layers by the host's kernels: the gates of all inputs by one product, those of the
//! states by one product for each step, and the functions of a step by one or two programs.

use std::ops::Range;

use belljar_abi::kernel::Step;

use super::cell::Cell;
use crate::framework::native_floats::{Input, Matrices, Operand, Program};

/// The programs of the steps of a cell with its usual functions.
pub(crate) struct Programs {
    /// For an LSTM the next cells, for a GRU whose reset comes before the product of the states the
    /// states to multiply.
    first: Option<Program>,
    /// The next states.
    last: Program,
}

/// The sum of two inputs.
fn sum(program: &mut Program) -> Operand {
    let (a, b) = (program.input(), program.input());
    program.two(Step::Add, a, b)
}

fn sigmoid_of_sum(program: &mut Program) -> Operand {
    let sum = sum(program);
    program.one(Step::Sigmoid, sum)
}

impl Programs {
    pub(crate) fn lstm() -> Programs {
        let mut cells = Program::default();
        let input = sigmoid_of_sum(&mut cells);
        let forget = sigmoid_of_sum(&mut cells);
        let candidate = sum(&mut cells);
        let candidate = cells.one(Step::Tanh, candidate);
        let before = cells.input();
        let kept = cells.two(Step::Mul, forget, before);
        let new = cells.two(Step::Mul, input, candidate);
        cells.two(Step::Add, kept, new);
        let mut states = Program::default();
        let output = sigmoid_of_sum(&mut states);
        let cell = states.input();
        let cell = states.one(Step::Tanh, cell);
        states.two(Step::Mul, output, cell);
        Programs { first: Some(cells), last: states }
    }

    fn rnn() -> Programs {
        let mut states = Program::default();
        let sum = sum(&mut states);
        states.one(Step::Tanh, sum);
        Programs { first: None, last: states }
    }

    fn gru(linear_before_reset: bool) -> Programs {
        let mut states = Program::default();
        let update = sigmoid_of_sum(&mut states);
        let candidate = if linear_before_reset {
            let reset = sigmoid_of_sum(&mut states);
            let (x, h) = (states.input(), states.input());
            let h = states.two(Step::Mul, reset, h);
            states.two(Step::Add, x, h)
        } else {
            sum(&mut states)
        };
        let candidate = states.one(Step::Tanh, candidate);
        let (before, one) = (states.input(), states.input());
        let rest = states.two(Step::Sub, one, update);
        let new = states.two(Step::Mul, rest, candidate);
        let kept = states.two(Step::Mul, update, before);
        states.two(Step::Add, new, kept);
        let first = (!linear_before_reset).then(|| {
            let mut reset = Program::default();
            let gate = sigmoid_of_sum(&mut reset);
            let before = reset.input();
            reset.two(Step::Mul, gate, before);
            reset
        });
        Programs { first, last: states }
    }

    fn of(cell: Cell) -> Programs {
        match cell {
            Cell::Rnn => Programs::rnn(),
            Cell::Gru { linear_before_reset } => Programs::gru(linear_before_reset),
            Cell::Lstm => Programs::lstm(),
        }
    }
}

/// The gates of one step, from the inputs or from the states.
#[derive(Clone, Copy)]
pub(crate) struct Gates<'t> {
    pub(crate) elements: &'t [f32],
    /// Elements from one sequence to the next.
    pub(crate) row_stride: usize,
}

impl<'t> Gates<'t> {
    fn gate(&self, which: usize, hidden: usize) -> Input<'t> {
        let elements = &self.elements[which * hidden..];
        Input { elements, row_stride: self.row_stride, repeated: false }
    }
}

fn whole(elements: &[f32], hidden: usize) -> Input<'_> {
    Input { elements, row_stride: hidden, repeated: false }
}

/// The states of some sequences, one after the other, and room for the next ones.
pub(crate) struct States {
    pub(crate) hidden: usize,
    pub(crate) h: Vec<f32>,
    pub(crate) c: Vec<f32>,
    next: Vec<f32>,
}

impl States {
    pub(crate) fn new(hidden: usize, h: Vec<f32>, c: Vec<f32>) -> States {
        States { hidden, next: vec![0.0; h.len()], h, c }
    }

    /// One step of an LSTM. Its gates are in the order input, output, forget, candidate.
    pub(crate) fn lstm(&mut self, programs: &Programs, x: Gates<'_>, h: Gates<'_>) -> bool {
        let size = self.hidden;
        let both = |gate: usize| [x.gate(gate, size), h.gate(gate, size)];
        let [[xi, hi], [xo, ho], [xf, hf], [xc, hc]] = [0, 1, 2, 3].map(both);
        let cells = [xi, hi, xf, hf, xc, hc, whole(&self.c, size)];
        let Some(first) = &programs.first else { return false };
        if !first.run(&cells, size, &mut self.next) {
            return false;
        }
        std::mem::swap(&mut self.c, &mut self.next);
        programs.last.run(&[xo, ho, whole(&self.c, size)], size, &mut self.h)
    }
}

/// A direction of a layer.
pub(super) struct Direction<'w> {
    pub(super) cell: Cell,
    pub(super) inputs: &'w Matrices,
    pub(super) states: &'w Matrices,
    /// The rows of the recurrent weights of a GRU that multiply reset states.
    pub(super) candidates: Option<&'w Matrices>,
    /// Which of the matrices.
    pub(super) way: usize,
    /// Whether it starts with the last step.
    pub(super) back: bool,
    /// The biases of the input, then those of the state.
    pub(super) biases: Option<&'w [f32]>,
}

/// Elements of the gates of inputs that are computed together, unless one step has more: so many
/// bytes do not count against the memory of a sandbox, and stay in a cache.
pub(super) const MOST_GATES: usize = 1 << 20;

/// The gates of the inputs of a direction, for some steps at a time.
pub(super) struct Layer<'w> {
    direction: Direction<'w>,
    programs: Programs,
    /// The inputs of all steps.
    x: &'w [f32],
    /// Added to the products of the inputs.
    bias: Option<Vec<f32>>,
    /// Added to the products of the states.
    state_bias: Option<Vec<f32>>,
    gates: Vec<f32>,
    /// The rows of the inputs whose gates these are.
    held: Range<usize>,
}

impl<'w> Layer<'w> {
    pub(super) fn new(direction: Direction<'w>, x: &'w [f32]) -> Layer<'w> {
        let Direction { cell, inputs, biases, .. } = direction;
        let wide = inputs.columns;
        let hidden = wide / cell.gates();
        // A GRU may multiply the state's part of its candidate with the reset gate.
        let apart = cell == Cell::Gru { linear_before_reset: true };
        let (mut bias, mut state_bias) = (None, None);
        if let Some(all) = biases {
            let (of_input, of_state) = all.split_at(wide);
            let mut both: Vec<f32> = of_input.iter().zip(of_state).map(|(a, b)| a + b).collect();
            if apart {
                let mut of_states = vec![0.0; wide];
                both[2 * hidden..].copy_from_slice(&of_input[2 * hidden..]);
                of_states[2 * hidden..].copy_from_slice(&of_state[2 * hidden..]);
                state_bias = Some(of_states);
            }
            bias = Some(both);
        }
        let programs = Programs::of(cell);
        Layer { direction, programs, x, bias, state_bias, gates: vec![], held: 0..0 }
    }

    /// Computes the gates of these rows of the inputs, and of those that are read next.
    fn hold(&mut self, rows: Range<usize>) -> bool {
        if self.held.start <= rows.start && rows.end <= self.held.end {
            return true;
        }
        let Direction { inputs, way, back, .. } = self.direction;
        let all = self.x.len() / inputs.depth;
        let count = (MOST_GATES / inputs.columns).max(rows.len()).min(all);
        let first = match back {
            true => rows.end.saturating_sub(count),
            false => rows.start.min(all - count),
        };
        self.held = first..first + count;
        self.gates.resize(count * inputs.columns, 0.0);
        let x = &self.x[first * inputs.depth..][..count * inputs.depth];
        inputs.times(way, x, self.bias.as_deref(), &mut self.gates)
    }

    /// One step of some sequences, the first of which has its inputs in this row, and the next ones
    /// `apart` rows later each.
    pub(super) fn step(
        &mut self,
        states: &mut States,
        row: usize,
        apart: usize,
        products: &mut [f32],
    ) -> bool {
        let (size, wide) = (states.hidden, self.direction.inputs.columns);
        let last = (states.h.len() / size - 1) * apart;
        if !self.hold(row..row + last + 1) {
            return false;
        }
        let Direction { cell, states: weights, candidates, way, .. } = self.direction;
        let elements = &self.gates[(row - self.held.start) * wide..];
        let x = Gates { elements, row_stride: apart * wide };
        let rows = states.h.len() / size;
        let products = &mut products[..rows * weights.columns];
        if !weights.times(way, &states.h, self.state_bias.as_deref(), products) {
            return false;
        }
        let h = Gates { elements: products, row_stride: weights.columns };
        let both = |gate: usize| [x.gate(gate, size), h.gate(gate, size)];
        let one = Input { elements: &[1.0], row_stride: 0, repeated: true };
        match (cell, candidates, &self.programs.first) {
            (Cell::Lstm, ..) => states.lstm(&self.programs, x, h),
            (Cell::Rnn, ..) => self.programs.last.run(&both(0), size, &mut states.h),
            (Cell::Gru { .. }, Some(candidates), Some(reset)) => {
                let [xr, hr] = both(1);
                let mut kept = vec![0.0; states.h.len()];
                let mut fresh = vec![0.0; states.h.len()];
                let before = whole(&states.h, size);
                let [xz, hz] = both(0);
                let done = reset.run(&[xr, hr, before], size, &mut kept)
                    && candidates.times(way, &kept, None, &mut fresh)
                    && self.programs.last.run(
                        &[xz, hz, x.gate(2, size), whole(&fresh, size), before, one],
                        size,
                        &mut states.next,
                    );
                std::mem::swap(&mut states.h, &mut states.next);
                done
            }
            (Cell::Gru { .. }, ..) => {
                let [[xz, hz], [xr, hr], [xn, hn]] = [0, 1, 2].map(both);
                let inputs = [xz, hz, xr, hr, xn, hn, whole(&states.h, size), one];
                let done = self.programs.last.run(&inputs, size, &mut states.next);
                std::mem::swap(&mut states.h, &mut states.next);
                done
            }
        }
    }
}
