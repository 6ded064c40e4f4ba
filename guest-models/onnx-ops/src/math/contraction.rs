//! Sums of products with one letter for each dimension, as equations of Einsum describe them. Floats
//! are summed in 64 bits; sums of integers wrap around.

use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::{advance, strides, volume};
use crate::framework::errors::{OrUserError, ensure};
use crate::framework::facts::{InputFact, OutputFact, with_dims};
use crate::framework::numbers::{Number, by_number};
use crate::framework::operator::Operator;
use crate::framework::tensors::{floats, from_floats};

/// The terms of an equation: those of the operands, and that of the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contraction {
    from: Vec<String>,
    to: String,
}

/// The letters of the sum, those of the result first, with their sizes.
struct Letters<D> {
    letters: Vec<char>,
    sizes: Vec<D>,
    /// How many belong to the result.
    kept: usize,
}

/// The letters of a term, one for each dimension. Digits stand for the dimensions of an ellipsis,
/// counted from the last one.
fn labels(term: &str, rank: usize) -> TractResult<Vec<char>> {
    let letters = term.chars().filter(|c| *c != '.').count();
    let hidden = rank.checked_sub(letters).filter(|hidden| *hidden == 0 || term.contains('.'));
    let hidden = hidden.or_user_error(format_args!(
        "the term {term:?} does not match an operand of {rank} dimensions"
    ))?;
    ensure!(hidden <= 10, "{hidden} dimensions without letters are too many");
    let dots: String = ('0'..='9').take(hidden).collect::<Vec<char>>().into_iter().rev().collect();
    Ok(term.replace("...", &dots).chars().collect())
}

impl Contraction {
    pub(super) fn new(from: &str, to: &str) -> Contraction {
        Contraction { from: from.split(',').map(String::from).collect(), to: to.into() }
    }

    /// The letters of each operand.
    fn operands(&self, ranks: &[usize]) -> TractResult<Vec<Vec<char>>> {
        ensure!(
            ranks.len() == self.from.len(),
            "the equation has {} operands, but {} are given",
            self.from.len(),
            ranks.len()
        );
        self.from.iter().zip(ranks).map(|(term, rank)| labels(term, *rank)).collect()
    }

    /// All letters. `differs` says that two sizes of a letter are not equal, if that is known.
    fn letters<D: Clone>(
        &self,
        shapes: &[&[D]],
        is_one: impl Fn(&D) -> bool,
        differs: impl Fn(&D, &D) -> bool,
    ) -> TractResult<Letters<D>> {
        let ranks: Vec<usize> = shapes.iter().map(|shape| shape.len()).collect();
        let operands = self.operands(&ranks)?;
        let dots = operands.iter().flatten().filter(|label| label.is_ascii_digit()).max();
        let dots = dots.and_then(|most| most.to_digit(10)).map_or(0, |most| most as usize + 1);
        let plain = self.to.chars().filter(|c| *c != '.').count();
        let rank = plain + if self.to.contains('.') { dots } else { 0 };
        let mut letters = labels(&self.to, rank)?;
        let kept = letters.len();
        let mut sizes: Vec<Option<D>> = vec![None; kept];
        for (label, size) in operands.iter().flatten().zip(shapes.iter().copied().flatten()) {
            let at = letters.iter().position(|other| other == label).unwrap_or_else(|| {
                letters.push(*label);
                sizes.push(None);
                letters.len() - 1
            });
            match &sizes[at] {
                Some(_) if label.is_ascii_digit() && is_one(size) => {}
                Some(known) if !label.is_ascii_digit() || !is_one(known) => {
                    ensure!(!differs(known, size), "the sizes of the dimension {label:?} differ");
                }
                _ => sizes[at] = Some(size.clone()),
            }
        }
        let sizes: Option<Vec<D>> = sizes.into_iter().collect();
        let sizes = sizes.or_user_error("a letter of the result is missing from the operands")?;
        Ok(Letters { letters, sizes, kept })
    }

    /// By how much the place in an operand of this shape grows with each letter.
    fn steps(all: &Letters<usize>, labels: &[char], shape: &[usize]) -> Vec<usize> {
        let mut steps = vec![0; all.letters.len()];
        for ((label, stride), size) in labels.iter().zip(strides(shape)).zip(shape) {
            for (at, letter) in all.letters.iter().enumerate() {
                // A dimension of 1 is the same for all places along it.
                if letter == label && *size > 1 {
                    steps[at] += stride;
                }
            }
        }
        steps
    }

