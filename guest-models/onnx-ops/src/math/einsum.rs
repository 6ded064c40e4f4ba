//! Einsum (ONNX, operator set 12). tract computes it, except for diagonals, implicit results and
//! scalar results.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::nn::{Reduce, Reducer};
use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::{advance, strides, volume};
use crate::framework::equal_sizes::{Pair, Place, check_equal_sizes};
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::facts::{InputFact, OutputFact, concrete, required, unknown_dims, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, wrapped_by};
use crate::framework::tensors::{floats, from_floats};
use crate::framework::upstream::BuildResult;
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] = &[wrapped_by("Einsum", build_einsum)];

const EINSUM: Wrapping = Wrapping::new(einsum);

fn build_einsum(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    let (from, to) = equation(node)?;
    let repeated = |term: &str| term.chars().any(|c| c != '.' && term.matches(c).count() > 1);
    if !from.contains(',') && (repeated(&from) || to.is_empty()) {
        return built(Diagonal { from, to }, node);
    }
    match to.is_empty() {
        true => Total::build(context, node, &from),
        false => EINSUM.build(context, &with_equation(node, &from, &to)),
    }
}

/// tract's own wiring, with dimensions of the same letter that are equal.
fn einsum(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let equation = op.node.get_attr::<String>("equation")?;
    let (from, to) = equation.split_once("->").or_user_error("the equation has no result")?;
    let from = from.replace(' ', "");
    let mut ranks = Vec::with_capacity(inputs.len());
    for input in inputs {
        ranks.push(model.outlet_fact(*input)?.rank());
    }
    // tract treats a result without letters as an implicit one.
    let mut terms = from.split(',').zip(&ranks);
    let number = to == "..." && terms.all(|(term, rank)| *rank == term.replace("...", "").len());
    ensure!(!number, "an ellipsis that stands for no dimension is not implemented");
    let inputs = check_equal_sizes(pairs(&from, &ranks), prefix, model, inputs)?;
    op.wire_original(prefix, model, &inputs)
}

/// Pairs of dimensions with the same letter.
fn pairs(operands: &str, ranks: &[usize]) -> Vec<Pair> {
    let mut pairs = Vec::new();
    let mut seen: Vec<(char, Place)> = Vec::new();
    for (input, (term, rank)) in operands.split(',').zip(ranks).enumerate() {
        for (letter, dim) in letters(term, *rank) {
            match seen.iter().find(|(other, _)| *other == letter) {
                Some((_, other)) => pairs.push([*other, (input, dim)]),
                None => seen.push((letter, (input, dim))),
            }
        }
    }
    pairs
}

/// The dimension of each letter of a term. Letters after an ellipsis count from the end.
fn letters(term: &str, rank: usize) -> impl Iterator<Item = (char, usize)> {
    let (before, behind) = term.split_once("...").unwrap_or((term, ""));
    let from = rank.saturating_sub(behind.len());
    before.chars().zip(0..rank).chain(behind.chars().zip(from..rank))
}

/// The operands of an Einsum and its result. An implicit result is the ellipsis, then the letters
/// that occur once, in alphabetical order.
fn equation(node: &NodeProto) -> TractResult<(String, String)> {
    let equation: String = node.get_attr("equation")?;
    let equation = equation.replace(' ', "");
    if let Some((from, to)) = equation.split_once("->") {
        return Ok((from.into(), to.into()));
    }
    let once = |c: &char| c.is_ascii_alphabetic() && equation.matches(*c).count() == 1;
    let mut letters: Vec<char> = equation.chars().filter(once).collect();
    letters.sort_unstable();
    let dots = if equation.contains("...") { "..." } else { "" };
    let to = dots.chars().chain(letters).collect();
    Ok((equation, to))
}

fn with_equation(node: &NodeProto, from: &str, to: &str) -> NodeProto {
    let mut node = node.clone();
    for attribute in node.attribute.iter_mut().filter(|attribute| attribute.name == "equation") {
        attribute.s = format!("{from}->{to}").into_bytes();
    }
    node
}

/// An Einsum with a scalar result. tract treats a result without letters as an implicit one, so the
/// result keeps one letter, and a sum over it follows.
#[derive(Clone, Debug)]
struct Total {
    product: Box<dyn Expansion>,
    /// The number of letters of each operand.
    ranks: Vec<usize>,
}

impl Total {
    fn build(context: &ParsingContext, node: &NodeProto, from: &str) -> BuildResult {
        let Some(letter) = from.chars().find(char::is_ascii_alphabetic) else {
            bail!("an equation without letters is not implemented")
        };
        let node = with_equation(node, from, letter.encode_utf8(&mut [0; 4]));
        let (product, outer) = EINSUM.build(context, &node)?;
        let Some(product) = product.as_op().downcast_ref::<Box<dyn Expansion>>() else {
            bail!("Einsum is not implemented this way")
        };
        let ranks = from.split(',').map(str::len).collect();
        Ok((expand(Total { product: product.clone(), ranks }), outer))
    }
}

impl Expansion for Total {
    fn name(&self) -> StaticName {
        "Einsum".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, self.ranks.len())?;
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].rank, 0)?;
        for (input, rank) in inputs.iter().zip(&self.ranks) {
            s.equals(&input.datum_type, &outputs[0].datum_type)?;
            s.equals(&input.rank, *rank as i64)?;
        }
        Ok(())
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let product = self.product.wire(&format!("{prefix}.product"), model, inputs)?;
        let sum = Reduce::new(tvec!(0), Reducer::Sum);
        let sum = model.wire_node(format!("{prefix}.sum"), sum, &product)?;
        model.wire_node(prefix, AxisOp::Rm(0), &sum)
    }
}

