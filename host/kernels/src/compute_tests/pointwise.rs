//! Tests each step of pointwise programs on every class of float, and a program of several steps.

use belljar_abi::kernel::*;

use super::{Memory, random};

#[path = "../../../../tests/models/functions/reference.rs"]
mod reference;

fn one_step(step: Step, a: &[f32], b: &[f32]) -> (Memory, Pointwise) {
    let mut memory = Memory::new(16 << 10);
    let input = |address| PointwiseInput { address, strides: [0, 0, 0, 0, 1] };
    let program = Pointwise {
        dims: [1, 1, 1, 1, a.len() as u32],
        inputs: vec![input(memory.place(a)), input(memory.place(b))],
        output: memory.place(&vec![0.0; a.len()]),
        steps: vec![PointwiseStep { step, a: 0, b: 1 }],
    };
    (memory, program)
}

/// The definition of a step.
fn defined(step: Step, a: f64, b: f64) -> f64 {
    let nan = a.is_nan() || b.is_nan();
    match step {
        Step::Add => a + b,
        Step::Sub => a - b,
        Step::Mul => a * b,
        Step::Div => a / b,
        Step::Min | Step::Max if nan => f64::NAN,
        Step::Min => a.min(b),
        Step::Max => a.max(b),
        Step::Square => a * a,
        Step::Sqrt => a.sqrt(),
        Step::Rsqrt => 1.0 / a.sqrt(),
        Step::Recip => 1.0 / a,
        Step::Neg => -a,
        Step::Abs => a.abs(),
        Step::Exp => f64::from(a.exp() as f32),
        Step::Tanh => a.tanh(),
        Step::Sigmoid => 1.0 / (1.0 + (-a).exp()),
        Step::RoundF16 => half::f16::from_f32(a as f32).to_f64(),
        Step::RoundBf16 => half::bf16::from_f32(a as f32).to_f64(),
        Step::Erf => reference::erf(a),
        Step::Gelu => reference::gelu(a),
        Step::GeluByTanh => reference::gelu_by_tanh(a),
    }
}

#[test]
fn every_step_is_correct_for_every_class_of_float() {
    let mut seed = 5;
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        1e-3,
        -1e-3,
        1e-30,
        20.0,
        -20.0,
        87.0,
        -87.0,
        88.8,
        90.0,
        -104.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    let mut a: Vec<f32> = special.iter().flat_map(|a| special.map(|_| *a)).collect();
    let mut b: Vec<f32> = special.iter().flat_map(|_| special).collect();
    a.extend(random(&mut seed, 700).iter().map(|value| value * 10.0));
    b.extend(random(&mut seed, 700));
    for step in Step::ALL {
        let (mut memory, program) = one_step(step, &a, &b);
        let expected: Vec<f64> = a
            .iter()
            .zip(&b)
            .map(|(a, b)| defined(step, f64::from(*a), f64::from(*b)))
            // A value beyond the range of f32 becomes infinite.
            .map(|value| {
                if value.abs() > f64::from(f32::MAX) {
                    value.signum() * f64::INFINITY
                } else {
                    value
                }
            })
            .collect();
        memory.check(&Kernel::Pointwise(program.clone()), program.output, &expected, 5e-7);
    }
}

/// The tanh form of GELU on a tensor, a row and a column: every kind of broadcast.
#[test]
fn a_program_with_broadcast_operands_is_correct() {
    let mut seed = 3;
    let (rows, columns) = (37u32, 600u32);
    let x = random(&mut seed, (rows * columns) as usize);
    let (row, column) = (random(&mut seed, columns as usize), random(&mut seed, rows as usize));
    let mut memory = Memory::new(128 << 10);
    let result = |at: u32| MAX_POINTWISE_INPUTS as u32 + at;
    let step = |step, a, b| PointwiseStep { step, a, b };
    let program = Pointwise {
        dims: [1, 1, 1, rows, columns],
        inputs: vec![
            PointwiseInput { address: memory.place(&x), strides: [0, 0, 0, columns, 1] },
            PointwiseInput { address: memory.place(&row), strides: [0, 0, 0, 0, 1] },
            PointwiseInput { address: memory.place(&column), strides: [0, 0, 0, 1, 0] },
            PointwiseInput { address: memory.place(&[0.5]), strides: [0; 5] },
        ],
        output: memory.place(&vec![0.0; x.len()]),
        steps: vec![
            step(Step::Add, 0, 1),
            step(Step::Mul, result(0), 2),
            step(Step::Tanh, result(1), result(1)),
            step(Step::Mul, 3, result(2)),
            step(Step::Mul, 3, 3),
            step(Step::Add, result(3), result(4)),
            step(Step::Mul, result(0), result(5)),
        ],
    };
    let expected: Vec<f64> = (0..rows * columns)
        .map(|at| {
            let sum = f64::from(x[at as usize]) + f64::from(row[(at % columns) as usize]);
            let column = f64::from(column[(at / columns) as usize]);
            sum * (0.5 * (sum * column).tanh() + 0.25)
        })
        .collect();
    memory.check(&Kernel::Pointwise(program.clone()), program.output, &expected, 1e-6);
}