    fn compute_as<T: Copy>(
        &self,
        shapes: &[&[usize]],
        values: &[&[T]],
        [zero, one]: [T; 2],
        plus: impl Fn(T, T) -> T,
        times: impl Fn(T, T) -> T,
    ) -> TractResult<(Vec<usize>, Vec<T>)> {
        let mut all = self.letters(shapes, |size| *size == 1, |a, b| a != b)?;
        let ranks: Vec<usize> = shapes.iter().map(|shape| shape.len()).collect();
        let operands = self.operands(&ranks)?;
        // The last letter is summed in an inner loop.
        if all.letters.len() == all.kept {
            all.letters.push(' ');
            all.sizes.push(1);
        }
        let (last, outer) = all.sizes.split_last().or_user_error("the equation has no letters")?;
        let steps: Vec<Vec<usize>> =
            operands.iter().zip(shapes).map(|(o, shape)| Self::steps(&all, o, shape)).collect();
        let to = all.sizes[..all.kept].to_vec();
        let mut results = vec![zero; volume(&to)?];
        let summed: usize = outer[all.kept..].iter().product();
        let mut at = vec![0; outer.len()];
        let mut places = vec![0; values.len()];
        for result in &mut results {
            for _ in 0..summed {
                for (place, steps) in places.iter_mut().zip(&steps) {
                    *place = at.iter().zip(steps).map(|(at, step)| at * step).sum::<usize>();
                }
                for _ in 0..*last {
                    let mut product = one;
                    for ((values, place), steps) in values.iter().zip(&mut places).zip(&steps) {
                        product = times(product, values[*place]);
                        *place += steps[outer.len()];
                    }
                    *result = plus(*result, product);
                }
                advance(&mut at, outer);
            }
        }
        Ok((to, results))
    }
}

fn of_integers<T: Number>(op: &Contraction, inputs: &[&Tensor]) -> TractResult<Tensor> {
    let plain = inputs.iter().map(|input| input.try_as_plain_ram());
    let plain = plain.collect::<TractResult<Vec<_>>>()?;
    let values = plain.iter().map(|plain| plain.as_slice::<T>());
    let values = values.collect::<TractResult<Vec<&[T]>>>()?;
    let shapes: Vec<&[usize]> = inputs.iter().map(|input| input.shape()).collect();
    let one = tensor0(1u8).cast_to_scalar::<T>()?;
    let (to, results) = op.compute_as(&shapes, &values, [T::default(), one], T::plus, T::times)?;
    Tensor::from_shape(&to, &results)
}

impl Operator for Contraction {
    fn name(&self) -> &'static str {
        "Einsum"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let inputs: Vec<&InputFact> = inputs.iter().flatten().collect();
        let shapes: Vec<&[TDim]> = inputs.iter().map(|input| &*input.shape).collect();
        let differs = |a: &TDim, b: &TDim| a.as_i64().zip(b.as_i64()).is_some_and(|(a, b)| a != b);
        let all = self.letters(&shapes, TDim::is_one, differs)?;
        let dtype = inputs.first().or_user_error("the operands are missing")?.dtype;
        Ok(tvec!(with_dims(dtype, all.sizes[..all.kept].iter().cloned())))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let inputs: Vec<&Tensor> = inputs.iter().flatten().copied().collect();
        let dtype = inputs.first().or_user_error("the operands are missing")?.datum_type();
        if !dtype.is_float() {
            return Ok(tvec!(by_number!(of_integers(dtype)(self, &inputs))?));
        }
        let shapes: Vec<&[usize]> = inputs.iter().map(|input| input.shape()).collect();
        let values: Vec<Vec<f64>> =
            inputs.iter().map(|input| floats(input)).collect::<TractResult<_>>()?;
        let values: Vec<&[f64]> = values.iter().map(Vec::as_slice).collect();
        let (to, results) =
            self.compute_as(&shapes, &values, [0.0, 1.0], |a, b| a + b, |a, b| a * b)?;
        Ok(tvec!(from_floats(dtype, &to, &results)?))
    }
}