/// An Einsum of one operand with diagonals or a scalar result.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Diagonal {
    from: String,
    to: String,
}

/// The letters of a term, one for each dimension. Digits stand for the dimensions of an ellipsis.
fn labels(term: &str, rank: usize) -> TractResult<Vec<char>> {
    let letters = term.chars().filter(|c| *c != '.').count();
    let hidden = rank.checked_sub(letters).filter(|hidden| *hidden == 0 || term.contains('.'));
    let hidden = hidden.or_user_error(format_args!(
        "the term {term:?} does not match an operand of {rank} dimensions"
    ))?;
    ensure!(hidden <= 10, "{hidden} dimensions without letters are too many");
    let dots: String = ('0'..='9').take(hidden).collect();
    Ok(term.replace("...", &dots).chars().collect())
}

/// The letters of the diagonal and their sizes, those of the result first.
fn diagonal(from: &str, to: &str, shape: &[usize]) -> TractResult<(Vec<char>, Vec<usize>, usize)> {
    let operand = labels(from, shape.len())?;
    let dots = operand.iter().filter(|label| label.is_ascii_digit()).count();
    let rank = to.chars().filter(|c| *c != '.').count() + if to.contains('.') { dots } else { 0 };
    let mut all = labels(to, rank)?;
    let kept = all.len();
    for label in &operand {
        if !all.contains(label) {
            all.push(*label);
        }
    }
    let mut sizes = vec![None; all.len()];
    for (label, size) in operand.iter().zip(shape) {
        let at = all
            .iter()
            .position(|other| other == label)
            .or_user_error("internal error: a letter of the equation is missing")?;
        let known = sizes[at].get_or_insert(*size);
        ensure!(
            known == size,
            "the dimension {label:?} is {known} in one place and {size} in another"
        );
    }
    let sizes: Option<Vec<usize>> = sizes.into_iter().collect();
    Ok((all, sizes.or_user_error("a letter of the result is missing from the operands")?, kept))
}

impl Operator for Diagonal {
    fn name(&self) -> &'static str {
        "Einsum"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let data = required(inputs, 0)?;
        Ok(tvec!(match concrete(&data.shape) {
            Some(shape) => {
                let (_, sizes, kept) = diagonal(&self.from, &self.to, &shape)?;
                with_dims(data.dtype, sizes[..kept].iter().map(|dim| dim.to_dim()))
            }
            None => {
                let (_, _, kept) = diagonal(&self.from, &self.to, &vec![1; data.rank()])?;
                unknown_dims(data.dtype, kept)
            }
        }))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *required(inputs, 0)?;
        let shape = data.shape();
        let (all, sizes, kept) = diagonal(&self.from, &self.to, shape)?;
        let operand = labels(&self.from, shape.len())?;
        let mut steps = vec![0; all.len()];
        for (label, stride) in operand.iter().zip(strides(shape)) {
            let at = all.iter().position(|other| other == label);
            steps[at.or_user_error("internal error: a letter of the equation is missing")?] +=
                stride;
        }
        let values = floats(data)?;
        let mut results = vec![0.0; volume(&sizes[..kept])?];
        let summed: usize = sizes[kept..].iter().product();
        let mut at = vec![0; sizes.len()];
        for result in &mut results {
            for _ in 0..summed {
                *result += values[at.iter().zip(&steps).map(|(a, b)| a * b).sum::<usize>()];
                advance(&mut at, &sizes);
            }
        }
        Ok(tvec!(from_floats(data.datum_type(), &sizes[..kept], &results)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, scalar, tensor};

    #[test]
    fn einsum_has_diagonals_totals_and_implicit_results() {
        let square = || tensor(&[2, 2], &[1f32, 2.0, 3.0, 4.0]);
        let einsum = |equation| case("Einsum").text("equation", equation);
        einsum("ii->i").input(square()).gives(row(&[1f32, 4.0]));
        einsum("ii").input(square()).gives(scalar(5f32));
        einsum("ij->").input(square()).gives(scalar(10f32));
        einsum("ij -> ji").input(square()).gives(tensor(&[2, 2], &[1f32, 3.0, 2.0, 4.0]));
        let pair = |equation| einsum(equation).input(square()).input(square());
        pair("ij,jk->ik").gives(tensor(&[2, 2], &[7f32, 10.0, 15.0, 22.0]));
        pair("ij,jk").gives(tensor(&[2, 2], &[7f32, 10.0, 15.0, 22.0]));
        // Without a result, letters are sorted: here the result is transposed.
        pair("kj,ji").gives(tensor(&[2, 2], &[7f32, 15.0, 10.0, 22.0]));
        pair("ij,ij->").gives(scalar(30f32));
    }

    #[test]
    fn einsum_broadcasts_its_ellipsis_and_refuses_sizes_that_differ() {
        let einsum = case("Einsum").text("equation", "...ij,...j->...i");
        let batch = tensor(&[2, 1, 2], &[1f32, 2.0, 3.0, 4.0]);
        einsum.input(batch).input(row(&[10f32, 1.0])).gives(tensor(&[2, 1], &[12f32, 34.0]));
        let wrong = case("Einsum").text("equation", "i,i->i").input(row(&[1f32, 2.0]));
        wrong.input(row(&[1f32, 2.0, 3.0])).fails("");
    }
}
