//! Pointwise programs: steps that are computed for every element of a tensor.

use alloc::vec::Vec;

use super::requests::{Dims, dims};

/// Maximum number of inputs of a pointwise program.
pub const MAX_POINTWISE_INPUTS: usize = 12;

/// Maximum number of steps of a pointwise program.
pub const MAX_POINTWISE_STEPS: usize = 32;

/// An input of a pointwise program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PointwiseInput {
    /// Its first element.
    pub address: u32,
    /// Elements from one to the next along each dimension; 0 where it is repeated.
    pub strides: Dims,
}

/// Declares all steps, numbered from 0 in this order.
macro_rules! steps {
    ($($(#[$about:meta])* $name:ident,)*) => {
        /// The operation of a step of a pointwise program.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Step {
            $($(#[$about])* $name,)*
        }

        impl Step {
            /// All steps, indexed by their numbers.
            pub const ALL: [Step; [$(Step::$name),*].len()] = [$(Step::$name),*];
        }
    };
}

steps! {
    /// `a + b`
    Add,
    /// `a − b`
    Sub,
    /// `a · b`
    Mul,
    /// `a ÷ b`
    Div,
    /// The lesser; NaN if either is.
    Min,
    /// The greater; NaN if either is.
    Max,
    /// `a²`
    Square,
    /// The square root.
    Sqrt,
    /// `1 ÷ √a`
    Rsqrt,
    /// `1 ÷ a`
    Recip,
    /// `−a`
    Neg,
    /// The absolute value.
    Abs,
    /// `eᵃ`
    Exp,
    /// The hyperbolic tangent.
    Tanh,
    /// `1 ÷ (1 + e⁻ᵃ)`
    Sigmoid,
    /// The nearest number that float16 has (`narrow`).
    RoundF16,
    /// The nearest number that bfloat16 has.
    RoundBf16,
    /// The error function.
    Erf,
    /// `a · ½ · (1 + erf(a ÷ √2))`
    Gelu,
    /// `a · ½ · (1 + tanh(√(2 ÷ π) · (a + 0.044715 · a³)))`
    GeluByTanh,
}

impl Step {
    /// Whether it has two operands.
    pub fn is_binary(self) -> bool {
        (self as u32) <= Step::Max as u32
    }
}

/// A step and its operands: an input if below [`MAX_POINTWISE_INPUTS`], otherwise the result of an
/// earlier step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PointwiseStep {
    /// The operation.
    pub step: Step,
    /// First operand.
    pub a: u32,
    /// Second operand; the same as the first for operations with one operand.
    pub b: u32,
}

/// The same computation for every element of a tensor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pointwise {
    /// Dimensions of the contiguous output.
    pub dims: Dims,
    /// The output.
    pub output: u32,
    /// The inputs.
    pub inputs: Vec<PointwiseInput>,
    /// The steps; the result of the last one is the output.
    pub steps: Vec<PointwiseStep>,
}

impl Pointwise {
    pub(super) fn write(&self, words: &mut Vec<u32>) {
        words.extend_from_slice(&self.dims);
        words.push(self.output);
        words.push(self.inputs.len() as u32);
        for input in &self.inputs {
            words.push(input.address);
            words.extend_from_slice(&input.strides);
        }
        words.push(self.steps.len() as u32);
        for step in &self.steps {
            words.extend_from_slice(&[step.step as u32, step.a, step.b]);
        }
    }

    pub(super) fn read(words: &mut impl Iterator<Item = u32>) -> Option<Pointwise> {
        let (dims_, output) = (dims(words)?, words.next()?);
        let mut program = Pointwise { dims: dims_, output, ..Pointwise::default() };
        for _ in 0..at_most(words.next()?, MAX_POINTWISE_INPUTS)? {
            program.inputs.push(PointwiseInput { address: words.next()?, strides: dims(words)? });
        }
        for at in 0..at_most(words.next()?, MAX_POINTWISE_STEPS)? {
            let step = *Step::ALL.get(words.next()? as usize)?;
            let (a, b) = (words.next()?, words.next()?);
            for operand in [a, b] {
                let known = match (operand as usize).checked_sub(MAX_POINTWISE_INPUTS) {
                    None => (operand as usize) < program.inputs.len(),
                    Some(result) => result < at,
                };
                if !known {
                    return None;
                }
            }
            program.steps.push(PointwiseStep { step, a, b });
        }
        (!program.steps.is_empty()).then_some(program)
    }
}

fn at_most(count: u32, most: usize) -> Option<usize> {
    let count = count as usize;
    (count <= most).then_some(count)
}
